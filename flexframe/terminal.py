"""Terminals that print words as they are: a name, a path or a docstring is no markup and commands no terminal."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterable
from time import monotonic
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.status import Status
from rich.text import Text

LINE_EVERY = 60.0
"""Seconds between lines of progress where there is no terminal."""
WORTH = 60.0
"""Seconds that must be left for such a line: what ends within one needs none."""
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Characters that move or colour what a terminal shows, or turn the order of its letters."""


class Terminal(Console):
    """A console on which a string prints as that string: no markup, no names of emoji, control characters written out
    as `\\x1b`. What is meant to be bold or red is a `Text`, or has a `style`."""

    def __init__(
        self,
        *,
        file: io.StringIO | io.TextIOWrapper | None = None,
        stderr: bool = False,
        width: int | None = None,
        highlight: bool = True,
        quiet: bool = False,
    ) -> None:
        # in a notebook, and in a text that is kept, lines as in a log file: there rich would show what is meant for
        # `file` as the cell's output, and kernels ask for colours, which it takes for a terminal that moves
        kept = isinstance(file, io.StringIO) or "ipykernel" in sys.modules
        super().__init__(
            file=file, stderr=stderr, width=width, highlight=highlight, quiet=quiet, markup=False, emoji=False,
            force_jupyter=False, force_terminal=False if kept else None,
        )  # fmt: skip

    def render_str(self, text: str, **settings: Any) -> Text:
        """The text of a string; before it is a `Text`, which would drop some control characters in silence."""
        return super().render_str(visible(text), **settings)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The pieces of anything that prints itself: what a `Text`, a table or a bar says."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)

    def status(self, status: RenderableType, **settings: Any) -> Status:
        """A spinner with words."""
        return Spinning(_words(status), console=self, **settings)


class Spinning(Status):
    """A spinner whose words are no markup."""

    def update(self, status: RenderableType | None = None, **settings: Any) -> None:
        """Change the words."""
        super().update(None if status is None else _words(status), **settings)


class Lines:
    """Progress for what is no terminal, as a log file: a line now and then, that says how long it may take yet; none
    where that is under a minute."""

    def __init__(self, console: Console) -> None:
        self.console, self.began, self.last = console, monotonic(), monotonic()
        self.first: float | int | None = None

    def told(self, what: str, done: float | int, of: float | int) -> None:
        """Say how much is done of all, if the last line is old enough and enough is left."""
        now = monotonic()
        if self.first is None:  # what was done before this command began says nothing of its pace
            self.first, self.began = done, now
        if now - self.last < LINE_EVERY or not of or done <= self.first:
            return
        left = (now - self.began) / (done - self.first) * (of - done)
        if left < WORTH:
            return
        self.last = now
        self.console.print(
            f"{what}: {done:,.10g} of {of:,.10g}, {done / of:.0%}, {duration(left)} left", soft_wrap=True
        )


class Bars(Progress):
    """Progress bars whose descriptions are no markup; where the console is no terminal, `Lines`."""

    def __init__(self, console: Console) -> None:
        super().__init__(console=console, transient=True, disable=not console.is_terminal)
        self.lines = Lines(console)

    def update(self, task_id: TaskID, **settings: Any) -> None:
        """Change a task's fields, or how much is done."""
        super().update(task_id, **settings)
        if not self.console.is_terminal:
            task = self.tasks[self.task_ids.index(task_id)]
            self.lines.told(task.description, task.completed, task.total or 0)

    @classmethod
    def get_default_columns(cls) -> tuple[ProgressColumn, ...]:
        return (
            TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
        )  # fmt: skip


def visible(text: str) -> str:
    """A text with its control characters, but for line ends and tabs, written out."""
    return (
        CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text) if not text.isprintable() else text
    )


def _words(status: RenderableType) -> RenderableType:
    return Text(visible(status)) if isinstance(status, str) else status


def duration(seconds: float) -> str:
    """Seconds as a person says them: 40 s, 12 min, 3 h 05 min, 2 d 4 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def take_any_letter() -> None:
    """Have standard output and error write out letters that their encoding lacks, where they would raise an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")
