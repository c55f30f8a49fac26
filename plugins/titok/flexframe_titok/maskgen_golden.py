"""The golden cases of MaskGen: tensors that the published implementation computed, against ours."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from flexframe.importing import Comparison, Foreign
from flexframe.models.build import Model
from flexframe.models.generator import Generator
from flexframe.testing import cases
from flexframe.testing.cases import Case, watched
from flexframe.testing.denoising import chain, guided_output
from flexframe.testing.tables import TableRng
from flexframe.tokens import Codes, Condition, Text

from .maskgen_body import score_sinusoid
from .maskgen_configs import MaskGenKLSampling, MaskGenVQSampling

SAMPLES = 1e-5
"""Of whole chains, as a share of the largest entry: those of random weights are far from any data."""
LOSSES = 1e-5
"""Of losses, as a share of the largest."""


def compare_cases(source: Foreign, model: Model) -> Iterator[Comparison]:
    """Every tensor of every case beside a checkpoint."""
    kinds = {
        "case_eval": evaluate, "case_generate": generate, "case_train": train, "case_text_drop": text_drop,
    }  # fmt: skip
    return cases.compare_cases(source, model, kinds, "MaskGen", of=Generator)


def is_vq(case: Case) -> bool:
    """Tell whether a case is of integer codes."""
    return case.parts.spec.dim is None


def texts(case: Case, null: bool = False) -> Condition:
    """A case's texts; with the null text beside them, where it has one."""
    embeddings, pooled = case["text"], case["text_pooled"].flatten(1)
    nothing = None
    if null:
        vectors = case["null_text"][None]
        nothing = Text(vectors, torch.ones(vectors.shape[:2], dtype=torch.bool), case["null_text_pooled"])
    none = torch.zeros(len(embeddings), dtype=torch.bool)
    present = torch.ones(embeddings.shape[:2], dtype=torch.bool)
    return Condition(none, embeddings=embeddings, present=present, pooled=pooled, nothing=nothing)


# --- one pass ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def evaluate(case: Case) -> Iterator[Comparison]:
    """The transformer, block by block, and what comes behind it."""
    prior, scores = case.parts.prior.eval(), case["aesthetic"]
    vq, condition = is_vq(case), texts(case, is_vq(case))
    said = prior.reader.read(condition, scores, free=vq)
    own = {"text_proj": said.vectors, "pooled_proj": said.pooled[:, None]}
    own["micro_condition"] = score_sinusoid(scores, prior.config.score_width, prior.reader.form)
    modules = {f"block{i}": block for i, block in enumerate(prior.body.blocks)} | {"norm_out": prior.body.norm}
    if vq:
        ids = case["ids"]
        keep = torch.ones_like(ids, dtype=torch.bool)
        seen = watched(modules, lambda: own.update(logits=prior.logits(ids, said, keep)))
        own["logits_null"] = prior.logits(ids, said.free, keep)
    else:
        tokens, masked = case["tokens"], case["mask"].bool()
        keep = torch.ones_like(masked)
        own["tokens_in"] = prior.input_norm(prior.input(tokens))
        seen = watched(modules, lambda: own.update(z=prior.said(tokens, masked, keep, said)))
        head, given = prior.head, (case["head_x"], case["head_t"].float(), case["head_z"])
        own["head_out"] = head(*given)
        for found in case.named(r"head_out_cfg([\d.]+)"):
            own[found[0]] = guided_output(head, *given, case["head_z"].flip(0), float(found[1]))
    for name, (_, out) in seen.items():
        own |= {name: out} if name == "norm_out" else {f"{name}_image": out[0], f"{name}_text": out[1]}
    for name, value in own.items():
        yield from case.check(name, value)


@torch.no_grad()
def text_drop(case: Case) -> Iterator[Comparison]:
    """Texts that training drops."""
    with safe_open(case.path, framework="pt") as file:
        rate = float((file.metadata() or {}).get("text_drop_prob", "0.1"))
    dropped = texts(case, null=True).hidden(case["drop_uniform"] < rate)
    assert dropped.embeddings is not None
    assert dropped.pooled is not None
    yield from case.check("text_out", dropped.embeddings)
    yield from case.check("text_pooled_out", dropped.pooled[:, None])


# --- whole samples -----------------------------------------------------------------------------------------------


@torch.no_grad()
def generate(case: Case) -> Iterator[Comparison]:
    """Whole sequences, by the settings and the draws that a case records."""
    with safe_open(case.path, framework="pt") as file:
        said = file.metadata() or {}
    drawn = drawn_codes if is_vq(case) else drawn_values
    for found in case.named(r"(ids|tokens)_(.+)"):
        settings = ast.literal_eval(_plain(said[found[2]]))
        yield from case.check(found[0], drawn(case, found[2], settings), rtol=SAMPLES)


def _plain(text: str) -> str:
    """Settings as a case writes them, a tensor as its list."""
    return text.replace("tensor(", "(")


def drawn_codes(case: Case, label: str, said: dict[str, Any]) -> Tensor:
    """Integer codes."""
    prior = case.parts.prior.eval()
    decay = said.get("guidance_decay", "cosine")
    sampling = MaskGenVQSampling(
        steps=said["num_sample_steps"],
        guidance=said["guidance_scale"],
        guidance_schedule={"none": "constant"}.get(decay, decay),
        temperature=said.get("randomize_temperature", 2.0),
        score=said["sample_aesthetic_score"],
        confidence_noise=said.get("prob_sorting", True),
    )
    tables = {f"maskgit/codes.{i}": each for i, each in enumerate(case[f"token_uniform_{label}"])}
    if f"confidence_uniform_{label}" in case:
        tables |= {f"maskgit/confidence.{i}": each for i, each in enumerate(case[f"confidence_uniform_{label}"])}
    lengths = torch.full((len(case["text"]),), prior.spec.length)
    rng = TableRng(tables, len(lengths))
    return prior.sample(texts(case, null=True), lengths, rng=rng, sampling=sampling).codes[..., 0]


def drawn_values(case: Case, label: str, said: dict[str, Any]) -> Tensor:
    """Continuous tokens, in their tokenizer's range."""
    model = case.parts.eval()
    prior, rows = model.prior, len(case["text"])
    count, passes = prior.spec.length, said["num_iter"]
    orders = case[f"orders_{label}"]
    tables = {"maskgen/sample": orders.argsort(1) / count}
    steps = 0
    for i in range(passes):
        noise, steps = chain(prior.head, case[f"noise_{label}_iter{i}_init"], case[f"noise_{label}_iter{i}_steps"])
        tables[f"maskgen/tokens.{i}"] = noise.unflatten(0, (rows, -1))
    sampling = MaskGenKLSampling(
        passes=passes,
        steps=steps,
        guidance=said["cfg"],
        guidance_schedule=said.get("cfg_schedule", "linear"),
        temperature=said.get("temperature", 1.0),
        score=float(said["aes_scores"][0]),
    )
    lengths = torch.full((rows,), count)
    codes = prior.sample(texts(case, null=True), lengths, rng=TableRng(tables, rows), sampling=sampling)
    mean, deviation = model.config.mean or (0.0,), model.config.deviation or (1.0,)
    return (codes.codes * torch.tensor(deviation) + torch.tensor(mean)).mT[:, :, None]


# --- a step of training ------------------------------------------------------------------------------------------


def train(case: Case) -> Iterator[Comparison]:
    """One step on the reference's own draws."""
    prior = case.parts.prior.train().requires_grad_(True)
    step = codes_step if is_vq(case) else values_step
    yield from step(case, prior)
    yield from case.gradients(partial(gradient_of, prior))
    prior.eval().requires_grad_(False)


def codes_step(case: Case, prior: Any) -> Iterator[Comparison]:
    """A step on integer codes: no text is dropped."""
    ids, condition = case["ids"], texts(case)
    keep = torch.ones_like(ids, dtype=torch.bool)
    share, order = case["mask_time_uniform"], case["mask_order_uniform"]
    rng = TableRng({"maskgit/share": share, "maskgit/order": order}, len(ids))
    masked = prior.choose_masked(keep, rng=rng)
    given = prior.reader.read(condition, case["aesthetic"])
    logits = prior.logits(ids.masked_fill(masked, prior.mask_id), given, keep)
    losses = prior.errors(logits, ids, masked, keep)
    # the reference divides by the batch's own weights, the prior by their expected sum
    rest = prior.config.unmasked_weight
    loss = losses.sum() / torch.where(masked, 1.0, rest).sum()
    loss.backward()
    right = (logits.argmax(-1) == ids)[masked].float().mean()
    for name, value in {"mask": masked, "logits": logits, "correct_tokens": right[None]}.items():
        yield from case.check(name, value)
    yield from case.check("loss", loss[None], atol=1e-7, rtol=LOSSES)


def values_step(case: Case, prior: Any) -> Iterator[Comparison]:
    """A step on continuous tokens, drawn from their posteriors."""
    mean, logvar = case["posterior_parameters"].chunk(2, 1)
    drawn = mean + (0.5 * logvar.clamp(-30, 20)).exp() * case["posterior_eps"]
    deviation = torch.tensor(case.parts.config.deviation)
    tokens = drawn[:, :, 0].mT / deviation
    rows, count, _ = tokens.shape
    noise, times = (case[name].unflatten(0, (-1, rows, count)).transpose(0, 1) for name in ("noise", "t"))
    tables = {
        "maskgen/share": case["mask_time_uniform"].expand(rows),
        "maskgen/order": case["orders"].argsort(1) / count,
        "maskgen/text": torch.ones(rows),
        "head/noise": noise,
        "head/time": times,
    }
    keep = torch.ones(rows, count, dtype=torch.bool)
    rng = TableRng(tables, rows)
    losses = prior.taught(Codes(tokens, keep), texts(case), case["aesthetic"], rng)
    loss = torch.stack([each.mean() for each in losses.values()]).sum()
    loss.backward()
    yield from case.check("loss", loss[None], atol=1e-7, rtol=LOSSES)


def gradient_of(prior: Any, theirs: str) -> Tensor | None:
    """The gradient of a file's tensor: queries, keys and values are parts of one here."""
    from .maskgen_importer import LETTERS, THIRD, translate

    name = translate(theirs, len(prior.body.blocks) - 1)
    part = THIRD.search(name)
    letters = LETTERS[1:] if "text_kv" in name else LETTERS
    if part is not None:
        name = name.replace("text_kv.qkv." + part[1], "text_kv").replace(".qkv." + part[1], ".qkv")
    if name == "head.weight" and prior.config.type == "maskgen-vq" and prior.head is None:
        name = "embedding.weight"
    parameters: Callable[[str], Any] = prior.get_parameter
    gradient: Tensor | None = parameters(name).grad
    if part is not None and gradient is not None:
        return gradient.chunk(len(letters))[letters.index(part[1])]
    return gradient
