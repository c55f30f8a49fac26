"""Semanticist's golden cases: tensors that the reference computed, and what a model made from its checkpoint gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from flexframe.importing import ATOL, Comparison, Foreign
from flexframe.models.build import Model
from flexframe.models.tokenizer import Tokenizer
from flexframe.rng import Rng
from flexframe.testing import cases
from flexframe.testing.cases import Case, layers
from flexframe.testing.tables import TableRng
from flexframe.tokens import Batch, Tokens, prefix
from flexframe_registry import catalogue
from flexframe_registry.slots import resolve

from . import DDPMSampling
from .decoder import grid_positions
from .diffusion import process, taken

TABLES = 1e-12
"""Of tables in float64."""
LOSSES = 1e-5
"""Of losses, absolute and as a share of the largest."""
PIXELS = 2e-4
"""Tolerance behind the VAE's decoder."""
SAMPLES = 1e-5
"""Of sampled latents, as a share of the largest entry: a random model's are far from any data."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, by which the teacher's images are brought to its range."""


def compare_cases(source: Foreign, model: Model) -> Iterator[Comparison]:
    """Every tensor of every case beside a checkpoint."""
    return cases.compare_cases(source, model, CASES, "Semanticist")


def encoded(model: Any, images: Tensor) -> Tensor:
    """Tokens of images, all of them."""
    keep = torch.ones(len(images), model.spec.tokens.length, dtype=torch.bool)
    features = model.encoder(images, keep)
    values: Tensor = model.quantizer(features, keep, rng=Rng(0, torch.arange(len(images)))).values
    return values


def tokens_of(slots: Tensor, keep: Tensor) -> Tokens:
    """Tokens of these values, so many of each row."""
    return Tokens(slots, keep, slots)


# --- use ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def encode(case: Case) -> Iterator[Comparison]:
    """Encoder block by block, tokens, and the VAE."""
    model, images, own = case.parts, case["images"], dict[str, Tensor]()
    encoder = model.encoder
    modules = {f"enc_block{i}_out": block for i, block in enumerate(encoder.blocks)}
    modules |= {"enc_patch_embed": encoder.patches, "slots_before_norm": model.quantizer.project}
    seen = layers(modules, lambda: own.update(slots=encoded(model, images)))
    last = seen[f"enc_block{len(encoder.blocks) - 1}_out"]
    seen |= {"enc_tokens_in": seen["enc_block0_out.in"], "enc_norm": encoder.norm(last), **own}
    seen["slots_not_causal"] = encoded(case.variant(encoder={"causal": False}), images)
    for name, value in seen.items():
        yield from case.check(name, value)
    if "vae_eps" in case:
        mean, logvar = model.codec.posterior(images)
        rng = TableRng({"codec/posterior": case["vae_eps"]}, len(images))
        latents = model.codec.encode(images, rng=rng)
        for name, value in {"vae_mean": mean, "vae_logvar": logvar, "vae_latents": latents}.items():
            yield from case.check(name, value)
        yield from case.check("vae_decoded", model.codec.decode(latents), atol=PIXELS)


@torch.no_grad()
def decode(case: Case) -> Iterator[Comparison]:
    """The network at several lengths, without tokens, and guided."""
    decoder, slots, x, times = case.parts.decoder, case["slots"], case["x_t"], case["timesteps"]
    rows, length = slots.shape[:2]
    null = torch.ones(rows, dtype=torch.bool)
    whole = torch.ones(rows, length, dtype=torch.bool)

    def out(keep: Tensor, null: Tensor | None = None) -> Tensor:
        tokens = tokens_of(slots, keep)
        result: Tensor = decoder.predict(x, times, decoder.condition(tokens, null), keep)[0]
        return result

    def kept(count: int) -> Tensor:
        return prefix(torch.full((rows,), count), length)

    yield from case.check("t_emb", decoder.time(times.float()))
    patches = decoder.patches(x)
    yield from case.check("x_embed", patches.flatten(2).transpose(1, 2))
    yield from case.check("pos_embed", grid_positions(*patches.shape[2:], patches.shape[1])[None])
    yield from case.check("out_no_mask", out(whole))
    yield from case.check("out_null", out(whole, null))
    if "drop_mask_mixed" in case:
        yield from case.check("out_drop_mask_mixed", out(case["drop_mask_mixed"]))
    for found in case.named(r"out_keep(\d+)"):
        yield from case.check(found[0], out(kept(int(found[1]))))
    for found in case.named(r"(cond_embed|dit_block(\d+)_out)_keep(\d+)"):
        module = decoder.from_tokens if found[2] is None else decoder.blocks[int(found[2])]
        seen = layers({"it": module}, lambda found=found: out(kept(int(found[3]))))
        yield from case.check(found[0], seen["it"])
    for found in case.named(r"out_cfg([\d.]+)_keep(\d+)"):
        keep = kept(int(found[2]))
        given = torch.cat([decoder.condition(tokens_of(slots, keep), each) for each in (None, null)])
        guessed = decoder.guess(x, times, given, keep.repeat(2, 1), float(found[1]))
        yield from case.check(found[0], torch.cat(guessed, 1))


def steps_of(model: Tokenizer, steps: int) -> DDPMSampling:
    """The model's own settings of use, where they are of so many steps."""
    own = model.sampling
    assert isinstance(own, DDPMSampling)
    return own if own.steps == steps else DDPMSampling(steps=steps)


@torch.no_grad()
def diffusion(case: Case) -> Iterator[Comparison]:
    """The tables, and what is computed of them alone."""
    whole = process()
    spaced = process(taken(steps_of(case.model, len(case["timestep_map"]))))
    x, (noise, share) = case["x_t"], case["model_out"].chunk(2, 1)
    t, late = case["spaced_t"], case["vb_t"]
    mean, log_variance = spaced.step(x, noise, share, t)
    own = {
        "train_betas": whole.betas,
        "train_alphas_cumprod": whole.bars,
        "gen_betas": spaced.betas,
        "gen_alphas_cumprod": spaced.bars,
        "gen_posterior_log_variance_clipped": spaced.least,
        "timestep_map": spaced.steps,
        "q_sample": whole.noised(case["x_start"], case["noise"], case["q_sample_t"]),
        "p_mean": mean,
        "p_log_variance": log_variance,
        "pred_xstart": spaced.data(x, noise, t),
        "vb": whole.bound(case["x_start"], x, noise, share, late),
    }
    for name, value in own.items():
        atol = TABLES if value.dtype == torch.float64 else ATOL
        yield from case.check(name, value, atol=LOSSES if name == "vb" else atol, rtol=LOSSES if name == "vb" else 0.0)


@torch.no_grad()
def sample(case: Case) -> Iterator[Comparison]:
    """Whole chains of sampling, and their pixels."""
    model, slots = case.parts, case["slots"]
    rows, length = slots.shape[:2]
    for found in case.named(r"(all|keep(\d+))(_cfg([\d.]+))?_init_noise"):
        label = found[0].removesuffix("_init_noise")
        noise = case[f"{label}_step_noise"][:, :rows]
        count = length if found[2] is None else int(found[2])
        drawn = {f"decoder/sample/{len(noise) - 1 - i}": each for i, each in enumerate(noise)}
        rng = TableRng({"decoder/sample": case[found[0]], **drawn}, rows)
        settings = steps_of(case.model, len(noise)).laid({"guidance": float(found[4] or 1)})
        tokens = tokens_of(slots, prefix(torch.full((rows,), count), length))
        size = tuple(case[found[0]].shape[2:])
        latents = model.decoder.decode(tokens, condition=None, size=size, rng=rng, sampling=settings)
        yield from case.check(f"{label}_latents", latents, rtol=SAMPLES)
        pixels = model.codec.decode(latents)
        golden = case[f"{label}_pixels"]
        clamped = bool(golden.min() >= 0 and golden.max() <= 1)
        yield from case.check(f"{label}_pixels", pixels.clamp(0, 1) if clamped else pixels, atol=PIXELS)


# --- training ----------------------------------------------------------------------------------------------------


def train(case: Case) -> Iterator[Comparison]:
    """A step before or after nesting begins: losses, what they are made of, and gradients."""
    nested = "keep" in case
    begin = {} if nested else {"masker": {"begin": 1}, "decoder": {"null_dropout": 0.1, "null_end": None}}
    model = case.variant(**begin).train()
    batch = Batch(torch.arange(len(case["images"])), case["images"])
    rng, objective = draws(case, model, nested), aligned(case)
    tap = objective.config.tap
    seen, kept = dict[str, Any](), dict[str, Any]()
    handles = [
        model.decoder.head.register_forward_hook(lambda _m, _a, out: kept.update(head=out)),
        objective.project.register_forward_hook(lambda _m, _a, out: kept.update(projected=out)),
    ]
    try:
        batch = model.prepare(batch, rng=rng)
        seen["outputs"] = model(batch, taps=frozenset({tap}), rng=rng)
        wanted = case["repa_target"]
        side = round(wanted.shape[1] ** 0.5)
        features = {"repa": wanted.unflatten(1, (side, side))}
        alignment = objective(seen["outputs"], Batch(batch.index, features=features), step=0, rng=rng)["cosine"] - 1
    finally:
        for handle in handles:
            handle.remove()
    losses = seen["outputs"].losses
    noise, bound = losses["decoder/noise"], losses["decoder/variance"]
    diffusion = (noise + bound).mean()
    weight = float(_params(case.source).get("repa_loss_weight", 1.0))
    total = diffusion + weight * alignment.mean()
    total.backward()
    out = kept["head"]
    patch, latents = model.config.decoder.patch, batch.latents
    rows = latents.shape[2] // patch
    grid = out.unflatten(1, (rows, -1)).unflatten(-1, (patch, patch, -1)).permute(0, 5, 1, 3, 2, 4)
    teacher = (case["images"] - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    single = {"vae_latents": latents, "mse_per_sample": noise, "vb_per_sample": bound}
    single |= {"dit_out": grid.flatten(4, 5).flatten(2, 3), "repa_hook": kept["projected"].flatten(1, 2)}
    for name, value in single.items():
        loss = {"atol": LOSSES, "rtol": LOSSES} if name.endswith("_per_sample") else {}
        yield from case.check(name, value, **loss)
    scalars = {"diff_loss": diffusion, "repa_loss": alignment.mean(), "loss": total}
    for name, value in scalars.items():
        yield from case.check(name, value[None], atol=LOSSES, rtol=LOSSES)
    seen_mean = F.interpolate(teacher, 224, mode="bicubic").mean()
    yield from case.check("repa_input_seen_mean", seen_mean[None])
    yield from gradients(case, model, objective)


def draws(case: Case, model: Any, nested: bool) -> Rng:
    """Put what the reference drew where our model draws it."""
    depth, rows = len(model.encoder.blocks), len(case["images"])
    branches = torch.ones(depth, 2, rows)
    dropped = [i for i in range(depth) if model.config.encoder.drop_path * i > 0]
    if dropped:
        branches[dropped] = case["drop_path_bernoulli"].unflatten(0, (len(dropped), 2))
    tables = {
        "codec/posterior": case["vae_eps"],
        "encoder/drop-path": branches.permute(2, 0, 1),  # 1 is above any share, 0 below all
        "decoder/time": case["timesteps"],
        "decoder/noise": case["noise"],
    }
    tables |= {"masker/length": case["keep"] - 1} if nested else {"decoder/null": case["cond_drop_uniform"]}
    return TableRng(tables, rows)


def _params(source: Foreign) -> Mapping[str, Any]:
    inner: Any = source.settings
    for name in ("trainer", "params", "model", "params"):
        inner = inner.get(name, {})
    params: Mapping[str, Any] = inner
    return params


def aligned(case: Case) -> Any:
    """The objective that aligns features with a teacher's, with the checkpoint's own projection."""
    tensors, depth = case.source.tensors, int(_params(case.source).get("repa_encoder_depth", 8))
    wide, dim = (tensors.shape(f"dit.projector.{i}.weight")[0] for i in (2, 4))
    settings = {"teacher": None, "dim": dim, "hidden": wide, "tap": f"block.{depth - 1}", "grid": None}
    known = resolve("objective", {"type": "repa", **settings, "resize": "projection"})
    objective: Any = catalogue().build(known, case.model.spec)
    state = {
        name.removeprefix("dit.projector."): tensors[name] for name in tensors if name.startswith("dit.projector.")
    }
    objective.project.load_state_dict(state)
    return objective


def gradients(case: Case, model: Any, objective: Any) -> Iterator[Comparison]:
    """Gradients by the checkpoint's names, and the norms of all."""
    from .importer import translate  # which uses this module

    own = {name: p.grad for name, p in model.named_parameters()}
    own |= {f"dit.projector.{name}": p.grad for name, p in objective.project.named_parameters()}

    def gradient(theirs: str) -> Tensor | None:
        if theirs.startswith("vae."):
            return torch.zeros(())
        return own.get(theirs if theirs.startswith("dit.projector.") else translate(theirs))

    yield from case.gradients(gradient)


CASES: dict[str, Callable[[Case], Iterator[Comparison]]] = {
    "case_encode": encode,
    "case_decode": decode,
    "case_diffusion": diffusion,
    "case_sample": sample,
    "case_train": train,
}
