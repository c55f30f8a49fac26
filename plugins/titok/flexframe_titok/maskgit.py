"""MaskGIT: masked prediction of codes, and iterative parallel decoding (arXiv 2202.04200, sections 3.1 to 3.3)."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from flexframe.nn.priors import class_ids, gumbel
from flexframe.nn.reading import Context
from flexframe.parts import Prior
from flexframe.rng import Rng
from flexframe.tokens import Codes, Condition, Losses, prefix
from flexframe_registry import CodesSpec, SamplingConfig

from .maskgit_configs import MaskGITConfig, MaskGITSampling

MASKED = 2 / math.pi
"""Mean share of tokens that training masks: the mean of an arc cosine over a quarter turn."""


@dataclass(frozen=True, slots=True)
class Given:
    """A condition as the forms read it."""

    classes: Int[Tensor, " b"]
    """The class of each row, null where it has none."""
    context: Context | None = None
    """The text of each row, of a prior that reads some."""
    pair: Context | None = None
    """These, and the null text as often, for guidance."""


class MaskGIT(Prior):
    """Training, sampling and the vocabulary; a form gives the logits. An absent token is not there at all.

    The vocabulary is codes, mask, classes, null, in this order. Classes count from 0; the one past the last is null.
    """

    config: MaskGITConfig

    def __init__(self, config: MaskGITConfig, spec: CodesSpec) -> None:
        super().__init__(config, spec)
        self.mask_id, self.null = spec.entries, spec.classes or 0
        self.vocabulary = spec.entries + 1 + self.null + 1

    @abstractmethod
    def logits(
        self,
        ids: Int[Tensor, "b k"],
        given: Any,
        keep: Bool[Tensor, "b k"],
        rng: Rng | None = None,
    ) -> Float[Tensor, "b k v"]:
        """Logits of the code at each slot, of which any may be masked; with dropout where its draws are given."""

    def given(
        self,
        condition: Condition | None,
        keep: Bool[Tensor, "b k"],
        hidden: Bool[Tensor, " b"] | None = None,
        sampling: MaskGITSampling | None = None,
    ) -> Any:
        """What the logits are told of a condition, null in rows where it is hidden.

        Args:
            sampling: in use, its settings.
        """
        classes = class_ids(condition, self.spec.classes, len(keep), keep.device)
        if hidden is not None:
            classes = torch.where(hidden, self.null, classes)
            condition = None if condition is None else condition.hidden(hidden)
        context = self.context(condition, guided=sampling is not None)
        if context is None or sampling is None:
            return Given(classes, context)
        return Given(classes, context.chunk(2)[0], context)

    def context(self, condition: Condition | None, guided: bool) -> Context | None:
        """The texts of a condition, of a form that reads some; `guided`, those of its rows, and as many null ones."""
        return None

    def both(self, given: Any) -> Any:
        """Rows as they are given, and behind them as many null ones."""
        assert isinstance(given, Given)
        return Given(torch.cat([given.classes, torch.full_like(given.classes, self.null)]), given.pair)

    def with_class(self, ids: Int[Tensor, "b k"], classes: Int[Tensor, " b"]) -> Int[Tensor, "b n"]:
        """The sequence that a form reads: the class, then the ids."""
        return torch.cat([classes[:, None] + self.mask_id + 1, ids], 1)

    # --- training ------------------------------------------------------------------------------------------------

    def forward(self, codes: Codes, condition: Condition | None, *, rng: Rng) -> Losses:
        """Cross-entropy over all tokens, the unmasked ones weighted by `unmasked_weight`.

        It is divided by the weights' expected sum, so that it is a value a sample: over a large batch that is the
        published division by the sum of the batch's weights.
        """
        keep = codes.keep
        ids = codes.codes[..., 0].masked_fill(~keep, 0)
        hidden = rng.uniform("maskgit/class") < self.config.class_dropout if self.training else None
        given = self.given(condition, keep, hidden)
        masked = self.choose_masked(keep, rng=rng)
        logits = self.logits(ids.masked_fill(masked, self.mask_id), given, keep, rng=rng if self.training else None)
        rest = self.config.unmasked_weight
        return {"codes": self.errors(logits, ids, masked, keep).sum(1) / (keep.sum(1) * (MASKED + (1 - MASKED) * rest))}

    def errors(
        self, logits: Float[Tensor, "b k v"], ids: Int[Tensor, "b k"], masked: Bool[Tensor, "b k"], keep: Tensor
    ) -> Float[Tensor, "b k"]:
        """The weighted cross-entropy of each token; 0 where it is absent."""
        smoothing, rest = self.config.label_smoothing, self.config.unmasked_weight
        losses = F.cross_entropy(logits.mT, ids, reduction="none", label_smoothing=smoothing)
        return losses * torch.where(masked, 1.0, rest) * keep

    def choose_masked(self, keep: Bool[Tensor, "b k"], *, rng: Rng) -> Bool[Tensor, "b k"]:
        """Tokens that training masks: a share drawn on an arc cosine, at least one, anywhere among the present."""
        share = torch.acos(rng.uniform("maskgit/share")) / (math.pi * 0.5)
        count = (keep.sum(1) * share.clamp(1e-6, 1.0)).round().clamp(min=1)
        drawn = rng.uniform("maskgit/order", (keep.shape[1],)).masked_fill(~keep, torch.inf)
        return (drawn.argsort(dim=1, stable=True) < count[:, None]) & keep

    # --- use -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self,
        condition: Condition | None,
        lengths: Int[Tensor, " b"],
        *,
        rng: Rng,
        sampling: SamplingConfig,
        on_token: Callable[[int], None] | None = None,
    ) -> Codes:
        assert isinstance(sampling, MaskGITSampling)
        keep = prefix(lengths)
        given = self.given(condition, keep, sampling=sampling)
        ids = self.fill(given, keep, self.spec.entries, rng=rng, sampling=sampling, on_token=on_token)
        return Codes(ids.masked_fill(~keep, 0)[..., None], keep)

    def fill(
        self,
        given: Any,
        keep: Bool[Tensor, "b k"],
        entries: int,
        *,
        rng: Rng,
        sampling: MaskGITSampling,
        on_token: Callable[[int], None] | None = None,
    ) -> Int[Tensor, "b k"]:
        """Ids below `entries` for all present slots, from masks alone. What stands in absent slots is meaningless."""
        ids = torch.full(keep.shape, self.mask_id, device=keep.device)
        for step in range(sampling.steps):
            after = (step + 1) / sampling.steps
            noise = sampling.temperature * (1 - after)
            masked = (ids == self.mask_id) & keep
            logits = self._guided(ids, given, keep, sampling.excess(step / sampling.steps))[..., :entries]
            if sampling.softmax_annealing:
                logits = logits / (0.5 + 0.8 * (1 - after))
            noisy = logits
            if noise:
                noisy = logits + noise * gumbel(rng.uniform(f"maskgit/codes.{step}", logits.shape[1:]))
            drawn = noisy.argmax(-1)
            ids = torch.where(masked, drawn, ids)
            if on_token is not None:
                on_token(step + 1)
            if step == sampling.steps - 1:
                break
            confidence = logits.gather(-1, drawn[..., None])[..., 0].float()
            if noise and sampling.confidence_noise:
                confidence = confidence + noise * gumbel(rng.uniform(f"maskgit/confidence.{step}", ids.shape[1:]))
            again = self._least_certain(confidence.masked_fill(~masked, torch.inf), keep.sum(1), masked.sum(1), after)
            ids = ids.masked_fill(again, self.mask_id)
        return ids

    def _guided(
        self, ids: Int[Tensor, "b k"], given: Any, keep: Bool[Tensor, "b k"], excess: float
    ) -> Float[Tensor, "b k v"]:
        if not excess:
            return self.logits(ids, given, keep)
        told, free = self.logits(ids.repeat(2, 1), self.both(given), keep.repeat(2, 1)).chunk(2)
        return told + excess * (told - free)

    @staticmethod
    def _least_certain(
        confidence: Float[Tensor, "b k"], lengths: Int[Tensor, " b"], masked: Int[Tensor, " b"], after: float
    ) -> Bool[Tensor, "b k"]:
        """The tokens to mask again: as many as the schedule says, at least one, and fewer than were masked."""
        share = float(np.arccos(after)) / (math.pi * 0.5)
        left = (lengths.double() * share).floor().long()
        left = torch.minimum(masked - 1, left).clamp(min=1)
        ordered = confidence.sort(dim=1).values
        return confidence <= ordered.gather(1, left[:, None] - 1)
