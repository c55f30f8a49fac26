"""What captions ask: whether pictures show it, fact by fact and all at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from flexframe.bench.metric import Measure, Metric, Reconstructions, Tally
from flexframe.data.source import CaptionReader, Source
from flexframe_registry import Spec
from flexframe_standard.metrics.asked_text_config import AskedTextConfig


@dataclass
class Answers(Tally["AskedText"]):
    """Pictures that show each fact, or all that a form asks, and how many were asked; of the originals too."""

    count: int = 0
    right: dict[str, int] = field(default_factory=dict)
    of: dict[str, int] = field(default_factory=dict)
    right_originals: dict[str, int] = field(default_factory=dict)
    form: str = ""

    def update(self, batch: Reconstructions) -> Mapping[str, Float[Tensor, " b"]]:
        metric, first = self.metric, self.scratch.start + self.count
        asked = [metric.truth[first + i] for i in range(len(batch.real))]
        self.count, self.form = self.count + len(asked), batch.form or ""
        found = metric.answers(batch.fake, asked, batch.form)
        for mine, answers in (
            (self.right, found),
            (self.right_originals, metric.answers_of_originals(batch.real, asked, batch.form)),
        ):
            for row in answers:
                for name, right in row.items():
                    mine[name] = mine.get(name, 0) + right
        for row in found:
            for name in row:
                self.of[name] = self.of.get(name, 0) + 1
        whole = [name for name in found[0] if all(name in row for row in found)] if found else []
        return {name: torch.tensor([100.0 * row[name] for row in found]) for name in whole if name in metric.wholes}

    def compute(self) -> Mapping[str, float]:
        return {
            name: 100 * self.right.get(name, 0) / self.of[name] if name in self.of else float("nan")
            for name in self.metric.names
        }

    def details(self) -> Mapping[str, Mapping[str, Any]]:
        told = f"captions of form {self.form!r} do not ask it" if self.form else "no caption of these images asks it"
        return {
            name: {"original": 100 * self.right_originals[name] / self.of[name]} if name in self.of else {"why": told}
            for name in self.metric.names
        }


class AskedText(Metric[AskedTextConfig]):
    """Shares of pictures that show each fact of their captions, and of those that show all that a form asks."""

    tally = Answers
    _last: tuple[Tensor, str | None, list[dict[str, bool]]] | None = None

    def __init__(self, config: AskedTextConfig, source: Source) -> None:
        super().__init__(config, source)
        self.reader: CaptionReader | None = None
        self.why = "the suite's images come with no reader of their captions; leave this metric out"
        try:
            self.reader = source.caption_reader()
        except ValueError as error:
            self.why = str(error)
        self.forms: Mapping[str, Sequence[str]] = {"captions": ()} if self.reader is None else self.reader.forms
        facts = dict.fromkeys(fact for facts in self.forms.values() for fact in facts)
        self.wholes = {f"asked_{form}": form for form in self.forms}
        self.facts = {f"asked_{fact.replace(' ', '_')}": fact for fact in facts}
        self.names = (*self.wholes, *self.facts)

    @cached_property
    def truth(self) -> Sequence[Mapping[str, Any]]:
        """The facts of all images."""
        return [] if self.reader is None else self.reader.truth(range(len(self.source)))

    def of_samples(self) -> AskedText:
        return self

    def answers(self, images: Tensor, asked: Sequence[Mapping[str, Any]], form: str | None) -> list[dict[str, bool]]:
        """Answers by number's name; of a form, or of all."""
        assert self.reader is not None
        known = {form} if form is not None and form in self.forms else set(self.forms)
        found = []
        for row, facts in zip(self.reader.shown(images, asked), asked, strict=True):
            wanted = {fact for each in known for fact in self.forms[each] if fact in facts}
            told = {name: row[fact] for name, fact in self.facts.items() if fact in wanted}
            for name, each in self.wholes.items():
                if each in known:
                    told[name] = all(row[fact] for fact in self.forms[each] if fact in facts)
            found.append(told)
        return found

    def answers_of_originals(
        self, images: Tensor, asked: Sequence[Mapping[str, Any]], form: str | None
    ) -> list[dict[str, bool]]:
        """The answers of a batch of originals, which all models and budgets see one after the other."""
        if self._last is None or self._last[0] is not images or self._last[1] != form:
            self._last = (images, form, self.answers(images, asked, form))
        return self._last[2]

    def chance(self, facts: Sequence[str]) -> float | None:
        """The share of other images that have all of these facts, of those that are asked."""
        hits = pairs = 0
        for i, asked in enumerate(self.truth):
            wanted = {fact: asked[fact] for fact in facts if fact in asked}
            if wanted:
                others = [other for j, other in enumerate(self.truth) if j != i]
                hits += sum(all(other.get(f) == value for f, value in wanted.items()) for other in others)
                pairs += len(others)
        return 100 * hits / pairs if pairs else None

    def measures(self) -> Sequence[Measure]:
        every, one = "share of pictures that show all that a caption of this form asks", "share that shows it"
        asked = [(name, f"All of {form!r} captions", self.forms[form], every) for name, form in self.wholes.items()]
        asked += [(name, f"Asked: {fact}", (fact,), one) for name, fact in self.facts.items()]
        return [
            Measure(name, label, "higher", "%", 1, note, chance=self.chance(facts))
            for name, label, facts, note in asked
        ]

    def unavailable(self, spec: Spec) -> str | None:
        return self.why if self.reader is None else None

    def protocol(self) -> Mapping[str, Any]:
        return {} if self.reader is None else {**self.reader.protocol(), "pictures": "8-bit"}
