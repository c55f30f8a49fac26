"""The golden cases of the MaskGIT generators: tensors that the published implementation computed, against ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from pathlib import Path

import torch
from jaxtyping import Int
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from flexframe.importing import Comparison, Foreign, compare
from flexframe.models.generator import Generator
from flexframe.testing.tables import TableRng
from flexframe_registry import ConfigError

from . import maskgit_training
from .layers import layer_of, output_of
from .maskgit import Given, MaskGIT
from .maskgit_configs import MaskGITSampling

STEPS = 4
GENERATED = {
    "linear": (MaskGITSampling(steps=STEPS, guidance=3.0, guidance_schedule="linear", temperature=2.0),),
    "powercosine_temp0": tuple(
        MaskGITSampling(steps=STEPS, guidance=scale, guidance_schedule="power-cosine", power=power, temperature=0.0)
        for scale, power in ((4.0, 3.0), (4.0, 2.75), (4.5, 3.0), (3.0, 2.0))
    ),
}
"""The settings of the samples, by the middle of their names. No case records them: these were found by trying which
reproduce the ids. For the second several do, and the nearest counts."""

DRAW = re.compile(r"step(?P<step>\d+)_(?P<what>token|confidence)_uniform")


def compare_cases(source: Foreign, model: Generator, names: Callable[[str], str]) -> Iterable[Comparison]:
    """All tensors of all cases beside a checkpoint; `ConfigError` where a tensor has no check. `names` gives a
    parameter's name here for the reference's."""
    prior = model.prior
    assert isinstance(prior, MaskGIT)
    folder = source.path if source.path.is_dir() else source.path.parent
    for path in sorted(folder.glob("case*.safetensors")):
        case = load_file(path)
        if "loss" in case:
            yield from maskgit_training.compare_step(deepcopy(prior), case, path, names)
        elif "step0_token_uniform" in case:
            yield _sampled(prior.eval(), case, path)
        else:
            yield from _compare_case(prior.eval(), case, path)


@torch.no_grad()
def _compare_case(prior: MaskGIT, case: Mapping[str, Tensor], path: Path) -> Iterator[Comparison]:
    lost = [name for name in ("ids", "condition") if name not in case]
    if lost:
        raise ConfigError.at(str(path), f"has no {', '.join(lost)}, which its other tensors were computed from")
    ids, classes = case["ids"], case["condition"]
    keep = torch.ones_like(ids, dtype=torch.bool)
    for name, golden in case.items():
        if name in ("ids", "condition"):
            continue
        if name == "logits_cond":
            yield compare(path.stem, name, prior.logits(ids, Given(classes), keep), golden)
        elif name == "logits_uncond":
            yield compare(path.stem, name, prior.logits(ids, Given(torch.full_like(classes, prior.null)), keep), golden)
        elif name == "embeddings_out" or re.fullmatch(r"block\d+_out", name):
            layer = prior.norm if name == "embeddings_out" else layer_of(prior, name)
            out = output_of(layer, lambda: prior.logits(ids, Given(classes), keep))
            yield compare(path.stem, name, out, golden)
        elif match := re.fullmatch(r"mask_seed(\d+)", name):
            yield compare(path.stem, name, _masked(prior, ids, int(match[1])), golden)
        elif match := re.fullmatch(r"masked_seed(\d+)", name):
            codes = ids.masked_fill(ids == prior.mask_id, 0)  # the cases were masked from codes alone
            masked = codes.masked_fill(_masked(prior, ids, int(match[1])), prior.mask_id)
            yield compare(path.stem, name, masked, golden)
        elif (match := re.fullmatch(r"generate_(\w+)_seed(\d+)", name)) and match[1] in GENERATED:
            seed, tried = int(match[2]), GENERATED[match[1]]
            made = (
                compare(path.stem, name, _generated(prior, classes, keep, s, seed), golden, note=_told(s))
                for s in tried
            )
            yield min(made, key=lambda comparison: comparison.error)
        else:
            raise ConfigError.at(str(path), f"holds {name!r}, which nothing here compares")


@torch.no_grad()
def _sampled(prior: MaskGIT, case: Mapping[str, Tensor], path: Path) -> Comparison:
    """Sampled ids, by the settings and the draws that a case records."""
    with safe_open(path, framework="pt") as file:
        said = file.metadata() or {}
    try:
        sampling = MaskGITSampling(
            steps=int(said["num_sample_steps"]),
            guidance=float(said["guidance_scale"]),
            guidance_schedule=said["guidance_decay"],
            temperature=float(said["randomize_temperature"]),
        )
    except (KeyError, ValueError) as error:
        raise ConfigError.at(str(path), f"does not say what its samples were drawn with: {error}") from None
    own = {"token": "codes", "confidence": "confidence"}
    drawn = {match: table for name, table in case.items() if (match := DRAW.fullmatch(name))}
    tables = {f"maskgit/{own[match['what']]}.{match['step']}": table for match, table in drawn.items()}
    ids, classes = case["ids"], case["condition"]
    keep, rng = torch.ones_like(ids, dtype=torch.bool), TableRng(tables, len(ids))
    filled = prior.fill(Given(classes), keep, prior.spec.entries, rng=rng, sampling=sampling)
    return compare(path.stem, "ids", filled, ids, note=_told(sampling))


def _told(sampling: MaskGITSampling) -> str:
    return f"{sampling.guidance_schedule} guidance {sampling.guidance:g}, temperature {sampling.temperature:g}"


def _masked(prior: MaskGIT, ids: Int[Tensor, "b k"], seed: int) -> Tensor:
    """The masking of training, on the published implementation's draws: a share a row, then the rows' orders."""
    draws = torch.Generator().manual_seed(seed)
    tables = {
        "maskgit/share": torch.rand(len(ids), generator=draws),
        "maskgit/order": torch.rand(ids.shape, generator=draws),
    }
    return prior.choose_masked(torch.ones_like(ids, dtype=torch.bool), rng=TableRng(tables, len(ids)))


def _generated(prior: MaskGIT, classes: Tensor, keep: Tensor, sampling: MaskGITSampling, seed: int) -> Tensor:
    """Sampling on the published implementation's draws. Each of its evaluations draws a number a row for the dropout of
    classes, at whatever rate; then a step draws noise of the logits' shape, and of the ids'.

    It draws from all its logits, which for a head over the whole vocabulary are more than the codes.
    """
    entries = prior.logits(keep.long(), Given(classes), keep).shape[-1]
    draws, tables = torch.Generator().manual_seed(seed), {}
    for step in range(sampling.steps):
        guided = sampling.guidance_schedule == "power-cosine" or sampling.excess(step / sampling.steps) != 0
        for _ in range(2 if guided else 1):
            torch.rand(classes.shape, generator=draws)
        tables[f"maskgit/codes.{step}"] = torch.rand(*keep.shape, entries, generator=draws)
        tables[f"maskgit/confidence.{step}"] = torch.rand(keep.shape, generator=draws)
    return prior.fill(Given(classes), keep, entries, rng=TableRng(tables, len(keep)), sampling=sampling)
