"""Checks of every component, whatever its kind."""

from __future__ import annotations

from flexframe_registry import Component

from .materials import Check, Fields, tiny


def check_config_round_trips(component: Component, fields: Fields) -> None:
    """A config survives JSON, is frozen, refuses unknown fields, documents every field, and has its sizes."""
    config = tiny(component, fields)
    assert component.config.model_validate_json(config.model_dump_json()) == config
    for size in component.config.sizes:
        component.config.read({**component.config.sizes[size], **fields})
    texts = component.config.documentation()
    undocumented = [name for name in component.config.model_fields if name != "type" and name not in texts]
    assert not undocumented, f"fields without a docstring: {undocumented}"
    assert component.config.__doc__, "the config has no docstring"
    assert component.config.model_config.get("extra") == "forbid"
    assert component.config.model_config.get("frozen")


def check_fulfils_its_kind(component: Component, fields: Fields) -> None:
    """The class imports, and is of the kind that its config says."""
    assert isinstance(component.load(), type)


CHECKS: tuple[Check, ...] = (check_config_round_trips, check_fulfils_its_kind)
