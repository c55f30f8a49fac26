"""Checks of what plugins bring: components, cards, metrics, and the libraries that some of them need."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.metadata import distribution, requires
from pathlib import Path
from typing import Any, cast

from flexframe.doctor.findings import Rows, installed, one_line
from flexframe_registry import Broken, cards, catalogue, manager
from flexframe_registry.config import ComponentConfig
from flexframe_registry.kinds import KINDS
from flexframe_registry.models import PARTS

IMAGES = 60_000
"""Images of the made-up source that metrics are asked about: more than any feature has dimensions."""


def plugins() -> Rows:
    """Every plugin with what it provides; those that cannot be used; names that two provide."""
    broken: list[Broken] = []
    files: list[Path] = []
    try:
        broken += catalogue().broken
    except ValueError as error:
        yield "duplicated part", str(error), "broken"
    try:
        broken += cards().broken
        files += cards().files.values()
    except ValueError as error:
        yield "duplicated card", str(error), "broken"
    modules = dict(manager().list_name_plugin())
    for impl in sorted(manager().hook.flexframe_components.get_hookimpls(), key=lambda impl: impl.plugin_name):
        folder = Path(getattr(modules[impl.plugin_name], "__file__", None) or "/no file").parent
        beside = sum(folder in file.parents for file in files)
        provider = manager().providers[impl.plugin_name]
        yield (
            impl.plugin_name,
            f"{len(list(cast(Iterable[Any], impl.function())))} components, {beside} cards ({provider})",
        )
    for each in dict.fromkeys(broken):
        yield each.plugin, f"cannot be used: {each.error} ({each.provider})", "broken"
    for name in sorted(f"{file.parent.name}/{file.stem}" for file in files):
        try:
            assert cards().get(name).described
        except Exception as error:
            yield f"card {name}", one_line(error), "broken"


def components() -> Rows:
    """Every component's class is imported, and every part of a model built small, without data."""
    fine: dict[str, list[str]] = {}
    for component in catalogue():
        try:
            cls = component.load()
            _build_small(component.config, cls)
        except ImportError as error:
            # what its own package lacks is no library that one could install
            own = (error.name or "").partition(".")[0] == component.target.partition(":")[0].partition(".")[0]
            yield f"{component.kind} {component.name}", str(error), "broken" if own else "missing"
        except Exception as error:
            yield f"{component.kind} {component.name}", f"{one_line(error)} ({component.provider})", "broken"
        else:
            fine.setdefault(component.kind, []).append(component.name)
    for kind in KINDS:
        if kind in fine:
            yield kind, ", ".join(sorted(fine[kind]))


def _build_small(config: type[ComponentConfig], cls: Any) -> None:
    if config.kind not in PARTS or _required(config):
        return
    import torch

    from flexframe.testing.checks import spec_of

    small = config.sized("tiny")
    with torch.device("meta"):
        cls(small, spec_of(small))


def _required(config: type[ComponentConfig]) -> list[str]:
    return [name for name, field in config.model_fields.items() if field.is_required()]


def metrics() -> Rows:
    """Findings on whether each metric can be computed here, as it answers itself, on made-up images of 256 pixels."""
    import torch

    from flexframe.bench.metric import Metric
    from flexframe.data.source import Sample, Source
    from flexframe_registry import LatentSpec, SourceConfig, Spec, TokenSpec
    from flexframe_registry.config import is_place

    class Blank(Source):
        def __len__(self) -> int:
            return IMAGES

        def __getitem__(self, index: int) -> Sample:
            return Sample(torch.zeros(3, 256, 256, dtype=torch.uint8), 0, str(index))

        def protocol(self) -> dict[str, Any]:
            return {}

    spec = Spec(LatentSpec(3, 256, 256), 8, TokenSpec(16, 8, 1, 64))
    for name in catalogue().names("metric"):
        component = catalogue().get("metric", name)
        lacking = [field for field in _required(component.config) if field != "data"]
        if lacking:
            yield name, f"needs settings of yours: {', '.join(lacking)}; not tried"
            continue
        fields = {"data": "digits"} if _required(component.config) else {}
        places = [field.default for field in component.config.model_fields.values() if is_place(field)]
        large = next((place for place in places if isinstance(place, str) and place), None)
        if large is not None:
            yield name, f"reads {large}, which is fetched where it is asked for; not tried"
            continue
        try:
            metric: Metric = component.load()(
                component.config.sized(None, **fields), Blank(SourceConfig(type=""), (256, 256))
            )
            why = metric.start(spec).unavailable()
        except ImportError as error:
            yield name, str(error), "missing"
        except Exception as error:
            yield name, f"{one_line(error)} ({component.provider})", "broken"
        else:
            yield name, why or "can be computed", "missing" if why else "ok"


def extras() -> Rows:
    """The optional requirements of our distributions."""
    providers = {provider.rsplit(" ", 1)[0] for provider in manager().providers.values()}
    for name in sorted(filter(installed, providers)):
        for extra in distribution(name).metadata.get_all("Provides-Extra") or ():
            wanted = [r for r in requires(name) or () if re.search(rf"extra\s*==\s*['\"]{re.escape(extra)}['\"]", r)]
            lacking = [w for w in (re.split(r"[\s;<>=!~\[(]", r, maxsplit=1)[0] for r in wanted) if not installed(w)]
            if lacking:
                told = f"lacks {', '.join(lacking)}; pip install '{name}[{extra}]'"
                yield f"{name}[{extra}]", told, "missing"
            else:
                yield f"{name}[{extra}]", "is whole"
