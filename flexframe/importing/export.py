"""A model of ours in the form of another code base: an importer, run backwards.

An importer puts the numbers of a checkpoint into other places, and changes none of them. So it is shown a checkpoint
of numbered places, a template's names and shapes with each element's own number in it; where these come out says where
each of ours goes back to. What was made is imported again, and must be the model to the bit: an importer that computes
is found out, and nothing is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from flexframe.importing.foreign import Foreign, TensorFile
from flexframe_registry import ConfigError

BASE = 1 << 20
"""Numbers are told in digits of this base, each of which a float32 holds exactly."""


def exported(state: Mapping[str, Tensor], template: Foreign, importer: Any) -> dict[str, Tensor]:
    """The tensors that the importer makes `state` of, by the template's names, floats as float32.

    What of the template the importer does not use (a teacher, statistics of training) stays as it is there.

    Raises:
        ConfigError: the template is of another model, or its importer computes on the way.
    """
    tensors = {name: template.tensors[name] for name in template.tensors}
    floating = {name: value for name, value in tensors.items() if value.is_floating_point()}
    starts, total = dict[str, int](), 1  # 0 is what comes from nowhere
    for name, value in floating.items():
        starts[name], total = total, total + value.numel()
    numbers = {name: torch.zeros(value.shape, dtype=torch.int64) for name, value in state.items()}
    marked = {name: torch.arange(value.numel()) + starts[name] for name, value in floating.items()}
    power = 1
    while power < total:
        told = _told(importer, template, tensors, marked, power)
        _see_alike(state, told, template)
        for name, value in told.items():
            numbers[name] += value.double().round().long() * power
        power *= BASE
    flat = torch.zeros(total, dtype=torch.float32)
    known = torch.zeros(total, dtype=torch.bool)
    for name, value in state.items():
        where = numbers[name].clamp(0, total - 1).flatten()  # a computed number may be any
        flat[where], known[where] = value.flatten().float().cpu(), True
    made = dict(tensors)
    for name in marked:
        value = floating[name]
        own = slice(starts[name], starts[name] + value.numel())
        made[name] = torch.where(known[own], flat[own], value.flatten().float()).view(value.shape)
    _see_again(state, _converted(importer, template, made), template)
    return made


def _told(
    importer: Any, template: Foreign, tensors: Mapping[str, Tensor], marked: dict[str, Tensor], power: int
) -> Mapping[str, Tensor]:
    """Where a digit of each number comes out. Tensors that the importer takes only as they are, as tables that follow
    from a formula, go out of `marked`."""
    while True:
        digits = {name: (each // power % BASE).float().view(tensors[name].shape) for name, each in marked.items()}
        try:
            return _converted(importer, template, {**tensors, **digits})
        except ConfigError as error:
            fixed = [path for path, _ in error.problems if path in marked]
            if not fixed:
                raise
            for name in fixed:
                del marked[name]


def _converted(importer: Any, template: Foreign, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The state that the importer makes of the template with these tensors."""
    shown: TensorFile = copy(template.tensors)
    shown._where = {name: (dict(tensors), name) for name in tensors}
    state: Mapping[str, Tensor] = importer.convert(replace(template, tensors=shown)).state
    return state


def _see_alike(state: Mapping[str, Tensor], told: Mapping[str, Tensor], template: Foreign) -> None:
    other = [name for name in (*state, *told) if name not in state or name not in told]
    other += [name for name in state if name in told and state[name].shape != told[name].shape]
    if other:
        text = f"is of another model: {', '.join(sorted(set(other))[:4])} differ; name a checkpoint of the same sizes"
        raise ConfigError.at(str(template.path), text)


def _see_again(state: Mapping[str, Tensor], again: Mapping[str, Tensor], template: Foreign) -> None:
    """See that an import of what was made is the model, to the bit."""
    wrong = [name for name, value in state.items() if not torch.equal(value.cpu().to(again[name].dtype), again[name])]
    if wrong:
        text = f"its importer computes {', '.join(sorted(wrong)[:4])} and cannot be run backwards; nothing is written"
        raise ConfigError.at(str(template.path), text)
