"""An examination: what is installed, whether it works, and what is missing for what. Uses no network.

A check is a function that yields findings. One that fails is a finding itself, and the others go on.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from flexframe.doctor.findings import Finding, Rows, one_line
from flexframe.doctor.installed import components, extras, metrics, plugins
from flexframe.doctor.machine import devices, disk, features, profile, versions, weights

CHECKS: dict[str, Callable[[], Rows]] = {
    "versions": versions,
    "devices": devices,
    "torch": features,
    "profile": profile,
    "plugins": plugins,
    "components": components,
    "extras": extras,
    "metrics": metrics,
    "weights": weights,
    "disk": disk,
}


def examine(on_section: Callable[[str], None] = lambda section: None) -> list[Finding]:
    """All findings, section by section."""
    findings: list[Finding] = []
    for section, check in CHECKS.items():
        on_section(section)
        try:
            with offline():
                findings += (Finding(section, *rest) for rest in check())
        except Exception as error:  # whatever is broken, the other sections are told
            findings.append(Finding(section, "this check failed", one_line(error), "broken"))
    return findings


@contextmanager
def offline(who: str = "the doctor") -> Iterator[None]:
    """No connection can be made inside: what would be fetched counts as missing. `who` says so."""

    def refuse(*args: Any, **settings: Any) -> Any:
        raise OSError(f"{who} uses no network")

    before = socket.socket.connect, socket.getaddrinfo
    socket.socket.connect, socket.getaddrinfo = refuse, refuse  # type: ignore[method-assign]
    try:
        yield
    finally:
        socket.socket.connect, socket.getaddrinfo = before  # type: ignore[method-assign]


__all__ = ["CHECKS", "Finding", "examine", "offline"]
