"""FlexTok's decoder (arXiv 2502.13967, section 3): a rectified-flow transformer over noised patches and tokens."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from flexframe.nn.ranges import Rescale
from flexframe.parts import Decoder, OnStep
from flexframe.rng import Rng
from flexframe.tokens import Batch, Condition, Flow, Outputs, Tokens
from flexframe_registry import SamplingConfig, Spec

from . import FlowDecoderConfig, FlowSampling
from .blocks import LayerNorm, ModulatedBlock, PatchEmbed, linear
from .flow import Guidance, draw_times, integrate


class TimeEmbed(nn.Module):
    """Times to a vector: 128 frequencies from 1000/max_timestep down to 1/256 of it, then an MLP."""

    frequencies: Tensor

    def __init__(self, width: int, max_timestep: float) -> None:
        super().__init__()
        frequencies = (1000 / max_timestep) * torch.exp(-math.log(256) * torch.arange(128) / 128)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.mlp = nn.Sequential(linear(256, width), nn.SiLU(), linear(width, width))

    def sinusoid(self, times: Float[Tensor, " b"]) -> Float[Tensor, "b 256"]:
        """Cosines and sines of the scaled times, the MLP's input."""
        angle = times.float()[:, None] * self.frequencies.float()
        return torch.cat([angle.cos(), angle.sin()], -1)

    def forward(self, times: Float[Tensor, " b"]) -> Float[Tensor, "b e"]:
        return self.mlp(self.sinusoid(times))


class Head(nn.Module):
    """Norm, modulation (chunks: shift, scale), and a linear map to patches; starts at zero."""

    def __init__(self, width: int, channels: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.norm = LayerNorm()
        self.modulation = linear(width, 2 * width, zero=True)
        self.proj = linear(width, channels * patch * patch, zero=True)

    def forward(self, x: Float[Tensor, "b n e"], time: Float[Tensor, "b e"], rows: int) -> Float[Tensor, "b c y x"]:
        shift, scale = self.modulation(time)[:, None].chunk(2, -1)
        patches = self.proj(self.norm(x) * (1 + scale) + shift)
        return rearrange(patches, "b (y x) (p q c) -> b c (y p) (x q)", y=rows, p=self.patch, q=self.patch)


NONE: frozenset[str] = frozenset()
"""Taps where nobody asks for features."""
STAND_INS = 4
"""So many equal registers stand for all that no token was given for (docs/adr/0016)."""
SPARED = 2
"""Null rows are computed apart where that spares one register for so many patches: with fewer, one batch is faster."""
Pair = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Velocities with and without tokens, at x and each row's time."""


@functools.cache
def log_shares(count: int) -> tuple[float, ...]:
    """Numbers, exact in bf16, whose exponentials add up to `count` (to 1e-6 of it).

    Added to the logits of as many equal keys, they make softmax weigh these as `count` keys.
    """
    rest, shares = float(count), []
    for i in range(STAND_INS):
        share = torch.tensor(math.log(rest)).bfloat16()
        if i < STAND_INS - 1 and math.exp(share) >= rest:  # from below, so that something is left for the others
            share = torch.nextafter(share, torch.tensor(-math.inf).bfloat16())
        shares.append(share.item())
        rest -= math.exp(shares[-1])
    return tuple(shares)


class FlowDecoder(Decoder):
    """Velocity from noised latents, time and tokens. Absent tokens are a mask token, or are not there at all."""

    def __init__(self, config: FlowDecoderConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        latents, tokens, width = spec.latents, spec.tokens, config.width
        grid = (latents.height // config.patch, latents.width // config.patch)
        self.rescale = Rescale(latents, (-1.0, 1.0))
        self.from_tokens = linear(tokens.dim, width)
        self.positions = nn.Parameter(nn.init.trunc_normal_(torch.empty(tokens.length, width), std=0.02))
        self.null_condition = nn.Parameter(nn.init.trunc_normal_(torch.empty(width), std=0.02))
        if tokens.masked:
            self.mask_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(width), std=0.02))
        stretch = config.positions == "interpolate"
        self.patches = PatchEmbed(latents.channels, width, config.patch, grid, stretch=stretch, table=config.grid)
        self.time = TimeEmbed(width, config.max_timestep)
        self.stride = linear(256, width, zero=True) if config.strides else None
        self.blocks = nn.ModuleList(ModulatedBlock(width, config.head_dim) for _ in range(config.depth))
        self.head = Head(width, latents.channels, config.patch)

    # --- the network ---------------------------------------------------------------------------------------------

    def registers(self, tokens: Tokens, null: Bool[Tensor, " b"] | None) -> Float[Tensor, "b k e"]:
        """Tokens as the trunk sees them; with a mask token, more follow in place of the slots up to `length`.

        A register that stands for an absent token has no position, so all of them are equal, and stay so in every
        block. No more than `STAND_INS` are computed; `velocity` gives them the weight of all.
        """
        slots = tokens.keep.shape[1]
        x = self.from_tokens(tokens.values.to(self.from_tokens.weight.dtype)) + self.positions[:slots]
        if self.spec.tokens.masked:
            # replaced after the positions were added: a masked slot carries no position of its own
            x = torch.where(tokens.keep[..., None], x, self.mask_token.to(x.dtype))
            missing = min(self.spec.tokens.length - slots, STAND_INS)
            x = torch.cat([x, self.mask_token.to(x.dtype).expand(len(x), missing, -1)], 1)
        if null is not None:
            x = torch.where(null[:, None, None], self.null_condition.to(x.dtype), x)
        return x

    def velocity(
        self,
        x: Float[Tensor, "b c h w"],
        times: Float[Tensor, " b"],
        registers: Float[Tensor, "b k e"],
        keep: Bool[Tensor, "b _"],
        taps: frozenset[str] = frozenset(),
        null: Bool[Tensor, " b"] | None = None,
        strides: Float[Tensor, " b"] | None = None,
    ) -> tuple[Float[Tensor, "b c h w"], dict[str, Tensor]]:
        """Velocity at x, for steps of these lengths if told, and the patch features (`b y x e`) of tapped blocks."""
        patches = self.patches(x)
        split, rows = patches.shape[1], x.shape[2] // self.config.patch
        mask = self._mask(registers, keep, null, split)
        time = self.time(times)
        if self.stride is not None and strides is not None:
            time = time + self.stride(self.time.sinusoid(strides))
        time = F.silu(time)
        features: dict[str, Tensor] = {}
        h = torch.cat([patches, registers.to(patches.dtype)], 1)
        for i, block in enumerate(self.blocks):
            h = block(h, time, split, mask)
            if f"block.{i}" in taps:
                features[f"block.{i}"] = rearrange(h[:, :split], "b (y x) e -> b y x e", y=rows)
        return self.head(h[:, :split], time, rows), features

    def _mask(self, registers: Tensor, keep: Tensor, null: Tensor | None, split: int) -> Tensor | None:
        """A bias of attention's logits, or the keys that it sees; None where it sees all, and each as one."""
        seen = self._seen(registers, keep, null)
        given = keep.shape[1]
        missing = self.spec.tokens.length - given
        if not given < registers.shape[1] < given + missing:  # none is absent, or each stands for itself
            return None if seen is None else F.pad(seen, (split, 0), value=True)[:, None, None]
        bias = registers.new_zeros(1, split + registers.shape[1])
        for i, share in enumerate(log_shares(missing)):
            bias[:, split + given + i] = share
        if seen is not None:
            bias = bias.masked_fill(~F.pad(seen, (split, 0), value=True), -math.inf)
        return bias[:, None, None]

    def _seen(self, registers: Tensor, keep: Tensor, null: Tensor | None) -> Bool[Tensor, "b k"] | None:
        """The registers that attention sees; None where it sees all."""
        seen = None if self.spec.tokens.masked else keep
        if null is None or not self.config.single_null:
            return seen
        first = torch.arange(registers.shape[1], device=registers.device) == 0
        return torch.where(null[:, None], first, torch.ones_like(first) if seen is None else seen)

    def adapt(self, state: Mapping[str, Tensor], spec: Spec) -> Mapping[str, Tensor]:
        """Tokens are ordered: a shorter sequence takes the first ones' positions."""
        length = self.spec.tokens.length
        return {name: value[:length] if name == "positions" else value for name, value in state.items()}

    def times(self, rng: Rng) -> Float[Tensor, " b"]:
        """One training time a sample."""
        return draw_times(self.config.time_sampling, self.config.mode_scale, rng)

    # --- training and use ----------------------------------------------------------------------------------------

    def forward(self, tokens: Tokens, batch: Batch, *, taps: frozenset[str], rng: Rng) -> Outputs:
        """Loss `flow`: mean squared error of the velocity, a value a sample.

        Raises:
            ValueError: a tap is unknown, or the batch has no latents.
        """
        self.check_taps(taps)
        if batch.latents is None:
            raise ValueError("the flow decoder trains on `batch.latents`, which this batch lacks")
        data = self.rescale(batch.latents)
        times = self.times(rng)
        noise = rng.normal("decoder/noise", data.shape[1:])
        null = rng.uniform("decoder/null") < self.config.null_dropout if self.config.null_dropout else None
        t = times[:, None, None, None]
        registers = self.registers(tokens, null)
        velocity, features = self.velocity(t * noise + (1 - t) * data, times, registers, tokens.keep, taps, null)
        loss = (velocity.float() - (noise - data)).square().mean((1, 2, 3))
        return Outputs({"flow": loss}, features=features)

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
        """Integrate the flow from seeded noise.

        Raises:
            ValueError: a condition is given.
        """
        assert isinstance(sampling, FlowSampling)
        if condition is not None:
            raise ValueError("the flow decoder is conditioned on tokens alone; pass no condition")
        noise = rng.normal("decoder/sample", (self.spec.latents.channels, *size))
        return self.rescale.inverse(self.integrate(tokens, noise, sampling, on_step))

    def integrate(
        self,
        tokens: Tokens,
        noise: Float[Tensor, "b c h w"],
        sampling: FlowSampling,
        on_step: OnStep | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """Integrate the flow from noise to data in the decoder's own range."""
        guidance, conditional = Guidance(sampling), self.registers(tokens, None)
        pair = self._pair(tokens, conditional, noise)
        lengths = dict(zip(sampling.knots(), sampling.paces(), strict=False))

        def velocity(x: Tensor, t: float) -> Tensor:
            scale, times = sampling.scale(t), x.new_full((len(x),), t)
            if scale == 1:
                strides = x.new_full((len(x),), 1 / lengths[t]) if t in lengths else None
                return self.velocity(x, times, conditional, tokens.keep, NONE, None, strides)[0]
            guided, unguided = pair(x, times)
            return guidance(guided.float(), unguided.float(), scale)

        return integrate(velocity, noise, sampling, on_step)

    def flow(self, tokens: Tokens, sampling: SamplingConfig | None = None) -> Flow:
        """The flow under these tokens; of the settings, guidance alone counts.

        Raises:
            ValueError: adaptive projected guidance, which hangs on the evaluations before.
        """
        assert sampling is None or isinstance(sampling, FlowSampling)
        if sampling is not None and sampling.apg:
            raise ValueError("the flow under `apg` hangs on the steps before, and is no velocity; set apg: false")

        def velocity(x: Tensor, times: Tensor, strides: Tensor) -> Tensor:
            conditional = self.registers(tokens, None)
            if sampling is None or sampling.guidance == 1:
                return self.velocity(x, times, conditional, tokens.keep, NONE, None, strides)[0].float()
            guided, unguided = (v.float() for v in self._pair(tokens, conditional, x)(x, times))
            if not isinstance(sampling.guidance, tuple):
                return unguided + sampling.guidance * (guided - unguided)
            scales = x.new_tensor([sampling.scale(t) for t in times.tolist()])
            return unguided + scales[:, None, None, None] * (guided - unguided)

        return Flow(velocity, self.rescale)

    def _pair(self, tokens: Tokens, conditional: Tensor, x: Tensor) -> Pair:
        return self._apart(tokens, conditional) if self._few(conditional, x) else self._together(tokens, conditional)

    def _few(self, conditional: Tensor, noise: Tensor) -> bool:
        """Whether null rows by themselves, of a few registers for all, take less than in one batch with the others."""
        patches = noise.shape[2] * noise.shape[3] // self.config.patch**2
        spared = conditional.shape[1] - STAND_INS
        return self.spec.tokens.masked and not self.config.single_null and spared * SPARED >= patches

    def _together(self, tokens: Tokens, conditional: Tensor) -> Pair:
        """Rows of tokens and null rows in one batch."""
        batch = len(tokens)
        nulls = torch.arange(2 * batch, device=tokens.keep.device) >= batch
        both = torch.cat([conditional, self.registers(tokens, nulls[batch:])])
        keep = tokens.keep.repeat(2, 1)

        def pair(x: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
            velocities, _ = self.velocity(x.repeat(2, 1, 1, 1), times.repeat(2), both, keep, frozenset(), nulls)
            guided, unguided = velocities.chunk(2)
            return guided, unguided

        return pair

    def _apart(self, tokens: Tokens, conditional: Tensor) -> Pair:
        """Rows of tokens, then null rows, whose registers are all equal, by those that stand for all."""
        count = min(self.spec.tokens.length, STAND_INS)
        nulls = self.null_condition.to(conditional.dtype).expand(len(tokens), count, -1)
        none = tokens.keep[:, :0]

        def pair(x: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
            guided = self.velocity(x, times, conditional, tokens.keep)[0]
            return guided, self.velocity(x, times, nulls, none)[0]

        return pair
