"""A causal transformer of continuous tokens whose head denoises each token (arXiv 2503.08685, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from flexframe.nn.attention import attend
from flexframe.nn.denoiser import Denoiser
from flexframe.nn.dropout import dropped, drops
from flexframe.nn.priors import class_ids
from flexframe.nn.reading import Context, Reading, read, text_input
from flexframe.parts import Prior
from flexframe.rng import Rng
from flexframe.tokens import Codes, Condition, Losses, prefix
from flexframe_registry import CodesSpec, SamplingConfig

from .denoising_configs import CausalDenoisingConfig, CausalDenoisingSampling
from .steps import Layer, Steps, laid


class Block(nn.Module):
    """A pre-norm block of causal attention and a SwiGLU feed-forward layer, both without biases; between them it may
    read a text."""

    def __init__(self, config: CausalDenoisingConfig, reads: bool = False) -> None:
        super().__init__()
        width, self.heads, self.dropout = config.width, config.heads, config.dropout
        self.norm1, self.norm2 = nn.RMSNorm(width, eps=1e-5), nn.RMSNorm(width, eps=1e-5)
        self.qkv, self.proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.fc1 = nn.Linear(width, 2 * config.hidden, bias=False)
        self.fc2 = nn.Linear(config.hidden, width, bias=False)
        self.reading = Reading(width, config.heads) if reads else None

    def forward(
        self,
        x: Float[Tensor, "b n w"],
        numbers: Int[Tensor, "b s 2"] | None,
        known: Float[Tensor, "2 b h k d"] | None = None,
        present: Bool[Tensor, "b k"] | None = None,
    ) -> Float[Tensor, "b n w"]:
        """The block's output.

        Args:
            numbers: of the dropout of its layers.
            known: keys and values of a text that it reads, of which some are `present`.
        """
        first, second, third = (None, None, None) if numbers is None else numbers.unbind(1)
        query, key, value = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = attend(query, key, value, causal=True)
        x = x + dropped(self.proj(mixed.transpose(1, 2).flatten(2)), self.dropout, first)
        if self.reading is not None and known is not None and present is not None:
            x = x + dropped(self.reading(x, known, present), self.dropout, third)
        gate, inner = self.fc1(self.norm2(x)).chunk(2, -1)
        return x + dropped(self.fc2(F.silu(gate) * inner), self.dropout, second)


class CausalDenoising(Prior):
    """`[class | tokens but the last]`, where each position says something of the token that follows. A text is attended
    to in every block, and in the place of the class is the null one."""

    config: CausalDenoisingConfig

    def __init__(self, config: CausalDenoisingConfig, spec: CodesSpec) -> None:
        super().__init__(config, spec)
        width, self.null = config.width, spec.classes or 0
        self.classes = nn.Embedding(self.null + 1, width)
        self.input = nn.Linear(spec.values, width)
        self.positions = nn.Parameter(torch.empty(spec.length + 1, width))
        self.input_norm = nn.RMSNorm(width, eps=1e-5)
        self.blocks = nn.ModuleList(Block(config, spec.text is not None) for _ in range(config.depth))
        self.norm = nn.RMSNorm(width, eps=1e-5)
        self.places = nn.Parameter(torch.empty(spec.length, width))
        self._init_weights()
        self.text = None if spec.text is None else text_input(spec.text.width, width)
        self.head = Denoiser(config, spec.values, width)

    def _init_weights(self) -> None:
        """Normals of deviation 0.02, zero biases."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(self.input.bias)
        for table in (self.positions, self.places):
            nn.init.normal_(table, std=0.02)

    # --- the trunk -----------------------------------------------------------------------------------------------

    def embed(
        self, tokens: Float[Tensor, "b m d"], classes: Int[Tensor, " b"] | None, start: int = 0
    ) -> Float[Tensor, "b n w"]:
        """Positions `start`, `start` + 1, ...: the class where one is given, which is position 0, then the tokens."""
        x = self.input(tokens)
        if classes is not None:
            x = torch.cat([self.classes(classes)[:, None].to(x.dtype), x], 1)
        embedded: Tensor = self.input_norm(x + self.positions[start : start + x.shape[1]])
        return embedded

    def context(self, condition: Condition | None, guided: bool = False) -> Context | None:
        """The texts of a condition, where there is a conditioner; `guided`, those of its rows, and as many null ones.

        Raises:
            ValueError: there are none.
        """
        return read(self.text, (block.reading for block in self.blocks), condition, guided)

    def said(
        self,
        tokens: Float[Tensor, "b m d"],
        classes: Int[Tensor, " b"],
        steps: Steps | None = None,
        rng: Rng | None = None,
        context: Context | None = None,
    ) -> Float[Tensor, "b n w"]:
        """Features for the head of tokens 0..m; of the last one alone where steps were told of the others. With dropout
        where its draws are given."""
        first = 0
        if steps is not None and steps.done:
            first = tokens.shape[1]
            x = self.embed(tokens[:, -1:], None, first)
        else:
            x = self.embed(tokens, classes)
        numbers = None
        if rng is not None and self.config.dropout:
            numbers = drops(rng, "causal-denoising/dropout", 1 + 2 * len(self.blocks))
            reads = drops(rng, "causal-denoising/reading", len(self.blocks))
            x = dropped(x, self.config.dropout, numbers[:, 0])
        if steps is not None:
            x = steps(x) if context is None else steps(x, None, context.known, context.present)
        for i, block in enumerate(() if steps is not None else self.blocks):
            own = None if numbers is None else torch.cat([numbers[:, 1 + 2 * i : 3 + 2 * i], reads[:, i : i + 1]], 1)
            text = (None, None) if context is None else (context.known[i], context.present)
            x = block(x, own, *text)
        normed: Tensor = self.norm(x)
        return normed + self.places[first : first + x.shape[1]]

    # --- training ------------------------------------------------------------------------------------------------

    def forward(self, codes: Codes, condition: Condition | None, *, rng: Rng) -> Losses:
        """The head's losses, a mean over the tokens that are present."""
        keep = codes.keep
        tokens = codes.codes.masked_fill(~keep[..., None], 0)
        classes = class_ids(condition, self.spec.classes, len(keep), keep.device)
        if self.training:
            hidden = rng.uniform("causal-denoising/class") < self.config.class_dropout
            classes = classes.masked_fill(hidden, self.null)
            condition = None if condition is None else condition.hidden(hidden)
        context = self.context(condition)
        said = self.said(tokens[:, :-1], classes, rng=rng if self.training else None, context=context)
        return self.head.losses(tokens, said, keep, rng)

    # --- use -----------------------------------------------------------------------------------------------------

    def _steps(self, rows: int, count: int) -> Steps:
        """The trunk for drawing so many tokens."""
        blocks = laid(self.blocks, rows, count)
        layers = [Layer(b.norm1, b.qkv, b.proj, b.norm2, b.fc1, b.fc2, b.reading) for b in blocks]
        return Steps(layers, blocks is not self.blocks, self.config.heads, count)

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
        assert isinstance(sampling, CausalDenoisingSampling)
        keep = prefix(lengths)
        guided = sampling.guided and (self.spec.classes is not None or self.spec.text is not None)
        context = self.context(condition, guided)
        rows = class_ids(condition, self.spec.classes, len(keep), keep.device, guided)
        count = keep.shape[1]
        steps = self._steps(len(rows), count) if sampling.cache and count else None
        tokens = torch.zeros(len(keep), count, self.spec.values, device=keep.device)
        for done in range(count):
            given = tokens[:, :done].to(self.input.weight.dtype)
            said = self.said(given.repeat(2, 1, 1) if guided else given, rows, steps, context=context)[:, -1]
            own, free = cast("tuple[Tensor, Tensor]", said.chunk(2)) if guided else (said, None)
            noise = self.head.draws(rng, f"causal-denoising/token.{done}", 1, sampling)[:, 0]
            scale = sampling.scale((done + 1) / self.spec.length)
            tokens[:, done] = self.head.sample(own, free, scale, noise, sampling)
            if on_token is not None:
                on_token(done + 1)
        return Codes(tokens.masked_fill(~keep[..., None], 0), keep)
