"""GigaTok's golden cases: tensors that the reference computed, and what a model made from its checkpoint gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from flexframe.importing import Comparison, Foreign
from flexframe.models.build import Model
from flexframe.rng import Rng
from flexframe.testing import cases
from flexframe.testing.cases import Case, layers
from flexframe.tokens import Batch, Tokens, prefix
from flexframe_registry import catalogue
from flexframe_registry.slots import resolve

PIXELS = 2e-4
"""Tolerance behind a convolutional network."""
LOSSES = 1e-5
"""Of losses, absolute and as a share of the largest."""


def compare_cases(source: Foreign, model: Model) -> Iterator[Comparison]:
    """Every tensor of every case beside a checkpoint."""
    return cases.compare_cases(source, model, CASES, "GigaTok")


def args(source: Foreign) -> Mapping[str, Any]:
    """The model's settings, as the project has them."""
    found: Mapping[str, Any] = source.settings.get("model", {}).get("init_args", {})
    return found


def images(case: Case) -> Tensor:
    """The case's images, which it has in [-1, 1], in [0, 1]."""
    return case["images"] / 2 + 0.5


def flat(values: Tensor) -> Tensor:
    """Slots as the reference has them, `b d 1 k`."""
    return values.mT[:, :, None]


def quantized(model: Any, features: Tensor) -> Any:
    """Features, all of them, through the quantizer."""
    keep = torch.ones(features.shape[:2], dtype=torch.bool)
    return model.quantizer(features, keep, rng=Rng(0, torch.arange(len(features))))


def tokens_of(values: Tensor, count: int | None = None) -> Tokens:
    """Tokens of these values, `b d 1 k`: the first ones."""
    values = values[:, :, 0].mT[:, :count]
    return Tokens(values, prefix(torch.full((len(values),), values.shape[1]), values.shape[1]), values)


def distilled(source: Foreign, model: Any) -> Any:
    """The objective that brings features to a teacher's, with the checkpoint's own projection; None where there is
    none."""
    prefix, tensors = "s1to2decoder.distill_mlp.", source.tensors
    state = {name.removeprefix(prefix): tensors[name] for name in tensors if name.startswith(prefix)}
    if not state:
        return None
    hidden, dim = len(state["0.weight"]), len(state["4.weight"])
    tap = f"block.{int(args(source).get('distill_depth', 3)) - 1}"
    given = {"type": "repa", "teacher": None, "dim": dim, "hidden": hidden, "tap": tap, "grid": None}
    objective = catalogue().build(resolve("objective", given), model.spec)
    objective.project.load_state_dict(state)
    return objective


@torch.no_grad()
def encode(case: Case) -> Iterator[Comparison]:
    """Encoder, level by level and block by block, and tokens."""
    model, own = case.parts, dict[str, Tensor]()
    encoder, conv = model.encoder, model.encoder.conv
    modules: dict[str, Any] = {f"cnn_level{i}_out": level.res for i, level in enumerate(conv.levels)}
    modules |= {"cnn_mid_out": conv.mid, "spatial": conv, "enc_memory": encoder.embed, "enc_queries_in": encoder.start}
    modules |= {f"enc_block{i}_out": block for i, block in enumerate(encoder.blocks)}
    modules |= {"enc_ln_post": encoder.norm_out, "out": encoder.out, "z": model.quantizer.project}

    def run() -> None:
        features = encoder(images(case), torch.ones(len(case["images"]), len(encoder.positions), dtype=torch.bool))
        found = quantized(model, features)
        rows = flat(model.quantizer.lookup(found.codes))
        own.update(indices=found.codes.mT, z_quantized=flat(found.values), z_codebook=rows)

    seen = layers(modules, run)
    seen |= own | {"enc_conv_out": flat(seen["out"]), "enc_z": flat(seen["z"])}
    for name, value in seen.items():
        yield from case.check(name, value, **({"atol": PIXELS} if name.startswith(("cnn", "spatial")) else {}))


@torch.no_grad()
def decode(case: Case) -> Iterator[Comparison]:
    """Decoder, block by block and level by level; of fewer tokens, of codes, and of the encoder's grid."""
    model, decoder = case.parts, case.parts.decoder
    given = Case(case.path.with_name("case_encode.safetensors"), case.source, case.model)
    grid = model.encoder.grid(images(given))

    def pixels(tokens: Tokens) -> Tensor:
        out: Tensor = decoder.picture(decoder.grid(tokens)[0])
        return out * 2 - 1

    modules: dict[str, Any] = {f"dec_block{i}_out": block for i, block in enumerate(decoder.blocks)}
    modules |= {f"cnn_level{i}_out": level.res for i, level in enumerate(decoder.conv.levels)}
    modules |= {f"cnn_adaptive{i}_out": level.adaptive for i, level in enumerate(decoder.conv.levels)}
    modules |= {"post": decoder.from_tokens, "dec_memory": decoder.embed, "dec_ln_post": decoder.norm_out}
    modules |= {"rec_spatial": decoder.out, "cnn_conv_in": decoder.conv.conv_in}
    values, own = case["z_quantized"], dict[str, Tensor]()
    seen = layers(modules, lambda: own.update(pixels=pixels(tokens_of(values))))
    own |= {"post_quant_conv": flat(seen["post"]), "direct_pixels": decoder.picture(grid) * 2 - 1}
    codes = model.tokens(case["indices"].mT)
    own["decode_code_pixels"] = pixels(codes)
    objective = distilled(case.source, case.model)
    if objective is not None:
        tap = objective.config.tap
        features = decoder.grid(tokens_of(values), frozenset({tap}))[1][tap].flatten(1, 2)
        own |= {"inner_feat": objective.project(features), "feat_linear_probe": features}
    for found in case.named(r"pixels_len(\d+)"):
        own[found[0]] = pixels(tokens_of(values, int(found[1])))
    for found in case.named(r"enc_z_queries(\d+)"):
        own[found[0]] = flat(model.quantizer.project(model.encoder.read(grid, int(found[1]))))
    for name, value in (seen | own).items():
        behind = name.startswith("cnn") or "pixels" in name
        yield from case.check(name, value, **({"atol": PIXELS} if behind else {}))


def train(case: Case) -> Iterator[Comparison]:
    """A step before the opponent joins: losses, and gradients of their sum."""
    model, objective = case.parts.train(), distilled(case.source, case.model)
    batch, rng = Batch(torch.arange(len(case["images"])), images(case)), Rng(0, torch.arange(len(case["images"])))
    batch = model.prepare(batch, rng=rng)
    direct = "direct_pixels" in case
    wanted = [{"type": "mse"}, {"type": "feature-mse"}, *[{"type": "mse", "of": "direct"}] * direct]
    judges = [catalogue().build(resolve("objective", each), model.spec) for each in wanted]
    taps = {"grid", "encoder.grid", *["direct"] * direct, *([objective.config.tap] if objective is not None else [])}
    outputs = model(batch, taps=frozenset(taps), rng=rng)
    named = {name: loss.mean() for name, loss in outputs.losses.items()}
    found: dict[str, Tensor] = {"pixels": outputs.reconstruction * 2 - 1}
    mse, features, *rest = (judge(outputs, batch, step=0, rng=rng)["mse"].mean() for judge in judges)
    losses = {"mse": 4 * mse, "feature_rec_loss": features, "vq_loss": named["quantizer/codebook"]}
    losses["commit_loss"] = named["quantizer/commitment"]
    entropy = [loss for name, loss in named.items() if name.endswith("_entropy")]
    losses["entropy_loss"] = torch.stack(entropy).sum() if entropy else mse.new_zeros(())
    if direct:
        losses["direct_mse"] = 4 * rest[0]
        found["direct_pixels"] = outputs.features["direct"] * 2 - 1
    total = torch.stack(list(losses.values())).sum()
    if objective is not None:
        target = case["distill_target"]
        grid = outputs.features[objective.config.tap].shape[1:3]
        aligned = Batch(batch.index, features={"repa": target.unflatten(1, grid)})
        losses["proj_loss"] = objective(outputs, aligned, step=0, rng=rng)["cosine"].mean() - 1
        found["inner_feat"] = objective.project(outputs.features[objective.config.tap]).flatten(1, 2)
        total = total + 0.5 * losses["proj_loss"]
    codes = outputs.codes.codes.flatten()  # the reference counts those of a record that they move on
    record = torch.cat([case.source.tensors["quantize.codebook_used"].long()[len(codes) :], codes])
    used = len(record.unique()) / model.spec.tokens.codebook_size
    for name, value in found.items():
        yield from case.check(name, value, **({"atol": PIXELS} if "pixels" in name else {}))
    for name, value in (losses | {"total_loss": total, "codebook_usage": torch.tensor(used)}).items():
        yield from case.check(name, value[None], atol=LOSSES, rtol=LOSSES)
    total.backward()
    yield from case.gradients(gradients(model, objective))


def gradients(model: Any, objective: Any) -> Callable[[str], Tensor | None]:
    """Gradients by the checkpoint's names."""
    from .importer import DISTILL, joined  # which uses this module

    own = {name: parameter.grad for name, parameter in model.named_parameters()}
    if objective is not None:
        head = {f"{DISTILL}{name}": parameter.grad for name, parameter in objective.project.named_parameters()}
    return lambda theirs: head[theirs] if theirs.startswith(DISTILL) else joined(theirs, own)


def quantizer(case: Case) -> Iterator[Comparison]:
    """The quantizer alone: values, losses, and gradients by rotation and straight through."""
    for rotation, names in ((True, ("z_grad",)), (False, ("z_grad_plain_straight_through_of_quantized_only",))):
        part = case.variant(quantizer={"rotation_trick": rotation}).quantizer.train()
        part.project = torch.nn.Identity()
        z = case["z"].clone().requires_grad_()
        keep = torch.ones(len(z), z.shape[3], dtype=torch.bool)
        out = part(rearrange(z, "b d 1 k -> b k d"), keep, rng=Rng(0, torch.arange(len(z))))
        made, named = flat(out.values), {name: loss.mean() for name, loss in out.losses.items()}
        scalar = (made * torch.linspace(-1, 1, made.numel()).view(made.shape)).sum()
        if rotation:
            entropy = [loss for name, loss in named.items() if name.endswith("_entropy")]
            losses = {"vq_loss": named["codebook"], "commit_loss": named["commitment"]}
            losses["entropy_loss"] = torch.stack(entropy).sum() if entropy else made.new_zeros(())
            (scalar + torch.stack(list(losses.values())).sum()).backward()
            yield from case.check("indices", out.codes.mT)
            yield from case.check("quantized", made)
            yield from case.check("embedding_grad", part.codebook.embedding.weight.grad, atol=0.0, rtol=cases.GRADIENTS)
            for name, value in losses.items():
                yield from case.check(name, value[None], atol=LOSSES, rtol=LOSSES)
        else:
            scalar.backward()
        yield from case.check(names[0], z.grad, atol=0.0, rtol=cases.GRADIENTS)
    if "entropy_affinity" in case:
        model, logits = case.variant(quantizer={"entropy": 1.0, "entropy_floor": 1e-5}), case["entropy_affinity"][None]
        codebook = model.quantizer.codebook
        found = codebook.entropies(logits, torch.ones(logits.shape[:2], dtype=torch.bool))
        alone = torch.stack([each.mean() for each in found.values()]).sum()
        yield from case.check("entropy_alone_of_given_affinity", alone[None], atol=1e-7, rtol=LOSSES)


CASES: dict[str, Callable[[Case], Iterator[Comparison]]] = {
    "case_encode": encode,
    "case_decode": decode,
    "case_train": train,
    "case_quantizer": quantizer,
}
