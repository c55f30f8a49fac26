"""Checks of transforms of training images."""

from __future__ import annotations

import torch

from flexframe_registry import Component

from .materials import BATCH, Check, Fields, images, rng, tiny


def check_transform(component: Component, fields: Fields) -> None:
    """Images keep shape and type, equal draws change them equally, a row depends on its own, none is written into."""
    transform = component.load()(tiny(component, fields))
    for given in (images(), (images() * 255).to(torch.uint8)):
        before = given.clone()
        changed = transform(given, rng=rng())
        assert torch.equal(given, before), "the transform wrote into the images"
        assert changed.shape == given.shape and changed.dtype == given.dtype
        assert changed.min() >= 0 and changed.max() <= (1 if given.is_floating_point() else 255), "out of range"
        assert torch.equal(changed, transform(given, rng=rng())), "equal draws gave unequal images"
        for i in range(BATCH):
            alone = transform(given[i : i + 1], rng=rng().rows(torch.tensor([i])))
            assert torch.equal(alone, changed[i : i + 1]), "a row's draws depend on its batch"
    assert any(not torch.equal(transform(images(), rng=rng(step=step)), images()) for step in range(8)), (
        "no image is ever changed"
    )


CHECKS: tuple[Check, ...] = (check_transform,)
