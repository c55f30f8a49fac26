"""Bits of tokens under a prior: of an image, and token by token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import zip_longest
from math import log
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from flexframe.bench.metric import Measure, Metric, Reconstructions, Tally
from flexframe.models.fingerprint import weights
from flexframe.models.generator import Generator, same_classes
from flexframe.parts import LikelihoodPrior
from flexframe.store.load import load
from flexframe.tokens import Codes, Condition
from flexframe_registry import ConfigError, Spec
from flexframe_standard.metrics.coded_bits_config import CodedBitsConfig


@dataclass
class Surprise(Tally["CodedBits"]):
    """Bits and images by token position, and what the tokenizer is known by."""

    bits: list[float] = field(default_factory=list)
    there: list[int] = field(default_factory=list)
    count: int = 0
    of: str = ""

    def update(self, batch: Reconstructions) -> Mapping[str, Float[Tensor, " b"]]:
        if self.of == "" and batch.remake is not None:
            self.of = batch.remake.fingerprint
        prior = self.metric.priors.get(self.of)
        if prior is None:
            return {}
        codes = Codes(batch.tokens.codes, batch.tokens.keep)
        each = -self.metric.likelihoods(prior, codes, batch.labels).double().cpu() / log(2)
        present = codes.keep.sum(0).tolist()
        for mine, new in ((self.bits, each.sum(0).tolist()), (self.there, present)):
            mine += [0] * (len(new) - len(mine))
            for i, value in enumerate(new):
                mine[i] += value
        self.count += len(each)
        return {"coded_bits": each.sum(1)}

    def join(self, state: Mapping[str, Any]) -> None:
        for name in ("bits", "there"):
            setattr(self, name, [sum(pair) for pair in zip_longest(getattr(self, name), state[name], fillvalue=0)])
        self.count, self.of = self.count + state["count"], self.of or state["of"]

    def compute(self) -> Mapping[str, float]:
        return {"coded_bits": sum(self.bits) / self.count if self.count else float("nan")}

    def details(self) -> Mapping[str, Mapping[str, Any]]:
        if not self.count:
            return {"coded_bits": {"why": "none of the priors is of this tokenizer's codes; name one that is"}}
        by = [round(bits / n, 3) for bits, n in zip(self.bits, self.there, strict=True) if n]
        return {"coded_bits": {"by_position": by}}


class CodedBits(Metric[CodedBitsConfig]):
    """Mean bits of an image's tokens under the prior of their tokenizer; other numbers are drawn over it, too."""

    of_tokens = True
    tally = Surprise

    @cached_property
    def priors(self) -> Mapping[str, Generator]:
        """The priors, by the fingerprint of the tokenizer that they are of.

        Raises:
            ConfigError: one does not say how likely codes are, or which tokenizer's they are.
        """
        found: dict[str, Generator] = {}
        for name in self.config.priors:
            generator = load(name, kind="generator").eval()
            if not isinstance(generator.prior, LikelihoodPrior):
                told = f"{name} is a {generator.config.prior.type!r}, which does not say how likely codes are"
                raise ConfigError.at("metrics.coded-bits.priors", f"{told}; name a prior that does, as 'gpt'")
            if generator.config.fingerprint is None:
                told = f"{name} does not say which tokenizer's codes it is of; train it, or import it with its own"
                raise ConfigError.at("metrics.coded-bits.priors", told)
            found[generator.config.fingerprint] = generator
        return found

    @torch.no_grad()
    def likelihoods(self, generator: Generator, codes: Codes, labels: Sequence[int | None]) -> Float[Tensor, "b k"]:
        """Logarithm of each token's probability; a class is told where it is known, and the prior's own."""
        device = codes.codes.device
        generator.to(device)
        classes = generator.config.classes
        most = (classes or 0) if same_classes(generator.config, self.source.class_names()) else 0
        null = torch.tensor([label is None or label >= most for label in labels], device=device)
        ids = torch.tensor([0 if label is None or label >= most else label for label in labels], device=device)
        condition = None if classes is None else Condition(null, labels=ids)
        assert isinstance(generator.prior, LikelihoodPrior)
        return generator.prior.log_prob(codes, generator.embedded(condition, len(labels)))

    def measures(self) -> Sequence[Measure]:
        note = "bits of an image's tokens to whoever has the prior too, by its likelihood"
        return [Measure("coded_bits", "Bits under a prior", "lower", digits=1, note=note, cost=True)]

    def unavailable(self, spec: Spec) -> str | None:
        if not self.config.priors:
            return "no prior is named; name some as `priors`"
        if spec.tokens.codebook_size is None:
            return "the tokens are continuous, and these priors say how likely codes are"
        return None

    def protocol(self) -> Mapping[str, Any]:
        names = zip(self.config.priors, self.priors.values(), strict=False) if self.config.priors else ()
        known, named = {name: weights(prior) for name, prior in names}, self.source.class_names()
        others = [
            p.id for p in self.priors.values() if p.config.classes is not None and not same_classes(p.config, named)
        ]
        return {"priors": known, "told": f"classes, and none to {', '.join(others)}" if others else "classes"}
