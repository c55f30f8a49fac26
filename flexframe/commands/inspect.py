"""`show`, `doctor` and `init`: what a part or a model is, what is installed and fit, and a model of random weights."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from flexframe.commands import complete
from flexframe.commands.common import out, say
from flexframe_registry import ConfigError, ModelConfig, catalogue
from flexframe_registry.cards import card as find_card
from flexframe_registry.kinds import KINDS
from flexframe_registry.runfolder import MODEL

_MARKS = {"ok": ("", ""), "missing": ("missing: ", "yellow"), "broken": ("BROKEN: ", "bold red")}


def show(
    name: Annotated[
        str,
        typer.Argument(
            help="A part (decoder/flow), a card, a card's file, a model file, or a run's folder.",
            autocompletion=complete.parts_and_models,
        ),
    ],
    config: Annotated[
        bool, typer.Option("--config", help="Print the resolved config as YAML, and nothing else.")
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time, for the memory that they take.")] = 1,
) -> None:
    """Show a part's settings; or a model: parameters, tokens, bits, FLOPs and memory. Nothing is built to find out."""
    kind, _, part = name.partition("/")
    if kind in KINDS:
        _show_part(kind, part)
        return
    from flexframe.commands import describe, subjects

    subject = subjects.find(name)
    if config:
        _print_yaml(subject.resolved)
        return
    with say.status("importing torch") as status:
        sizes, profile = _measure(subject, batch_size, lambda stage: status.update(f"measuring {stage}"))
    describe.tell(subject, sizes, profile)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Say what is installed and works, and what is missing for what. Exit code 1 if something installed is broken."""
    from flexframe.doctor import examine

    with say.status("looking") as status:
        found = examine(lambda section: status.update(f"looking at {section}"))
    broken = sum(each.state == "broken" for each in found)
    if as_json:
        print(json.dumps({"usable": not broken, "findings": [asdict(each) for each in found]}, indent=1))
    else:
        for section in dict.fromkeys(each.section for each in found):
            table = Table(box=None, show_header=False, pad_edge=False)
            table.add_column(style="cyan", min_width=16)
            table.add_column(overflow="fold")
            for each in (each for each in found if each.section == section):
                mark, style = _MARKS[each.state]
                table.add_row(escape(each.name), Text(mark + each.text, style=style))
            out.print(f"\n{section}", style="bold")
            out.print(table)
        missing = sum(each.state == "missing" for each in found)
        verdict = f"{broken} broken" if broken else "nothing that is installed is broken"
        out.print(f"\n{verdict}; {missing} missing, which matters only where it is needed", style="bold")
    if broken:
        raise typer.Exit(1)


def init(
    card: Annotated[
        str, typer.Argument(help="A card's id, or a YAML file of the same form.", autocompletion=complete.models)
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="key.path=value over the model, sampling.key=value.", metavar="[KEY=VALUE]..."),
    ] = None,
    to: Annotated[
        Path, typer.Option("--out", "-o", help="A .safetensors file, or a folder for model.safetensors.")
    ] = Path(),
    seed: Annotated[int, typer.Option(min=0, help="What all weights follow from.")] = 0,
    redraw_zeros: Annotated[
        bool, typer.Option("--redraw-zeros", help="Draw small numbers where the method starts at zero throughout.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that is there.")] = False,
) -> None:
    """Write a model with random weights: what an untrained one is, for tests and timings.

    Where a method starts its heads at zero, an untrained model decodes to noise and has one token.
    """
    found = find_card(card)
    given = [override.removeprefix("model.") for override in overrides or []]
    for override in given:
        if override.startswith("run."):
            raise ConfigError.at(override, "is of a run; `init` draws a model and trains nothing")
    target = _model_path(to, force)
    from flexframe.store.load import override as laid_on

    config, own = laid_on(found.described, {}, given)
    if _samples(config) == _samples(found.described):  # another decoder takes other settings
        own = {**found.file.sampling, **own}
    about = {
        "origin": "random weights, not trained",
        "seed": seed,
        "card": found.id,
        "overrides": given,
        "redrawn zeros": 0,
    }
    with say.status("drawing weights") as status:
        total, zeros = _draw(config, own, target, seed, redraw_zeros, about, status)
    out.print(f"{target}: {total:,} random parameters, seed {seed}", markup=False, soft_wrap=True)
    if zeros:
        text = f"{zeros} tensors start at zero throughout, as the method has it; --redraw-zeros draws them too"
        say.print(text, style="yellow")


def _model_path(to: Path, force: bool) -> Path:
    """The file to write; a name without suffix stands for a folder."""
    if to == Path():
        raise ConfigError.at("-o", "is required: a .safetensors file, or a folder")
    if to.suffix not in ("", ".safetensors") and not to.is_dir():
        raise ConfigError.at(str(to), "is neither a folder nor ends in .safetensors")
    target = to if to.suffix == ".safetensors" and not to.is_dir() else to / MODEL
    if target.exists() and not force:
        raise ConfigError.at(str(target), "is there already; choose another -o, or overwrite it with --force")
    return target


def _samples(config: ModelConfig) -> str | None:
    """The part whose settings of use a model has."""
    return None if config.sampled is None else config.sampled.type


def _draw(
    config: ModelConfig, sampling: Any, target: Path, seed: int, redraw: bool, about: dict[str, Any], status: Any
) -> tuple[int, int]:
    """Draw and write a model; its parameters, and how many tensors of them are zero throughout."""
    import torch

    from flexframe.models.build import build
    from flexframe.nn.init import redraw_zeros
    from flexframe.store.modelfile import save

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(config, sampling)
        if redraw:
            about["redrawn zeros"] = redraw_zeros(model)
    status.update(f"writing {target}")
    target.parent.mkdir(parents=True, exist_ok=True)
    save(model.state_dict(), config, target, sampling=sampling, about=about)
    parameters = [p for p in model.parameters() if p.requires_grad]
    zeros = sum(not p.any() for p in parameters)
    return sum(p.numel() for p in model.parameters()), zeros


def _measure(subject: Any, batch_size: int, on_stage: Any) -> tuple[Any, Any]:
    import torch

    from flexframe.models.build import build
    from flexframe.models.profile import measure, size_of
    from flexframe_registry import TokenizerConfig

    if isinstance(subject.config, TokenizerConfig):
        found = measure(
            subject.config, subject.sampling, batch_size=batch_size, frozen=subject.frozen, on_stage=on_stage
        )
        return found.parts, found
    with torch.device("meta"):
        model = build(subject.config, subject.sampling)
    return [size_of(kind, getattr(subject.config, kind).type, part) for kind, part in model.named_children()], None


def _show_part(kind: str, name: str) -> None:
    component = catalogue().get(kind, name)
    out.print(f"[bold]{kind} {name}[/]  ({component.provider})\n{component.config.__doc__}\n")
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("setting", "default", "meaning"):
        table.add_column(column)
    for field, info in component.config.model_fields.items():
        if field != "type":
            default = "required" if info.is_required() else str(info.default)
            table.add_row(field, default, " ".join((info.description or "").split()))
    out.print(table)


def _print_yaml(data: Any) -> None:
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width = 120
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.dump(json.loads(json.dumps(data)), sys.stdout)
