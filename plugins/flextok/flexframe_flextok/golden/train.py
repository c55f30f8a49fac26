"""The golden case of a training step: what it draws is in the case, and is put where our model draws."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from flexframe.importing.compare import Comparison, compare
from flexframe.models.tokenizer import Tokenizer
from flexframe.rng import Rng
from flexframe.testing.tables import TableRng
from flexframe.tokens import Batch
from flexframe_registry import ConfigError

from ..flow import draw_times, mode_times
from ..reading import to_positions
from .case import Case, Subject, fsq_of, variant

LENGTHS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "pow2": lambda lengths: lengths.float().log2().long(),
    "uniform": lambda lengths: lengths - 1,
    "uniform-pow2": lambda lengths: lengths - 1,
}
"""Draws of each masker for these lengths."""


def train(case: Case, subject: Subject) -> Iterator[Comparison]:
    """Losses, what they are made of, and gradients."""
    model = variant(subject.tokenizer)  # of its own gradients
    rng, seen, decoder = _draws(case, model), dict[str, Tensor](), model.decoder
    decoder.times = lambda rng: case["sigmas"]  # to the last bit: frequencies amplify it
    hooks = _watch(model, seen)
    try:
        out = model.train()(Batch(torch.arange(len(case["vae_latents"])), latents=case["vae_latents"]), rng=rng)
    finally:
        for hook in hooks:
            hook.remove()
    loss = out.losses["decoder/flow"]
    loss.mean().backward()
    times = draw_times(decoder.config.time_sampling, decoder.config.mode_scale, rng)
    assert out.codes is not None
    own = {**seen, "timesteps": times, "tokens": out.codes.codes[..., 0], "loss_per_sample": loss.detach()}
    for name, value in {**own, "loss": loss.mean().detach()[None]}.items():
        yield from case.check(name, lambda value=value: value)
    yield from _gradients(case, subject, model)


def _watch(model: Tokenizer, seen: dict[str, Tensor]) -> list[Any]:
    """Keep what passes between the modules, under the case's names."""
    decoder, quantizer = model.decoder, fsq_of(model)

    def keep(name: str, value: Tensor) -> None:
        seen[name] = value.detach()

    def sequence(_module: Any, args: tuple[Any, ...]) -> None:
        x, _time, split, *_ = args
        keep("dec_registers_after_dropouts", x[:, split:])

    parts: Any = decoder
    return [
        quantizer.project.register_forward_hook(lambda _module, _args, out: keep("enc_z", out)),
        quantizer.register_forward_hook(lambda _module, _args, out: keep("fsq_quants", out.values)),
        parts.patches.register_forward_pre_hook(lambda _module, args: keep("x_t", args[0])),
        parts.blocks[0].register_forward_pre_hook(sequence),
        parts.head.register_forward_hook(lambda _module, _args, out: keep("velocity", out)),
    ]


# --- draws -------------------------------------------------------------------------------------------------------


def _draws(case: Case, model: Tokenizer) -> Rng:
    config: Any = model.config
    lengths, dropped = case["keep_k"].clamp(max=model.spec.tokens.length), case["null_dropped"]
    if dropped.any() and not config.decoder.null_dropout:
        raise ConfigError.at(str(case.path), "drops tokens for the null condition; the config says it never does")
    if config.quantizer.corrupt_tokens_p:
        raise ConfigError.at(str(case.path), "cannot be run again: corrupted tokens are drawn, and are not in it")
    inverse = {"mode": lambda t: invert_mode(t, config.decoder.mode_scale), "logit-normal": torch.logit}
    tables = {
        "masker/length": LENGTHS[config.masker.type](lengths),
        "decoder/noise": case["noise"],
        "decoder/time": inverse[config.decoder.time_sampling](case["sigmas"]),
        "decoder/null": 1 - dropped.float(),  # below any share where it is dropped
    }
    if config.quantizer.drop_quant_p:
        tables["quantizer/drop"] = 1 - _unrounded(case["fsq_quants"], fsq_of(model).half_width).float()
    rng = TableRng(tables, len(lengths))
    drawn = model.masker.draw(len(lengths), model.spec.tokens.length, rng=rng).keep.sum(1)
    if not torch.equal(drawn, lengths):
        text = f"keeps {lengths.tolist()} tokens, which masker {config.masker.type!r} does not draw"
        raise ConfigError.at(str(case.path), text)
    return rng


def _unrounded(values: Tensor, half_width: Tensor) -> Tensor:
    """The rows whose values are not on the grid."""
    steps = values * half_width
    return (steps - steps.round()).abs().amax((1, 2)) > 1e-3


def invert_mode(times: Tensor, scale: float) -> Tensor:
    """The uniform draw that mode sampling turns into these times (it falls from 1 to 0), by bisection in float64."""
    low, high = torch.zeros(len(times), dtype=torch.float64), torch.ones(len(times), dtype=torch.float64)
    for _ in range(60):
        middle = (low + high) / 2
        above = mode_times(middle, scale) > times
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return ((low + high) / 2).float()


# --- gradients ---------------------------------------------------------------------------------------------------


def _gradients(case: Case, subject: Subject, model: Tokenizer) -> Iterator[Comparison]:
    ours = {theirs: name for name, theirs in subject.names.items()}
    gradients = {name: p.grad for name, p in model.named_parameters()}

    def gradient(theirs: str) -> Tensor:
        if theirs not in ours:
            raise ConfigError.at(str(case.path), f"has a gradient of {theirs!r}, which is no tensor of the model")
        grad = gradients[ours[theirs]]
        return torch.full((), torch.nan) if grad is None else grad

    for match in case.matching(r"grad\.(.+)"):
        golden, theirs = case[match[0]], match[1]
        if ours.get(theirs) == "decoder.positions":
            golden = to_positions(golden, subject.length)
        yield compare(case.name, match[0].replace("module_dict.", ""), gradient(theirs), golden, 2e-7, 1e-3)
    for theirs, norm in _norms(case).items():
        name = f"norm.{theirs.replace('module_dict.', '')}"
        if norm is not None:
            yield compare(case.name, name, gradient(theirs).norm(), torch.tensor(norm), 1e-7, 1e-3)
        elif theirs in ours:  # and a table that is computed here has none either
            grown = gradients[ours[theirs]]
            yield compare(case.name, name, torch.tensor(grown is not None), torch.tensor(False), note="no gradient")


def _norms(case: Case) -> Mapping[str, float | None]:
    """The norms of all gradients, beside the case."""
    path = case.path.with_name(f"{case.name}_grad_norms.json")
    if not path.is_file():
        return {}
    norms: dict[str, float | None] = json.loads(path.read_text(encoding="utf-8"))
    return norms
