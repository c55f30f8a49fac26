"""Terminals that print words as they are: a name, a path or a docstring is no markup and commands no terminal."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.status import Status
from rich.text import Text

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
        super().__init__(
            file=file, stderr=stderr, width=width, highlight=highlight, quiet=quiet, markup=False, emoji=False
        )

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


class Bars(Progress):
    """Progress bars whose descriptions are no markup."""

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


def take_any_letter() -> None:
    """Have standard output and error write out letters that their encoding lacks, where they would raise an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")
