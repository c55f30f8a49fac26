"""`show`: what a part or a model is."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import typer
from rich.table import Table
from rich.text import Text

from flexframe.commands import complete
from flexframe.commands.common import out, print_json, say
from flexframe.commands.list_ import print_list, rows
from flexframe.commands.options import AsJson

if TYPE_CHECKING:
    from flexframe_registry import Config

EXAMPLES = (
    "flexframe show decoder/flow",
    "flexframe show flextok/scenes-64",
    "flexframe show run",
    "flexframe show runs/mine --config > card.yaml",
)


def show(
    name: Annotated[
        str,
        typer.Argument(
            help="A part (decoder/flow), a kind, a card or its file, a model file, a run's folder, a suite, or `run`.",
            autocompletion=complete.parts_and_models,
        ),
    ],
    config: Annotated[
        bool, typer.Option("--config", help="Print the resolved config as YAML, and nothing else.")
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time, for the memory that they take.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Show a part's settings; or a model: parameters, tokens, bits, FLOPs and memory. Nothing is built to find out.

    `flexframe show run` has every setting of a run, `flexframe show card` and `flexframe show suite` those of such
    files. `flexframe show MODEL --config > card.yaml` writes a card to go on from.
    """
    from flexframe_registry import ConfigError
    from flexframe_registry.kinds import KINDS

    kind, _, part = name.partition("/")
    if kind in KINDS and part:
        _show_part(kind, part, as_json)
        return
    if not Path(name).exists() and not config and _show_words(name, as_json):
        return
    suite = suite_at(name)
    if suite is not None:
        _show_suite(name, suite, config, as_json)
        return
    from flexframe.commands import describe, subjects

    subjects.refuse_nearly_a_suite(name)
    subject = subjects.find(name)
    if config and subject.unresolved:
        raise ConfigError(subject.doubts)
    if config:
        (print_json if as_json else _print_yaml)(subject.resolved)
        return
    with say.status("importing torch") as status:
        sizes, profile = _measure(subject, batch_size, lambda stage: status.update(f"measuring {stage}"))
    if as_json:
        print_json(describe.record(subject, sizes, profile))
    else:
        describe.tell(subject, sizes, profile)


def _measure(subject: Any, batch_size: int, on_stage: Any) -> tuple[Any, Any]:
    import torch

    from flexframe.models.build import build
    from flexframe.models.profile import measure, size_of
    from flexframe_registry import TokenizerConfig

    if isinstance(subject.config, TokenizerConfig):
        profile = measure(
            subject.config, subject.sampling, batch_size=batch_size, frozen=subject.frozen, on_stage=on_stage
        )
        return profile.parts, profile
    with torch.device("meta"):
        model = build(subject.config, subject.sampling)
    return [size_of(kind, getattr(subject.config, kind).type, part) for kind, part in model.named_children()], None


def _show_part(kind: str, name: str, as_json: bool) -> None:
    from flexframe_registry import catalogue
    from flexframe_registry.kinds import DecoderConfig, PriorConfig
    from flexframe_registry.options import settings_of

    component = catalogue().get(kind, name)
    text = inspect.cleandoc(component.config.__doc__ or "")
    own = [(each.name, each.default, each.help) for each in settings_of(component.config) if each.name != "type"]
    sampled = component.config if issubclass(component.config, DecoderConfig | PriorConfig) else None
    use = settings_of(sampled.sampling) if sampled is not None else []
    drawn = [(each.option, each.default, each.help) for each in use]
    if as_json:
        said = {"kind": kind, "name": name, "provider": component.provider, "what": text}
        sampling = [(each.name, each.default, each.help) for each in use]
        print_json({**said, "settings": _plain(own), **({"sampling": _plain(sampling)} if sampled is not None else {})})
        return
    out.print(Text.assemble((f"{kind} {name}", "bold"), f"  ({component.provider})\n{text}\n"))
    out.print(_settings("setting", own))
    if drawn:
        out.print("\nhow it draws, on the command line or under a card's `sampling`", style="bold", markup=False)
        out.print(_settings("option", drawn))


def _show_words(name: str, as_json: bool) -> bool:
    """Show a kind's parts, or the settings of a run, a card, a suite or a model; False where the name is none."""
    from flexframe_registry.cardfile import CardFile
    from flexframe_registry.kinds import KINDS
    from flexframe_registry.models import GeneratorConfig, TokenizerConfig
    from flexframe_registry.runs import RunConfig
    from flexframe_registry.suites import SuiteConfig

    forms: dict[str, type[Config]] = {
        "run": RunConfig, "card": CardFile, "suite": SuiteConfig, "tokenizer": TokenizerConfig,
        "generator": GeneratorConfig,
    }  # fmt: skip
    if as_json and name in KINDS:
        print_json([asdict(row) for row in rows([name])])
    elif as_json and name in forms:
        settings = _plain(_rows(forms[name], "run." if name == "run" else ""))
        print_json({"name": name, "what": inspect.cleandoc(forms[name].__doc__ or ""), "settings": settings})
    elif name in KINDS:
        print_list([name])
        out.print(f"settings of one: flexframe show {name}/NAME", style="dim")
    elif name in forms:
        out.print(Text.assemble((name, "bold"), f"\n{inspect.cleandoc(forms[name].__doc__ or '')}\n"))
        out.print(_settings("setting", _rows(forms[name], "run." if name == "run" else "")))
    return name in KINDS or name in forms


def _rows(form: type[Config], prefix: str) -> Iterator[tuple[str, str, str]]:
    """Settings of a config; below each those of the part that it has where nothing is said, or of its entries."""
    from flexframe_registry import catalogue
    from flexframe_registry.config import ComponentConfig, Config
    from flexframe_registry.options import settings_of

    for each in settings_of(form):
        field = form.model_fields[each.name]
        name = f"{prefix}{field.alias or each.name}"
        yield name, each.default, each.help
        several = get_origin(field.annotation) is tuple
        for inner in (field.annotation, *get_args(field.annotation)):
            if not (isinstance(inner, type) and issubclass(inner, Config)):
                continue
            if issubclass(inner, ComponentConfig):
                if each.default in catalogue().names(inner.kind):
                    usual = catalogue().get(inner.kind, each.default).config
                    yield from (row for row in _rows(usual, f"{name}.") if row[0] != f"{name}.type")
            else:
                yield from _rows(inner, f"{name}.N." if several else f"{name}.")


def suite_at(name: str) -> Path | None:
    """The file of a suite, by name or path; None where it is no suite's."""
    from flexframe_registry.cards import cards, is_card_file
    from flexframe_registry.files import read_top
    from flexframe_registry.suites import SUITES

    path, shipped = Path(name), SUITES / f"{name}.yaml"
    if is_card_file(path):
        return path if {"data", "metrics"} <= read_top(path, ("data", "metrics")).keys() else None
    return (
        shipped if "/" not in name and shipped.is_file() and name not in cards().files and not path.exists() else None
    )


def _show_suite(name: str, path: Path, config: bool, as_json: bool) -> None:
    from flexframe.commands import describe, subjects
    from flexframe_registry.files import read_yaml

    said = read_yaml(path)
    if config or as_json:
        (print_json if as_json else _print_yaml)(said if config else {"name": name, "kind": "suite", **said})
        return
    out.print(Text.assemble((name, "bold"), "  (suite)\n"))
    describe.facts([(key, subjects.flat(value)) for key, value in said.items()])
    out.print("\nsettings of suites: flexframe show suite; measure with: flexframe bench NAME MODEL...", style="dim")


def _plain(settings: Iterable[tuple[str, str, str]]) -> list[dict[str, str]]:
    return [dict(zip(("name", "default", "meaning"), row, strict=True)) for row in settings]


def _settings(what: str, rows: Iterable[tuple[str, str, str]]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in (what, "default", "meaning"):
        table.add_column(column, no_wrap=column == what)
    for name, default, text in rows:
        table.add_row(name, default, text)
    return table


def _print_yaml(data: Any) -> None:
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width = 120
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.allow_unicode = "utf" in (sys.stdout.encoding or "").lower()  # else letters as YAML writes them in ASCII
    yaml.dump(json.loads(json.dumps(data)), sys.stdout)
