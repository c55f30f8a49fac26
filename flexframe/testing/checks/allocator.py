"""Checks of allocators."""

from __future__ import annotations

import torch

from flexframe.models.tokenizer import Tokenizer
from flexframe.nn.init import redraw_zeros
from flexframe_registry import Component

from . import part
from .materials import BATCH, LENGTH, Check, Fields, images, rng, sampling, small_model, tiny


def small_tokenizer() -> Tokenizer:
    """A tiny model with random weights."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(small_model())
    tokenizer.sampling = sampling(tokenizer.config.decoder)
    redraw_zeros(tokenizer)
    return tokenizer.eval()


def check_allocator(component: Component, fields: Fields) -> None:
    """Lengths in 1..K, equal for equal seeds; a row depends neither on its batch nor on the order of the images."""
    tokenizer = small_tokenizer()
    config = tiny(component, fields)
    config.check(tokenizer.spec)
    allocator = component.load()(config, tokenizer.spec).eval()
    before = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    given = images()
    lengths = allocator.choose(tokenizer, given, rng=rng())
    assert lengths.shape == (BATCH,) and not lengths.is_floating_point()
    assert lengths.min() >= 1 and lengths.max() <= LENGTH
    assert torch.equal(given, images()), "`choose` wrote into the images"
    for name, value in tokenizer.state_dict().items():
        assert torch.equal(value, before[name]), f"`choose` wrote into the model's {name}"
    assert torch.equal(lengths, allocator.choose(tokenizer, given, rng=rng())), "equal seeds gave unequal lengths"
    for some in ([2], [3, 1], [3, 2, 1, 0]):
        rows = torch.tensor(some)
        alone = allocator.choose(tokenizer, given[rows], rng=rng().rows(rows))
        assert torch.equal(alone, lengths[rows]), "an image's length depends on the batch that it is in"


CHECKS: tuple[Check, ...] = (*part.CHECKS, check_allocator)
