"""An opponent: it learns to tell images from reconstructions, the model learns not to be told. Hinge losses.

One forward holds both terms: the model's, through a critic that is frozen for it, and the critic's, on reconstructions
that are detached. So one backward pass gives each its gradient, and the training loop needs no branch. All of it is in
fp32 whatever the run's precision, as TiTok's second stage has it.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from flexframe.parts import Objective
from flexframe.rng import Rng
from flexframe.tokens import Batch, Losses, Outputs
from flexframe_registry import Config, Spec

from . import AdversarialConfig, BlurredCriticConfig, PatchCriticConfig
from .networks import full_precision
from .perceptual import pictures

GROUPS = 32


class Blur(nn.Module):
    """Halving behind a fixed [1 3 3 1] filter along each axis, so that it does not alias; the edge is zero."""

    kernel: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        line = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("kernel", (line[:, None] * line).expand(channels, 1, 4, 4).contiguous(), persistent=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c y x"]:
        down, right = (size % 2 for size in x.shape[2:])  # an odd side has its cell more behind
        padded = F.pad(x, (1, 1 + right, 1, 1 + down))
        return F.conv2d(padded, self.kernel.to(x.dtype), stride=2, groups=x.shape[1])


class BlurredCritic(nn.Sequential):
    """See `BlurredCriticConfig`. Images in [0, 1] to verdicts `b 1 grid grid`; norms see one image at a time."""

    def __init__(self, config: BlurredCriticConfig) -> None:
        widths = [config.hidden, *(config.hidden * m for m in config.multipliers)]
        layers: list[nn.Module] = [nn.Conv2d(3, config.hidden, 5, padding=2), nn.LeakyReLU(0.1)]
        for before, after in itertools.pairwise(widths):
            layers += [
                nn.Conv2d(before, after, 3, padding=1),
                Blur(after),
                nn.GroupNorm(GROUPS, after),
                nn.LeakyReLU(0.1),
            ]
        last = widths[-1]
        layers += [nn.AdaptiveMaxPool2d(config.grid), nn.Conv2d(last, last, 1), nn.LeakyReLU(0.1)]
        super().__init__(*layers, nn.Conv2d(last, 1, 5, padding=2))


class PatchCritic(nn.Sequential):
    """See `PatchCriticConfig`. Images in [0, 1] to a verdict on each of many overlapping patches."""

    def __init__(self, config: PatchCriticConfig) -> None:
        widths = [config.hidden * m for m in config.multipliers]
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for i, (before, after) in enumerate(zip(widths, [*widths[1:], 2 * widths[-1]], strict=True)):
            stride = 1 if i == len(widths) - 1 else 2
            layers += [nn.Conv2d(before, after, 4, stride=stride, padding=1), nn.GroupNorm(GROUPS, after)]
            layers.append(nn.LeakyReLU(0.2))
        super().__init__(*layers, nn.Conv2d(2 * widths[-1], 1, 4, padding=1))


CRITICS: dict[type[Config], type[Any]] = {BlurredCriticConfig: BlurredCritic, PatchCriticConfig: PatchCritic}


class _Mean(torch.autograd.Function):
    """The mean of one number over all processes, with its gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:  # type: ignore[override]
        return _over_processes(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return _over_processes(gradient)


def _over_processes(value: Tensor) -> Tensor:
    if not dist.is_available() or not dist.is_initialized():
        return value.clone()
    whole = value.clone()
    dist.all_reduce(whole)
    return whole / dist.get_world_size()


class LeCam(nn.Module):
    """Distance of the critic's mean verdicts beyond the running means of the other side's.

    The running means move once a step, by the verdicts on the whole batch: those of its parts are kept until the next
    step begins. They are state of the run and in its checkpoints.
    """

    means: Tensor
    pending: Tensor

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("means", torch.zeros(2))
        self.register_buffer("pending", torch.zeros(3))
        self._step: int | None = None

    def forward(self, real: Float[Tensor, " b"], fake: Float[Tensor, " b"], step: int) -> Float[Tensor, ""]:
        """Each image's mean verdict to a number for the batch, before the means have moved by it."""
        if self.training and step != self._step:
            self._move()
            self._step = step
        here = _Mean.apply(torch.stack([real.mean(), fake.mean()]))
        if self.training:
            with torch.no_grad():
                self.pending += torch.cat([here.detach(), here.new_ones(1)])
        return F.relu(here[0] - self.means[1]).square() + F.relu(self.means[0] - here[1]).square()

    @torch.no_grad()
    def _move(self) -> None:
        count = self.pending[2]
        moved = torch.lerp(self.means, self.pending[:2] / count.clamp(min=1), 1 - self.decay)
        # verdicts that are not finite stop the run, or its step is skipped; the means must not keep them
        self.means.copy_(torch.where((count > 0) & moved.isfinite().all(), moved, self.means))
        self.pending.zero_()


class Adversarial(Objective):
    """See `AdversarialConfig`. Losses: `model`; of the critic alone, `critic` and `lecam`, of the batch, a number."""

    own = frozenset({"critic", "lecam"})
    config: AdversarialConfig

    def __init__(self, config: AdversarialConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.critic = CRITICS[type(config.critic)](config.critic)
        self.lecam = LeCam(config.lecam_decay) if config.lecam else None

    @full_precision
    def forward(self, outputs: Outputs, batch: Batch, *, step: int, rng: Rng) -> Losses:
        real, fake = pictures(outputs, batch, self.config.of)
        frozen = {name: value.detach() for name, value in self.critic.named_parameters()}
        told = functional_call(self.critic, frozen, (fake,))
        verdicts = self.critic(torch.cat([real, fake.detach()]))
        on_real, on_fake = verdicts.chunk(2)
        hinge = 0.5 * (F.relu(1 - on_real) + F.relu(1 + on_fake))
        losses = {"model": -told.mean((1, 2, 3)), "critic": hinge.mean((1, 2, 3))}
        if self.lecam is not None:
            distance = self.lecam(on_real.mean((1, 2, 3)), on_fake.mean((1, 2, 3)), step)
            losses["lecam"] = self.config.lecam * distance
        return losses
