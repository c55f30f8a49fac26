"""ResTok's golden cases: tensors that the reference computed, and what a model made from its checkpoint gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from flexframe.importing import Comparison, Foreign
from flexframe.models.build import Model
from flexframe.rng import Rng
from flexframe.testing import cases
from flexframe.testing.cases import Case, layers
from flexframe.testing.tables import TableRng
from flexframe.tokens import Batch, Outputs, Quantized, Tokens, prefix
from flexframe_registry import catalogue
from flexframe_registry.slots import resolve

PIXELS = 2e-4
"""Tolerance behind the convolutions."""
LOSS = {"atol": 1e-7, "rtol": 1e-5}
NONE: frozenset[str] = frozenset()


def compare_cases(source: Foreign, model: Model) -> Iterator[Comparison]:
    """Every tensor of every case beside a checkpoint."""
    return cases.compare_cases(source, model, CASES, "ResTok")


def slots(grid: Tensor) -> Tensor:
    """The reference's `b d 1 k` as `b k d`."""
    return grid.flatten(2).mT


def grid(values: Tensor) -> Tensor:
    """`b k d` as the reference's `b d 1 k`."""
    return values.mT.unsqueeze(2)


def scalar(loss: Tensor) -> Tensor:
    """A mean as the reference's tensor of one entry."""
    return loss.mean()[None]


def quantized(model: Any, features: Tensor) -> Quantized:
    """Tokens of all features."""
    rows, keep = torch.arange(len(features)), torch.ones(features.shape[:2], dtype=torch.bool)
    answer: Quantized = model.quantizer(features, keep, rng=Rng(0, rows))
    return answer


@torch.no_grad()
def encode(case: Case) -> Iterator[Comparison]:
    """Encoder block by block, tokens, codes, and the levels of cells."""
    model, encoder, own = case.parts, case.parts.encoder, dict[str, Any]()
    modules = {f"enc_block{i}_out": block for i, block in enumerate(encoder.blocks)}
    modules |= {"enc_patch_embed": encoder.patch_embed, "pixel_encoder_out": encoder.pixels_out}
    modules |= {"enc_ln_pre": encoder.ln_pre, "enc_ln_post": encoder.ln_post, "enc_z": model.quantizer.project}

    def run() -> None:
        own["features"], own["cells"] = encoder.run(case["images"])
        own["answer"] = quantized(model, own["features"])

    seen, answer = layers(modules, run), own["answer"]
    seen["enc_z"] = grid(seen["enc_z"])
    for name, value in seen.items():
        yield from case.check(name, value)
    yield from case.check("indices", answer.codes.mT)
    yield from case.check("z_quantized", grid(answer.values))
    yield from case.check("z_codebook", grid(model.quantizer.lookup(answer.codes)))
    losses = {f"{name}_loss": scalar(loss) for name, loss in answer.losses.items()}
    losses["quantizer_loss"] = torch.stack(list(losses.values())).sum(0)
    for name, value in losses.items():
        yield from case.check(name, value, **LOSS)
    cells = [part.movedim(-1, 1) for part in own["cells"]]
    yield from case.check("last_image_tokens", cells[0].flatten(2)[:, :, None])
    finest = cells[-1].shape[2:]
    each = [F.interpolate(part.flatten(2), finest.numel(), mode="nearest") for part in cells]
    yield from case.check("first_image_tokens_sum", torch.stack(each).sum(0).unflatten(2, finest))


@torch.no_grad()
def decode(case: Case) -> Iterator[Comparison]:
    """Pixels of several lengths, and what is inside of the decoder at them."""
    model, values = case.parts, slots(case["z_quantized"])
    codes = case["indices"].mT if "indices" in case else torch.zeros(*values.shape[:2], 1, dtype=torch.long)
    rows, length = torch.arange(len(values)), values.shape[1]

    def out(lengths: Tensor, taps: frozenset[str] = NONE, given: Tensor = values) -> Outputs:
        tokens = Tokens(given, prefix(lengths, length), codes)
        answer: Outputs = model.decoder(tokens, Batch(rows), taps=taps, rng=Rng(0, rows))
        return answer

    whole = torch.full((len(values),), length)
    for found in case.named(r"pixels_len(\d+)"):
        shown = out(torch.full_like(whole, int(found[1]))).reconstruction
        assert shown is not None
        yield from case.check(found[0], shown, atol=PIXELS)
    for found in case.named(r"dec_(embed|ln_pre|ln_post|spatial|block(\d+)_out)_len(\d+)"):
        decoder = model.decoder
        own = {"embed": decoder.embed, "ln_pre": decoder.ln_pre, "ln_post": decoder.ln_post, "spatial": decoder.head}
        module = decoder.blocks[int(found[2])] if found[2] else own[found[1]]
        lengths = torch.full_like(whole, int(found[3]))
        result = layers({"it": module}, lambda lengths=lengths: out(lengths))["it"]
        yield from case.check(found[0], result.flatten(1, 2) if found[1] == "ln_post" else result)
    if "lengths_mixed" in case:
        taps = frozenset({"semantic"} if model.config.decoder.semantic else ())
        answer = out(case["lengths_mixed"], taps)
        assert answer.reconstruction is not None
        yield from case.check("pixels_mixed", answer.reconstruction, atol=PIXELS)
        if taps:
            yield from case.check("dec_vf_feat_mixed", answer.features["semantic"].movedim(-1, 1))
    looked = out(whole, given=model.quantizer.lookup(codes)).reconstruction
    assert looked is not None
    yield from case.check("decode_tokens_pixels", looked, atol=PIXELS)


def supervision(case: Case) -> Any:
    """The objective that supervises features, with the checkpoint's own projections."""
    tensors = case.source.tensors
    dim = tensors.shape("vf_proj.weight")[0]
    margin = case.source.settings.get("losses", {}).get("cos_margin", 0.0)
    known = resolve("objective", {"type": "feature-supervision", "teacher": None, "dim": dim, "margin": margin})
    objective: Any = catalogue().build(known, case.model.spec)
    names = {"whole.weight": "vf_proj.weight", "cells.weight": "vf_proj_dec.weight"}
    objective.load_state_dict({own: tensors[theirs].flatten(1) for own, theirs in names.items()})
    return objective


def train(case: Case) -> Iterator[Comparison]:
    """A step: losses, what they are made of, and gradients."""
    from .importer import gradient_of  # which uses this module

    model, objective = case.variant().train(), supervision(case)
    kept, batch = case["keep"], Batch(torch.arange(len(case["images"])), case["images"])
    chances = model.masker.chances(model.spec.tokens.length)
    places = (torch.tensor(model.masker.budgets) == kept[:, None]).float().argmax(1)
    drawn = (chances.cumsum(0) - chances / 2)[places].float()  # in the midst of what draws these lengths
    rng = TableRng({"masker/length": drawn}, len(batch))
    batch = model.prepare(batch, rng=rng)
    batch = Batch(
        batch.index, batch.images, batch.latents, features={
            "supervision_whole": case["aux_cls"].flatten(1), "supervision_cells": case["aux_feature"].movedim(1, -1)
        }
    )  # fmt: skip
    own = dict[str, Tensor]()
    modules = {"last_image_tokens_proj": objective.whole, "dec_vf_feat_proj": objective.cells}

    def run() -> None:
        out = model(batch, taps=objective.config.needs(), rng=rng)
        own.update({name.removeprefix("quantizer/") + "_loss": scalar(loss) for name, loss in out.losses.items()})
        own["quantizer_loss"] = own["commitment_loss"] + own["codebook_loss"]
        own.update(pixels=out.reconstruction, indices=out.codes.codes.mT)
        supervised = objective(out, batch, step=0, rng=rng)
        own["vf_loss"] = scalar(supervised["whole"]) + scalar(supervised["cells"])
        own["reconstruction_loss"] = F.mse_loss(out.reconstruction, batch.images)[None]
        own["total_loss"] = own["reconstruction_loss"] + own["quantizer_loss"] + own["vf_loss"]

    seen = {name: value.movedim(-1, 1) for name, value in layers(modules, run).items() if not name.endswith(".in")}
    seen["last_image_tokens_proj"] = seen["last_image_tokens_proj"].flatten(2)[:, :, None]
    own["total_loss"].sum().backward()
    yield from case.check("pixels", own.pop("pixels"), atol=PIXELS)
    yield from case.check("indices", own.pop("indices"))
    cosines = {
        "vf_cos": F.cosine_similarity(case["aux_cls"].flatten(1), seen["last_image_tokens_proj"].mean((2, 3))),
        "vf_cos_dec": F.cosine_similarity(case["aux_feature"], seen["dec_vf_feat_proj"]),
    }
    for name, value in seen.items():
        yield from case.check(name, value)
    for name, value in {**own, **{name: scalar(each) for name, each in cosines.items()}}.items():
        yield from case.check(name, value, **LOSS)
    grads: dict[str, Tensor | None] = {name: p.grad for name, p in model.named_parameters()}
    grads |= {"vf_proj.weight": objective.whole.weight.grad, "vf_proj_dec.weight": objective.cells.weight.grad}
    yield from case.gradients(lambda name: gradient_of(name, grads))


CASES: dict[str, Callable[[Case], Iterator[Comparison]]] = {
    "case_encode": encode,
    "case_decode": decode,
    "case_train": train,
}
