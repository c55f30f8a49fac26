"""Progress on standard error: a bar in a terminal, elsewhere a line a minute of what takes longer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flexframe.commands.common import say
from flexframe.terminal import Lines


@contextmanager
def bar(what: str) -> Iterator[Callable[[float | int, int], None]]:
    """A bar on standard error, moved by (done, of all); until it is first told, images are being listed.

    Where standard error is no terminal, a line a minute while more than a minute is left.
    """
    if not say.is_terminal:
        lines = Lines(say)
        yield lambda done, of: lines.told(what, round(done, 1), of)
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[count]}")
    times = TimeElapsedColumn(), TextColumn("left", style="dim"), TimeRemainingColumn()
    with Progress(*columns, *times, console=say, transient=True) as shown:
        task = shown.add_task("listing images", total=None, count="")

        def told(done: float | int, of: int) -> None:
            count = f"{done:,.1f}".removesuffix(".0") + f"/{of:,}"
            shown.update(task, description=what, completed=done, total=of, count=count)

        yield told
