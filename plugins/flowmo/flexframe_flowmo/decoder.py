"""FlowMo's decoder (arXiv 2503.11056, section 3): a rectified flow of pixels that reads tokens beside it."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from flexframe.nn.ranges import Rescale
from flexframe.nn.times import TimeEmbed
from flexframe.parts import Decoder, OnStep
from flexframe.rng import Rng
from flexframe.tokens import Batch, Condition, Flow, Outputs, Tokens
from flexframe_registry import SamplingConfig, Spec

from . import MMDiTDecoderConfig, MMDiTSampling
from .blocks import JointBlock, hold_norms, patched, turns_of


class MMDiTDecoder(Decoder):
    """Velocity from noised latents, time and tokens, at any size that the patches divide."""

    config: MMDiTDecoderConfig

    def __init__(self, config: MMDiTDecoderConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        width, values, last = config.width, spec.latents.channels * config.patch**2, config.depth - 1
        self.rescale = Rescale(spec.latents, (-1.0, 1.0))
        self.patches = nn.Linear(values, width)
        self.from_tokens = nn.Linear(spec.tokens.dim + 1, width)
        self.time = TimeEmbed(width)
        self.blocks = nn.ModuleList(
            JointBlock(width, config.heads, modulated=True, ends="tokens" if i == last else None)
            for i in range(config.depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, values)

    # --- the network ---------------------------------------------------------------------------------------------

    def condition(self, tokens: Tokens, null: Bool[Tensor, " b"] | None = None) -> Float[Tensor, "b k d"]:
        """Values of all `length` tokens and a mark, 1; all zeros where one is absent or the row is `null`."""
        present = tokens.keep if null is None else tokens.keep & ~null[:, None]
        values = torch.where(present[..., None], tokens.values, 0)
        marked = torch.cat([values, present[..., None].to(values.dtype)], -1)
        return F.pad(marked, (0, 0, 0, self.spec.tokens.length - marked.shape[1]))

    def velocity(
        self,
        x: Float[Tensor, "b c h w"],
        times: Float[Tensor, " b"],
        condition: Float[Tensor, "b k d"],
        taps: frozenset[str] = frozenset(),
    ) -> tuple[Float[Tensor, "b c h w"], dict[str, Tensor]]:
        """Velocity at x, and the patch features (`b y x e`) of the tapped blocks."""
        size, rows = self.config.patch, x.shape[2] // self.config.patch
        patches = self.patches(patched(x, size))
        tokens = self.from_tokens(condition.to(self.from_tokens.weight.dtype))
        turns = turns_of(self.config, tokens.shape[1], (rows, x.shape[3] // size), x.device)
        time = F.silu(self.time(1000 * times))
        features: dict[str, Tensor] = {}
        for i, block in enumerate(self.blocks):
            tokens, patches = block(tokens, patches, turns, time)
            if f"block.{i}" in taps:
                features[f"block.{i}"] = rearrange(patches, "b (y x) e -> b y x e", y=rows)
        shift, scale = self.modulation(time)[:, None].chunk(2, -1)
        out = self.head(self.norm(self.norm(patches) * (1 + scale) + shift))  # twice, as the reference does
        return rearrange(out, "b (y x) (p q c) -> b c (y p) (x q)", y=rows, p=size, q=size), features

    # --- training and use ----------------------------------------------------------------------------------------

    def forward(self, tokens: Tokens, batch: Batch, *, taps: frozenset[str], rng: Rng) -> Outputs:
        """Loss `flow`: mean squared error of the velocity, a value a sample; and a reconstruction, by `chain`.

        Raises:
            ValueError: a tap is unknown, or the batch has no latents.
        """
        self.check_taps(taps)
        if batch.latents is None:
            raise ValueError("the mmdit decoder trains on `batch.latents`, which this batch lacks")
        data = self.rescale(batch.latents)
        times, noise = self.times(rng), rng.normal("decoder/noise", data.shape[1:])
        null = None
        if self.training and self.config.null_dropout:
            null = rng.uniform("decoder/null") <= self.config.null_dropout
        t = times[:, None, None, None]
        x = (1 - t) * data + t * noise
        velocity, features = self.velocity(x, times, self.condition(tokens, null), taps)
        loss = (velocity.float() - (noise - data)).square().mean((1, 2, 3))
        found = x - t * velocity.float() if self.config.chain is None else self.chained(tokens, data.shape[1:], rng)
        return Outputs({"flow": loss}, reconstruction=self.rescale.inverse(found), features=features)

    def times(self, rng: Rng) -> Float[Tensor, " b"]:
        """One training time a sample."""
        even = rng.uniform("decoder/even") > 1 - self.config.uniform_times
        return torch.where(even, rng.uniform("decoder/uniform-time"), torch.sigmoid(rng.normal("decoder/time")))

    def chained(self, tokens: Tokens, shape: torch.Size, rng: Rng) -> Float[Tensor, "b c h w"]:
        """Data at the end of `chain` steps of random lengths; the gradient keeps their states alone, no activations."""
        assert self.config.chain is not None
        sums = rng.uniform("decoder/chain", (self.config.chain + 1,)).cumsum(1)
        times = ((sums - sums[:, :1]) / (sums[:, -1:] - sums[:, :1])).flip(1)
        condition, x = self.condition(tokens), rng.normal("decoder/chain-noise", shape)

        def step(x: Tensor, t: Tensor, end: Tensor) -> Tensor:
            return x - (t - end)[:, None, None, None] * self.velocity(x, t, condition)[0].float()

        for t, end in itertools.pairwise(times.unbind(1)):
            x = checkpoint(step, x, t, end, use_reentrant=False)
        return x

    def decode(
        self,
        tokens: Tokens,
        *,
        condition: Condition | None,
        size: tuple[int, int],
        rng: Rng,
        sampling: SamplingConfig,
        on_step: OnStep | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """Integrate the flow from seeded noise. Guided rows and their null rows run in one batch.

        Raises:
            ValueError: a condition is given, or the patches do not divide the size.
        """
        assert isinstance(sampling, MMDiTSampling)
        if condition is not None:
            raise ValueError("the mmdit decoder is conditioned on tokens alone; pass no condition")
        x, times = rng.normal("decoder/sample", (self.spec.latents.channels, *size)), sampling.times()
        given, null = self.condition(tokens), torch.ones(len(tokens), dtype=torch.bool, device=tokens.device)
        both = torch.cat([given, self.condition(tokens, null)])
        for i, (t, end) in enumerate(itertools.pairwise(times), 1):
            x = x - (t - end) * self.guided(x, t, given, both, sampling.scale(t))
            if on_step is not None:
                on_step(i, sampling.steps)
        return self.rescale.inverse(x)

    def flow(self, tokens: Tokens, sampling: SamplingConfig | None = None) -> Flow:
        """The flow under these tokens; of the settings, guidance and its interval alone count."""
        assert sampling is None or isinstance(sampling, MMDiTSampling)
        given, null = self.condition(tokens), torch.ones(len(tokens), dtype=torch.bool, device=tokens.device)

        def velocity(x: Tensor, times: Tensor, strides: Tensor) -> Tensor:
            found = self.velocity(x, times, given)[0].float()
            if sampling is None or sampling.guidance == 1:
                return found
            unguided = self.velocity(x, times, self.condition(tokens, null))[0].float()
            within = (sampling.interval[0] <= times) & (times <= sampling.interval[1])
            scales = torch.where(within, sampling.guidance, 1.0)[:, None, None, None]
            return unguided + scales * (found - unguided)

        return Flow(velocity, self.rescale)

    def guided(self, x: Tensor, t: float, given: Tensor, both: Tensor, scale: float) -> Float[Tensor, "b c h w"]:
        """Velocity at a time of all rows; `both` are the rows of `given`, and their null rows behind them."""
        if scale == 1:
            return self.velocity(x, x.new_full((len(x),), t), given)[0].float()
        velocity = self.velocity(x.repeat(2, 1, 1, 1), x.new_full((2 * len(x),), t), both)[0].float()
        conditional, unconditional = velocity.chunk(2)
        return unconditional + scale * (conditional - unconditional)

    def before_step(self) -> Callable[[], None] | None:
        return hold_norms(self.blocks) if self.config.fixed_norms else None
