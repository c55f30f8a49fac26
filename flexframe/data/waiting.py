"""A bar for what keeps a user waiting before anything else can be shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.errors import LiveError

from flexframe.terminal import Bars, Terminal


@contextmanager
def waiting(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Gives a function that is told how many of `total` are done. The bar is on standard error, where that is a
    terminal that shows no other one."""
    console = Terminal(stderr=True)
    bar = Bars(console)
    try:
        bar.start()
    except LiveError:  # older versions of rich show one at a time
        bar.disable = True
    task = bar.add_task(what, total=total)
    try:
        yield lambda done: bar.update(task, completed=done)
    finally:
        bar.stop()
