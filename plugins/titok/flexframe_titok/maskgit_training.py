"""A golden case of a generator's training: one step on the reference's own draws, its loss and its gradients."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from flexframe.importing import Comparison, compare
from flexframe.importing.plain import read_config
from flexframe.testing.tables import TableRng
from flexframe.tokens import Codes, Condition
from flexframe_registry import ConfigError

from .maskgit import MASKED, Given, MaskGIT

INPUTS = {
    "maskgit/share": "mask_time_uniform", "maskgit/order": "mask_order_uniform", "maskgit/class": "label_drop_uniform",
}  # fmt: skip
"""The draws of a step, by purpose."""
GRADIENTS = 1e-3
"""Tolerance of a gradient, relative to its largest entry, and of a norm."""


def compare_step(
    prior: MaskGIT, case: Mapping[str, Tensor], path: Path, names: Callable[[str], str]
) -> Iterator[Comparison]:
    """Every tensor of a case of training; `prior` is left with its gradients, `names` translates a parameter's name.

    Raises:
        ConfigError: a tensor has no check.
    """
    prior.train().requires_grad_(True)
    ids, classes = case["ids"], case["condition"]
    keep = torch.ones_like(ids, dtype=torch.bool)
    rng = TableRng({purpose: case[name] for purpose, name in INPUTS.items()}, len(ids))
    masked = prior.choose_masked(keep, rng=rng)
    shown = ids.masked_fill(masked, prior.mask_id)
    dropped = torch.where(case["label_drop_uniform"] < prior.config.class_dropout, prior.null, classes)
    condition = Condition(torch.zeros(len(ids), dtype=torch.bool), classes)
    own = prior(Codes(ids[..., None], keep), condition, rng=rng)["codes"]
    # the reference divides a batch's sum by the batch's own weights, the prior a row's by its expected ones
    rest = prior.config.unmasked_weight
    weights = torch.where(masked, 1.0, rest).sum()
    loss = own.sum() * ids.shape[1] * (MASKED + (1 - MASKED) * rest) / weights
    loss.backward()
    with torch.no_grad():
        logits = prior.logits(shown, Given(dropped), keep)
    right = (logits.argmax(-1) == ids)[masked].float().mean()
    results = {"mask": masked, "masked": shown, "logits": logits, "correct_tokens": right[None]}
    for name in sorted(case.keys() - {"ids", "condition", *INPUTS.values()}):
        if name == "loss":
            yield compare(path.stem, name, loss[None], case[name], 1e-7, 1e-5, note="divided as the reference does")
        elif name in results:
            yield compare(path.stem, name, results[name], case[name])
        elif name.startswith("grad."):
            gradient = gradient_of(prior, name.removeprefix("grad."), names)
            yield compare(path.stem, name, gradient, case[name], 1e-8, GRADIENTS)
        else:
            raise ConfigError.at(str(path), f"holds {name!r}, which nothing here compares")
    norms = path.with_name(f"{path.stem}_grad_norms.json")
    if norms.is_file():
        yield compare_norms(prior, path.stem, read_config(norms), names)


def compare_norms(prior: MaskGIT, case: str, theirs: Mapping[str, float], names: Callable[[str], str]) -> Comparison:
    """The norms of all gradients: the largest relative error."""
    own = {name: float(gradient_of(prior, name, names).norm()) for name in theirs}
    errors = torch.tensor([abs(own[name] - norm) / max(norm, 1e-12) for name, norm in theirs.items()])
    return compare(case, "gradient norms", errors, 0 * errors, GRADIENTS, note=f"of {len(errors)}, relative")


def gradient_of(prior: MaskGIT, theirs: str, names: Callable[[str], str]) -> Tensor:
    """The gradient of a reference's parameter: queries, keys and values are thirds of one here, and of its types of
    tokens there is the first alone.

    Raises:
        LookupError: there is no such parameter, or no gradient reaches it.
    """
    name, third = names(theirs), 0
    if match := re.search(r"in_proj\.(query|key|value)\.", name):
        third = ("query", "key", "value").index(match[1]) + 1
        name = name.replace(f".{match[1]}.", ".")
    gradient = dict(prior.named_parameters())[name].grad
    if gradient is None:
        raise LookupError(f"no gradient reaches {name}")
    if name == "type_embedding":
        return torch.stack([gradient, torch.zeros_like(gradient)])
    return gradient.chunk(3)[third - 1] if third else gradient
