"""Weights that a run starts from: another model's, whole or by part, at its own size or another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flexframe.models.tokenizer import Tokenizer
from flexframe.parts import Part
from flexframe.store.load import imported
from flexframe.store.places import locate
from flexframe_registry import ConfigError
from flexframe_registry.models import PARTS
from flexframe_registry.runs import InitConfig


def initialise(model: Tokenizer, init: Sequence[InitConfig]) -> list[dict[str, Any]]:
    """Put other models' weights into a model's parts; returns what was taken from where, for the manifest.

    Each part fits the tensors to its own widths where that has a meaning (`Part.adapt`: positions of another grid, a
    shorter sequence). What then is missing, left over or of another shape is an error that lists all of it; what is
    missing from a model that is taken in part is left to the others, and listed if it stays random.

    Raises:
        ConfigError: a model has none of these parts, tensors do not fit, or a codec with weights is given none.
    """
    taken, problems = list[dict[str, Any]](), list[tuple[str, str]]()
    filled: dict[str, set[str]] = {}
    for i, config in enumerate(init):
        place = locate(config.source)
        given_model, about = imported(place)
        spec = given_model.config.widths
        if spec is None:
            kind = given_model.config.kind
            raise ConfigError.at(f"run.init.{i}", f"{config.source} is a {kind}, not a tokenizer or a codec")
        state = {_rename(name, config.rename): value for name, value in given_model.state.items()}
        there = {name.partition(".")[0] for name in state}
        for part in config.parts or tuple(p for p in PARTS if p in there):
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
                taken.append({"from": place.id, "part": part, "tensors": len(given), **about.get("import", {})})
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
