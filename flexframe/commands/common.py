"""What the commands share: where they print, and how a device is named."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from rich.console import Console

from flexframe_registry import ConfigError

out = Console(width=None if sys.stdout.isatty() else 240)  # whole lines for pipes
say = Console(stderr=True, highlight=False)

Device = Annotated[str, typer.Option(help="cpu, cuda, mps, or auto: the best there is.")]


def pick_device(name: str) -> Any:
    """A torch device by name; `auto` takes CUDA, then MPS, then the CPU."""
    import torch

    if name == "auto":
        mps = torch.backends.mps.is_available()
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError([("--device", f"{name!r} cannot be used here: {str(error).splitlines()[0]}")]) from None
    return device
