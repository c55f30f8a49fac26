"""Checks of decoders."""

from __future__ import annotations

from dataclasses import replace
from inspect import signature

import torch
from torch import Tensor

from flexframe.parts import Decoder
from flexframe.tokens import Batch, Outputs, Tokens
from flexframe_registry import Component, Spec
from flexframe_registry.kinds import ENCODER, OUTPUTS

from . import part
from .materials import (
    BATCH,
    Check,
    Fields,
    a_value_a_sample,
    assert_gradients,
    assert_not_clamped,
    build,
    close,
    decode,
    draw,
    images,
    own_draws,
    rng,
    sampling,
    scalar,
    tokens,
)


def given(decoder: Decoder, spec: Spec) -> Batch:
    """A batch of training, with the encoder's features that the decoder's shortcuts are made of."""
    shortcuts = decoder.config.shortcuts(spec).values()
    features = {f"{ENCODER}{tap}": draw(BATCH, *shape) for tap, shape in shortcuts}
    return Batch(torch.arange(BATCH), latents=images(), features=features)


def outputs(decoder: Decoder, spec: Spec, step: int = 0) -> Outputs:
    """Outputs of a training pass over tokens of several lengths."""
    out: Outputs = decoder(tokens(spec), given(decoder, spec), taps=frozenset(), rng=rng(step=step))
    return out


def check_decoder_trains(component: Component, fields: Fields) -> None:
    """Losses a value a sample; what `provides` promises is there; taps that nobody offers are refused."""
    for masked in (True, False):
        decoder, spec = build(component, fields, masked)
        decoder.train()
        offered = decoder.config.provides()
        taps = offered - OUTPUTS
        batch, shortcuts = given(decoder, spec), decoder.config.shortcuts(spec).keys()
        before = torch.get_rng_state()
        out = decoder(tokens(spec), batch, taps=taps, rng=rng())
        own_draws(before, "training")
        scalar(out.losses)
        a_value_a_sample(out.losses)
        assert ("reconstruction" in offered) == (out.reconstruction is not None)
        assert ("logits" in offered) == (out.logits is not None)
        assert set(out.features) == taps
        assert shortcuts <= taps, "the decoder has shortcuts that it does not provide"
        for name in shortcuts:
            assert out.features[name].shape == images().shape, f"{name} is no picture of the latents' shape"
        widths = {name: value.shape[-1] for name, value in out.features.items() if name not in shortcuts}
        assert widths == decoder.config.taps(), f"features have widths {widths}, the config says otherwise"
        assert out.losses or offered, "a decoder has a loss of its own, or something for objectives"
        try:
            decoder(tokens(spec, [8] * BATCH), batch, taps=frozenset({"no such tap"}), rng=rng())
        except ValueError:
            continue
        raise AssertionError("a tap that is not offered was not refused")


def check_decoder_decodes(component: Component, fields: Fields) -> None:
    """Latents of the asked size, equal for equal seeds, and a row does not depend on its batch."""
    for masked in (True, False):
        decoder, spec = build(component, fields, masked)
        given = tokens(spec)
        latents = decode(decoder, given, rng())
        assert latents.shape == (BATCH, spec.latents.channels, spec.latents.height, spec.latents.width)
        assert latents.isfinite().all()
        assert torch.equal(latents, decode(decoder, given, rng())), "equal seeds gave unequal latents"
        assert_not_clamped(decode(decoder, replace(given, values=10 * given.values), rng()), "latents")
        for i in range(BATCH):
            alone = decode(decoder, given[i], rng().rows(torch.tensor([i])))
            close(alone, latents[i : i + 1])


def check_decoder_flow(component: Component, fields: Fields) -> None:
    """A flow's velocities are of the latents' shape, of a row do not depend on its batch, and hang on the tokens."""
    decoder, spec = build(component, fields, True)
    if "flow" not in decoder.config.provides():
        return
    given, x = tokens(spec), draw(BATCH, spec.latents.channels, spec.latents.height, spec.latents.width)
    times, strides = torch.tensor([1.0, 0.5, 0.25, 0.1]), torch.tensor([0.5, 0.5, 0.25, 0.1])
    values = given.values.clone().requires_grad_()
    for settings in (None, sampling(decoder.config)):
        flow = decoder.flow(replace(given, values=values), settings)
        velocity = flow.velocity(x, times, strides)
        assert velocity.shape == flow.data(x).shape == x.shape
        alone = decoder.flow(given[1], settings).velocity(x[1:2], times[1:2], strides[1:2])
        close(alone, velocity[1:2])
        (gradient,) = torch.autograd.grad(velocity.square().sum(), values)
        assert gradient[given.keep].any(), "the tokens do not matter to the flow's velocity"


def check_decoder_tells_steps(component: Component, fields: Fields) -> None:
    """Steps are told one by one up to their number, if there are any, and telling them moves no number."""
    decoder, spec = build(component, fields, True)
    if "on_step" not in signature(decoder.decode).parameters:
        return
    told: list[tuple[int, int]] = []
    latents = decode(decoder, tokens(spec), rng(), on_step=lambda done, of: told.append((done, of)))
    assert told == [(i + 1, len(told)) for i in range(len(told))], f"steps are not told one by one: {told}"
    assert torch.equal(latents, decode(decoder, tokens(spec), rng())), "telling the steps moved the latents"


def check_decoder_absent_slots(component: Component, fields: Fields) -> None:
    """Absent slots change nothing, whatever stands in them and if they are left out; present ones do matter."""
    for masked in (True, False):
        decoder, spec = build(component, fields, masked)
        given, other = tokens(spec, [3] * BATCH), tokens(spec, [3] * BATCH, seed=1)
        mixed = torch.where(given.keep[..., None], given.values, 100 * other.values)
        latents = decode(decoder, given, rng())
        close(decode(decoder, Tokens(mixed, given.keep, given.codes), rng()), latents)
        close(decode(decoder, given.truncate(3), rng()), latents)
        assert not torch.allclose(decode(decoder, other, rng()), latents), "the tokens do not matter"
        values = given.values.clone().requires_grad_()
        part_of = decode(decoder, replace(given, values=values), rng(), graph=True)
        if part_of.requires_grad:
            (gradient,) = torch.autograd.grad(part_of.square().sum(), values)
            assert not gradient[~given.keep].any(), (
                f"absent slots move the latents, by up to {float(gradient[~given.keep].abs().max()):.1e} of a value; "
                "what is absent has no weight at all: mask with -inf, and replace before it is added"
            )


def check_decoder_gradients(component: Component, fields: Fields) -> None:
    """A gradient reaches every parameter, whether training puts a mask token in an absent one's place or not."""
    for masked in (True, False):
        decoder, spec = build(component, fields, masked)

        def forward(step: int, decoder: Decoder = decoder, spec: Spec = spec) -> Tensor:
            out = outputs(decoder, spec, step)
            total = scalar(out.losses)
            for given in (out.reconstruction, out.logits):
                if given is not None:
                    total = total + (given * draw(*given.shape, seed=2)).sum()
            return total

        assert_gradients(decoder, decoder.config.unused(), forward)


CHECKS: tuple[Check, ...] = (
    *part.CHECKS, check_decoder_trains, check_decoder_decodes, check_decoder_flow, check_decoder_tells_steps,
    check_decoder_absent_slots, check_decoder_gradients,
)  # fmt: skip
