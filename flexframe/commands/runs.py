"""`runs`: what training runs have come to, from their folders alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from flexframe.commands.common import out, print_json, refuse, say
from flexframe.commands.options import AsJson
from flexframe.terminal import visible

if TYPE_CHECKING:
    from flexframe.train.history import History

EXAMPLES = (
    "flexframe runs",
    "flexframe runs sweeps --json",
)

STYLES = {"running": "green", "finished": "", "stopped": "yellow", "failed": "red"}
ASIDE = ("step", "loss", "lr", "images_per_s", "codes_dead", "codes_perplexity", "skipped", "alarms")
"""What has a column of its own, or is no news of how well a run does."""
PARTS = ("grad_norm/", "probe/")
LAST = ("grad_norm", "data_wait")


def runs(
    root: Annotated[Path, typer.Argument(help="A folder that holds runs, at any depth.", metavar="[DIR]")] = Path(
        "runs"
    ),
    as_json: AsJson = False,
) -> None:
    """List training runs: how far each is, its last losses and metrics, its pace, and whether it still runs.

    `stopped` ended by a signal, with all saved, and goes on with `flexframe train --resume`; `failed` ended by an
    error, or was killed: it goes on from its last checkpoint. Alarms that went off are counted, and told below.
    """
    from flexframe.train.history import find, read
    from flexframe_registry import ConfigError

    histories, broken = list[Any](), list[str]()
    for folder in find(root):
        try:
            histories.append(read(folder))
        except ConfigError as error:
            broken.append(str(error))
    if not histories and not broken:
        refuse(str(root), "holds no runs; `flexframe train CARD -o DIR` makes one")
    newest = sorted(histories, key=lambda run: -run.touched)
    if as_json:
        print_json([_record(run) for run in newest])
    else:
        out.print(_table(root, newest))
    for run in () if as_json else histories:
        if run.state == "failed" and run.why:
            say.print(f"{_name(run.folder, root)}: {run.why}", style="red", markup=False, soft_wrap=True)
        for alarm in run.alarms:
            text = f"{_name(run.folder, root)}, at step {alarm['step']}: {alarm['text']}"
            say.print(text, style="yellow", markup=False, soft_wrap=True)
    for told in broken:
        say.print(told, style="yellow", markup=False, soft_wrap=True)


def _record(run: History) -> dict[str, Any]:
    """A run as plain data; `last` is the last line of its log, losses that are no number as null."""
    last = {key: None if value != value else value for key, value in run.last.items()}
    return {
        "folder": run.folder, "model": run.model, "step": run.step, "steps": run.steps, "state": run.state,
        "why": run.why, "age_seconds": run.age, "last": last, "alarms": run.alarms,
    }  # fmt: skip


def _table(root: Path, histories: Sequence[History]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1))
    rows = [
        (_name(run.folder, root), run.model, f"{run.step}/{run.steps}", _number(run.last.get("loss")),
         _others(run.last), _pace(run.last), _state(run), _age(run.age))
        for run in histories
    ]  # fmt: skip
    names = ("run", "model", "step", "loss", "losses and metrics", "images/s", "state", "age")
    widths = [max([len(name), *(len(row[i]) for row in rows)]) for i, name in enumerate(names)]
    over = sum(widths) + 2 * (len(names) - 1) - out.width
    for i, least in ((4, 18), (1, 12), (0, 12)):  # what gives way in a narrow terminal, and to how much, in this order
        less = max(0, min(over, widths[i] - least))
        widths[i], over = widths[i] - less, over - less
    for name, width in zip(names, widths, strict=True):
        left = name in ("run", "model", "losses and metrics", "state")
        table.add_column(
            name, justify="left" if left else "right", overflow="fold" if name == "run" else "ellipsis",
            no_wrap=name != "run", width=width,
        )  # fmt: skip
    for row in rows:
        name, model, *numbers, state, age = row
        table.add_row(
            Text(visible(name), "cyan"),
            Text(visible(model), "dim"),
            *numbers,
            Text(state, STYLES.get(state, "yellow")),
            age,
        )
    return table


def _state(run: History) -> str:
    count = len(run.alarms)
    return f"{run.state}, {count} alarm{'s' * (count > 1)}" if count else run.state


def _pace(last: Mapping[str, Any]) -> str:
    pace = last.get("images_per_s")
    return "-" if pace is None else f"{pace:,.0f}"


def _others(last: Mapping[str, Any]) -> str:
    """All else that was logged last, but for the norms of parts, and a loss that is the only one."""
    shown = {name: value for name, value in last.items() if name not in ASIDE and not name.startswith(PARTS)}
    losses = [name for name in shown if "/" in name]
    if len(losses) == 1:
        del shown[losses[0]]
    told = []
    for name, value in sorted(shown.items(), key=lambda item: (item[0] != "held_out", item[0] in LAST)):
        if value is None:
            continue
        if name == "codes_used" and last.get("codes_dead") is not None:
            value = f"{value / (value + last['codes_dead']):.0%}"
        elif name == "data_wait":
            value = f"{value:.0%}"
        told.append(
            f"{name.rsplit('/', 1)[-1].replace('_', ' ')} {value if isinstance(value, str) else _number(value)}"
        )
    return ", ".join(told)


def _age(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _name(folder: Path, root: Path) -> str:
    return folder.name if folder == root else str(folder.relative_to(root))
