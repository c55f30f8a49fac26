"""AdamW, its schedule, and the weight average."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from flexframe.train.sharding import like, local
from flexframe.train.trainee import Learner
from flexframe_registry import RunConfig


def learning_rate(run: RunConfig, step: int, *, peak: float | None = None, start: int = 0) -> float:
    """Linear warm-up to `lr`, then a cosine that reaches `final_lr` as the last step ends.

    Args:
        peak: another's peak than the run's; all rates are in proportion.
        start: the step at which its schedule begins.
    """
    scale = 1.0 if peak is None else peak / run.lr
    step, steps = max(0, step - start), run.steps - start
    if step < run.warmup:
        return scale * (run.lr * (step + 1) / run.warmup)
    progress = (step - run.warmup) / max(1, steps - run.warmup)
    return scale * (run.final_lr + (run.lr - run.final_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def create_optimizer(trainee: Learner, run: RunConfig) -> torch.optim.AdamW:
    """AdamW over the trainee's groups, fused where the device has it."""
    groups = []
    for group in trainee.groups().values():
        how = group.how
        decay = run.weight_decay if how.weight_decay is None else how.weight_decay
        own = {"peak": how.lr, "start": group.start, "betas": how.betas or run.betas}
        groups += [
            {"params": group.decayed, "weight_decay": decay, **own},
            {"params": group.plain, "weight_decay": 0.0, **own},
        ]
    fused = all(p.device.type in ("cpu", "cuda") for p in trainee.parameters())
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=run.lr, betas=run.betas, fused=fused)


def step(optimizer: torch.optim.AdamW, skip: Tensor | None) -> None:
    """One step; none where `skip` is 1.0, which a fused optimizer sees on the device by itself, as when a gradient
    scaler tells it. Another one waits for the device."""
    if skip is not None:
        if not optimizer.defaults["fused"]:
            if bool(skip):
                return
        else:
            optimizer.found_inf = skip  # type: ignore[attr-defined]
    optimizer.step()


class Average:
    """Exponential moving average of a model's weights in fp32; buffers and integers are copied as they are.

    Of a sharded model each process averages its own shards.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self.learned = {name for name, p in model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """One step of decay min(decay, (1+step)/(10+step))."""
        decay = min(self.decay, (1 + step) / (10 + step))
        now = model.state_dict()
        averaged = [name for name in self.state if name in self.learned and self.state[name].is_floating_point()]
        own = [local(self.state[n]) for n in averaged]
        theirs = [local(now[n]).to(mine) for n, mine in zip(averaged, own, strict=True)]
        torch._foreach_lerp_(own, theirs, 1 - decay)
        for name in self.state.keys() - set(averaged):
            local(self.state[name]).copy_(local(now[name]))

    def load(self, state: Mapping[str, Tensor]) -> None:
        for name, value in self.state.items():
            local(value).copy_(local(like(state[name], value)))
