"""Tables of vectors and how they are searched and learned. All arithmetic is in float32."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from .codebook_configs import ResidualVQConfig, VQConfig
from .common import entropy_losses, normalize, present_mean
from .soft_configs import EntropyFields

if TYPE_CHECKING:
    from vector_quantize_pytorch import VectorQuantize


@dataclass(frozen=True, slots=True)
class Matched:
    """Features (on the sphere if the codebook is), the entries nearest to them, their ids, and the losses."""

    features: Float[Tensor, "b k d"]
    entries: Float[Tensor, "b k d"]
    ids: Int[Tensor, "b k"]
    losses: dict[str, Float[Tensor, " b"]]


def several_processes() -> bool:
    """Tell whether this process trains together with others, whose features count as well."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


class Codebook(nn.Module, ABC):
    """Nearest-neighbour search in a table, and the losses that pull the table and its features together."""

    learned_by_gradient = True
    entropy: EntropyFields | None = None
    """Settings of entropies that count in training; none without."""

    def __init__(self, l2_norm: bool, commitment: float) -> None:
        super().__init__()
        self.l2_norm, self.commitment = l2_norm, commitment

    @abstractmethod
    def table(self) -> Float[Tensor, "v d"]:
        """All entries, as they are stored or made."""

    def follow(
        self,
        features: Float[Tensor, "b k d"],
        z: Float[Tensor, "b k d"],
        ids: Int[Tensor, "b k"],
        keep: Bool[Tensor, "b k"],
    ) -> None:
        """Learn from a training batch, where that is not by gradient.

        Args:
            features: as they were given; zero where a token is absent.
            z: the same, on the sphere if the codebook is.
            ids: the entries nearest to them.
            keep: the tokens that are present.
        """

    def adapt(self, state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """This codebook's tensors out of those of one that was learned otherwise, where that has a meaning."""
        yield from state.items()

    def entries(self) -> Float[Tensor, "v d"]:
        """All entries, as they travel."""
        table = self.table().float()
        return normalize(table) if self.l2_norm else table

    def lookup(self, ids: Int[Tensor, "b k"]) -> Float[Tensor, "b k d"]:
        """Entries of these ids."""
        return F.embedding(ids, self.entries())

    def entropies(self, logits: Float[Tensor, "b k v"], keep: Bool[Tensor, "b k"]) -> dict[str, Tensor]:
        """Weighted entropies of distributions over entries with these logits."""
        return {} if self.entropy is None else entropy_losses(self.entropy, logits, keep)

    def forward(self, z: Float[Tensor, "b k d"], keep: Bool[Tensor, "b k"]) -> Matched:
        """Match features to entries; in training, losses over the present tokens of each sample."""
        features, z = z, normalize(z) if self.l2_norm else z
        entries = self.entries()
        with torch.no_grad():
            # squared distance less the feature's own norm, which is the same for all entries
            ids = (entries.square().sum(-1) - 2 * z @ entries.mT).argmin(-1)
        nearest = F.embedding(ids, entries)
        losses = {"commitment": self.commitment * present_mean((nearest.detach() - z).square().mean(-1), keep)}
        if self.learned_by_gradient:
            losses["codebook"] = present_mean((nearest - z.detach()).square().mean(-1), keep)
        if self.training:
            if self.entropy is not None and self.entropy.entropy:
                logits = 2 * z @ entries.mT - entries.square().sum(-1)  # but for what is the same for all entries
                losses |= self.entropies(logits, keep)
            with torch.no_grad():
                self.follow(*(torch.where(keep[..., None], each, 0) for each in (features, z)), ids, keep)
        return Matched(z, nearest, ids, losses)


class LearnedCodebook(Codebook):
    """A table learned by gradient."""

    def __init__(self, size: int, dim: int, *, l2_norm: bool, commitment: float) -> None:
        super().__init__(l2_norm, commitment)
        self.embedding = nn.Embedding(size, dim)
        nn.init.uniform_(self.embedding.weight, -1 / size, 1 / size)

    def table(self) -> Float[Tensor, "v d"]:
        return self.embedding.weight

    def adapt(self, state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Add what a clustered codebook has moved to what it has learned."""
        moved = state.get("moved")
        for name, value in state.items():
            if name not in ("moved", "use"):
                yield name, value if moved is None else value + moved


class ClusteredCodebook(LearnedCodebook):
    """A table learned by gradient whose entries also move towards features, as far as they are not used.

    The published code writes into the parameter in the forward pass. Here what entries have moved is a buffer beside
    it, so that a skipped step brings it back and a sharded parameter is left alone; their sum is the same table.
    """

    def __init__(self, size: int, dim: int, *, l2_norm: bool, commitment: float, decay: float) -> None:
        super().__init__(size, dim, l2_norm=l2_norm, commitment=commitment)
        self.decay = decay
        self.register_buffer("moved", torch.zeros(size, dim))
        self.register_buffer("use", torch.zeros(size))

    def table(self) -> Float[Tensor, "v d"]:
        return self.embedding.weight + self.moved

    def follow(
        self,
        features: Float[Tensor, "b k d"],
        z: Float[Tensor, "b k d"],
        ids: Int[Tensor, "b k"],
        keep: Bool[Tensor, "b k"],
    ) -> None:
        uses = torch.zeros_like(self.use).scatter_add_(0, ids.flatten(), keep.flatten().to(self.use.dtype))
        distance = z.square().sum(-1, keepdim=True) - 2 * z @ self.entries().mT  # less an entry's own norm
        nearest, row = torch.where(keep[..., None], distance, math.inf).flatten(0, 1).min(0)
        anchors = features.flatten(0, 1)[row]
        if several_processes():
            distributed.all_reduce(uses)
            anchors = of_the_least(nearest, anchors)
        total = uses.sum()
        self.use.lerp_(uses / total.clamp(min=1), 1 - self.decay)
        share = torch.exp(-10 * len(self.use) * self.use / (1 - self.decay) - 1e-3) * (total > 0)
        self.moved += share[:, None] * (anchors - self.table())

    def adapt(self, state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Entries of another way of learning have not moved, and count as evenly used."""
        yield from state.items()
        if "moved" not in state:
            yield "moved", torch.zeros_like(self.moved)
            yield "use", torch.full_like(self.use, 1 / len(self.use))


def of_the_least(least: Float[Tensor, " v"], rows: Float[Tensor, "v d"]) -> Float[Tensor, "v d"]:
    """Take for each entry the row of the process whose number is the least."""
    every = [torch.empty_like(least) for _ in range(distributed.get_world_size())]
    distributed.all_gather(every, least)
    mine = torch.stack(every).argmin(0) == distributed.get_rank()
    rows = torch.where(mine[:, None], rows, 0)
    distributed.all_reduce(rows)
    return rows


class Means(nn.Module):
    """The buffers of a `VectorQuantize` of vector-quantize-pytorch, by its names and at its start.

    The library itself is made of them when the first batch is learned from: it imports einx, which brings torch's
    compiler, two seconds of a processor that whoever only reads tokens does without.
    """

    def __init__(self, size: int, dim: int, *, l2_norm: bool, decay: float, dead_code_threshold: float) -> None:
        super().__init__()
        self.settings = {"decay": decay, "use_cosine_sim": l2_norm, "threshold_ema_dead_code": dead_code_threshold}
        embed = nn.init.kaiming_uniform_(torch.empty(1, size, dim))
        if l2_norm:
            embed = F.normalize(embed, dim=-1, eps=1e-6)
        self._library: list[VectorQuantize] | None = None  # in a list, for it is no part with weights of its own
        self._codebook = nn.Module()
        self._codebook.register_buffer("initted", torch.tensor(True))
        self._codebook.register_buffer("cluster_size", torch.ones(1, size))
        self._codebook.register_buffer("embed_avg", embed.clone())
        self._codebook.register_buffer("embed", embed)

    @property
    def codebook(self) -> Float[Tensor, "v d"]:
        """Entries, all of them."""
        return self._codebook.embed[0]

    def update(self, z: Float[Tensor, "b k d"], ids: Int[Tensor, "b k"], keep: Bool[Tensor, "b k"]) -> None:
        """Learn from a batch as the library does: its counts, its smoothing, its revival of dead entries."""
        if self._library is None:
            self._library = [self._made()]
        self._library[0].update_indices(z, ids, mask=keep)

    def _made(self) -> VectorQuantize:
        from vector_quantize_pytorch import VectorQuantize  # see the class

        _, size, dim = self._codebook.embed.shape
        with torch.device("meta"):  # neither memory nor draws for tables that are given
            made = VectorQuantize(dim, size, sync_codebook=several_processes(), **self.settings)
        made._codebook._buffers = self._codebook._buffers
        return made.train()


class EmaCodebook(Codebook):
    """A table of running means, kept by the library (`Means`).

    Only the bookkeeping is the library's: its own forward gives one commitment loss for the whole batch (under a mask,
    against features that are not normalised), marks absent tokens -1, and waits for the device on every call.
    """

    learned_by_gradient = False

    def __init__(
        self, size: int, dim: int, *, l2_norm: bool, commitment: float, decay: float, dead_code_threshold: float
    ) -> None:
        super().__init__(l2_norm, commitment)
        self.means = Means(size, dim, l2_norm=l2_norm, decay=decay, dead_code_threshold=dead_code_threshold)

    def table(self) -> Float[Tensor, "v d"]:
        return self.means.codebook

    def follow(
        self,
        features: Float[Tensor, "b k d"],
        z: Float[Tensor, "b k d"],
        ids: Int[Tensor, "b k"],
        keep: Bool[Tensor, "b k"],
    ) -> None:
        self.means.update(z, ids, keep)


class SimCodebook(Codebook):
    """A learned linear map of a frozen random table; both are the library's."""

    def __init__(self, size: int, dim: int, *, commitment: float) -> None:
        from vector_quantize_pytorch import SimVQ  # two seconds, see `Means`

        super().__init__(False, commitment)
        self.linear = SimVQ(dim, size)

    def table(self) -> Float[Tensor, "v d"]:
        return self.linear.codebook


def build_codebook(
    config: VQConfig | ResidualVQConfig,
    *,
    dim: int,
    l2_norm: bool,
    clustering: bool,
    entropy: EntropyFields | None = None,
) -> Codebook:
    """One codebook of running means, or one learned by gradient, as the config says.

    Args:
        config: its size, and how it learns.
        dim: width of an entry.
        l2_norm: whether features and entries are put on the unit sphere.
        clustering: whether entries also move towards features (`ClusteredCodebook`).
        entropy: settings of its entropies.
    """
    size, commitment = config.codebook_size, config.commitment
    codebook: Codebook
    if config.ema:
        codebook = EmaCodebook(
            size,
            dim,
            l2_norm=l2_norm,
            commitment=commitment,
            decay=config.decay,
            dead_code_threshold=config.dead_code_threshold,
        )
    elif clustering:
        codebook = ClusteredCodebook(size, dim, l2_norm=l2_norm, commitment=commitment, decay=config.decay)
    else:
        codebook = LearnedCodebook(size, dim, l2_norm=l2_norm, commitment=commitment)
    codebook.entropy = entropy
    return codebook
