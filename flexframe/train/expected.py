"""The curve that a card says its run takes, for a run of that card. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexframe_registry.cards import Card, cards
from flexframe_registry.files import read_json
from flexframe_registry.models import ModelConfig
from flexframe_registry.runfolder import RunFolder


@dataclass(frozen=True)
class Expected:
    """A card's curve, in the steps of a run of that card."""

    card: str
    lines: Sequence[Mapping[str, Any]]
    """As a log has them: a step and the values there."""


def to_expect(card: Card, model: ModelConfig) -> str | None:
    """The id of the card whose curve a run of this model is held against: the card, or what it builds on.

    None where none has a curve, or that one's model is another: losses of two models say different things.
    """
    owner: Card | None = card
    while owner is not None and not owner.file.expected:
        owner = owner.base
    return owner.id if owner is not None and owner.described == model else None


def expected(folder: Path) -> Expected | None:
    """The curve to hold a run against, at as many images seen; None where its manifest names no card that has one.

    Raises:
        ConfigError: the run's files cannot be read.
    """
    paths = RunFolder(folder)
    name = str(_read(paths.manifest).get("expected"))
    curves = cards().get(name).file.expected if name in cards().files else {}
    if not curves:
        return None
    ratio = cards().get(name).run.batch_size / _read(paths.config)["run"]["batch_size"]
    points: dict[int, dict[str, Any]] = {}
    for metric, curve in curves.items():
        for step, value in curve.items():
            points.setdefault(step, {})[metric] = value
    return Expected(name, [{"step": round(step * ratio), **points[step]} for step in sorted(points)])


def _read(path: Path) -> dict[str, Any]:
    """The content of a file that a run wrote; nothing where it is not there, for a log can be drawn by itself."""
    return read_json(path, edit=True) if path.is_file() else {}
