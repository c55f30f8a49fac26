"""Suites: how models are measured, as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from .config import Config
from .errors import MISSING, ConfigError, UnknownName, nearest
from .files import put, read_yaml, split_override
from .kinds import MetricConfig, SourceConfig
from .slots import Slot


class SuiteConfig(Config):
    """A benchmark: which images, how many, at which token counts, measured how."""

    data: Slot[SourceConfig]
    """Images; every model sees the same ones."""
    count: int | None = Field(None, ge=1)
    """Images used, the first of the source; all if not given."""
    budgets: tuple[int, ...] | None = None
    """Token counts; not given: each model's own budgets. A model is measured at those of them that it supports."""
    metrics: tuple[Slot[MetricConfig], ...]
    """Metrics that are computed."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of the decoders' draws."""
    rounding: Literal["nearest", "down"] = "nearest"
    """Rounding of reconstructions where a metric takes them as 8-bit: 255 times the value, to the nearest, or cut off
    as code bases do that cast without rounding."""
    show: int = Field(12, ge=0)
    """Images shown on the report page."""
    note: str = ""
    """A line for the page: what the suite is for and what not to conclude from it."""


SUITES = Path(__file__).parent / "suites"


def suite(name: str, overrides: Sequence[str] = ()) -> SuiteConfig:
    """A suite by name (shipped) or by path to a YAML file, with `key.path=value` on top.

    `NAME@1` is the suite of that version alone: one that is changed so that its numbers are others gets a new one.

    Raises:
        ConfigError: what is wrong with it; what it leaves to be said on the command line is named with the way to.
    """
    known = sorted(path.stem for path in SUITES.glob("*.yaml"))
    bare, _, asked = name.partition("@")
    path = SUITES / f"{bare}.yaml" if bare in known else Path(name)
    if not path.is_file():
        listed = ", ".join(known)
        raise UnknownName(f"no suite named {name!r}, and no such file.{nearest(bare, known)} Known: {listed}")
    raw = read_yaml(path)
    version = raw.pop("version", 1)
    if bare in known and asked and asked != str(version):
        raise ConfigError.at(name, f"is not here: this flexframe has {bare}@{version}, whose numbers may be others")
    for override in overrides:
        key, value = split_override(override)
        raw = put(raw, key.split("."), value)
    try:
        return SuiteConfig.read(raw)
    except ConfigError as error:
        told = [(at, f"{text}; say it as {at}=VALUE" if text == MISSING else text) for at, text in error.problems]
        raise ConfigError([(f"{name}: {at}" if at else name, text) for at, text in told]) from None


def settle(config: SourceConfig, ways: Mapping[str, Any]) -> SourceConfig:
    """A suite's source with images brought to size as its models want them, where it does not itself say how.

    Args:
        ways: by model, how its card brings images to size.

    Raises:
        ConfigError: models that want it differently.
    """
    if len(set(ways.values())) == 1:
        return config.resized(next(iter(ways.values())))
    asked = {config.resized(way).way() for way in ways.values()}
    if len(asked) > 1:
        told = ", ".join(f"{name} {way}" for name, way in ways.items())
        text = f"is not given, and the models' cards differ: {told}; choose one for all, as data.resize=adm"
        raise ConfigError.at("data.resize", text)
    return config


def version(name: str) -> str:
    """The name and version of a suite that ships, `NAME@1`; of any other its name."""
    bare = name.partition("@")[0]
    path = SUITES / f"{bare}.yaml"
    return f"{bare}@{read_yaml(path).get('version', 1)}" if path.is_file() else name
