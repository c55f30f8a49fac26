"""One-D-Piece (Miwa et al., arXiv 2501.10064): TiTok at any length. Its parts are others'; its cards are here."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from flexframe_registry import hookimpl
from flexframe_registry.cards import folders


@hookimpl
def flexframe_cards() -> Iterable[Path]:
    """List the folders of the plugin's cards."""
    return folders(__file__)
