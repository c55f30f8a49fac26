"""Attention by the quicker way is the same attention."""

import pytest
import torch
import torch.nn.functional as F

from flexframe.nn.attention import SHORT, attend


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
