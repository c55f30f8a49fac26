"""MaskGen of continuous tokens: a transformer that reads a text, and a head that denoises masked tokens (arXiv
2501.07730)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from flexframe.nn.denoiser import Denoiser, fill, some
from flexframe.parts import Prior
from flexframe.rng import Rng
from flexframe.tokens import Codes, Condition, Losses, prefix
from flexframe_registry import CodesSpec, SamplingConfig

from .maskgen_body import Body, Reader, Said
from .maskgen_configs import MaskGenKLConfig, MaskGenKLSampling
from .maskgit_bodies import init_weights, normal


class MaskGenKL(Prior):
    """`[tokens]`, a mask token in the place of those that are masked, beside a text."""

    config: MaskGenKLConfig

    def __init__(self, config: MaskGenKLConfig, spec: CodesSpec) -> None:
        super().__init__(config, spec)
        width = config.width
        self.reader = Reader(spec, width, config.score_width, "pairs")
        self.input, self.input_norm = nn.Linear(spec.values, width), nn.LayerNorm(width, eps=1e-6)
        self.mask = normal(width)
        self.positions, self.places = normal(spec.length, width), normal(spec.length, width)
        self.body = Body(width, config.depth, config.heads, 4 * width)
        self.apply(init_weights)
        self.head = Denoiser(config, spec.values, width)

    def embed(self, tokens: Float[Tensor, "b k d"], masked: Bool[Tensor, "b k"]) -> Float[Tensor, "b k w"]:
        """Tokens as the blocks read them."""
        x = self.input_norm(self.input(tokens.to(self.input.weight.dtype)))
        return torch.where(masked[..., None], self.mask.to(x.dtype), x) + self.positions[: x.shape[1]]

    def said(
        self, tokens: Float[Tensor, "b k d"], masked: Bool[Tensor, "b k"], keep: Bool[Tensor, "b k"], given: Said
    ) -> Float[Tensor, "b k w"]:
        """Features for the head of each token, by those that are not masked."""
        out: Tensor = self.body(self.embed(tokens, masked), keep, given)
        return out + self.places[: out.shape[1]]

    # --- training ------------------------------------------------------------------------------------------------

    def forward(self, codes: Codes, condition: Condition | None, *, rng: Rng) -> Losses:
        """The head's losses, a mean over the tokens that are masked."""
        scores = torch.full((len(codes.keep),), self.config.score, device=codes.keep.device)
        return self.taught(codes, condition, scores, rng)

    def taught(self, codes: Codes, condition: Condition | None, scores: Float[Tensor, " b"], rng: Rng) -> Losses:
        """The losses, with an aesthetic score of each row."""
        keep = codes.keep
        tokens = codes.codes.masked_fill(~keep[..., None], 0)
        hidden = rng.uniform("maskgen/text") < self.config.class_dropout if self.training else None
        masked = self.choose_masked(keep, rng)
        said = self.said(tokens, masked, keep, self.reader.read(condition, scores, hidden))
        return self.head.losses(tokens, said, masked, rng)

    def choose_masked(self, keep: Bool[Tensor, "b k"], rng: Rng) -> Bool[Tensor, "b k"]:
        """Tokens that training masks: a share drawn on an arc cosine, at least one, anywhere among the present."""
        share = torch.acos(rng.uniform("maskgen/share")) / (math.pi / 2)
        return some(keep, share, rng, "maskgen/order")

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
        assert isinstance(sampling, MaskGenKLSampling)
        keep = prefix(lengths)
        guided = sampling.guided and (self.spec.text is not None or self.spec.classes is not None)
        scores = torch.full((len(keep),), sampling.score, device=keep.device)
        given = self.reader.read(condition, scores, free=guided)
        given = given.both() if guided else given

        def say(tokens: Tensor, masked: Tensor) -> tuple[Tensor, Tensor | None]:
            now = (tokens, masked, keep)
            if not guided:
                return self.said(*now, given), None
            one, other = self.said(*(torch.cat([each, each]) for each in now), given).chunk(2)
            return one, other

        tokens = fill(
            self.head, say, keep, rng=rng, purpose="maskgen", passes=sampling.passes, sampling=sampling,
            on_token=on_token,
        )  # fmt: skip
        return Codes(tokens, keep)
