"""Checks of optimizers."""

from __future__ import annotations

import copy
import io
from importlib.util import find_spec

import torch
from torch import nn

from flexframe.train.optim import Group
from flexframe_registry import Component

from .materials import Check, Fields, close, draw, tiny

STEPS = 40


def stepped(optimizer: torch.optim.Optimizer, layer: nn.Linear, steps: int) -> float:
    """Steps towards a linear map; the mean squared error before the last one."""
    x = draw(64, 4)
    target = x @ draw(4, 3, seed=1) + 1
    loss = torch.zeros(())
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (layer(x) - target).square().mean()
        torch.autograd.backward(loss)
        optimizer.step()
    return float(loss.detach())


def check_optimizer(component: Component, fields: Fields) -> None:
    """A loss falls, what the loop reads is in each group, and a saved state steps on as if it had not been saved.

    One whose packages are not installed is asked for nothing.
    """
    config = tiny(component, {"lr": 0.02, **fields})
    if not all(find_spec(package) for package in config.packages):
        return

    def create(layer: nn.Linear) -> torch.optim.Optimizer:
        weight, bias = layer.parameters()
        groups = [
            Group([weight], True, 0.0, 1.0, 0, None),
            Group([bias], False, 0.0, 0.5, 3, None),
        ]
        made: torch.optim.Optimizer = component.load()(config).create(groups, fused=False)
        return made

    torch.manual_seed(0)
    layer = nn.Linear(4, 3)
    optimizer = create(layer)
    told = sorted((group["scale"], group["start"]) for group in optimizer.param_groups)
    assert told == [(0.5, 3), (1.0, 0)], f"groups lack the `scale` and `start` of their entries: {told}"
    first = stepped(optimizer, layer, 1)
    assert stepped(optimizer, layer, STEPS) < 0.9 * first, "the loss does not fall"
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    other = copy.deepcopy(layer)
    resumed = create(other)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    stepped(optimizer, layer, 2)
    stepped(resumed, other, 2)
    close(dict(other.state_dict()), dict(layer.state_dict()))


CHECKS: tuple[Check, ...] = (check_optimizer,)
