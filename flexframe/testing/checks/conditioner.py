"""Checks of conditioners."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch

from flexframe.nn.init import redraw_zeros
from flexframe.parts import Conditioner
from flexframe.tokens import Text
from flexframe_registry import Component

from .materials import Check, Fields, assert_gradients, close, own_draws, tiny

TEXTS = ("a red star", "a large blue ring left of a small star", "", "a red star")


def build_conditioner(component: Component, fields: Fields) -> Any:
    """The conditioner at its tiny size; None where a package that it imports is not installed."""
    config = tiny(component, fields)
    if not all(find_spec(package) for package in config.packages):
        return None
    torch.manual_seed(0)
    conditioner = component.load()(config)
    redraw_zeros(conditioner)
    return conditioner.eval()


def check_conditioner_builds(component: Component, fields: Fields) -> None:
    """Two builds have the same tensors, on the meta device too; a frozen one has none, and says by which weights it
    goes."""
    one, other = build_conditioner(component, fields), build_conditioner(component, fields)
    if one is None:
        return
    assert isinstance(one, Conditioner)
    other.load_state_dict(one.state_dict())
    with torch.device("meta"):
        counted = component.load()(one.config)
    assert all(p.is_meta for p in counted.parameters())
    assert bool(one.state_dict()) != one.config.frozen, "a frozen one keeps its tensors out of checkpoints, others in"
    settled = one.settled()
    assert type(settled) is type(one.config) and component.load()(settled).settled() == settled
    assert (settled != one.config) == one.config.frozen, "a frozen one's config is to hold a hash once it is settled"


def check_conditioner_texts(component: Component, fields: Fields) -> None:
    """Vectors of the widths that the config says; a text's hang on it alone; one that is too long is cut, and told."""
    conditioner = build_conditioner(component, fields)
    if conditioner is None:
        return
    spec = conditioner.config.text()
    before = torch.get_rng_state()
    with torch.no_grad():
        text = conditioner(TEXTS)
        assert isinstance(text, Text)
        most = text.present.shape[1]
        assert text.embeddings.shape == (len(TEXTS), most, spec.width) and most <= spec.length
        assert text.present.any(1).all(), "a text, or the null text, has no vector at all"
        assert (text.pooled is None) == (spec.pooled is None)
        assert text.pooled is None or text.pooled.shape == (len(TEXTS), spec.pooled)
        for i, words in enumerate(TEXTS):
            _same(conditioner([words]), text, i)
        kept = [row[here] for row, here in zip(text.embeddings, text.present, strict=True)]
        assert kept[0].shape != kept[1].shape or not torch.equal(kept[0], kept[1]), "the text does not matter"
        long = " ".join(["star"] * 4 * spec.length)
        assert conditioner.count(long) > spec.length >= conditioner.count("a star") > 0
        assert int(conditioner([long]).present.sum()) == spec.length, "a text that is too long is not cut at the end"
    own_draws(before, "a conditioner")


def _same(alone: Text, text: Text, row: int) -> None:
    """Fail unless a batch of one text is a row of several."""
    here = text.present[row]
    assert int(alone.present.sum()) == int(here.sum()), "how many vectors a text has hangs on its batch"
    close(alone.embeddings[0][alone.present[0]], text.embeddings[row][here])
    if alone.pooled is not None and text.pooled is not None:
        close(alone.pooled[0], text.pooled[row])


def check_conditioner_gradients(component: Component, fields: Fields) -> None:
    """A gradient reaches every parameter, of one that learns."""
    conditioner = build_conditioner(component, fields)
    if conditioner is None or conditioner.config.frozen:
        return

    def loss(step: int) -> torch.Tensor:
        text = conditioner(_many(step))
        values = [text.embeddings[text.present], *([] if text.pooled is None else [text.pooled])]
        return torch.stack([value.square().mean() for value in values]).sum()

    assert_gradients(conditioner, conditioner.config.unused(), loss)


def _many(step: int) -> Sequence[str]:
    return [*TEXTS, f"a text of step {step}", " ".join(["star"] * 1000)]


CHECKS: tuple[Check, ...] = (check_conditioner_builds, check_conditioner_texts, check_conditioner_gradients)
