"""The images that a model rebuilds best and worst: found by their numbers, then encoded and decoded once more.

So no picture is kept during a run for the case that it turns out to be an extreme one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flexframe.bench import protocol
from flexframe.data.source import Source
from flexframe.models.tokenizer import Tokenizer
from flexframe.rng import Rng

EACH = 3
"""Best images of a model, and as many of its worst."""


@dataclass(frozen=True)
class Ranking:
    """A model's best and worst images at its largest token count, by one number. Images by position in the suite."""

    model: str
    budget: int
    measure: str
    best: Sequence[int]
    worst: Sequence[int]
    """The very worst first."""


def graded(values: Sequence[float]) -> bool:
    """Say whether values order images, rather than part them in two: right and wrong have no best."""
    return len(set(values)) > 2


def rank(results: Mapping[str, Any], each: int = EACH) -> list[Ranking]:
    """Rankings of all models by the suite's first measure that has a better, a worse and more than two values."""
    rankings = []
    for model, lanes in results["per_image"].items():
        if not lanes:
            continue
        budget = max(lanes, key=int)
        better = (name for name, about in results["measures"].items() if about["better"])
        measure = next((name for name in better if graded(lanes[budget].get(name, ()))), None)
        if measure is None:
            continue
        values = torch.tensor(lanes[budget][measure], dtype=torch.float64)
        sign = -1 if results["measures"][measure]["better"] == "higher" else 1
        order = torch.argsort(sign * values, stable=True).tolist()
        some = min(each, len(order) // 2)
        worst = order[len(order) - some :][::-1]
        rankings.append(Ranking(model, int(budget), measure, order[:some], worst))
    return rankings


def positions(results: Mapping[str, Any], each: int = EACH) -> list[int]:
    """The positions in the suite of the images of all rankings, rising."""
    return sorted({i for ranking in rank(results, each) for i in (*ranking.best, *ranking.worst)})


@torch.no_grad()
def rebuild(
    source: Source,
    models: Mapping[str, tuple[Tokenizer, Sequence[int]]],
    indices: Sequence[int],
    *,
    seed: int,
    device: torch.device,
    batch_size: int = 64,
    rounded: Callable[[Tensor], Tensor] = protocol.to_uint8,
    told: Callable[[Tokenizer, Sequence[int]], Mapping[str, Any]] = lambda *_: {},
) -> tuple[Tensor, dict[str, dict[int, Tensor]]]:
    """These images of a source, and each model's reconstructions at its token counts, as in the run: 8-bit, on the CPU.

    Args:
        models: by name, a model and the token counts.
        indices: positions in the source; each draws what it drew in the run.
        rounded: makes 8-bit images of reconstructions, as in the run.
        told: arguments of a model's `decode` for these positions.
    """
    originals: list[Tensor] = []
    fake: dict[str, dict[int, list[Tensor]]] = {n: {k: [] for k in counts} for n, (_, counts) in models.items()}
    for start in range(0, len(indices), batch_size):
        chosen = list(indices[start : start + batch_size])
        images = torch.stack([sample.image for sample in source.samples(chosen)])
        originals.append(images)
        rng = Rng(seed, torch.tensor(chosen, device=device))
        for name, (model, counts) in models.items():
            given = images.to(device).float() / 255
            tokens, more = model.encode(given, rng=rng), told(model, chosen)
            for k in counts:
                short = model.shortened(tokens, given, k, rng=rng)
                fake[name][k].append(rounded(model.decode(short, **more, rng=rng)).cpu())
    return torch.cat(originals), {n: {k: torch.cat(batches) for k, batches in kept.items()} for n, kept in fake.items()}
