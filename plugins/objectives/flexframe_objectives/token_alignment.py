"""What a teacher sees in the whole image, told from the tokens that were kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flexframe.parts import Objective
from flexframe.rng import Rng
from flexframe.tokens import Batch, Losses, Outputs, Tokens
from flexframe_registry import SourceConfig, Spec, catalogue

from . import TokenAlignmentConfig
from .networks import resized, timm_network

FEATURES = "token_alignment"
"""The name in a batch of the teacher's values, `b t`, that were computed before."""
QUERIES = 4
"""Vectors by which the head reads the tokens."""


class Teacher(Protocol):
    """A frozen judge of whole images."""

    facts: Mapping[str, Any]
    groups: tuple[int, ...]
    """Sizes of the groups of log probabilities that its values are; none where they are features."""
    dim: int

    def values(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b t"]:
        """Its values for images in [0, 1]."""


class Pooled:
    """The pooled features of a network of timm's."""

    groups: tuple[int, ...] = ()

    def __init__(self, name: str, weights: str | None) -> None:
        self.frozen = timm_network(name, weights, num_classes=0)
        net: Any = self.frozen.net
        self.facts, self.dim = self.frozen.facts, net.num_features
        self.size = tuple(net.pretrained_cfg["input_size"][-2:])

    @torch.no_grad()
    def values(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b t"]:
        """Features of images brought to the size that the network was trained at."""
        net: Any = self.frozen.net
        features: Tensor = net(self.frozen.normalised(resized(images.float(), self.size, "bicubic").clamp(0, 1)))
        return features


class Answers:
    """The answers of the classifier that comes with a source, as log probabilities, attribute by attribute."""

    def __init__(self, source: SourceConfig, size: tuple[int, int]) -> None:
        classifier = catalogue().build(source, size).classifier()
        if classifier is None:
            raise ValueError(f"source {source.type!r} comes with no classifier that could teach")
        self.classifier = classifier
        self.facts = {"classifier": dict(classifier.protocol())}
        answers = self._answers(torch.zeros(1, 3, *size))
        self.groups = tuple(each.shape[1] for each in answers)
        self.dim = sum(self.groups)

    def _answers(self, images: Tensor) -> list[Tensor]:
        logits = self.classifier.logits(images)
        return [logits[name].float().log_softmax(1) for name in sorted(logits)]

    @torch.no_grad()
    def values(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b t"]:
        """Log probabilities of all attributes' values, one attribute behind the other."""
        return torch.cat(self._answers(images), 1)


class Head(nn.Module):
    """A few learned queries read the kept tokens, each of which knows its place; an MLP tells the values."""

    def __init__(self, tokens: int, dim: int, width: int, out: int) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(dim, width), nn.SiLU(), nn.Linear(width, width))
        self.positions = nn.Parameter(nn.init.trunc_normal_(torch.empty(tokens, width), std=0.02))
        self.queries = nn.Parameter(nn.init.trunc_normal_(torch.empty(QUERIES, width), std=1.0))
        self.tell = nn.Sequential(
            nn.LayerNorm(QUERIES * width), nn.Linear(QUERIES * width, 2 * width), nn.SiLU(), nn.Linear(2 * width, out)
        )

    def forward(self, tokens: Tokens) -> Float[Tensor, "b t"]:
        x = self.embed(tokens.values.to(self.positions.dtype)) + self.positions[: tokens.keep.shape[1]]
        logits = torch.einsum("qw,bkw->bqk", self.queries, x).float() / x.shape[-1] ** 0.5
        weights = logits.masked_fill(~tokens.keep[:, None], -torch.inf).softmax(-1)
        told: Tensor = self.tell(torch.einsum("bqk,bkw->bqw", weights.to(x.dtype), x).flatten(1))
        return told


def divergence(told: Float[Tensor, "b v"], wanted: Float[Tensor, "b v"]) -> Float[Tensor, " b"]:
    """Kullback-Leibler divergence, in nats, of what is told from what is wanted, both as logits."""
    return F.kl_div(told.log_softmax(1), wanted.log_softmax(1), reduction="none", log_target=True).sum(1)


class TokenAlignment(Objective):
    """See `TokenAlignmentConfig`."""

    config: TokenAlignmentConfig

    def __init__(self, config: TokenAlignmentConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.teacher: Teacher
        if config.source is not None:
            self.teacher = Answers(config.source, config.size)
        else:
            assert config.teacher is not None  # as the config sees to
            self.teacher = Pooled(config.teacher, config.weights)
        self.head = Head(spec.tokens.length, spec.tokens.dim, config.hidden, self.teacher.dim)

    def facts(self) -> Mapping[str, Any]:
        return self.teacher.facts

    def forward(self, outputs: Outputs, batch: Batch, *, step: int, rng: Rng) -> Losses:
        if outputs.tokens is None:
            raise ValueError("token-alignment reads the tokens of a tokenizer's forward pass, and there are none")
        wanted = self.targets(batch).float()
        tokens = outputs.tokens if self.config.first is None else outputs.tokens.truncate(self.config.first)
        told = self.head(tokens).float()
        if not self.teacher.groups:
            return {"cosine": 1 - F.cosine_similarity(told, wanted, dim=-1)}
        pairs = zip(told.split(self.teacher.groups, 1), wanted.split(self.teacher.groups, 1), strict=True)
        # divergences, so that a head which says what the teacher says has no loss, however unsure the teacher is
        return {"divergence": torch.stack([divergence(a, b) for a, b in pairs]).mean(0)}

    def features(self, batch: Batch) -> Mapping[str, Tensor]:
        return {FEATURES: self.targets(batch)}

    def targets(self, batch: Batch) -> Float[Tensor, "b t"]:
        """The teacher's values: those that the batch holds, else those of its images.

        Raises:
            ValueError: there are neither.
        """
        given = batch.features.get(FEATURES)
        if given is not None:
            return given
        if batch.images is None:
            raise ValueError("token-alignment looks at images or at features made before, and this batch holds neither")
        return self.teacher.values(batch.images)
