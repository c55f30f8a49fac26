"""Weights of a model that has not been trained."""

from __future__ import annotations

import torch
from torch import nn


def redraw_zeros(module: nn.Module) -> int:
    """Draw entries that are zero from N(0, 0.02): of parameters that are zero throughout, or in part, as gates in a
    larger matrix are. Frozen ones stay as they are; returns how many parameters it changed."""
    changed = 0
    with torch.no_grad():
        for parameter in module.parameters():
            zero = parameter == 0
            if parameter.requires_grad and zero.any():
                parameter.copy_(torch.where(zero, nn.init.normal_(torch.empty_like(parameter), std=0.02), parameter))
                changed += 1
    return changed
