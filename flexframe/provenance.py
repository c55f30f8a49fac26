"""Where a result comes from: versions, commit, host, command."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from flexframe_registry import catalogue

LIBRARIES = ("torch", "torchvision", "numpy", "pillow", "safetensors", "vector-quantize-pytorch", "torch-fidelity",
             "torchmetrics", "scikit-learn")  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of every provider of components and of the libraries that can move a number."""
    found = dict(sorted({tuple(c.provider.rsplit(" ", 1)) for c in catalogue() if " " in c.provider}))
    found["python"] = platform.python_version()
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The commit of the checkout that flexframe runs from, `+` if tracked files differ from it; None outside of one."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None  # installed: a repository further up is somebody else's
    git = ["git", "-C", str(root)]
    changes = ["status", "--porcelain", "--untracked-files=no"]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10)
        dirty = subprocess.run([*git, *changes], capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None  # the commit is a courtesy, not part of a number
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")


def processor(device: torch.device) -> str:
    """The name of what computes, as far as the system tells it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def manifest(device: torch.device = torch.device("cpu"), **facts: Any) -> Mapping[str, Any]:  # noqa: B008 (immutable)
    """When, where and by which command: beside the config it reproduces a result, and it must move no number."""
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "versions": versions(),
        "device": str(device),
        "host": {
            "processor": processor(device),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "platform": platform.platform(),
            "python": platform.python_version(),
        },
        **facts,
    }
