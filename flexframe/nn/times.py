"""The time of a diffusion or a flow as a vector."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

FREQUENCIES = 128
"""Frequencies of a time's sinusoid, from 1 down to nearly 1/10000."""


def sinusoid(times: Float[Tensor, " b"]) -> Float[Tensor, "b 256"]:
    """Cosines, then sines, of times at all frequencies."""
    steps = torch.arange(FREQUENCIES, dtype=torch.float32, device=times.device)
    angle = times[:, None].float() * torch.exp(-math.log(10000) * steps / FREQUENCIES)
    return torch.cat([angle.cos(), angle.sin()], -1)


class TimeEmbed(nn.Module):
    """Times to a vector, through their sinusoid. It tells apart times that lie about 1 from each other."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, times: Float[Tensor, " b"]) -> Float[Tensor, "b e"]:
        embedded: Tensor = self.mlp(sinusoid(times).to(next(self.mlp.parameters()).dtype))
        return embedded
