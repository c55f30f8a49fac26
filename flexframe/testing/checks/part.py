"""Checks of every part of a model."""

from __future__ import annotations

import torch

from flexframe.parts import Part
from flexframe_registry import Component

from .materials import Check, Fields, build, spec_of, tiny


def check_builds_and_state_dict_round_trips(component: Component, fields: Fields) -> None:
    """Two builds of one config have the same tensors by name and shape, and one loads into the other."""
    one, _ = build(component, fields)
    torch.manual_seed(1)
    other = component.load()(one.config, one.spec)
    assert isinstance(one, Part)
    other.load_state_dict(one.state_dict())
    for name, value in one.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


def check_builds_without_data_on_meta(component: Component, fields: Fields) -> None:
    """A part can be built on the meta device, so that any size can be counted."""
    config = tiny(component, fields)
    with torch.device("meta"):
        part = component.load()(config, spec_of(config))
    assert all(p.is_meta for p in part.parameters())


CHECKS: tuple[Check, ...] = (check_builds_and_state_dict_round_trips, check_builds_without_data_on_meta)
