"""Numbers that cards say their weights reproduce, held against results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flexframe_registry.cardfile import CardFile, Expected


@dataclass(frozen=True)
class Check:
    """One number of a card, and what became of it."""

    model: str
    wanted: Expected
    found: float | None
    why: str = ""
    """The reason why it was not found."""

    @property
    def holds(self) -> bool:
        """True where it was found as near as the card says."""
        return self.found is not None and abs(self.found - self.wanted.value) <= self.wanted.tolerance

    def line(self) -> str:
        """A sentence that tells it."""
        wanted = self.wanted
        at = "1 token" if wanted.tokens == 1 else f"{wanted.tokens} tokens"
        told = f"{self.model}, {wanted.measure} at {at}: {wanted.value:g} ± {wanted.tolerance:g}"
        told += f" ({wanted.origin})" if wanted.origin else ""
        if self.found is None:
            return f"{told}: not measured. {self.why}"
        return f"{told}, found {self.found:.4g}: {'reproduced' if self.holds else 'NOT reproduced'}"


def checks(results: Mapping[str, Any], cards: Mapping[str, CardFile], suite: str) -> Iterator[Check]:
    """Each number that the cards of a benchmark's models expect of a suite.

    Args:
        cards: by the models' names in the results; models without a card are not here.
        suite: its name and version, `NAME@1`.
    """
    for name, card in cards.items():
        for wanted in card.expect:
            if wanted.suite != suite:
                continue
            budget = results["models"][name]["budgets"].get(str(wanted.tokens))
            number = (budget or {}).get("metrics", {}).get(wanted.measure)
            if number is None:
                yield Check(name, wanted, None, "this benchmark was not of that, by its `budgets` or `metrics`")
            else:
                yield Check(name, wanted, number["value"], number.get("why", ""))
