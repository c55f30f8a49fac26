"""Checks of objectives."""

from __future__ import annotations

import torch
from torch import Tensor

from flexframe.tokens import Batch, Flow, Outputs, Tokens
from flexframe_registry import Component, TargetSpec
from flexframe_registry.kinds import OUTPUTS

from . import part
from .materials import BATCH, CODES, TAP, Check, Fields, a_value_a_sample, build, draw, images, own_draws, rng, scalar

GRID = 4, 4
"""Rows and columns of logits and of features."""


def made_up(name: str, target: TargetSpec) -> Tensor:
    """A batch of values such as would have been computed before training."""
    if target.below is None:
        return rng().normal(name, target.shape)
    return rng().integers(name, target.below, target.shape)


def check_objective(component: Component, fields: Fields) -> None:
    """A finite value a sample, with a gradient, from the outputs and the targets that it says it needs."""
    objective, spec = build(component, fields)
    needs = objective.config.needs()
    reconstruction = images().requires_grad_() if "reconstruction" in needs else None
    logits = draw(BATCH, CODES, *GRID).requires_grad_() if "logits" in needs else None
    features = {n: draw(BATCH, *GRID, TAP, seed=i).requires_grad_() for i, n in enumerate(sorted(needs - OUTPUTS))}
    values = draw(BATCH, spec.tokens.length, spec.tokens.dim).requires_grad_() if "tokens" in needs else None
    present = torch.ones(BATCH, spec.tokens.length, dtype=torch.bool)
    tokens = None if values is None else Tokens(values, present, values.detach())
    speed = torch.ones(()).requires_grad_() if "flow" in needs else None
    flow = None if speed is None else Flow(lambda x, times, strides: speed * x, lambda latents: latents)
    targets = {name: made_up(name, target) for name, target in objective.config.targets(GRID, CODES).items()}
    real = 1 - images()
    batch = Batch(torch.arange(BATCH), real, real, features=targets)
    outputs = Outputs({}, reconstruction, logits, features, tokens=tokens, flow=flow)
    before = torch.get_rng_state()
    losses = objective(outputs, batch, step=objective.config.start, rng=rng())
    own_draws(before, "a loss")
    a_value_a_sample({name: loss for name, loss in losses.items() if name not in objective.own})
    assert losses, "an objective gives at least one loss"
    torch.autograd.backward(scalar(losses))
    inputs = {"reconstruction": reconstruction, "logits": logits, "tokens": values, "flow": speed, **features}
    for name, value in inputs.items():
        if value is not None and name not in objective.config.still():
            assert value.grad is not None and value.grad.any(), f"needs {name!r}, but no gradient reaches it"


CHECKS: tuple[Check, ...] = (*part.CHECKS, check_objective)
