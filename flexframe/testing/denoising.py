"""Golden cases of heads that denoise tokens: what published code keeps of a chain, as ours takes it."""

from __future__ import annotations

import torch
from torch import Tensor

from flexframe.nn.denoiser import Denoiser


def chain(head: Denoiser, first: Tensor, steps: Tensor) -> tuple[Tensor, int]:
    """A chain's noise as a head takes it, and the steps that it is of.

    Args:
        first: where chains begin, `n d`.
        steps: what steps added, `s n d`; of guidance's null rows behind the others, too, which nothing uses.
    """
    noise = torch.cat([first[None], steps[:, : len(first)]]).transpose(0, 1)
    if head.config.process == "diffusion":
        return noise, len(steps)
    return torch.cat([noise, torch.zeros_like(noise[:, :1])], 1), len(steps) + 1  # the last step adds none


def guided_output(head: Denoiser, x: Tensor, times: Tensor, z: Tensor, free: Tensor, scale: float) -> Tensor:
    """Output of published code for rows and their null rows together: the guided part twice, the rest of each."""
    both = head(x.repeat(2, 1), times.repeat(2), torch.cat([z, free]))
    guided, rest = both[:, : head.dim], both[:, head.dim :]
    given, other = guided.chunk(2)
    return torch.cat([(other + scale * (given - other)).repeat(2, 1), rest], 1)
