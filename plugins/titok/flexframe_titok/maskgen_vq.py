"""MaskGen of integer codes: MaskGIT over a transformer that reads a text (arXiv 2501.07730)."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from flexframe.rng import Rng
from flexframe.tokens import Condition
from flexframe_registry import CodesSpec

from .maskgen_body import Body, Reader, Said
from .maskgen_configs import MaskGenVQConfig, MaskGenVQSampling
from .maskgit import MaskGIT
from .maskgit_bodies import init_weights, normal


class MaskGenVQ(MaskGIT):
    """`[tokens]` beside a text. What MaskGIT calls a class is here what the blocks read of a condition."""

    config: MaskGenVQConfig

    def __init__(self, config: MaskGenVQConfig, spec: CodesSpec) -> None:
        super().__init__(config, spec)
        width = config.width
        self.reader = Reader(spec, width, config.score_width, "halves")
        self.embedding = nn.Embedding(spec.entries + 1, width)
        self.position_embedding = normal(spec.length, width)
        self.body = Body(width, config.depth, config.heads, config.hidden)
        self.head = None if config.tied else nn.Linear(width, spec.entries, bias=False)
        self.apply(init_weights)

    def given(
        self,
        condition: Condition | None,
        keep: Bool[Tensor, "b k"],
        hidden: Bool[Tensor, " b"] | None = None,
        sampling: Any = None,
    ) -> Said:
        score = sampling.score if isinstance(sampling, MaskGenVQSampling) else self.config.score
        scores = torch.full((len(keep),), score, device=keep.device)
        return self.reader.read(condition, scores, hidden, free=sampling is not None)

    def both(self, given: Any) -> Said:
        assert isinstance(given, Said)
        return given.both()

    def logits(
        self, ids: Int[Tensor, "b k"], given: Any, keep: Bool[Tensor, "b k"], rng: Rng | None = None
    ) -> Float[Tensor, "b k v"]:
        x = self.body(self.embedding(ids) + self.position_embedding[: ids.shape[1]], keep, given)
        weight = self.embedding.weight[: self.spec.entries] if self.head is None else self.head.weight
        return x @ weight.T.to(x.dtype)
