"""The hooks that a flexframe plugin may implement. Two register, four observe; `docs/hooks.md` tells each one's story.

What can change a number is a component, chosen by config: no hook returns anything that enters a computation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pluggy

from .catalogue import Component

PROJECT = "flexframe"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

# --- registration: called once, when the catalogue is first read -------------------------------------------------


@hookspec
def flexframe_components() -> Iterable[Component]:
    """Return the components this plugin provides. Every plugin's answer is used; torch must not be imported."""
    raise AssertionError("a hook specification is not called")


@hookspec
def flexframe_cards() -> Iterable[Path]:
    """Return folders that hold cards as `<family>/<variant>.yaml`. Every plugin's answer is used."""
    raise AssertionError("a hook specification is not called")


# --- observation: called by the training loop and the benchmark runner, on the main process only -------------------


@hookspec
def flexframe_run_start(run: Any) -> None:
    """A training run is built and about to take its first (or first resumed) step. Observe only."""


@hookspec
def flexframe_step_end(run: Any, step: int, losses: Mapping[str, float]) -> None:
    """A logged training step ended; `losses` holds the numbers that were logged. Observe only."""


@hookspec
def flexframe_checkpoint_saved(run: Any, path: Path) -> None:
    """A checkpoint is complete at `path`. Observe only."""


@hookspec
def flexframe_report(report: Any) -> None:
    """A benchmark's results are final and its page is about to be written. Observe only."""
