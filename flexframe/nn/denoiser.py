"""The head of a prior of continuous tokens: a small network that denoises each token by itself, given what a trunk says
of it (Li et al., arXiv 2406.11838, section 3)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from flexframe.nn.denoiser_config import DenoisingConfig, DenoisingSampling
from flexframe.nn.diffusion import Diffusion, cosine_betas, evenly
from flexframe.nn.times import TimeEmbed
from flexframe.rng import Rng
from flexframe.tokens import prefix

END = 0.96
"""The time of a flow's last stochastic step; from there one step without noise goes to 1."""


class Layer(nn.Module):
    """A residual layer, modulated; its input is joined by what the trunk says, where that is so many wide."""

    def __init__(self, width: int, joined: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width + joined, width), nn.SiLU(), nn.Linear(width, width))
        self.modulation = nn.Linear(width, 3 * width)

    def forward(
        self, x: Float[Tensor, "n w"], by: Float[Tensor, "n w"], said: Float[Tensor, "n w"] | None
    ) -> Float[Tensor, "n w"]:
        shift, scale, gate = self.modulation(by).chunk(3, -1)
        h = self.norm(x) * (1 + scale) + shift
        h = h if said is None else torch.cat([h, said], -1)
        out: Tensor = x + gate * self.mlp(h)
        return out


class Denoiser(nn.Module):
    """See `DenoisingConfig`.

    Args:
        dim: values of a token.
        width: of the trunk.
    """

    def __init__(self, config: DenoisingConfig, dim: int, width: int) -> None:
        super().__init__()
        own = config.head_width
        self.config, self.dim = config, dim
        joined = own if config.condition == "joined" else 0
        self.time = TimeEmbed(own)
        self.said = nn.Linear(width, own)
        self.input = nn.Linear(dim, own)
        self.layers = nn.ModuleList(Layer(own, joined) for _ in range(config.head_depth))
        self.norm = nn.LayerNorm(own, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Linear(own, 2 * own)
        self.output = nn.Linear(own + joined, dim if config.process == "flow" else 2 * dim)
        self.diffusion = Diffusion(cosine_betas())
        self._init_weights()

    def _init_weights(self) -> None:
        """Xavier-uniform; time of deviation 0.02; modulations and the output zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for at in (0, 2):
            nn.init.normal_(cast("nn.Linear", self.time.mlp[at]).weight, std=0.02)
        for zero in (self.modulation, self.output, *(cast("Layer", each).modulation for each in self.layers)):
            nn.init.zeros_(zero.weight)

    def forward(
        self, x: Float[Tensor, "n d"], times: Float[Tensor, " n"], z: Float[Tensor, "n w"]
    ) -> Float[Tensor, "n o"]:
        """The noise and the share of its variance, or the velocity, of tokens `x` at `times`."""
        h, said = self.input(x), self.said(z)
        by = self.time(times)
        if self.config.condition == "added":
            by, said = by + said, None
        by = F.silu(by)
        for layer in self.layers:
            h = layer(h, by, said)
        shift, scale = self.modulation(by).chunk(2, -1)
        h = self.norm(h) * (1 + scale) + shift
        out: Tensor = self.output(h if said is None else torch.cat([h, said], -1))
        return out.float()

    # --- training ------------------------------------------------------------------------------------------------

    def losses(
        self, tokens: Float[Tensor, "b k d"], z: Float[Tensor, "b k w"], counted: Bool[Tensor, "b k"], rng: Rng
    ) -> dict[str, Float[Tensor, " b"]]:
        """Losses of these tokens, a value a sample: a mean over the copies of those that are `counted`."""
        shape = (self.config.repeats, tokens.shape[1])
        noise = rng.normal("head/noise", (*shape, self.dim)).flatten(0, 2)
        data = tokens.float()[:, None].expand(-1, shape[0], -1, -1).flatten(0, 2)
        said = z[:, None].expand(-1, shape[0], -1, -1).flatten(0, 2)
        if self.config.process == "flow":
            times = rng.uniform("head/time", shape).flatten()
            x = times[:, None] * data + (1 - times[:, None]) * noise
            errors = {"velocity": (self(x, times, said) - (data - noise)).square().mean(-1)}
        else:
            steps = rng.integers("head/time", len(self.diffusion), shape).flatten()
            x = self.diffusion.noised(data, noise, steps)
            predicted, share = self(x, steps.float(), said).chunk(2, -1)
            bound = self.diffusion.bound(data, x, predicted.detach(), share, steps)
            errors = {"noise": (predicted - noise).square().mean(-1), "variance": bound}
        weights = counted / counted.sum(1, keepdim=True)
        return {name: (error.unflatten(0, (-1, *shape)).mean(1) * weights).sum(1) for name, error in errors.items()}

    # --- use -----------------------------------------------------------------------------------------------------

    def draws(self, rng: Rng, purpose: str, tokens: int, sampling: DenoisingSampling) -> Float[Tensor, "b k s d"]:
        """Noise of so many tokens a row: where a chain begins, and what each step adds. A token's own does not hang on
        how many there are."""
        return rng.normal(purpose, (tokens, 1 + sampling.steps, self.dim))

    def sample(
        self,
        z: Float[Tensor, "n w"],
        free: Float[Tensor, "n w"] | None,
        scale: float | Float[Tensor, " n"],
        noise: Float[Tensor, "n s d"],
        sampling: DenoisingSampling,
    ) -> Float[Tensor, "n d"]:
        """Tokens by these draws.

        Args:
            z: what the trunk says of them.
            free: what it says without a condition, for guidance; none if None.
            scale: of guidance; 1 is none.
        """
        x, steps = noise[:, 0], noise[:, 1:] * sampling.temperature
        if free is not None and not isinstance(scale, float):
            scale = scale[:, None]
        if self.config.process == "flow":
            return self._flow(x, steps, z, free, scale, sampling.steps)
        process = Diffusion(cosine_betas(), evenly(sampling.steps))
        for i in reversed(range(len(process))):
            t = torch.full((len(x),), i, device=x.device)
            predicted, share = self._guided(x, process.steps.to(x.device)[t].float(), z, free, scale)
            data = process.data(x, predicted, t)
            if sampling.bound is not None:
                data = data.clamp(-sampling.bound, sampling.bound)
            mean, log_variance = process.posterior(data, x, t), process.log_variance(cast("Tensor", share), t)
            x = mean + (0.5 * log_variance).exp() * steps[:, len(process) - 1 - i] if i else mean
        return x

    def _flow(
        self,
        x: Float[Tensor, "n d"],
        steps: Float[Tensor, "n s d"],
        z: Tensor,
        free: Tensor | None,
        scale: float | Tensor,
        count: int,
    ) -> Float[Tensor, "n d"]:
        """Euler and Maruyama's method from noise at 0 to data at 1, with the noise's deviation as diffusion."""
        times = torch.linspace(0, END, count, device="cpu").tolist()
        width = END / (count - 1)
        for i, time in enumerate(times):
            velocity, _ = self._guided(x, torch.full((len(x),), time, device=x.device), z, free, scale)
            drift = velocity + time * velocity - x
            last = i == count - 1
            x = x + drift * (1 - END if last else width)
            x = x if last else x + math.sqrt(2 * (1 - time) * width) * steps[:, i]
        return x

    def _guided(
        self, x: Tensor, times: Tensor, z: Tensor, free: Tensor | None, scale: float | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """The prediction, guided; and the share of the variance, which is not, where there is one."""
        parts = (self.dim,) if self.config.process == "flow" else (self.dim, self.dim)
        if free is None:
            first, *rest = self(x, times, z).split(parts, -1)
            return first, rest[0] if rest else None
        out = self(x.repeat(2, 1), times.repeat(2), torch.cat([z, free]))
        first, *rest = out.split(parts, -1)
        given, other = first.chunk(2)
        return other + scale * (given - other), rest[0].chunk(2)[0] if rest else None


# --- drawing with a masked trunk -------------------------------------------------------------------------------------


def rank(keep: Bool[Tensor, "b k"], rng: Rng, purpose: str) -> Int[Tensor, "b k"]:
    """Each token's place in a random order of its row, in which those that are absent come last."""
    drawn = rng.uniform(purpose, (keep.shape[1],)).masked_fill(~keep, torch.inf)
    return drawn.argsort(dim=1, stable=True).argsort(dim=1)


def some(keep: Bool[Tensor, "b k"], share: Float[Tensor, " b"], rng: Rng, purpose: str) -> Bool[Tensor, "b k"]:
    """A share of each row's tokens, up to a whole number of them and at least one, anywhere among those present."""
    count = (keep.sum(1) * share).ceil().clamp(min=1)
    return (rank(keep, rng, purpose) < count[:, None]) & keep


def left_masked(lengths: Int[Tensor, " b"], masked: Int[Tensor, " b"], done: float) -> Int[Tensor, " b"]:
    """The number of each row's tokens that stay masked once a share `done` of the passes is behind.

    It falls along a quarter of a cosine: by one a pass at the least, to one until the last pass, and then to none.
    """
    if done >= 1:
        return torch.zeros_like(lengths)
    wanted = (lengths * math.cos(math.pi / 2 * done)).floor().long()
    return torch.minimum(masked - 1, wanted).clamp(min=1)


Say = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]
"""What a trunk says of tokens, of which some are masked; and the same without a condition, for guidance."""


def fill(
    head: Denoiser,
    say: Say,
    keep: Bool[Tensor, "b k"],
    *,
    rng: Rng,
    purpose: str,
    passes: int,
    sampling: DenoisingSampling,
    on_token: Callable[[int], None] | None = None,
) -> Float[Tensor, "b k d"]:
    """Draw all tokens that are kept, some in each pass, in an order of each row's own (arXiv 2406.11838, section 4.3).

    Args:
        purpose: begins the names of the draws.
        on_token: told how many passes are done.
    """
    lengths, masked = keep.sum(1), keep
    order = rank(keep, rng, f"{purpose}/sample")
    tokens = torch.zeros(*keep.shape, head.dim, device=keep.device)
    for step in range(passes):
        left = left_masked(lengths, masked.sum(1), (step + 1) / passes)
        drawn = masked & (order >= left[:, None])
        if drawn.any():  # there may be more passes than tokens
            own, free = say(tokens, masked)
            scale = torch.full(drawn.shape, sampling.guidance, device=keep.device)
            if sampling.guidance_schedule == "linear":
                shown = (1 - left.clamp(min=1) / lengths)[:, None]
                scale = (1 + (sampling.guidance - 1) * shown).expand(drawn.shape)
            counts = drawn.sum(1)
            noise = head.draws(rng, f"{purpose}/tokens.{step}", int(counts.max()), sampling)
            noise = noise[prefix(counts, noise.shape[1])]
            without = None if free is None else free[drawn]
            tokens[drawn] = head.sample(own[drawn], without, scale[drawn], noise, sampling)
            masked = masked & ~drawn
        if on_token is not None:
            on_token(step + 1)
    return tokens.masked_fill(~keep[..., None], 0)
