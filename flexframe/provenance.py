"""The provenance of a result: versions, commit, host, command."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import torch

from flexframe_registry import catalogue

LIBRARIES = ("torch", "torchvision", "numpy", "pillow", "safetensors", "torch-fidelity", "torchmetrics", "scikit-learn")
"""Libraries that flexframe itself computes with, of all that it requires."""
AFTER = re.compile(r"[^A-Za-z0-9._-]")
"""The end of the name in a requirement."""
HEAD = "# branch.oid "
"""What stands before the commit where git tells it."""


def versions() -> dict[str, str]:
    """Versions of the providers of components, and of the libraries that can move a number: flexframe's own, and all
    that other providers require, with or without an extra, as far as they are installed."""
    providers = dict(each.rsplit(" ", 1) for each in sorted({c.provider for c in catalogue()}) if " " in each)
    libraries = dict.fromkeys(LIBRARIES)
    for name in sorted(providers.keys() - {"flexframe"}):
        libraries |= dict.fromkeys(required(name))
    installed = {name: _version(name) for name in libraries if name not in providers}
    known = {name: version for name, version in installed.items() if version is not None}
    return {**providers, "python": platform.python_version(), **known}


@cache
def required(distribution: str) -> list[str]:
    """Names of what an installed distribution requires, those of its extras among them; none if it is not installed."""
    try:
        lines = requires(distribution) or []
    except PackageNotFoundError:
        return []  # a plugin that was handed in, and not installed
    return sorted({line[: end.start()] if (end := AFTER.search(line)) else line for line in lines})


@cache
def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@cache
def commit() -> str | None:
    """The commit of the checkout that flexframe runs from, as it is when first asked for, `+` if tracked files differ
    from it; None outside of one."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None  # installed: a repository further up is somebody else's
    git = ["git", "-C", str(root), "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    try:
        told = subprocess.run(git, capture_output=True, text=True, check=True, timeout=10).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return None  # the commit is a courtesy, not part of a number
    head = next(line.removeprefix(HEAD) for line in told if line.startswith(HEAD))
    return head + ("+" if any(not line.startswith("#") for line in told) else "")


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
