"""Nested dropout that draws one length a batch."""

import pytest
import torch

from flexframe.rng import Rng
from flexframe_lengths import Pow2Config, UniformConfig, UniformPow2Config
from flexframe_lengths.maskers import Pow2, Uniform, UniformPow2
from flexframe_registry import LatentSpec, Spec, TokenSpec

SPEC = Spec(LatentSpec(3, 16, 16, (0.0, 1.0)), 8, TokenSpec(8, 3, None, 1))
PAIRS = [(Pow2, Pow2Config), (Uniform, UniformConfig), (UniformPow2, UniformPow2Config)]


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
