"""The golden cases of eps-LlamaGen: tensors that the published implementation computed, against ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from flexframe.importing import Comparison, Foreign
from flexframe.models.build import Model
from flexframe.models.generator import Generator
from flexframe.testing import cases
from flexframe.testing.cases import Case, layers
from flexframe.testing.denoising import chain, guided_output
from flexframe.testing.tables import TableRng
from flexframe.tokens import Codes, Condition

from .denoising_configs import CausalDenoisingSampling

SAMPLES = 1e-4
"""Tolerance of what a whole chain comes to."""
LOSSES = 1e-5
"""Of losses, as a share of the largest."""
Gradient = Callable[[Mapping[str, Any], str], Tensor | None]


def compare_cases(source: Foreign, model: Model, gradient: Gradient) -> Iterator[Comparison]:
    """Every tensor of every case beside a checkpoint.

    Args:
        gradient: of a file's tensor, among the prior's parameters.
    """
    kinds = {
        "case_body": body, "case_head_sample": head_sample, "case_head": head, "case_generate": generate,
        "case_train": partial(train, gradient=gradient),
    }  # fmt: skip
    return cases.compare_cases(source, model, kinds, "eps-LlamaGen", of=Generator)


@torch.no_grad()
def body(case: Case) -> Iterator[Comparison]:
    """The trunk, block by block, with the classes and without."""
    prior, tokens, classes = case.parts.prior.eval(), case["slots"], case["condition"]
    modules = {f"block{i}_out": block for i, block in enumerate(prior.blocks)}
    modules |= {"tokens_in": prior.input_norm, "hidden": prior.norm}
    own = dict[str, Tensor]()
    # the reference also runs the last token, which says something of none
    whole = torch.cat([prior.places, prior.places[:1]])[: tokens.shape[1] + 1]
    with_last = partial(_whole, prior, tokens, classes, whole)
    seen = layers(modules, with_last)
    own["z"] = prior.said(tokens[:, :-1], classes)
    own["z_null_class"] = prior.said(tokens[:, :-1], torch.full_like(classes, prior.null))
    for name, value in (seen | own).items():
        yield from case.check(name, value)


def _whole(prior: Any, tokens: Tensor, classes: Tensor, places: Tensor) -> Tensor:
    x = prior.embed(tokens, classes)
    for block in prior.blocks:
        x = block(x, None)
    out: Tensor = prior.norm(x) + places
    return out


@torch.no_grad()
def head(case: Case) -> Iterator[Comparison]:
    """The head, layer by layer, and guided."""
    head, x, times, z = case.parts.prior.head, case["x"], case["t"], case["z"]
    modules = {f"head_block{i}_out": layer for i, layer in enumerate(head.layers)}
    modules |= {"t_emb": head.time, "c_emb": head.said}
    out = {}
    seen = layers(modules, lambda: out.update(out=head(x, times, z)))
    for name, value in (seen | out).items():
        yield from case.check(name, value)
    for found in case.named(r"out_cfg([\d.]+)"):
        yield from case.check(found[0], guided_output(head, x, times, z, z.flip(0), float(found[1])))


@torch.no_grad()
def head_sample(case: Case) -> Iterator[Comparison]:
    """Whole chains of the head alone."""
    head, z = case.parts.prior.head, case["z"]
    for found in case.named(r"sample_(plain|cfg([\d.]+)|temp([\d.]+))"):
        noise, steps = chain(head, case[f"noise_{found[1]}_init"], case[f"noise_{found[1]}_steps"])
        sampling = CausalDenoisingSampling(steps=steps, temperature=float(found[3] or 1))
        free = None if found[2] is None else z.flip(0)
        drawn = head.sample(z, free, float(found[2] or 1), noise, sampling)
        yield from case.check(found[0], drawn, atol=SAMPLES)


def generate(case: Case) -> Iterator[Comparison]:
    """Whole sequences, with keys and values kept and without."""
    prior, classes = case.parts.prior.eval(), case["condition"]
    condition = Condition(torch.zeros_like(classes, dtype=torch.bool), labels=classes)
    lengths = torch.full_like(classes, prior.spec.length)
    for found in case.named(r"slots_cfg([\d.]+)(_constant|_linear)?"):
        label = found[0].removeprefix("slots_")
        noise = zip(case[f"noise_{label}_init"], case[f"noise_{label}_steps"], strict=True)
        chains = [chain(prior.head, *each) for each in noise]
        tables = {f"causal-denoising/token.{i}": each[:, None] for i, (each, _) in enumerate(chains)}
        for cache in (True, False):
            sampling = CausalDenoisingSampling(
                steps=chains[0][1],
                guidance=float(found[1]),
                guidance_schedule="constant" if found[2] == "_constant" else "linear",
                cache=cache,
            )
            drawn = prior.sample(condition, lengths, rng=TableRng(tables, len(classes)), sampling=sampling).codes
            yield from case.check(found[0], drawn, atol=SAMPLES, note="" if cache else "without a cache")
    length = prior.spec.length
    scales = [CausalDenoisingSampling(guidance=3.0).scale((i + 1) / length) for i in range(length)]
    yield from case.check("cfg_schedule_linear_values", torch.tensor(scales))


def train(case: Case, gradient: Gradient) -> Iterator[Comparison]:
    """One step on the reference's own draws."""
    prior = case.parts.prior.train().requires_grad_(True)
    tokens, classes = case["slots"], case["condition"]
    rows, count, _ = tokens.shape
    noise, times = (case[name].unflatten(0, (-1, rows, count)).transpose(0, 1) for name in ("noise", "t"))
    tables = {"causal-denoising/class": case["class_drop_uniform"], "head/noise": noise, "head/time": times}
    condition = Condition(torch.zeros_like(classes, dtype=torch.bool), labels=classes)
    keep = torch.ones(rows, count, dtype=torch.bool)
    losses = prior(Codes(tokens, keep), condition, rng=TableRng(tables, rows))
    loss = torch.stack([each.mean() for each in losses.values()]).sum()
    loss.backward()
    yield from case.check("loss", loss[None], atol=1e-7, rtol=LOSSES)
    parameters = dict(prior.named_parameters())
    yield from case.gradients(partial(gradient, parameters))
    prior.eval().requires_grad_(False)
