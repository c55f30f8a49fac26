"""Checks of priors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from flexframe.nn.init import redraw_zeros
from flexframe.parts import LikelihoodPrior, Prior
from flexframe.rng import Rng
from flexframe.tokens import Codes, Condition, Text, prefix
from flexframe_registry import CodesSpec, Component, TextSpec

from .materials import (
    BATCH,
    CODES,
    LENGTH,
    LENGTHS,
    Check,
    Fields,
    a_value_a_sample,
    assert_gradients,
    close,
    draw,
    own_draws,
    rng,
    sampling,
    scalar,
    tiny,
)  # fmt: skip

CLASSES, DIM = 5, 6
TEXT = TextSpec(7, 12, 10)


def build_prior(
    component: Component, fields: Fields, classes: int | None = CLASSES, text: TextSpec | None = None
) -> Any:
    """The prior at its tiny size, over codes and classes whose numbers tell them apart."""
    config = tiny(component, fields)
    codes, dim = (None, DIM) if config.continuous else (CODES, None)
    spec = CodesSpec(LENGTH, codes, 1, classes, text, dim)
    config.check_codes(spec)
    torch.manual_seed(0)
    prior = component.load()(config, spec)
    redraw_zeros(prior)
    return prior.eval()


def sequences(prior: Prior[Any], rows: Sequence[int] = range(BATCH)) -> tuple[Codes, Condition]:
    """Random codes of `LENGTHS`, and their classes; the last row has none."""
    index, lengths = torch.tensor(rows), LENGTHS
    draws = Rng(4, index)
    drawn = draws.normal("codes", (LENGTH, DIM))
    if not prior.config.continuous:
        drawn = draws.integers("codes", CODES, (LENGTH, 1))
    codes = Codes(drawn, prefix(torch.tensor([lengths[i] for i in rows]), LENGTH))
    return codes, Condition(index == BATCH - 1, labels=index % CLASSES)


def others(codes: Codes) -> Tensor:
    """Other codes than these, each."""
    return 1 - codes.codes if codes.codes.is_floating_point() else CODES - 1 - codes.codes


def rows_of(condition: Condition, rows: Sequence[int]) -> Condition:
    """The condition of these rows alone."""
    assert condition.labels is not None
    return Condition(condition.null[list(rows)], labels=condition.labels[list(rows)])


def check_prior_builds(component: Component, fields: Fields) -> None:
    """Two builds have the same tensors, with classes or without, and it can be built on the meta device."""
    for classes in (CLASSES, None):
        one, other = build_prior(component, fields, classes), build_prior(component, fields, classes)
        assert isinstance(one, Prior)
        other.load_state_dict(one.state_dict())
        with torch.device("meta"):
            counted = component.load()(one.config, one.spec)
        assert all(p.is_meta for p in counted.parameters())


def check_prior_losses(component: Component, fields: Fields) -> None:
    """Losses are finite, a value a sample; neither its batch nor absent slots move a row's; codes and class do."""
    prior = build_prior(component, fields)
    codes, condition = sequences(prior)
    mixed = Codes(torch.where(codes.keep[..., None], codes.codes, others(codes)), codes.keep)
    with torch.no_grad():
        whole = prior(codes, condition, rng=rng())
        assert whole, "a prior has at least one loss"
        scalar(whole)
        close(dict(prior(mixed, condition, rng=rng())), dict(whole))
        for i in range(BATCH):
            alone = prior(*sequences(prior, [i]), rng=rng().rows(torch.tensor([i])))
            row_of = {name: loss[i : i + 1] for name, loss in whole.items() if loss.ndim}
            close({name: alone[name] for name in row_of}, row_of)
        short = Codes(codes.codes[:1, :3], codes.keep[:1, :3])
        of_short = prior(short, rows_of(condition, [0]), rng=rng(1))
        assert all(loss.isfinite().all() for loss in of_short.values()), (
            "fewer slots than the model's length are not taken"
        )
        other = Codes(others(codes), codes.keep)
        assert not torch.equal(scalar(prior(other, condition, rng=rng())), scalar(whole)), "the codes do not matter"
        assert not torch.equal(scalar(prior(codes, None, rng=rng())), scalar(whole)), "the class does not matter"
    prior.train()
    before = torch.get_rng_state()
    losses = prior(codes, condition, rng=rng())
    own_draws(before, "training")
    assert torch.equal(scalar(losses), scalar(prior(codes, condition, rng=rng()))), "equal draws gave unequal losses"
    scalar(losses)
    a_value_a_sample(losses)
    scalar(build_prior(component, fields, None)(codes, None, rng=rng()))


def check_prior_gradients(component: Component, fields: Fields) -> None:
    """A gradient reaches every parameter."""
    prior = build_prior(component, fields)
    codes, condition = sequences(prior)
    assert_gradients(prior, prior.config.unused(), lambda step: scalar(prior(codes, condition, rng=rng(step=step))))


def check_prior_samples(component: Component, fields: Fields) -> None:
    """Codes in range, as many as asked, equal for equal seeds; a row does not depend on its batch; progress is told."""
    prior = build_prior(component, fields)
    settings, (_, condition), continuous = sampling(prior.config), sequences(prior), prior.config.continuous
    lengths, told = torch.tensor(LENGTHS), list[int]()

    def run(rows: Sequence[int], draws: Rng, on_token: Callable[[int], None] | None = None) -> Codes:
        given = rows_of(condition, rows)
        codes: Codes = prior.sample(given, lengths[list(rows)], rng=draws, sampling=settings, on_token=on_token)
        return codes

    drawn = run(range(BATCH), rng(), on_token=told.append)
    shape, kind = ((BATCH, LENGTH, DIM), torch.float32) if continuous else ((BATCH, LENGTH, 1), torch.long)
    assert drawn.codes.shape == shape and drawn.codes.dtype == kind
    assert torch.equal(drawn.keep, prefix(lengths, LENGTH)), "lengths are not what was asked"
    present = drawn.codes[drawn.keep]
    _in_range(drawn)
    assert told and told == sorted(set(told)), f"progress is not told step by step: {told}"
    assert torch.equal(present, run(range(BATCH), rng()).codes[drawn.keep]), "equal seeds gave unequal codes"
    assert not torch.equal(present, run(range(BATCH), rng(step=1)).codes[drawn.keep]), "the rng does not matter"
    for some in ([0], [2], [3, 1]):
        alone = run(some, rng().rows(torch.tensor(some)))
        assert alone.keep.shape[1] == max(LENGTHS[i] for i in some), "slots that no row has are there"
        for at, i in enumerate(some):
            kept = alone.codes[at][alone.keep[at]]
            assert _same(kept, drawn.codes[i][drawn.keep[i]]), "a row's draws depend on its batch"
    _in_range(prior.sample(None, lengths, rng=rng(), sampling=settings))


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether codes are equal, and values so but for rounding."""
    return torch.allclose(one, other, atol=1e-4, rtol=1e-4) if one.is_floating_point() else torch.equal(one, other)


def _in_range(codes: Codes) -> None:
    present = codes.codes[codes.keep]
    if present.is_floating_point():
        assert present.isfinite().all(), "a value is not finite"
    else:
        assert present.min() >= 0 and present.max() < CODES, "a code is out of range"


def check_prior_likelihood(component: Component, fields: Fields) -> None:
    """Likelihoods, where a prior gives them, sum to 1, are of tokens given those before them, and 0 where absent."""
    prior = build_prior(component, fields)
    if not isinstance(prior, LikelihoodPrior) or prior.config.continuous:
        return
    codes, condition = sequences(prior)
    chances = prior.log_prob(codes, condition)
    assert chances.shape == codes.keep.shape and (chances <= 0).all() and chances.isfinite().all()
    assert (chances[~codes.keep] == 0).all(), "an absent token has a likelihood"
    for slot in (0, LENGTH // 2):
        every = codes.codes[-1:].repeat(CODES, 1, 1)
        every[:, slot, 0] = torch.arange(CODES)
        null = torch.ones(CODES, dtype=torch.bool)
        values = prior.log_prob(Codes(every, torch.ones(CODES, LENGTH, dtype=torch.bool)), Condition(null))
        close(values[:, slot].exp().sum(), torch.ones(()))
        close(values[:, :slot], values[:1, :slot].expand(CODES, -1))


def worded(rows: Sequence[int] = range(BATCH)) -> Condition:
    """Random texts of several lengths, the null text in the last row."""
    index, taken = torch.tensor(rows), list(rows)
    present = prefix(torch.tensor([2, 4, TEXT.length, 3]), TEXT.length)[taken]
    values, pooled = draw(BATCH, TEXT.length, TEXT.width)[taken], draw(BATCH, 10)[taken]
    first = prefix(torch.tensor([1]), TEXT.length)
    nothing = Text(draw(1, TEXT.length, TEXT.width, seed=1), first, draw(1, 10, seed=1))
    none = torch.zeros(len(rows), dtype=torch.bool)
    given = Condition(none, embeddings=values, present=present, pooled=pooled, nothing=nothing)
    return given.hidden(index == BATCH - 1)


def check_prior_texts(component: Component, fields: Fields) -> None:
    """Texts matter, where a prior takes them; a row's own alone, and of it what is present; a gradient reaches all."""
    config = tiny(component, fields)
    if not config.texts:
        return
    prior, settings = build_prior(component, fields, None, TEXT), sampling(config)
    (codes, _), condition, lengths = sequences(prior), worded(), torch.tensor(LENGTHS)
    assert condition.embeddings is not None and condition.present is not None
    other = replace(condition, embeddings=condition.embeddings + condition.present[..., None])
    absent = replace(condition, embeddings=condition.embeddings + ~condition.present[..., None])
    with torch.no_grad():
        whole = prior(codes, condition, rng=rng())
        close(dict(prior(codes, absent, rng=rng())), dict(whole))
        assert not torch.equal(scalar(prior(codes, other, rng=rng())), scalar(whole)), "the text does not matter"
        for i in range(BATCH):
            alone = prior(sequences(prior, [i])[0], worded([i]), rng=rng().rows(torch.tensor([i])))
            close(dict(alone), {name: loss[i : i + 1] for name, loss in whole.items()})
    drawn = prior.sample(condition, lengths, rng=rng(), sampling=settings)
    for i in range(BATCH):
        alone = prior.sample(worded([i]), lengths[[i]], rng=rng().rows(torch.tensor([i])), sampling=settings)
        assert _same(alone.codes[0][alone.keep[0]], drawn.codes[i][drawn.keep[i]]), "a row's draws depend on its batch"
    assert_gradients(prior, prior.config.unused(), lambda step: scalar(prior(codes, condition, rng=rng(step=step))))


CHECKS: tuple[Check, ...] = (
    check_prior_builds, check_prior_losses, check_prior_gradients, check_prior_samples, check_prior_likelihood,
    check_prior_texts,
)  # fmt: skip
