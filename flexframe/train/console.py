"""A training run as a person sees it: a progress bar and a table of recent log lines; plain lines elsewhere."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console as AnyTerminal
from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from flexframe.terminal import Terminal, duration

if TYPE_CHECKING:
    from flexframe.train.run import Run

RECENT = 12
ASIDE = ("grad_norm/", "probe/", "codes_perplexity")
"""Beginnings of numbers that are in the log alone."""


class Console:
    """Shows a run; made to be cheap, and to say nothing that the log does not hold."""

    def __init__(self, terminal: AnyTerminal | None = None) -> None:
        self.terminal = terminal or Terminal()
        self.rows: deque[Mapping[str, Any]] = deque(maxlen=RECENT)
        self.progress = Progress(
            TextColumn("{task.description}", style="bold"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"), console=self.terminal,
        )  # fmt: skip
        self.live: Live | None = None

    def start(self, run: Run) -> None:
        """Show what is about to be trained."""
        parts = ", ".join(f"{name} {count:,}" for name, count in run.parameters().items() if count)
        many = run.processes.size
        device = f"{many} processes on {run.device.type} ({run.config.run.parallel})" if many > 1 else f"{run.device}"
        words = [f"{len(run.feed):,} rows of data", device, f"parameters: {parts}", f"in {run.folder}"]
        self.terminal.print("training: " + "; ".join(words), markup=False, emoji=False, soft_wrap=True)
        if run.step:
            self.terminal.print(f"resumed at step {run.step}")
        self.task = self.progress.add_task("steps", total=run.config.run.steps, completed=run.step, left="")
        self.config = run.config.run
        if self.terminal.is_terminal:
            self.live = Live(self._view(), console=self.terminal, refresh_per_second=4)
            self.live.start()

    def show(self, line: Mapping[str, Any], alarms: Sequence[str] = ()) -> None:
        """Show a line of the log, and the alarms that went off at it, which stay."""
        self.rows.append(line)
        left = self._left(line)
        self.progress.update(self.task, completed=line["step"], left=left)
        if self.live is not None:
            self.live.update(self._view())
        else:
            words = [f"{key} {_short(value, key)}" for key, value in line.items() if not key.startswith(ASIDE)]
            self.terminal.print("  ".join([*words, left] if left else words), highlight=False)
        for alarm in alarms:  # above what is live
            text = f"alarm at step {line['step']}: {alarm}"
            self.terminal.print(text, style="bold yellow", highlight=False, markup=False, soft_wrap=True)

    def stop(self) -> None:
        """Leave the terminal as it was."""
        if self.live is not None:
            self.live.stop()
            self.live = None

    def _view(self) -> Group:
        table = Table(box=None, header_style="bold", pad_edge=False)
        names = [name for name in self.rows[-1] if not name.startswith(ASIDE)] if self.rows else ["step", "loss"]
        for name in names:
            table.add_column(name.rsplit("/", 1)[-1].replace("_", " "), justify="right")
        for row in self.rows:
            table.add_row(*(_short(row.get(name), name) for name in names))
        return Group(table, self.progress)

    def _left(self, line: Mapping[str, Any]) -> str:
        """Time that is left at the pace of the last steps; nothing at its end, or where no pace is known."""
        images, pace = (self.config.steps - line["step"]) * self.config.batch_size, line.get("images_per_s")
        return f"{duration(images / pace)} left" if images and pace else ""


def _short(value: object, name: str = "") -> str:
    if value is None:
        return "-"
    if name == "data_wait" and isinstance(value, float):
        return f"{value:.1%}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
