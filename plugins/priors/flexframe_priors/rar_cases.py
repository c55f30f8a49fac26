"""The golden cases of RAR: tensors that the published implementation computed, against ours."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from jaxtyping import Int
from safetensors.torch import load_file
from torch import Tensor

from flexframe.importing import Comparison, Foreign, compare
from flexframe.models.generator import Generator
from flexframe.testing.tables import TableRng
from flexframe.tokens import Condition
from flexframe_registry import ConfigError

from . import RARSampling
from .rar import RAR

GENERATED = tuple(RARSampling(guidance=scale, power=power) for scale, power in ((4.0, 3.0), (4.0, 2.75), (4.5, 3.0)))
"""The settings of the samples. No case records them: these were found by trying which reproduce the ids. Several do,
and the nearest counts."""
GIVEN = ("ids", "condition", "orders")


def compare_cases(source: Foreign, model: Generator) -> Iterable[Comparison]:
    """All tensors of all cases beside a checkpoint; `ConfigError` where a tensor has no check."""
    prior = model.prior
    assert isinstance(prior, RAR)
    folder = source.path if source.path.is_dir() else source.path.parent
    for path in sorted(folder.glob("case*.safetensors")):
        yield from _compare_case(prior.eval(), load_file(path), path)


@torch.no_grad()
def _compare_case(prior: RAR, case: Mapping[str, Tensor], path: Path) -> Iterator[Comparison]:
    needed = GIVEN if any("orders" in name for name in case) else GIVEN[:2]
    lost = [name for name in needed if name not in case]
    if lost:
        raise ConfigError.at(str(path), f"has no {', '.join(lost)}, which its other tensors were computed from")
    ids, classes = case["ids"], case["condition"]
    raster = torch.arange(ids.shape[1]).expand(ids.shape)
    for name, golden in case.items():
        if name in GIVEN:
            continue
        if name == "condition_ids":  # the reference's ids of classes, behind its codes and a mask
            yield compare(path.stem, name, classes + prior.spec.entries + 1, golden)
        elif name == "logits_raster":
            yield compare(path.stem, name, prior.logits(ids, classes, raster), golden)
        elif name == "logits_none":
            yield compare(path.stem, name, prior.logits(ids, torch.full_like(classes, prior.null), raster), golden)
        elif name == "labels_orders":
            yield compare(path.stem, name, ids.gather(1, case["orders"]), golden)
        elif name == "logits_orders":
            orders = case["orders"]
            yield compare(path.stem, name, prior.logits(ids.gather(1, orders), classes, orders), golden)
        elif match := re.fullmatch(r"generate_seed(\d+)_(kv|nokv)", name):
            tables = _tables(len(ids), prior, int(match[1]))
            tried = (s.model_copy(update={"cache": match[2] == "kv"}) for s in GENERATED)
            made = (
                compare(path.stem, name, _generated(prior, classes, tables, s), golden, note=_told(s)) for s in tried
            )
            yield min(made, key=lambda comparison: comparison.error)
        else:
            raise ConfigError.at(str(path), f"holds {name!r}, which nothing here compares")


def _told(sampling: RARSampling) -> str:
    return f"guidance {sampling.guidance:g}, power {sampling.power:g}"


def _tables(batch: int, prior: RAR, seed: int) -> dict[str, Tensor]:
    """The published implementation's draws. It first draws a number a row for the dropout of classes, at rate 0; then
    each token is a race of exponentials: the code whose probability over its draw is largest wins. The draws are those
    of torch on this processor; one without MKL draws others.
    """
    draws = torch.Generator().manual_seed(seed)
    torch.rand(batch, generator=draws)
    shape = (batch, prior.spec.entries)
    races = [torch.empty(shape).exponential_(generator=draws).double() for _ in range(prior.spec.length)]
    return {f"rar/token.{i}": torch.exp(-race) for i, race in enumerate(races)}


def _generated(
    prior: RAR, classes: Int[Tensor, " b"], tables: Mapping[str, Tensor], sampling: RARSampling
) -> Int[Tensor, "b k"]:
    condition = Condition(torch.zeros_like(classes, dtype=torch.bool), labels=classes)
    lengths = torch.full_like(classes, prior.spec.length)
    return prior.sample(condition, lengths, rng=TableRng(tables, len(classes)), sampling=sampling).codes[..., 0]
