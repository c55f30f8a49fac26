"""Attention by the quicker way is the same attention; what it drops is drawn by the rng."""

import pytest
import torch
import torch.nn.functional as F

from flexframe.nn.attention import SHORT, attend
from flexframe.nn.dropout import dropped, drops
from flexframe.nn.levels import level_grids, level_sizes
from flexframe.nn.rotary import angles, rotated
from flexframe.rng import Rng


def taken(dtype: torch.dtype, keys: int = 7) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, keys, 8, generator=generator).to(dtype).requires_grad_() for _ in range(3)]


def masks() -> dict[str, torch.Tensor | None]:
    seen = torch.ones(7, 7, dtype=torch.bool).tril()
    return {"none": None, "seen": seen, "bias": torch.where(seen, 0.5, -1.0)}


@pytest.mark.parametrize("mask", masks())
def test_sixteen_bits_are_attended_to_in_fp32_where_they_learn(mask: str) -> None:
    given = masks()[mask]
    query, key, value = taken(torch.bfloat16)
    bias = given.bfloat16() if mask == "bias" else given
    out = attend(query, key, value, bias, scale=0.3)
    out.sum().backward()
    wide = [each.detach().float().requires_grad_() for each in (query, key, value)]
    expected = F.scaled_dot_product_attention(*wide, given, scale=0.3)
    expected.to(torch.bfloat16).sum().backward()
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, expected.to(torch.bfloat16))
    assert torch.equal(query.grad, wide[0].grad.to(torch.bfloat16))
    assert torch.equal(value.grad, wide[2].grad.to(torch.bfloat16))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_types_are_torchs(dtype: torch.dtype) -> None:
    given = taken(dtype)
    assert torch.equal(attend(*given, causal=True), F.scaled_dot_product_attention(*given, is_causal=True))
    assert attend(*given).dtype == dtype


def test_long_sequences_and_use_are_torchs_too() -> None:
    long = taken(torch.bfloat16, SHORT + 1)
    assert torch.equal(attend(*long), F.scaled_dot_product_attention(*long))
    with torch.no_grad():
        short = taken(torch.bfloat16)
        assert torch.equal(attend(*short), F.scaled_dot_product_attention(*short))


def test_under_autocast_it_is_fp32_within_and_bf16_outside() -> None:
    given = taken(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        halves = [each.to(torch.bfloat16) for each in given]
        out = attend(*halves)
    expected = F.scaled_dot_product_attention(*(each.to(torch.bfloat16).float() for each in given))
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, expected.to(torch.bfloat16))


# --- dropout ---------------------------------------------------------------------------------------------------------


def test_a_samples_dropout_hangs_on_its_index_alone() -> None:
    before, ones = torch.get_rng_state(), torch.ones(4, 50, 40)
    numbers = drops(Rng(0, torch.tensor([3, 1, 4, 3]), step=2), "test/dropout", 5)
    found = dropped(ones, 0.25, numbers[:, 1])
    assert torch.equal(found[0], found[3])
    alone = drops(Rng(0, torch.tensor([1]), step=2), "test/dropout", 5)[:, 1]
    assert torch.equal(found[1:2], dropped(ones[:1], 0.25, alone))
    others = [dropped(ones, 0.25, numbers[:, 0]), dropped(ones, 0.25, drops(Rng(0, torch.arange(4)), "else", 1)[:, 0])]
    for one, other in [(found[0], found[1]), *((found[0], each[0]) for each in others)]:
        both = ((one == 0) & (other == 0)).float().mean()
        assert both == pytest.approx(0.25**2, abs=0.02), "independent of each other"
    assert (found == 0).float().mean() == pytest.approx(0.25, abs=0.02)
    assert found.max() == pytest.approx(1 / 0.75)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_numbers_nothing_is_dropped() -> None:
    ones = torch.ones(2, 3)
    assert dropped(ones, 0.5, None) is ones
    given = taken(torch.float32)
    assert torch.equal(attend(*given, dropout=0.5), attend(*given))


@pytest.mark.parametrize("mask", masks())
def test_weights_are_dropped_and_the_rest_is_attention(mask: str) -> None:
    given, (query, key, value) = masks()[mask], [each[..., :7] for each in taken(torch.float32)]
    numbers = drops(Rng(0, torch.arange(2)), "test/weights", 1)[:, 0]
    none = attend(query, key, value, given, dropout=1e-9, drops=numbers, causal=mask == "none", scale=0.3)
    whole = attend(query, key, value, given, causal=mask == "none", scale=0.3)
    assert torch.allclose(none, whole, atol=1e-6)
    ones = torch.eye(7).expand(2, 3, 7, 7)
    weights = attend(query, key, ones, given, scale=0.3)
    found = attend(query, key, ones, given, dropout=0.4, drops=numbers, scale=0.3)
    kept = found != 0
    assert torch.allclose(found[kept], weights[kept] / 0.6, atol=1e-6)
    assert 0.3 < (~kept & (weights != 0)).sum() / (weights != 0).sum() < 0.5


def test_rotary_positions_turn_planes_of_neighbouring_channels() -> None:
    """By the definition: plane p of an axis turns by position * theta ** (-2p / width); products of turned queries and
    keys hang on differences of positions alone."""
    turns = angles(torch.tensor([[0.0, 0], [1, 5], [3, 6], [2, 1]]), (4, 2), theta=100.0)
    assert turns.shape == (4, 3, 2)
    wanted = torch.tensor([1.0, 1 / 10, 5])
    torch.testing.assert_close(turns[1], torch.stack([wanted.cos(), wanted.sin()], -1))
    x = torch.randn(1, 1, 4, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(rotated(x, turns)[..., 0, :], x[..., 0, :])
    query, key = torch.randn(2, 1, 1, 1, 6, generator=torch.Generator().manual_seed(1)).expand(-1, -1, -1, 4, -1)
    products = (rotated(query, turns) * rotated(key, turns.roll(1, 0))).sum(-1)
    moved = angles(torch.tensor([[0.0, 0], [1, 5], [3, 6], [2, 1]]) + 7, (4, 2), theta=100.0)
    torch.testing.assert_close((rotated(query, moved) * rotated(key, moved.roll(1, 0))).sum(-1), products)


def test_levels_double_and_the_last_is_cut() -> None:
    assert [level_sizes(n) for n in (1, 2, 8, 12)] == [[1], [1, 1], [1, 1, 2, 4], [1, 1, 2, 4, 4]]
    assert level_grids(32) == [(1, 1), (1, 1), (1, 2), (2, 2), (2, 4), (4, 4)]
