"""Where a result comes from: versions, commit, host, command."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

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
    """The commit of the checkout that flexframe runs from, `+` if it has uncommitted changes; None if installed."""
    try:
        where = __file__.rsplit("/", 1)[0]
        top = subprocess.run(["git", "-C", where, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        tracked = ["git", "-C", where, "status", "--porcelain", "--untracked-files=no"]
        dirty = subprocess.run(tracked, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return top.stdout.strip() + ("+" if dirty.stdout.strip() else "")


def manifest(**facts: Any) -> Mapping[str, Any]:
    """What reproduces a result, beside its config."""
    return {
        "command": ["flexframe", *sys.argv[1:]],
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "versions": versions(),
        "host": {"platform": platform.platform(), "processor": platform.machine()},
        **facts,
    }
