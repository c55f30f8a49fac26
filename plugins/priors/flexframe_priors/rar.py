"""RAR: autoregression in any order, with target-aware positions (arXiv 2411.00776, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from flexframe.nn.attention import attend
from flexframe.nn.dropout import dropped, drops
from flexframe.nn.priors import class_ids
from flexframe.nn.reading import Context, Reading, read, text_input
from flexframe.parts import LikelihoodPrior, SymbolWalk
from flexframe.rng import Rng
from flexframe.tokens import Codes, Condition, Losses, prefix
from flexframe_registry import CodesSpec, SamplingConfig

from . import RARConfig, RARSampling
from .cache import Cache
from .drawing import Noise
from .steps import laid

SITES = 4
"""Places of dropout in a block: attention's weights, what it gives, and the feed-forward layers' inner and outer."""


class Attention(nn.Module):
    """Causal multi-head self-attention with learned norms of queries and keys."""

    def __init__(self, config: RARConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.attention_dropout
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.q_norm = nn.LayerNorm(config.width // config.heads, eps=1e-6)
        self.k_norm = nn.LayerNorm(config.width // config.heads, eps=1e-6)
        self.proj = nn.Linear(config.width, config.width)

    def forward(
        self, x: Float[Tensor, "b n w"], cache: Cache | None, numbers: Int[Tensor, "b 2"] | None
    ) -> Float[Tensor, "b n w"]:
        """Without a cache, or with an empty one, positions attend causally; further ones are given one by one."""
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key = self.q_norm(query).to(value.dtype), self.k_norm(key).to(value.dtype)
        if cache is not None:
            key, value = cache.extend(key, value)
        causal = key.shape[2] == x.shape[1]
        mixed = attend(query, key, value, dropout=self.dropout, drops=numbers, causal=causal)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A pre-norm block whose norms are shifted and scaled, and whose outputs are gated, by the condition (adaLN-zero,
    arXiv 2212.09748); between its two layers it may read a text."""

    def __init__(self, config: RARConfig, reads: bool = False) -> None:
        super().__init__()
        width = config.width
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(config)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.fc1, self.fc2 = nn.Linear(width, config.hidden), nn.Linear(config.hidden, width)
        self.dropout = config.dropout
        self.reading = Reading(width, config.heads) if reads else None

    def forward(
        self,
        x: Float[Tensor, "b n w"],
        condition: Float[Tensor, "b n w"],
        cache: Cache | None,
        numbers: Int[Tensor, "b s 2"] | None,
        known: Float[Tensor, "2 b h k d"] | None = None,
        present: Bool[Tensor, "b k"] | None = None,
    ) -> Float[Tensor, "b n w"]:
        """The block's output.

        Args:
            numbers: of the dropout of its layers.
            known: keys and values of a text that it reads, of which some are `present`.
        """
        weights, first, second, third, fourth = [None] * (SITES + 1) if numbers is None else numbers.unbind(1)
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition).chunk(6, -1)
        attended = self.attn(self.norm1(x) * (1 + scale1) + shift1, cache, weights)
        x = x + gate1 * dropped(attended, self.dropout, first)
        if self.reading is not None and known is not None and present is not None:
            x = x + dropped(self.reading(x, known, present), self.dropout, fourth)
        inner = dropped(F.gelu(self.fc1(self.norm2(x) * (1 + scale2) + shift2)), self.dropout, second)
        return x + gate2 * dropped(self.fc2(inner), self.dropout, third)


class Head(nn.Module):
    """A norm that the condition scales and shifts, then the logits."""

    def __init__(self, width: int, entries: int) -> None:
        super().__init__()
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.linear = nn.Linear(width, entries)

    def forward(self, x: Float[Tensor, "b n w"], condition: Float[Tensor, "b n w"]) -> Float[Tensor, "b n v"]:
        scale, shift = self.modulation(condition).chunk(2, -1)
        return self.linear(self.norm(x) * (1 + scale) + shift)


def init_weights(module: nn.Module) -> None:
    """Initialise one module, truncated normals of deviation 0.02, zero biases; what modulates starts at zero."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.trunc_normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
    if isinstance(module, Block | Head):
        nn.init.zeros_(module.modulation[1].weight)


def embedding(*shape: int) -> nn.Parameter:
    """A learned embedding, a truncated normal of deviation 0.02."""
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(*shape), std=0.02))


class RAR(LikelihoodPrior):
    """`[start | class | tokens in their order]`; the class's position and each token's gives the code that follows.

    Absent tokens come last in every order, where no present one sees them. A text is attended to in every block, and
    in the place of the class, which modulates them, is the null one.
    """

    config: RARConfig

    def __init__(self, config: RARConfig, spec: CodesSpec) -> None:
        super().__init__(config, spec)
        width, self.null = config.width, spec.classes or 0
        self.token_embedding = nn.Embedding(spec.entries, width)
        self.class_embedding = nn.Embedding(self.null + 1, width)
        self.start = nn.Parameter(torch.zeros(width))
        self.positions = embedding(2 + spec.length, width)
        self.targets = embedding(spec.length, width)
        self.steps = embedding(2 + spec.length, width)
        self.blocks = nn.ModuleList(Block(config, spec.text is not None) for _ in range(config.depth))
        self.head = Head(width, spec.entries)
        self.apply(init_weights)
        self.text = None if spec.text is None else text_input(spec.text.width, width)

    def context(self, condition: Condition | None, guided: bool = False) -> Context | None:
        """The texts of a condition, where there is a conditioner; `guided`, those of its rows, and as many null ones.

        Raises:
            ValueError: there are none.
        """
        return read(self.text, (block.reading for block in self.blocks), condition, guided)

    def logits(
        self,
        ids: Int[Tensor, "b m"],
        classes: Int[Tensor, " b"],
        order: Int[Tensor, "b k"],
        caches: list[Cache] | None = None,
        rng: Rng | None = None,
        context: Context | None = None,
    ) -> Float[Tensor, "b n v"]:
        """Logits of each next code: m + 1 of them, or the last alone where caches hold the rest.

        Args:
            ids: the first m codes in the order in which they are read.
            classes: 0..classes-1, and the one past the last for null.
            order: the slots in that order, m of them at least.
            rng: draws of dropout; without them there is none.
            context: the rows' texts, of a prior that reads some.
        """
        label, read = self.class_embedding(classes)[:, None], ids.shape[1]
        x = torch.cat([self.start.expand(len(ids), 1, -1), label, self.token_embedding(ids)], 1)
        places = self.positions[2:][order[:, :read]]
        x = x + torch.cat([self.positions[:2].expand(len(ids), -1, -1), places], 1)
        next_ones = self.targets[order[:, : read + 1]]  # of what the class's position and each token's gives
        x = x + F.pad(next_ones, (0, 0, 1, 1 + read - next_ones.shape[1]))
        condition = label + self.steps[: 2 + read]
        if caches is not None and caches[0].done:
            x, condition = x[:, caches[0].done :], condition[:, caches[0].done :]
        numbers: list[Tensor | None] = [None] * len(self.blocks)
        if rng is not None and (self.config.dropout or self.config.attention_dropout):
            own = drops(rng, "rar/dropout", SITES * len(self.blocks)).split(SITES, 1)
            reads = drops(rng, "rar/reading", len(self.blocks))
            numbers = [torch.cat([each, reads[:, i : i + 1]], 1) for i, each in enumerate(own)]
        for i, block in enumerate(self.blocks):
            text = (None, None) if context is None else (context.known[i], context.present)
            x = block(x, condition, None if caches is None else caches[i], numbers[i], *text)
        new = min(x.shape[1], 1 + read)  # the start's position gives nothing
        return self.head(x[:, -new:], condition[:, -new:])

    # --- training ------------------------------------------------------------------------------------------------

    def forward(self, codes: Codes, condition: Condition | None, *, rng: Rng) -> Losses:
        """Mean cross-entropy over a row's tokens. `rng.step` says how many rows are permuted."""
        keep = codes.keep
        ids = codes.codes[..., 0].masked_fill(~keep, 0)
        classes = class_ids(condition, self.spec.classes, len(ids), ids.device)
        order = self._raster(keep)
        if self.training:
            hidden = rng.uniform("rar/class") < self.config.class_dropout
            classes = torch.where(hidden, self.null, classes)
            condition = None if condition is None else condition.hidden(hidden)
            order = self.choose_order(keep, rng=rng)
        ids = ids.gather(1, order)
        draws, context = rng if self.training else None, self.context(condition)
        logits = self.logits(ids[:, :-1], classes, order, rng=draws, context=context)
        losses = F.cross_entropy(logits.mT, ids, reduction="none")
        return {"codes": (losses * keep).sum(1) / keep.sum(1)}

    def choose_order(self, keep: Bool[Tensor, "b k"], *, rng: Rng) -> Int[Tensor, "b k"]:
        """Training's order of the slots: raster or, for a share of rows that falls with `rng.step`, a permutation of
        those present."""
        permuted = rng.uniform("rar/permuted") < self.config.permuted_share(rng.step)
        drawn = rng.uniform("rar/order", (keep.shape[1],)).masked_fill(~keep, torch.inf)
        return torch.where(permuted[:, None], drawn.argsort(dim=1, stable=True), self._raster(keep))

    @staticmethod
    def _raster(keep: Bool[Tensor, "b k"]) -> Int[Tensor, "b k"]:
        return torch.arange(keep.shape[1], device=keep.device).expand(keep.shape)

    # --- use -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def log_prob(self, codes: Codes, condition: Condition | None) -> Float[Tensor, "b k"]:
        """Log-likelihood of each code in raster order, without guidance, in nats."""
        keep = codes.keep
        ids = codes.codes[..., 0].masked_fill(~keep, 0)
        classes = class_ids(condition, self.spec.classes, len(ids), ids.device)
        logits = self.logits(ids[:, :-1], classes, self._raster(keep), context=self.context(condition))
        log_probs = logits.float().log_softmax(-1)
        return log_probs.gather(-1, ids[..., None])[..., 0].masked_fill(~keep, 0)

    def walk(self, condition: Condition | None, count: int) -> Walk:
        return Walk(self, condition, count)

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
        assert isinstance(sampling, RARSampling)
        keep = prefix(lengths)
        rows = class_ids(condition, self.spec.classes, len(keep), keep.device, sampling.guided)
        context = self.context(condition, sampling.guided)
        order = self._raster(keep).repeat(len(rows) // max(len(keep), 1), 1)
        caches = [Cache(2 + keep.shape[1]) for _ in self.blocks] if sampling.cache else None
        model, noise = laid(self, *order.shape), Noise(rng, "rar/token", (self.spec.entries,), keep.shape[1])
        ids = keep.new_zeros(len(keep), 0, dtype=torch.long)
        for done in range(keep.shape[1]):
            logits = model.logits(ids.repeat(len(rows) // len(keep), 1), rows, order, caches, context=context)[:, -1]
            if sampling.guided:
                given, free = logits.chunk(2)
                logits = given + sampling.excess(done / self.spec.length) * (given - free)
            if sampling.temperature:
                logits = logits / sampling.temperature + noise(done)
            ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], 1)
            if on_token is not None:
                on_token(done + 1)
        return Codes(ids.masked_fill(~keep, 0)[..., None], keep)


class Walk(SymbolWalk):
    """A RAR's codes in raster order, one after the other, by its caches; without guidance."""

    period = 1

    def __init__(self, prior: RAR, condition: Condition | None, count: int) -> None:
        self.prior, self.device = prior, prior.start.device
        self.rows = class_ids(condition, prior.spec.classes, count, self.device)
        self.context = prior.context(condition)
        self.order = torch.arange(prior.spec.length, device=self.device).expand(count, -1)
        self.caches = [Cache(2 + prior.spec.length) for _ in prior.blocks]

    def symbols(self, codes: Int[Tensor, "b k 1"]) -> Int[Tensor, "b n"]:
        return codes[..., 0]

    def codes(self, symbols: Int[Tensor, "b n"]) -> Int[Tensor, "b k 1"]:
        return symbols[..., None]

    @torch.no_grad()
    def logits(self, symbols: Int[Tensor, "b m"]) -> Float[Tensor, "b v"]:
        return self.prior.logits(symbols, self.rows, self.order, self.caches, context=self.context)[:, -1]
