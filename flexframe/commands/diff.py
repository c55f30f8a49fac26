"""`diff`: the settings in which two models, runs or suites differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from flexframe.commands import complete
from flexframe.commands.common import out, print_json, say
from flexframe.commands.options import AsJson
from flexframe.terminal import visible

EXAMPLES = (
    "flexframe diff flextok/digits-tiny titok/digits-tiny",
    "flexframe diff runs/a runs/b --json",
    "flexframe diff flextok/photos-64 runs/mine",
)
MADE = ("commit", "device", "versions")
"""What is compared of the manifests of two runs."""
NOTHING = "–"

WHAT = "A card or its file, a model file, a run's folder, or a suite."


def diff(
    first: Annotated[str, typer.Argument(metavar="A", help=WHAT, autocompletion=complete.parts_and_models)],
    second: Annotated[str, typer.Argument(metavar="B", help="Another.", autocompletion=complete.parts_and_models)],
    as_json: AsJson = False,
) -> None:
    """Print the settings in which two cards, models, runs or suites differ, both resolved in full: exit code 1 if any.

    Of two runs, also what they were made with: commit, device, versions. Of two results, `flexframe explain` tells.
    """
    sides = _settings(first), _settings(second)
    for section in ("run", "made"):
        lacking = [name for name, side in zip((first, second), sides, strict=True) if section not in side]
        for side in sides if lacking else ():
            side.pop(section, None)
        if section == "run" and len(lacking) == 1:
            say.print(f"{lacking[0]} says nothing of a run; that of the other one is not compared", style="dim")
    found = list(differences(*sides))
    if as_json:
        print_json(
            {"first": first, "second": second, "differences": [dict(zip(KEYS, each, strict=True)) for each in found]}
        )
    elif found:
        table = Table(box=None, header_style="bold", pad_edge=False)
        for name, style in (("setting", "cyan"), (first, ""), (second, "")):
            table.add_column(Text(visible(name)), style=style, overflow="fold")
        for name, *values in found:
            table.add_row(name, *map(_shown, values))
        out.print(table)
    else:
        out.print("no setting differs")
    if found:
        raise typer.Exit(1)


KEYS = "setting", "first", "second"


def differences(first: Any, second: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Settings of nested plain data that differ, by their dotted names, with both values; None where there is none.

    Of two parts of different types, the types alone: no setting of one is one of the other.
    """
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        alike = first.get("type") == second.get("type")
        for key in [*first, *(key for key in second if key not in first)] if alike else ["type"]:
            yield from differences(first.get(key), second.get(key), f"{name}.{key}".lstrip("."))
    elif first != second:
        yield name, first, second


def _settings(name: str) -> dict[str, Any]:
    """All settings of a side as plain data."""
    from flexframe.commands.show import suite_at
    from flexframe.commands.subjects import find, refuse_nearly_a_suite
    from flexframe_registry import suite
    from flexframe_registry.files import read_json
    from flexframe_registry.runfolder import RunFolder

    if suite_at(name) is not None:
        return suite(name).model_dump(mode="json", exclude={"note"})
    refuse_nearly_a_suite(name)
    resolved = find(name).resolved
    said: dict[str, Any] = {key: resolved[key] for key in ("kind", "model", "run", "sampling") if key in resolved}
    manifest = RunFolder(Path(name)).manifest
    if "run" in said and manifest.is_file():
        made = read_json(manifest, edit=True)
        said["made"] = {key: made[key] for key in MADE if key in made}
    return dict(json.loads(json.dumps(said)))


def _shown(value: Any) -> Text:
    return Text(NOTHING if value is None else visible(value if isinstance(value, str) else json.dumps(value)))
