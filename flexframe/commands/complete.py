"""Words that the shell offers after TAB: names of cards, parts, suites. Nothing here imports torch.

Where nothing fits, a shell offers files instead: every such argument also takes a path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable


def _that_begin(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def models(incomplete: str) -> list[str]:
    """Ids of cards."""
    from flexframe_registry import cards

    return _that_begin(cards().names(), incomplete)


def kinds(incomplete: str) -> list[str]:
    """Kinds of parts."""
    from flexframe_registry.kinds import KINDS

    return _that_begin((*KINDS, "card", "suite"), incomplete)


def suites(incomplete: str) -> list[str]:
    """Names of suites that ship."""
    from flexframe_registry.suites import SUITES

    return _that_begin(sorted(path.stem for path in SUITES.glob("*.yaml")), incomplete)


def parts_and_models(incomplete: str) -> list[str]:
    """kind/name of every part, ids of cards, suites, kinds, and what else is made of settings: what `show` takes."""
    from flexframe_registry import cards, catalogue
    from flexframe_registry.kinds import KINDS

    parts = [f"{kind}/{name}" for kind in KINDS for name in catalogue().names(kind)]
    return _that_begin([*parts, *cards().names(), *suites(""), *KINDS, "run", "card", "suite"], incomplete)


def devices(incomplete: str) -> list[str]:
    """Devices by name, whether they are here or not: to know would take torch."""
    return _that_begin(("auto", "cpu", "cuda", "mps"), incomplete)


def names_of(kind: str) -> Callable[[str], list[str]]:
    """Names of one kind's parts."""

    def parts(incomplete: str) -> list[str]:
        from flexframe_registry import catalogue

        return _that_begin(catalogue().names(kind), incomplete)

    return parts
