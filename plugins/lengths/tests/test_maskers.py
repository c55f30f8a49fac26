"""Nested dropout that draws one length a batch."""

import pytest
import torch

from flexframe.rng import Rng
from flexframe_lengths import DoublingConfig, Pow2Config, UniformConfig, UniformPow2Config
from flexframe_lengths.maskers import Doubling, Pow2, Uniform, UniformPow2
from flexframe_registry import LatentSpec, Spec, TokenSpec

SPEC = Spec(LatentSpec(3, 16, 16, (0.0, 1.0)), 8, TokenSpec(8, 3, None, 1))
PAIRS = [(Pow2, Pow2Config), (Uniform, UniformConfig), (UniformPow2, UniformPow2Config), (Doubling, DoublingConfig)]


@pytest.mark.slow
@pytest.mark.parametrize(("masker", "config"), PAIRS)
def test_one_length_a_batch_follows_the_same_law_and_is_really_that_short(masker, config) -> None:
    rows = torch.arange(5)
    whole, each = masker(config(whole_batch=True), SPEC), masker(config(), SPEC)
    drawn = []
    for step in range(2000):
        kept = whole.draw(5, 8, rng=Rng(0, rows, step))
        assert kept.keep.all()
        assert kept.keep.shape == (5, kept.slots)
        drawn.append(kept.slots)
    shares = torch.tensor(drawn).bincount(minlength=9) / 2000
    lengths = each.draw(20000, 8, rng=Rng(0, torch.arange(20000), 0)).keep.sum(1)
    torch.testing.assert_close(shares, lengths.bincount(minlength=9) / 20000, atol=0.03, rtol=0)


def test_the_length_is_the_same_whatever_part_of_the_batch_a_process_has() -> None:
    masker = Pow2(Pow2Config(whole_batch=True), SPEC)
    for step in range(20):
        slots = {masker.draw(2, 8, rng=Rng(0, rows, step)).slots for rows in torch.arange(8).view(4, 2)}
        assert len(slots) == 1


def test_levels_are_dropped_as_restok_does() -> None:
    """Of 128 tokens at least 4: 1, 2, 4, 8, 16 and 124 of 155, which are its weights."""
    spec = Spec(LatentSpec(3, 16, 16), 8, TokenSpec(128, 3, 1, 64))
    masker = Doubling(DoublingConfig(least=4), spec)
    torch.testing.assert_close(155 * masker.chances(128), torch.tensor([1, 2, 4, 8, 16, 124.0], dtype=torch.float64))
    lengths = masker.draw(50_000, 128, rng=Rng(0, torch.arange(50_000))).keep.sum(1)
    shares = torch.stack([(lengths == k).float().mean() for k in masker.budgets])
    torch.testing.assert_close(shares.double(), masker.chances(128), atol=0.006, rtol=0)
    assert Doubling(DoublingConfig(least=128), spec).draw(9, 128, rng=Rng(0, torch.arange(9))).keep.all()
    assert Doubling(DoublingConfig(drop=0), spec).draw(9, 128, rng=Rng(0, torch.arange(9))).keep.all()
    with pytest.raises(ValueError, match="least is 256, and the model has 128 tokens; lower it"):
        DoublingConfig(least=256).check(spec)
