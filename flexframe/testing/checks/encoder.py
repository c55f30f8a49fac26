"""Checks of encoders."""

from __future__ import annotations

import torch

from flexframe.tokens import prefix
from flexframe_registry import Component

from . import part
from .materials import (
    BATCH,
    LENGTH,
    LENGTHS,
    Check,
    Fields,
    all_kept,
    assert_gradients,
    build,
    close,
    draw,
    images,
    own_draws,
    rng,
)


def check_encoder_shape_and_rows(component: Component, fields: Fields) -> None:
    """Features are `b k e`, equal for equal input, and a row does not depend on its batch."""
    encoder, spec = build(component, fields)
    keep = all_kept()
    with torch.no_grad():
        whole = encoder(images(), keep)
        assert whole.shape == (BATCH, LENGTH, spec.features) and whole.isfinite().all()
        assert torch.equal(whole, encoder(images(), keep))
        close(encoder(images()[2:3], keep[2:3]), whole[2:3])


def check_encoder_absent_slots(component: Component, fields: Fields) -> None:
    """Slots that are absent, or not there at all, change no present one; where features hang on how many are kept
    (`prefixes` is false), a row in a batch of several lengths is what it is by itself, in as many slots as it has."""
    encoder, _ = build(component, fields)
    full = all_kept()
    if not encoder.config.prefixes():
        with torch.no_grad():
            mixed = encoder(images(), prefix(torch.tensor(LENGTHS), LENGTH))
            for i, length in enumerate(LENGTHS):
                close(encoder(images()[i : i + 1], full[i : i + 1, :length]), mixed[i : i + 1, :length])
        return
    with torch.no_grad():
        whole = encoder(images(), full)
        some = encoder(images(), prefix(torch.tensor(LENGTHS), LENGTH))
        short = encoder(images(), full[:, :3])
    for i, length in enumerate(LENGTHS):
        close(some[i, :length], whole[i, :length])
    assert short.shape[1] == 3
    close(short, whole[:, :3])


def check_encoder_draws(component: Component, fields: Fields) -> None:
    """Check that in a pass of training features are equal for equal draws, and a row does not depend on its batch."""
    encoder, spec = build(component, fields)
    keep = all_kept()
    encoder.train()
    with torch.no_grad():
        whole = encoder.taught(images(), keep, rng=rng())
        assert whole.shape == (BATCH, LENGTH, spec.features) and whole.isfinite().all()
        assert torch.equal(whole, encoder.taught(images(), keep, rng=rng()))
        row = torch.tensor([2])
        close(encoder.taught(images()[2:3], keep[2:3], rng=rng().rows(row)), whole[2:3])


def check_encoder_taps(component: Component, fields: Fields) -> None:
    """Features `b h w e` of the taps that the config names, beside those of the slots; others are refused."""
    encoder, _ = build(component, fields)
    encoder.train()
    keep, widths = all_kept(), encoder.config.taps()
    alone = encoder.taught(images(), keep, rng=rng())
    features, shown = encoder.tapped(images(), keep, taps=frozenset(widths), rng=rng())
    close(features, alone)
    assert {name: value.shape[-1] for name, value in shown.items()} == dict(widths), "taps are not those of the config"
    assert all(value.ndim == 4 and len(value) == BATCH and value.requires_grad for value in shown.values())
    try:
        encoder.tapped(images(), keep, taps=frozenset({"no such tap"}), rng=rng())
    except ValueError:
        return
    raise AssertionError("a tap that is not offered was not refused")


def check_encoder_gradients(component: Component, fields: Fields) -> None:
    """A gradient reaches every parameter."""
    encoder, spec = build(component, fields)
    encoder.train()
    before = torch.get_rng_state()
    encoder.taught(images(), all_kept(), rng=rng())
    own_draws(before, "training")
    keep, target = all_kept(), draw(BATCH, LENGTH, spec.features)

    def forward(step: int) -> torch.Tensor:
        features: torch.Tensor = encoder.taught(images(), keep, rng=rng(step=step))
        return (features * target).sum()

    assert_gradients(encoder, encoder.config.unused(), forward)


CHECKS: tuple[Check, ...] = (
    *part.CHECKS, check_encoder_shape_and_rows, check_encoder_absent_slots, check_encoder_draws,
    check_encoder_taps, check_encoder_gradients,
)  # fmt: skip
