"""GPT: a decoder-only transformer over a tokenizer's codes, one after the other (arXiv 2502.13967; 2406.06525)."""

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
from flexframe.store.load import load
from flexframe.tokens import Codes, Condition, Losses, prefix
from flexframe_registry import CodesSpec, ConfigError, SamplingConfig

from . import GPTConfig, GPTSampling
from .cache import Cache
from .drawing import Chooser, Reader, fill
from .steps import rotate, turns


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.heads, self.rotated = config.heads, config.positions == "rope"
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.proj = nn.Linear(config.width, config.width, bias=False)

    def forward(
        self, x: Float[Tensor, "b n w"], cache: Cache | None, seen: Bool[Tensor, "b 1 n m"] | None = None
    ) -> Float[Tensor, "b n w"]:
        """Without a cache, or with an empty one, positions attend causally; further ones are given one by one.

        Args:
            seen: True where a query may attend to a key, instead.
        """
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if self.rotated:
            start = 0 if cache is None else cache.done
            places = torch.arange(start, start + x.shape[1], device=x.device)
            by = turns(places, query.shape[-1], query.dtype)
            query, key = rotate(query, *by), rotate(key, *by)
        if cache is not None:
            key, value = cache.extend(key, value)
        causal = seen is None and key.shape[2] == x.shape[1]
        mixed = attend(query, key, value, seen, causal=causal)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A pre-norm block with a SwiGLU feed-forward layer: 12 w^2 parameters, and its two norms; 16 w^2 where it reads a
    text between its two layers."""

    def __init__(self, config: GPTConfig, reads: bool = False) -> None:
        super().__init__()
        width, hidden = config.width, 8 * config.width // 3
        self.norm1, self.norm2 = nn.RMSNorm(width, eps=1e-5), nn.RMSNorm(width, eps=1e-5)
        self.attn = Attention(config)
        self.fc1, self.fc2 = nn.Linear(width, 2 * hidden, bias=False), nn.Linear(hidden, width, bias=False)
        self.dropout = config.dropout
        self.reading = Reading(config.width, config.heads) if reads else None

    def forward(
        self,
        x: Float[Tensor, "b n w"],
        cache: Cache | None,
        numbers: Int[Tensor, "b s 2"] | None,
        known: Float[Tensor, "2 b h k d"] | None = None,
        seen: Bool[Tensor, "b ..."] | None = None,
    ) -> Float[Tensor, "b n w"]:
        """The block's output.

        Args:
            numbers: of the dropout of its layers.
            known: keys and values of a text that it reads.
            seen: with `known`, which of these are present; without, which positions see which.
        """
        first, second = (None, None) if numbers is None else (numbers[:, 0], numbers[:, 1])
        x = x + dropped(self.attn(self.norm1(x), cache, seen if known is None else None), self.dropout, first)
        if self.reading is not None and known is not None and seen is not None:
            read = self.reading(x, known, seen)
            x = x + dropped(read, self.dropout, None if numbers is None else numbers[:, 2])
        gate, inner = self.fc1(self.norm2(x)).chunk(2, -1)
        return x + dropped(self.fc2(F.silu(gate) * inner), self.dropout, second)


class GPT(LikelihoodPrior):
    """`[class | digits but the last]`, where each position gives the digit that follows.

    A token is its codebooks' codes one after the other, and a code its digits (`config.split`): without either, a digit
    is a code and a code a token.
    """

    config: GPTConfig

    def __init__(self, config: GPTConfig, spec: CodesSpec) -> None:
        super().__init__(config, spec)
        width, self.null = config.width, spec.classes or 0
        self.radices = config.radices(spec)
        self.classes = nn.Embedding(self.null + 1, width)
        self.embeddings = nn.ModuleList(nn.Embedding(radix, width) for radix in self.radices)
        self.positions = None
        if config.positions == "learned":
            self.positions = nn.Parameter(torch.empty(spec.length * len(self.radices), width))
        crosses = spec.text is not None and config.text == "cross"
        self.blocks = nn.ModuleList(Block(config, crosses) for _ in range(config.depth))
        self.norm = nn.RMSNorm(width, eps=1e-5)
        self.heads = nn.ModuleList(nn.Linear(width, radix, bias=False) for radix in self.radices)
        self._drafts: dict[str, GPT] = {}  # by name; no part of the model
        self._init_weights()
        self.text = None if spec.text is None else text_input(spec.text.width, width)

    def _init_weights(self) -> None:
        """Normals of deviation 0.02, smaller where the residual stream is added to; heads start at zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        if self.positions is not None:
            nn.init.normal_(self.positions, std=0.02)
        for block in self.blocks:
            read = [] if block.reading is None else [block.reading.proj]
            for layer in (block.attn.proj, block.fc2, *read):
                nn.init.normal_(layer.weight, std=0.02 * (2 * len(self.blocks)) ** -0.5)
        for head in self.heads:
            nn.init.zeros_(head.weight)

    # --- digits --------------------------------------------------------------------------------------------------

    def digits(self, codes: Int[Tensor, "b k q"]) -> Int[Tensor, "b n"]:
        """Codes as the digits that are modelled, flat."""
        if not self.config.split:
            return codes.flatten(1)
        places, rest = [], codes
        for radix in self.config.split:
            places.append(rest % radix)
            rest = rest // radix
        return torch.stack(places, -1).flatten(1)

    def codes(self, digits: Int[Tensor, "b n"]) -> Int[Tensor, "b k q"]:
        """The inverse of `digits`, for whole tokens."""
        split = self.config.split or (self.spec.entries,)
        parts = digits.unflatten(1, (-1, self.spec.codebooks, len(split)))
        value = torch.zeros_like(parts[..., 0])
        for place in reversed(range(len(split))):
            value = value * split[place] + parts[..., place]
        return value

    def embed(
        self, digits: Int[Tensor, "b m"], classes: Int[Tensor, " b"] | None, start: int
    ) -> Float[Tensor, "b n w"]:
        """Positions `start`, `start` + 1, ...: the class where one is given, which is at position 0, then the digits.

        Digit i stands at position i + 1.
        """
        period = len(self.radices)
        first = start if classes is not None else start - 1  # number of the first of these digits
        if digits.shape[1] == 1:
            x = self.embeddings[first % period](digits)
        else:
            x = digits.new_zeros(*digits.shape, self.config.width, dtype=self.classes.weight.dtype)
            for i in range(period):
                x[:, i::period] = self.embeddings[(first + i) % period](digits[:, i::period])
        if classes is not None:
            x = torch.cat([self.classes(classes)[:, None], x], 1)
        if self.positions is not None:
            x = x + self.positions[start : start + x.shape[1]]
        return x

    def context(self, condition: Condition | None, guided: bool = False) -> Context | None:
        """The texts of a condition, where this prior reads some; `guided`, those of its rows, and as many null ones.

        Raises:
            ValueError: there are none.
        """
        return read(self.text, (block.reading for block in self.blocks), condition, guided)

    def features(
        self,
        digits: Int[Tensor, "b m"],
        classes: Int[Tensor, " b"],
        caches: list[Cache] | None = None,
        rng: Rng | None = None,
        context: Context | None = None,
    ) -> Float[Tensor, "b n w"]:
        """Features that the heads read at positions 0..m; at the last one alone where caches hold the others. With
        dropout where its draws are given."""
        if caches is not None and caches[0].done:
            x = self.embed(digits[:, -1:], None, digits.shape[1])
        else:
            x = self.embed(digits, classes, 0)
        count, seen = x.shape[1], None if context is None else context.present
        if context is not None and not context.known:
            x = x if caches is not None and caches[0].done else torch.cat([context.vectors.to(x.dtype), x], 1)
            seen = context.before(x.shape[1], context.present.shape[1] + digits.shape[1] + 1)
        numbers = None
        if rng is not None and self.config.dropout:
            numbers = drops(rng, "gpt/dropout", 1 + 2 * len(self.blocks))
            reads = drops(rng, "gpt/reading", len(self.blocks))
            x = dropped(x, self.config.dropout, numbers[:, 0])
        for i, block in enumerate(self.blocks):
            own = None if numbers is None else torch.cat([numbers[:, 1 + 2 * i : 3 + 2 * i], reads[:, i : i + 1]], 1)
            known = context.known[i] if context is not None and context.known else None
            x = block(x, None if caches is None else caches[i], own, known, seen)
        return self.norm(x[:, -count:])

    def next_logits(
        self,
        digits: Int[Tensor, "b m"],
        classes: Int[Tensor, " b"],
        caches: list[Cache] | None = None,
        context: Context | None = None,
    ) -> Float[Tensor, "b v"]:
        """Logits of the digit after these, in the order of its values."""
        head = self.heads[digits.shape[1] % len(self.radices)]
        logits: Tensor = head(self.features(digits, classes, caches, context=context)[:, -1])
        return logits

    def _likelihoods(
        self, codes: Codes, classes: Int[Tensor, " b"], condition: Condition | None, rng: Rng | None = None
    ) -> Float[Tensor, "b k"]:
        """Natural logarithm of each token's probability; 0 where absent."""
        keep, period = codes.keep, len(self.radices)
        ids = self.digits(codes.codes.masked_fill(~keep[..., None], 0))
        x = self.features(ids[:, :-1], classes, rng=rng, context=self.context(condition))
        total = torch.zeros(keep.shape, device=ids.device)
        for place, head in enumerate(self.heads):
            chances = head(x[:, place::period]).float().log_softmax(-1)
            total = total + chances.gather(-1, ids[:, place::period, None])[..., 0]
        return total.masked_fill(~keep, 0)

    # --- training ------------------------------------------------------------------------------------------------

    def forward(self, codes: Codes, condition: Condition | None, *, rng: Rng) -> Losses:
        """`codes`: each row's cross-entropy, nats a token present, codebooks added."""
        keep = codes.keep
        classes = class_ids(condition, self.spec.classes, len(keep), keep.device)
        if self.training:
            hidden = rng.uniform("gpt/class") < self.config.class_dropout
            classes = classes.masked_fill(hidden, self.null)
            condition = None if condition is None else condition.hidden(hidden)
            if self.config.prefixes:
                lengths = keep.sum(1)
                drawn = 1 + (rng.uniform("gpt/prefix") * lengths).long()
                keep = prefix(torch.minimum(drawn, lengths), keep.shape[1])
        likelihoods = self._likelihoods(Codes(codes.codes, keep), classes, condition, rng if self.training else None)
        return {"codes": -likelihoods.sum(1) / keep.sum(1)}

    # --- use -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def log_prob(self, codes: Codes, condition: Condition | None) -> Float[Tensor, "b k"]:
        """Without guidance."""
        classes = class_ids(condition, self.spec.classes, len(codes.keep), codes.keep.device)
        return self._likelihoods(codes, classes, condition)

    def _draft(self, name: str) -> GPT:
        """The prior that draws ahead.

        Raises:
            ConfigError: it is another kind, or of other codes or classes.
        """
        if name not in self._drafts:
            prior, own = load(name, kind="generator").prior, self.spec
            place = "sampling.draft"
            if not isinstance(prior, GPT) or prior.spec.text is not None:
                raise ConfigError.at(place, f"{name} is no prior 'gpt' of classes or of nothing; name one")
            if prior.radices != self.radices or prior.spec.codebooks != own.codebooks or prior.spec.length < own.length:
                told = "is of other codes than this prior: codebooks, split and length must fit"
                raise ConfigError.at(place, f"{name} {told}; name a prior of the same tokenizer")
            if prior.spec.classes not in (None, own.classes):
                raise ConfigError.at(place, f"{name} knows {prior.spec.classes} classes, this prior {own.classes}")
            self._drafts[name] = prior.to(self.classes.weight).eval()
        return self._drafts[name]

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
        """A row's first tokens do not depend on its length: a shorter sample is the beginning of a longer one."""
        assert isinstance(sampling, GPTSampling)
        keep = prefix(lengths)
        steps, period = keep.shape[1] * len(self.radices), len(self.radices)
        digits = torch.zeros(len(keep), steps, dtype=torch.long, device=keep.device)

        def told(done: int) -> None:
            if on_token is not None and done % period == 0:
                on_token(done // period)

        reader = Reader(self, condition, sampling, digits)
        draft = None
        if sampling.draft is not None:
            draft = Reader(self._draft(sampling.draft), condition, sampling, digits)
        fill(digits, reader, Chooser(self.radices, steps, sampling, rng), told, draft, sampling.draft_length)
        return Codes(self.codes(digits).masked_fill(~keep[..., None], 0), keep)


class Walk(SymbolWalk):
    """A GPT's digits, one after the other, by its caches; without guidance."""

    def __init__(self, prior: GPT, condition: Condition | None, count: int) -> None:
        self.prior, self.period, self.device = prior, len(prior.radices), prior.classes.weight.device
        self.rows = class_ids(condition, prior.spec.classes, count, self.device)
        self.context = prior.context(condition)
        before = 0 if self.context is None or self.context.known else self.context.present.shape[1]
        self.caches = [Cache(before + prior.spec.length * self.period) for _ in prior.blocks]

    def symbols(self, codes: Int[Tensor, "b k q"]) -> Int[Tensor, "b n"]:
        return self.prior.digits(codes)

    def codes(self, symbols: Int[Tensor, "b n"]) -> Int[Tensor, "b k q"]:
        return self.prior.codes(symbols)

    @torch.no_grad()
    def logits(self, symbols: Int[Tensor, "b m"]) -> Float[Tensor, "b v"]:
        return self.prior.next_logits(symbols, self.rows, self.caches, self.context)
