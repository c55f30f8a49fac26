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
    """The objective that supervises features, with the checkpoint's own projections; None where it has none."""
    tensors, losses = case.source.tensors, case.source.settings.get("losses", {})
    names = {"whole": "vf_proj.weight", "cells": "vf_proj_dec.weight"}
    held = {own: tensors[theirs].flatten(1) for own, theirs in names.items() if theirs in tensors}
    if not held:
        return None
    settings: dict[str, Any] = {"teacher": None, "margin": losses.get("cos_margin", 0.0)}
    settings |= dict.fromkeys(names.keys() - held.keys()) | {"dim": len(next(iter(held.values())))}
    known = resolve("objective", {"type": "feature-supervision", **settings})
    objective: Any = catalogue().build(known, case.model.spec)
    objective.load_state_dict({f"{own}.weight": weight for own, weight in held.items()})
    return objective


def draws(case: Case, model: Any) -> TableRng:
    """Draws by which the masker keeps what the reference kept; all where the case does not say."""
    rows, length = len(case["images"]), model.spec.tokens.length
    kept = case["keep"] if "keep" in case else torch.full((rows,), length)
    chances = model.masker.chances(length)
    places = (torch.tensor(model.masker.budgets) == kept.expand(rows)[:, None]).float().argmax(1)
    return TableRng({"masker/length": (chances.cumsum(0) - chances / 2)[places].float()}, rows)


def train(case: Case) -> Iterator[Comparison]:
    """A step: losses, what they are made of, and gradients."""
    from .importer import gradient_of  # which uses this module

    model, objective = case.variant().train(), supervision(case)
    weights = {"reconstruction_weight": 1.0, "quantizer_weight": 1.0, "vf_weight": 1.0}
    weights |= case.source.settings.get("losses", {})
    rng, own, seen, taught = draws(case, model), dict[str, Tensor](), dict[str, Tensor](), dict[str, Tensor]()
    if objective is not None:
        taught["supervision_whole"] = case["aux_cls"].flatten(1)
        taught["supervision_cells"] = case["aux_feature"].movedim(1, -1)
    batch = Batch(torch.arange(len(case["images"])), case["images"], features=taught)
    batch = model.prepare(batch, rng=rng)
    modules = {"last_image_tokens_proj": "whole", "dec_vf_feat_proj": "cells"}
    modules = {theirs: getattr(objective, name) for theirs, name in modules.items() if getattr(objective, name, None)}

    def run() -> None:
        out = model(batch, taps=NONE if objective is None else objective.config.needs(), rng=rng)
        own.update({name.removeprefix("quantizer/") + "_loss": scalar(loss) for name, loss in out.losses.items()})
        own["quantizer_loss"] = own["commitment_loss"] + own["codebook_loss"]
        far = F.l1_loss if weights.get("reconstruction_loss") == "l1" else F.mse_loss
        own["reconstruction_loss"] = far(out.reconstruction, batch.images)[None]
        seen.update(pixels=out.reconstruction, indices=out.codes.codes.mT)
        if objective is not None:
            losses = objective(out, batch, step=0, rng=rng)
            own["vf_loss"] = torch.stack([scalar(loss) for loss in losses.values()]).sum(0)

    projected = {name: value.movedim(-1, 1) for name, value in layers(modules, run).items() if name in modules}
    terms = {
        "reconstruction_weight": "reconstruction_loss",
        "quantizer_weight": "quantizer_loss",
        "vf_weight": "vf_loss",
    }
    own["total_loss"] = sum((weights[w] * own[loss] for w, loss in terms.items() if loss in own), torch.zeros(1))
    own["total_loss"].sum().backward()
    yield from case.check("pixels", seen["pixels"], atol=PIXELS)
    yield from case.check("indices", seen["indices"])
    if "last_image_tokens_proj" in projected:
        told = projected["last_image_tokens_proj"].flatten(2)
        own["vf_cos"] = scalar(F.cosine_similarity(case["aux_cls"].flatten(1), told.mean(2)))
        yield from case.check("last_image_tokens_proj", told[:, :, None])
    if "dec_vf_feat_proj" in projected:
        own["vf_cos_dec"] = scalar(F.cosine_similarity(case["aux_feature"], projected["dec_vf_feat_proj"]))
        yield from case.check("dec_vf_feat_proj", projected["dec_vf_feat_proj"])
    for name, value in own.items():
        yield from case.check(name, value, **LOSS)
    grads: dict[str, Tensor | None] = {name: p.grad for name, p in model.named_parameters()}
    for name, linear in (("vf_proj.weight", "whole"), ("vf_proj_dec.weight", "cells")):
        grads[name] = None if getattr(objective, linear, None) is None else getattr(objective, linear).weight.grad
    yield from case.gradients(lambda name: gradient_of(name, grads))


CASES: dict[str, Callable[[Case], Iterator[Comparison]]] = {
    "case_encode": encode,
    "case_decode": decode,
    "case_train": train,
}
