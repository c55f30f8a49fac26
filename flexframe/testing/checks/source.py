"""Checks of data sources."""

from __future__ import annotations

import json

import torch

from flexframe_registry import Component

from .materials import Check, Fields, tiny

MOST = 64
"""Images whose ids are looked at."""


def check_source(component: Component, fields: Fields) -> None:
    """Images of the asked size, the same at every call, out of range refused; protocol and inventory are plain data."""
    source = component.load()(tiny(component, fields), (16, 24))
    assert len(source) > 0
    for i in (0, len(source) - 1):
        sample = source[i]
        assert sample.image.shape == (3, 16, 24) and sample.image.dtype == torch.uint8 and sample.id
        assert torch.equal(sample.image, source[i].image)
    try:
        source[len(source)]
    except IndexError:
        pass
    else:
        raise AssertionError("an index past the end was not refused")
    protocol = dict(source.protocol())
    json.dumps(protocol)
    assert protocol, "the protocol is empty; it says what moves a number beside the pixels: resize, split, version"
    ids = [source[i].id for i in range(min(len(source), MOST))]
    twice = sorted({each for each in ids if ids.count(each) > 1})
    assert not twice, f"several images have the id {twice[0]!r}; an id names one image, in files and in results"
    inventory = json.dumps(dict(source.inventory()))
    again = json.dumps(dict(component.load()(tiny(component, fields), (16, 24)).inventory()))
    assert inventory == again, f"inventory() is {again} of the same images for which it was {inventory}"
    labels = source.read_labels([0])
    assert labels is None or list(labels) == [source[0].label], f"read_labels gives {labels}, and the sample another"


CHECKS: tuple[Check, ...] = (check_source,)
