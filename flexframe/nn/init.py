"""Weights of a model that has not been trained."""

from __future__ import annotations

import torch
from torch import nn


def redraw_zeros(module: nn.Module) -> int:
    """Draw parameters that are zero throughout from N(0, 0.02); returns how many. Frozen ones stay as they are."""
    drawn = 0
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad and not parameter.any():
                nn.init.normal_(parameter, std=0.02)
                drawn += 1
    return drawn
