"""Models as a person sees them who names one in a notebook: what it is and what it weighs, not its modules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup
from torch import nn

from flexframe_registry import ModelConfig, SamplingConfig


def text(model: nn.Module, config: ModelConfig, name: str, sampling: SamplingConfig | None = None) -> str:
    """Lines of facts. `print(model.encoder)` shows the modules of a part."""
    facts = _facts(model, config, sampling)
    width = max(map(len, facts))
    return "\n".join([_title(model, name), *(f"  {what:{width}}  {said}" for what, said in facts.items())])


def html(model: nn.Module, config: ModelConfig, name: str, sampling: SamplingConfig | None = None) -> str:
    """The same facts as a table for a notebook."""
    row = Markup('<tr><th style="text-align:left">{}</th><td style="text-align:left">{}</td></tr>')
    rows = Markup("").join(row.format(*each) for each in _facts(model, config, sampling).items())
    return str(Markup("<table><caption>{}</caption>{}</table>").format(_title(model, name), rows))


def _title(model: nn.Module, name: str) -> str:
    return f"{type(model).__name__} {name}".rstrip()


def _facts(model: nn.Module, config: ModelConfig, sampling: SamplingConfig | None) -> dict[str, str]:
    facts = dict(config.describe())
    for kind, part in model.named_children():
        count = sum(each.numel() for each in part.parameters())
        facts[kind] = f"{getattr(config, kind).type}, {count:,} parameters" if count else getattr(config, kind).type
    used: Mapping[str, Any] = {} if sampling is None else sampling.model_dump(mode="json", exclude_unset=True)
    if used:
        facts["sampling"] = ", ".join(f"{key} {value}" for key, value in used.items())
    place = next(iter(model.parameters()), None)
    if place is not None:
        facts["on"] = f"{place.device}, {str(place.dtype).removeprefix('torch.')}"
    return facts
