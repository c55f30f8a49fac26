"""The contract kit: what every part must keep to, as checks that a plugin's author runs in four lines.

from flexframe.testing import parametrize_contracts

@parametrize_contracts("flexframe-my-method")
def test_contract(check):
    check()
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from flexframe_registry import Component, catalogue

Given = Mapping[str, Mapping[str, Any]]
"""Fields without a default, by "kind/name": {"source/folder": {"path": ...}}."""


def iter_checks(distribution: str, given: Given | None = None) -> Iterator[tuple[str, Callable[[], None]]]:
    """(name, check) for each contract of each component that a distribution provides."""
    from flexframe.testing import checks

    for component in catalogue():
        if component.provider.rsplit(" ", 1)[0] == distribution:
            fields = dict((given or {}).get(f"{component.kind}/{component.name}", {}))
            for check in checks.of(component.kind):
                name = check.__name__.removeprefix("check_").replace("_", "-")
                yield f"{component.kind}-{component.name}-{name}", partial(check, component, fields)


def parametrize_contracts(distribution: str, given: Given | None = None) -> Any:
    """A pytest parametrization over every contract of every component that a distribution provides."""
    import pytest

    found = list(iter_checks(distribution, given))
    if not found:
        broken = "; ".join(f"{b.plugin}: {b.error}" for b in catalogue().broken)
        installed = sorted({c.provider.rsplit(" ", 1)[0] for c in catalogue()})
        raise LookupError(
            f"{distribution!r} provides no components here. Installed: {', '.join(installed)}."
            + (f" Cannot be imported: {broken}" if broken else "")
        )
    return pytest.mark.parametrize("check", [check for _, check in found], ids=[name for name, _ in found])


__all__ = ["Component", "Given", "iter_checks", "parametrize_contracts"]
