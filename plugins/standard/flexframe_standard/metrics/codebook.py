"""Use of the codebook: the share of codes seen, and the perplexity of their frequencies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flexframe.bench.metric import Measure, Metric, Reconstructions, Tally
from flexframe_registry import Spec
from flexframe_standard.metrics.codebook_config import CodebookConfig

FEW = "a token uses one code, so that few images cannot use more codes than they have tokens"


@dataclass
class CodeCounts(Tally["Codebook"]):
    """Counts of how often each code was seen."""

    counts: Int[Tensor, "q v"] = field(init=False)

    def __post_init__(self) -> None:
        tokens = self.spec.tokens
        self.counts = torch.zeros(tokens.codebooks, tokens.codebook_size or 0, dtype=torch.long)

    def update(self, batch: Reconstructions) -> Mapping[str, Float[Tensor, " b"]]:
        seen: Int[Tensor, "n q"] = batch.tokens.codes[batch.tokens.keep].cpu()
        for book, codes in enumerate(seen.unbind(1)):
            self.counts[book] += torch.bincount(codes, minlength=self.counts.shape[1])
        return {}

    def compute(self) -> Mapping[str, float]:
        share = self.counts.double() / self.counts.sum(1, keepdim=True)
        perplexity = torch.special.entr(share).sum(1).mean().exp()
        return {"usage": 100 * float((self.counts > 0).double().mean()), "perplexity": float(perplexity)}

    def protocol(self) -> Mapping[str, Any]:
        """Say how several codebooks come to one number; nothing where there is one."""
        several = self.spec.tokens.codebooks > 1
        return {**super().protocol(), **({"perplexity": "of the mean entropy of codebooks"} if several else {})}

    def details(self) -> Mapping[str, Mapping[str, Any]]:
        """Counts for each codebook of how many codes were seen so many times, the most frequent first; and the most
        that so many tokens could come to, for none uses more than one code of a book."""
        ranked = []
        for counts in self.counts:
            times, codes = counts.unique(return_counts=True)
            ranked.append(torch.stack([times, codes], 1).flip(0).tolist())
        tokens, size = int(self.counts[0].sum()), self.counts.shape[1]
        most = min(tokens, size)
        return {"usage": {"ranked": ranked, "most": 100 * most / size}, "perplexity": {"most": float(most)}}


class Codebook(Metric[CodebookConfig]):
    """Counts of the codes of all present tokens. Of several codebooks a token, usage is the share of all their entries,
    and perplexity that of their mean entropy, so that its log2 times their number is the bits that codes tell."""

    of_tokens = True
    tally = CodeCounts

    def of_samples(self) -> Codebook:
        return self

    def measures(self) -> Sequence[Measure]:
        return [
            Measure("usage", "Codes used", unit="%", digits=1, note=f"of the codebook; {FEW}"),
            Measure(
                "perplexity",
                "Perplexity",
                digits=1,
                note=f"the number of codes that would carry as much if all were used equally often; {FEW}",
            ),
        ]

    def unavailable(self, spec: Spec) -> str | None:
        return "the tokens are continuous, so there is no codebook" if spec.tokens.codebook_size is None else None
