"""A look at a model while it trains, at some log lines, for what its losses do not tell: is it by the tokens that the
decoder knows one image from another? Draws are those of the step, by sample; nothing that is trained is touched."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from flexframe.data.loader import split
from flexframe.rng import Rng
from flexframe.tokens import Batch
from flexframe.train.random_state import random_state, set_random_state
from flexframe.train.run import Run
from flexframe.train.sharding import local

EVERY, ROWS = 100, 16
"""Steps between probes, and images of one: half a step, so half a percent of a run at most."""


def due(step: int, log_every: int) -> bool:
    """Tell whether the log line of a step has a probe: the first line at or after so many steps has."""
    return step // EVERY > max(0, step - log_every) // EVERY


def _eager(run: Run) -> AbstractContextManager[object]:
    """Nothing is compiled here: other shapes would be compiled for, and slow the training's. To say so loads the
    compiler."""
    return torch.compiler.set_stance("force_eager") if run.config.run.compile else nullcontext()


@torch.no_grad()
def probe(run: Run, batch: Batch) -> dict[str, float]:
    """Numbers of a batch by name, from its first rows. All processes call this, for they may hold the model in shards;
    each answers for its own rows."""
    before = random_state(run.device)
    run.trainee.eval()
    try:
        part = split(batch, max(1, len(batch) // ROWS))[0]
        with _eager(run):
            told = dict(run.trainee.probe(part, rng=Rng(run.config.run.seed, part.index, run.step)))
    finally:
        run.trainee.train()
        set_random_state(before, run.device)
    norms = torch._foreach_norm([local(p.detach()) for p in run.trainee.model.parameters() if p.requires_grad])
    told["weights"] = torch.linalg.vector_norm(torch.stack(list(norms)))
    values = torch.stack([value.float() for value in told.values()]).tolist()
    return {f"probe/{name}": float(f"{value:.4g}") for name, value in zip(told, values, strict=True)}
