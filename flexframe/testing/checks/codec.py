"""Checks of codecs."""

from __future__ import annotations

import torch

from flexframe_registry import Component

from . import part
from .materials import Check, Fields, assert_not_clamped, build, close, images, rng


def check_codec(component: Component, fields: Fields) -> None:
    """Images become latents as the config says, and images again; rows are independent; nothing is trained."""
    codec, spec = build(component, fields)
    given = images()
    with torch.no_grad():
        latents = codec.encode(given, rng=rng())
        assert latents.shape[1:] == (spec.latents.channels, spec.latents.height, spec.latents.width)
        assert torch.equal(latents, codec.encode(given, rng=rng())), "equal seeds gave unequal latents"
        close(codec.encode(given[1:2], rng=rng().rows(torch.tensor([1]))), latents[1:2])
        shown = codec.decode(latents)
        assert shown.shape == given.shape, f"images {tuple(given.shape)} came back as {tuple(shown.shape)}"
        assert_not_clamped(codec.decode(10 * latents), "values of images")


CHECKS: tuple[Check, ...] = (*part.CHECKS, check_codec)
