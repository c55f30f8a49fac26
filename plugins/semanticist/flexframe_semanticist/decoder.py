"""Semanticist's decoder (arXiv 2503.08685, section 3): a diffusion transformer over noised patches and tokens."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from flexframe.nn.ranges import Rescale
from flexframe.nn.times import TimeEmbed
from flexframe.nn.transformer import Attention
from flexframe.parts import Decoder, OnStep
from flexframe.rng import Rng
from flexframe.tokens import Batch, Condition, Outputs, Tokens
from flexframe_registry import SamplingConfig, Spec

from . import DDPMDecoderConfig, DDPMSampling
from .diffusion import process, taken


def grid_positions(rows: int, columns: int, width: int) -> Float[Tensor, "n width"]:
    """Sines and cosines of a grid's cells, row by row: a column's in the first half of the channels, then a row's."""
    omega = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    y, x = (torch.arange(count, dtype=torch.float64)[:, None] * omega for count in (rows, columns))
    y, x = (torch.cat([angle.sin(), angle.cos()], -1) for angle in (y, x))
    return torch.cat([x.repeat(rows, 1), y.repeat_interleave(columns, 0)], -1).float()


class ModulatedBlock(nn.Module):
    """A pre-norm block under adaLN-zero; chunks in DiT's order: shift, scale, gate of attention, then of the MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.attn = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))
        self.modulation = nn.Linear(width, 6 * width)

    def forward(
        self, x: Float[Tensor, "b n e"], time: Float[Tensor, "b e"], seen: Bool[Tensor, ...] | None
    ) -> Float[Tensor, "b n e"]:
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = self.modulation(time)[:, None].chunk(6, -1)
        x = x + gate * self.attn(self.norm(x) * (1 + scale) + shift, seen)
        return x + gate_mlp * self.mlp(self.norm(x) * (1 + scale_mlp) + shift_mlp)


class DDPMDecoder(Decoder):
    """Noise and its variance from noised latents, time and tokens.

    An absent token is the null condition of its place where training masks tokens, and is not there at all otherwise.
    """

    config: DDPMDecoderConfig

    def __init__(self, config: DDPMDecoderConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        width, channels, patch = config.width, spec.latents.channels, config.patch
        self.rescale = Rescale(spec.latents, (-1.0, 1.0))
        self.patches = nn.Conv2d(channels, width, patch, patch)
        self.from_tokens = nn.Linear(spec.tokens.dim, width)
        self.null = nn.Parameter(0.02 * torch.randn(spec.tokens.length, spec.tokens.dim))
        self.time = TimeEmbed(width)
        self.blocks = nn.ModuleList(ModulatedBlock(width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, 2 * channels * patch * patch)
        self.diffusion = process()
        self.initialise()

    def initialise(self) -> None:
        """Draw weights as DiT's are (arXiv 2212.09748): Xavier-uniform, modulations and head zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(module.weight.flatten(1))
                nn.init.zeros_(module.bias)
        for layer in (self.time.mlp[0], self.time.mlp[2]):
            nn.init.normal_(layer.weight, std=0.02)  # type: ignore[arg-type]
        for zero in (self.head, self.modulation, *(block.modulation for block in self.blocks)):
            nn.init.zeros_(zero.weight)  # type: ignore[arg-type]

    def adapt(self, state: Mapping[str, Tensor], spec: Spec) -> Mapping[str, Tensor]:
        """Tokens are ordered: a shorter sequence takes the first ones' null condition."""
        length = self.spec.tokens.length
        return {name: value[:length] if name == "null" else value for name, value in state.items()}

    # --- the network ---------------------------------------------------------------------------------------------

    def condition(self, tokens: Tokens, null: Bool[Tensor, " b"] | None = None) -> Float[Tensor, "b k d"]:
        """Token values as the network is given them, null where they are absent or the row is `null`."""
        values, slots = tokens.values, tokens.keep.shape[1]
        if self.spec.tokens.masked:
            values = torch.where(tokens.keep[..., None], values, self.null[:slots].to(values.dtype))
            rest = self.null[slots:].to(values.dtype).expand(len(values), -1, -1)
            values = torch.cat([values, rest], 1)
        if null is not None:
            values = torch.where(null[:, None, None], self.null[: values.shape[1]].to(values.dtype), values)
        return values

    def predict(
        self,
        x: Float[Tensor, "b c h w"],
        times: Int[Tensor, " b"],
        condition: Float[Tensor, "b k d"],
        keep: Bool[Tensor, "b _"],
        taps: frozenset[str] = frozenset(),
    ) -> tuple[Float[Tensor, "b 2*c h w"], dict[str, Tensor]]:
        """Noise and the share of its variance, and the patch features (`b y x e`) of the tapped blocks."""
        patches = self.embedded(x)
        count, rows = patches.shape[1], x.shape[2] // self.config.patch
        seen = None
        if not self.spec.tokens.masked:
            seen = F.pad(keep, (count, 0), value=True)[:, None, None]
        time = F.silu(self.time(times.float()))
        features: dict[str, Tensor] = {}
        h = torch.cat([patches, self.from_tokens(condition.to(self.from_tokens.weight.dtype)).to(patches.dtype)], 1)
        for i, block in enumerate(self.blocks):
            h = block(h, time, seen)
            if f"block.{i}" in taps:
                features[f"block.{i}"] = rearrange(h[:, :count], "b (y x) e -> b y x e", y=rows)
        shift, scale = self.modulation(time)[:, None].chunk(2, -1)
        out = self.head(self.norm(h[:, :count]) * (1 + scale) + shift)
        size = {"y": rows, "p": self.config.patch, "q": self.config.patch}
        return rearrange(out, "b (y x) (p q c) -> b c (y p) (x q)", **size), features

    def embedded(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n e"]:
        """Patches with positions, row by row."""
        cells: Tensor = self.patches(x)
        positions = grid_positions(*cells.shape[2:], self.config.width).to(cells)
        return cells.flatten(2).transpose(1, 2) + positions

    # --- training and use ----------------------------------------------------------------------------------------

    def forward(self, tokens: Tokens, batch: Batch, *, taps: frozenset[str], rng: Rng) -> Outputs:
        """Losses, a value a sample: `noise`, the squared error of the noise, and `variance`, the variational bound in
        bits a dimension, which teaches the variance alone.

        Raises:
            ValueError: a tap is unknown, or the batch has no latents.
        """
        self.check_taps(taps)
        if batch.latents is None:
            raise ValueError("the ddpm decoder trains on `batch.latents`, which this batch lacks")
        data = self.rescale(batch.latents)
        times, noise = rng.integers("decoder/time", len(self.diffusion)), rng.normal("decoder/noise", data.shape[1:])
        x = self.diffusion.noised(data, noise, times)
        out, features = self.predict(x, times, self.condition(tokens, self.dropped(rng)), tokens.keep, taps)
        predicted, share = out.float().chunk(2, 1)
        loss = (predicted - noise).square().mean((1, 2, 3))
        bound = self.diffusion.bound(data, x, predicted.detach(), share, times)
        return Outputs({"noise": loss, "variance": bound}, features=features)

    def dropped(self, rng: Rng) -> Bool[Tensor, " b"] | None:
        """Rows that training shows the null condition alone; None where there are none."""
        end = self.config.null_end
        if not self.training or not self.config.null_dropout or (end is not None and rng.step >= end):
            return None
        return rng.uniform("decoder/null") < self.config.null_dropout

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
        """Sample latents step by step from seeded noise. Guided rows and their null rows run in one batch.

        Raises:
            ValueError: a condition is given.
        """
        assert isinstance(sampling, DDPMSampling)
        if condition is not None:
            raise ValueError("the ddpm decoder is conditioned on tokens alone; pass no condition")
        shape = (self.spec.latents.channels, *size)
        x, steps = rng.normal("decoder/sample", shape), process(taken(sampling))
        guided = sampling.guidance != 1
        given, keep = self.condition(tokens), tokens.keep
        if guided:
            null = torch.ones(len(tokens), dtype=torch.bool, device=keep.device)
            given, keep = torch.cat([given, self.condition(tokens, null)]), keep.repeat(2, 1)
        for i in reversed(range(len(steps))):
            t = torch.full((len(tokens),), i, device=x.device)
            noise, share = self.guess(x, steps.steps.to(x.device)[t], given, keep, sampling.guidance)
            mean, log_variance = steps.step(x, noise, share, t)
            drawn = (0.5 * log_variance).exp() * rng.normal(f"decoder/sample/{i}", shape) if i else 0
            x = mean + drawn
            if on_step is not None:
                on_step(len(steps) - i, len(steps))
        return self.rescale.inverse(x)

    def guess(
        self, x: Tensor, times: Tensor, given: Tensor, keep: Tensor, guidance: float
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
        """Noise, guided where null rows stand behind the others in `given`, and the unguided share of its variance."""
        if len(given) == len(x):
            noise, share = self.predict(x, times, given, keep)[0].float().chunk(2, 1)
            return noise, share
        out = self.predict(x.repeat(2, 1, 1, 1), times.repeat(2), given, keep)[0].float()
        (noise, null), (share, _) = (part.chunk(2) for part in out.chunk(2, 1))
        return null + guidance * (noise - null), share
