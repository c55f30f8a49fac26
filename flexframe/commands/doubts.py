"""Doubts about a run as commands print them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flexframe.commands.common import say

if TYPE_CHECKING:
    from flexframe_registry.doubts import Problems


def tell(doubted: Problems) -> None:
    """Print each doubt in a line of its own, where warnings go."""
    for path, text in doubted:
        say.print(f"doubt: {path}: {text}", style="yellow", markup=False, soft_wrap=True)
