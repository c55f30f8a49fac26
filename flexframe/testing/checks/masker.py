"""Checks of maskers."""

from __future__ import annotations

import torch

from flexframe.tokens import prefix
from flexframe_registry import Component

from . import part
from .materials import LENGTH, Check, Fields, build, rng


def check_masker_draws(component: Component, fields: Fields) -> None:
    """Prefixes of at least one token, seeded, of lengths that the budgets list, and no more slots than there are."""
    masker, spec = build(component, fields)
    budgets = masker.budgets
    assert budgets == tuple(sorted(set(budgets))) and budgets[-1] == LENGTH and budgets[0] >= 1
    for step in range(20):
        kept = masker.draw(64, LENGTH, rng=rng(64, step))
        assert kept.keep.shape == (64, kept.slots) and 1 <= kept.slots <= LENGTH
        lengths = kept.keep.sum(1)
        assert torch.equal(kept.keep, prefix(lengths, kept.slots)), "what is kept is not a prefix"
        assert set(lengths.tolist()) <= set(budgets), "a length was drawn that the budgets do not list"
        again = masker.draw(64, LENGTH, rng=rng(64, step))
        assert torch.equal(kept.keep, again.keep), "equal seeds gave unequal draws"
        some = masker.draw(3, LENGTH, rng=rng(64, step).rows(torch.tensor([5, 9, 60])))
        assert torch.equal(some.keep, kept.keep[[5, 9, 60]]), "a row's draw depends on its batch"
    assert spec.tokens.length == LENGTH


CHECKS: tuple[Check, ...] = (*part.CHECKS, check_masker_draws)
