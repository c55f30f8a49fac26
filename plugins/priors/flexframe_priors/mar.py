"""Masked autoregression over continuous tokens, in any order (Li et al., arXiv 2406.11838)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from flexframe.nn.denoiser import Denoiser, fill, some
from flexframe.nn.dropout import dropped, drops
from flexframe.nn.priors import class_ids
from flexframe.nn.reading import Context, Reading, read, text_input
from flexframe.nn.transformer import Attention
from flexframe.parts import Prior
from flexframe.rng import Rng
from flexframe.tokens import Codes, Condition, Losses, prefix
from flexframe_registry import CodesSpec, SamplingConfig

from .denoising_configs import MARConfig, MARSampling

SPREAD = 0.25
"""Deviation of the normal about 1 that shares of masked tokens are drawn from."""


class Block(nn.Module):
    """A pre-norm block of attention and a GELU feed-forward layer; between them it may read a text."""

    def __init__(self, config: MARConfig, reads: bool = False) -> None:
        super().__init__()
        width, self.dropout = config.width, config.dropout
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, config.heads, dropout=config.attention_dropout)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.reading = Reading(width, config.heads) if reads else None

    def forward(
        self,
        x: Float[Tensor, "b n w"],
        seen: Bool[Tensor, "b 1 1 n"],
        numbers: Int[Tensor, "b s 2"] | None,
        known: Float[Tensor, "2 b h k d"] | None = None,
        present: Bool[Tensor, "b k"] | None = None,
    ) -> Float[Tensor, "b n w"]:
        """The block's output.

        Args:
            numbers: of the dropout of its layers.
            known: keys and values of a text that it reads, of which some are `present`.
        """
        weights, first, second, third, fourth = (None,) * 5 if numbers is None else numbers.unbind(1)
        x = x + dropped(self.attn(self.norm1(x), seen, weights), self.dropout, first)
        if self.reading is not None and known is not None and present is not None:
            x = x + dropped(self.reading(x, known, present), self.dropout, fourth)
        h = dropped(nn.functional.gelu(self.fc1(self.norm2(x))), self.dropout, second)
        return x + dropped(self.fc2(h), self.dropout, third)


class MAR(Prior):
    """`[class, several times | tokens]` through an encoder that does not see masked tokens, then a decoder with a mask
    token in the place of each, which says something of it to the head. An absent token is not there at all. A text is
    attended to in every block (Fluid, arXiv 2410.13863), and in the place of the class is the null one."""

    config: MARConfig

    def __init__(self, config: MARConfig, spec: CodesSpec) -> None:
        super().__init__(config, spec)
        width, self.null, whole = config.width, spec.classes or 0, config.buffer + spec.length
        self.classes = nn.Embedding(self.null + 1, width)
        self.input = nn.Linear(spec.values, width)
        self.input_norm = nn.LayerNorm(width, eps=1e-6)
        reads = spec.text is not None
        self.encoder = nn.ModuleList(Block(config, reads) for _ in range(config.depth))
        self.encoder_norm = nn.LayerNorm(width, eps=1e-6)
        self.between = nn.Linear(width, width)
        self.decoder = nn.ModuleList(Block(config, reads) for _ in range(config.depth))
        self.decoder_norm = nn.LayerNorm(width, eps=1e-6)
        self.encoder_positions, self.decoder_positions = (nn.Parameter(torch.empty(whole, width)) for _ in range(2))
        self.places, self.mask = nn.Parameter(torch.empty(spec.length, width)), nn.Parameter(torch.empty(width))
        self._init_weights()
        self.text = None if spec.text is None else text_input(spec.text.width, width)
        self.head = Denoiser(config, spec.values, width)

    def _init_weights(self) -> None:
        """Xavier-uniform matrices, zero biases; tables of deviation 0.02."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for table in (self.classes.weight, self.encoder_positions, self.decoder_positions, self.places, self.mask):
            nn.init.normal_(table, std=0.02)

    # --- the trunk -----------------------------------------------------------------------------------------------

    def context(self, condition: Condition | None, guided: bool = False) -> Context | None:
        """The texts of a condition, where there is a conditioner; `guided`, those of its rows, and as many null ones.

        Raises:
            ValueError: there are none.
        """
        blocks = (*self.encoder, *self.decoder)
        return read(self.text, (block.reading for block in blocks), condition, guided)

    def said(
        self,
        tokens: Float[Tensor, "b k d"],
        masked: Bool[Tensor, "b k"],
        keep: Bool[Tensor, "b k"],
        classes: Int[Tensor, " b"],
        rng: Rng | None = None,
        context: Context | None = None,
    ) -> Float[Tensor, "b k w"]:
        """Features for the head of each token, by those that are not masked; with dropout where its draws are given."""
        count, whole = self.config.buffer, self.config.buffer + tokens.shape[1]
        before = keep.new_ones(len(keep), count)
        open_, there = (torch.cat([before, part], 1) for part in (keep & ~masked, keep))
        by_block = self._by_block(rng, context)
        inputs = self.input(tokens)
        x = torch.cat([self.classes(classes)[:, None].to(inputs.dtype).expand(-1, count, -1), inputs], 1)
        x = self.input_norm(x + self.encoder_positions[:whole])
        for block in self.encoder:
            x = block(x, open_[:, None, None], *next(by_block))
        x = self.between(self.encoder_norm(x))
        x = torch.where(open_[..., None], x, self.mask.to(x.dtype)) + self.decoder_positions[:whole]
        for block in self.decoder:
            x = block(x, there[:, None, None], *next(by_block))
        normed: Tensor = self.decoder_norm(x)[:, count:]
        return normed + self.places[: normed.shape[1]]

    def _by_block(
        self, rng: Rng | None, context: Context | None
    ) -> Iterator[tuple[Tensor | None, Tensor | None, Tensor | None]]:
        """Numbers of each block's dropout, and what it reads of a text."""
        blocks = 2 * len(self.encoder)
        numbers: list[Tensor | None] = [None] * blocks
        if rng is not None and (self.config.dropout or self.config.attention_dropout):
            own, reads = drops(rng, "mar/dropout", 4 * blocks).split(4, 1), drops(rng, "mar/reading", blocks)
            numbers = [torch.cat([each, reads[:, i : i + 1]], 1) for i, each in enumerate(own)]
        for i, each in enumerate(numbers):
            yield (each, None, None) if context is None else (each, context.known[i], context.present)

    # --- training ------------------------------------------------------------------------------------------------

    def forward(self, codes: Codes, condition: Condition | None, *, rng: Rng) -> Losses:
        """The head's losses, a mean over the tokens that are masked."""
        keep = codes.keep
        tokens = codes.codes.masked_fill(~keep[..., None], 0)
        classes = class_ids(condition, self.spec.classes, len(keep), keep.device)
        if self.training:
            hidden = rng.uniform("mar/class") < self.config.class_dropout
            classes = classes.masked_fill(hidden, self.null)
            condition = None if condition is None else condition.hidden(hidden)
        masked = self.choose_masked(keep, rng)
        context = self.context(condition)
        said = self.said(tokens, masked, keep, classes, rng if self.training else None, context)
        return self.head.losses(tokens, said, masked, rng)

    def choose_masked(self, keep: Bool[Tensor, "b k"], rng: Rng) -> Bool[Tensor, "b k"]:
        """Tokens that training masks: a share drawn from one side of a normal, anywhere among the present."""
        low = torch.special.ndtr(torch.tensor((self.config.least_masked - 1) / SPREAD, device=keep.device))
        share = 1 + SPREAD * torch.special.ndtri(low + (0.5 - low) * rng.uniform("mar/share"))
        return some(keep, share, rng, "mar/order")

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
        assert isinstance(sampling, MARSampling)
        keep = prefix(lengths)
        guided = sampling.guided and (self.spec.classes is not None or self.spec.text is not None)
        context = self.context(condition, guided)
        rows = class_ids(condition, self.spec.classes, len(keep), keep.device, guided)

        def say(tokens: Tensor, masked: Tensor) -> tuple[Tensor, Tensor | None]:
            given = tokens.to(self.input.weight.dtype), masked, keep
            if not guided:
                return self.said(*given, rows, context=context), None
            one, other = self.said(*(torch.cat([each, each]) for each in given), rows, context=context).chunk(2)
            return one, other

        tokens = fill(
            self.head, say, keep, rng=rng, purpose="mar", passes=sampling.passes, sampling=sampling, on_token=on_token
        )
        return Codes(tokens, keep)
