"""Weights that a run starts from: another model's, whole or by part, at its own size or another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from flexframe.importing import Imported
from flexframe.models.tokenizer import Tokenizer
from flexframe.parts import Part
from flexframe.store.load import imported
from flexframe.store.places import Place, locate
from flexframe_registry import ConfigError, TokenizerConfig, TrainConfig
from flexframe_registry.models import PARTS, PartName
from flexframe_registry.runs import InitConfig


@dataclass(frozen=True, slots=True)
class Start:
    """A model that weights are taken from, read once."""

    config: InitConfig
    place: Place
    model: Imported
    about: Mapping[str, Any]

    @property
    def state(self) -> dict[str, Tensor]:
        """Its tensors by their names here."""
        return {_rename(name, self.config.rename): value for name, value in self.model.state.items()}

    @property
    def parts(self) -> tuple[PartName, ...]:
        """The parts that are taken."""
        there = {_rename(name, self.config.rename).partition(".")[0] for name in self.model.state}
        return self.config.parts or tuple(part for part in PARTS if part in there)


def read_starts(init: Sequence[InitConfig]) -> list[Start]:
    """The models that a run starts from.

    Raises:
        ConfigError: one cannot be read, or is neither a tokenizer nor a codec.
    """
    starts = []
    for i, config in enumerate(init):
        place = locate(config.source)
        model, about = imported(place)
        if model.config.widths is None:
            text = f"{config.source} is a {model.config.kind}, not a tokenizer or a codec"
            raise ConfigError.at(f"run.init.{i}", text)
        starts.append(Start(config, place, model, about))
    return starts


def following(config: TrainConfig, starts: Sequence[Start]) -> TrainConfig:
    """A run's config with what the weights that it starts from hang on and do not hold (`ComponentConfig.following`).

    Raises:
        ConfigError: weights cannot mean here what they mean there.
    """
    model = config.model
    if not isinstance(model, TokenizerConfig):
        return config
    for start in starts:
        model = model.following(start.model.config, start.parts)
    return config.model_copy(update={"model": model})


def initialise(model: Tokenizer, starts: Sequence[Start]) -> list[dict[str, Any]]:
    """Put other models' weights into a model's parts; returns what was taken from where, for the manifest.

    Each part fits the tensors to its own widths where that has a meaning (`Part.adapt`: positions of another grid, a
    shorter sequence). What then is missing, left over or of another shape is an error that lists all of it; what is
    missing from a model that is taken in part is left to the others, and listed if it stays random.

    Raises:
        ConfigError: a model has none of these parts, tensors do not fit, or a codec with weights is given none.
    """
    taken, problems = list[dict[str, Any]](), list[tuple[str, str]]()
    filled: dict[str, set[str]] = {}
    for start in starts:
        config, place, state, spec = start.config, start.place, start.state, start.model.config.widths
        assert spec is not None  # as `read_starts` sees to
        for part in start.parts:
            own: Part[Any] = getattr(model, part)
            given = {n.partition(".")[2]: value for n, value in state.items() if n.partition(".")[0] == part}
            given = dict(own.adapt(given, spec))
            here = own.state_dict()
            lacking = here.keys() - given.keys()
            if not config.partial:
                problems += [(f"{part}.{n}", f"is not in {config.source}") for n in lacking]
            elif not given:
                problems.append((part, f"has nothing in {config.source}; leave it out of `parts`, or rename"))
            problems += [(f"{part}.{n}", f"of {config.source} has no place here") for n in given.keys() - here.keys()]
            problems += [
                (f"{part}.{n}", f"is {tuple(given[n].shape)} in {config.source}, {tuple(here[n].shape)} here")
                for n in given.keys() & here.keys()
                if given[n].shape != here[n].shape
            ]
            if not problems:
                own.load_state_dict(given, strict=not config.partial)
                filled.setdefault(part, set()).update(given)
                taken.append({"from": place.id, "part": part, "tensors": len(given), **start.about.get("import", {})})
    if problems:
        hint = "name the parts that do fit with `parts`, or set `partial: true` where some tensors may lack; the others"
        raise ConfigError([*sorted(problems), ("run.init", f"{hint} start random")])
    drawn = [name for name, _ in model.codec.named_parameters()]
    if drawn and not any(t["part"] == "codec" for t in taken):
        text = f"codec {model.config.codec.type!r} has weights, and no model is named that has them"
        raise ConfigError.at("run.init", f"{text}: a frozen codec cannot start random. Give run.init.from=MODEL")
    for name, given_names in filled.items():
        random = sorted(getattr(model, name).state_dict().keys() - given_names)
        if random:
            taken.append({"from": None, "part": name, "tensors": len(random), "random": random})
    return taken


def _rename(name: str, renames: dict[str, str]) -> str:
    for old, new in renames.items():
        if name == old or name.startswith(old + "."):
            return new + name[len(old) :]
    return name
