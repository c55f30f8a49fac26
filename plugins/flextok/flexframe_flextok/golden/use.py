"""Cases of use: encoder, quantizer, decoder, sampler."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from flexframe.importing.compare import Comparison
from flexframe.models.tokenizer import Tokenizer
from flexframe.nn.transformer import causal_registers
from flexframe.tokens import Tokens
from flexframe_registry import ConfigError

from .. import FlowSampling
from ..flow import Guidance
from .case import (
    GUIDED,
    MIXED,
    Case,
    Subject,
    by_length,
    detokenize,
    fsq_of,
    quantize,
    tokens_of,
    values_of,
    variant,
    velocity,
)  # fmt: skip


def encode(case: Case, subject: Subject) -> Iterator[Comparison]:
    """Encoder and quantizer, block by block.

    Raises:
        ConfigError: the case has more blocks than the encoder.
    """
    tokenizer, latents = subject.tokenizer, case["vae_latents"]
    blocks: Any = tokenizer.encoder.blocks
    seen: list[Tensor] = []
    hooks = [blocks[0].register_forward_pre_hook(lambda _module, args: seen.append(args[0]))]
    hooks += [block.register_forward_hook(lambda _module, _args, out: seen.append(out)) for block in blocks]
    try:
        z = values_of(tokenizer, latents)
    finally:
        for hook in hooks:
            hook.remove()
    packed = [x.flatten(0, 1)[None] for x in seen]
    yield from case.check("enc_packed_in", lambda: packed[0])
    for match in case.matching(r"enc_block(\d+)_out"):
        if int(match[1]) >= len(blocks):
            raise ConfigError.at(str(case.path), f"has {match[0]!r}; the encoder has {len(blocks)} blocks")
        yield from case.check(match[0], lambda i=int(match[1]): packed[1 + i])
    if "enc_attn_mask" in case:
        patches = seen[0].shape[1] - subject.length
        mask = torch.zeros_like(case["enc_attn_mask"])  # of the padding too, which attends to nothing
        one = causal_registers(patches, subject.length, mask.device)
        whole = torch.block_diag(*[one] * len(latents)).bool()
        mask[: len(whole), : len(whole)] = whole
        yield from case.check("enc_attn_mask", lambda: mask)
    yield from case.check("enc_z", lambda: z)
    yield from case.check("fsq_bounded", lambda: fsq_of(tokenizer).bounded(z))
    quantized = quantize(tokenizer, latents)
    yield from case.check("fsq_quants", lambda: quantized.values)
    yield from case.check("tokens", lambda: quantized.codes[..., 0])


def decode(case: Case, subject: Subject) -> Iterator[Comparison]:
    """Velocities at several lengths, without tokens, and under other settings of time.

    Raises:
        ConfigError: the case has features of an inner layer, and the config does not name exactly one.
    """
    tokenizer, length = subject.tokenizer, subject.length
    x, times, values = case["x_t"], case["timesteps"], case["fsq_quants"]
    null = torch.ones(len(x), dtype=torch.bool)

    def at(lengths: Tensor | int, null: Tensor | None = None, model: Tokenizer = tokenizer) -> Tensor:
        velocities: Tensor = velocity(model, x, times, tokens_of(values, lengths), null)
        return velocities

    for match in case.matching(r"velocity_keep(\d+)"):
        yield from case.check(match[0], lambda k=int(match[1]): at(k))
    if "keep_mixed" in case:
        yield from case.check("velocity_keep_mixed", lambda: at(case["keep_mixed"]))
    yield from case.check("velocity_no_keep_key", lambda: at(length))
    yield from case.check("velocity_null", lambda: at(length, null))
    if "velocity_null_mixed" in case:
        guess = torch.full((len(x),), min(MIXED, length))
        result, note = by_length(case["velocity_null_mixed"], at, guess, length, null=at(guess, null))
        yield from case.check("velocity_null_mixed", lambda: result, note=note)
    for match in case.matching(r"velocity_no_keep_key_max_timestep_([\d.]+)"):
        other = variant(tokenizer, decoder={"max_timestep": float(match[1])})
        yield from case.check(match[0], lambda other=other: at(length, model=other))
    yield from _time(case, tokenizer, times)
    if "repa_patches_no_keep_key" in case:
        if len(subject.inner_layers) != 1:
            text = f"has features of an inner layer; the config names layers {list(subject.inner_layers)}"
            raise ConfigError.at(str(case.path), text)
        tap, tokens = f"block.{subject.inner_layers[0]}", tokens_of(values, length)
        yield from case.check("repa_patches_no_keep_key", lambda: velocity(tokenizer, x, times, tokens, tap=tap))


@torch.no_grad()
def _time(case: Case, tokenizer: Tokenizer, times: Tensor) -> list[Comparison]:
    embed: Any = tokenizer.decoder.time
    comparisons = case.check("temb_sinusoid", lambda: embed.sinusoid(times))
    return [*comparisons, *case.check("temb", lambda: embed(times))]


@torch.no_grad()
def sample(case: Case, subject: Subject) -> Iterator[Comparison]:
    """Whole integrations, guided in each way, and from token ids."""
    tokenizer, decoder = subject.tokenizer, subject.tokenizer.decoder
    settings = {
        match[0]: {"steps": int(match[1]), "guidance": float(match[3]), "apg": match[2] == "apg"}
        for match in case.matching(r"sample(\d+)_(cfg|apg)([\d.]+)")
    }
    for match in case.matching(r"sample(\d+)_cfgfn"):
        settings[match[0]] = {"steps": int(match[1]), "guidance": ((0.0, 1.0), (1.0, 5.0))}
    lengths = case["keep_k"].clamp(max=subject.length)
    for name, each in settings.items():
        tokens, noise = tokens_of(case["fsq_quants"], lengths), case["init_noise"]

        def run(tokens: Tokens = tokens, noise: Tensor = noise, each: Mapping[str, Any] = each) -> Tensor:
            with torch.no_grad():
                return decoder.integrate(tokens, noise, FlowSampling(**each))  # type: ignore[operator,no-any-return]

        yield from case.check(name, run, GUIDED)
    if "detok_latents" in case:
        noise = case["detok_noise"]
        tokens = tokenizer.tokens(case["detok_tokens_padded0"], lengths=lengths)
        yield from case.check("detok_latents", lambda: detokenize(tokenizer, tokens, noise, 4), GUIDED)


def mixed_sizes(case: Case, subject: Subject) -> Iterator[Comparison]:
    """Latents of several sizes, which the reference packs into one sequence."""
    tokenizer = subject.tokenizer
    for i, match in enumerate(sorted(case.matching(r"latents_(\w+)"), key=lambda match: match[1])):
        which, latents, row = match[1], case[match[0]], slice(i, i + 1)
        quantized = quantize(tokenizer, latents)
        yield from case.check(f"enc_z_{which}", lambda x=latents: values_of(tokenizer, x))
        yield from case.check(f"tokens_{which}", lambda q=quantized: q.codes[..., 0])
        if f"velocity_{which}" in case:
            x, tokens = case[f"x_t_{which}"], tokens_of(quantized.values, case["keep_k"][row])
            result = velocity(tokenizer, x, case["timesteps"][row], tokens)
            yield from case.check(f"velocity_{which}", lambda v=result: v)


@torch.no_grad()
def fsq(case: Case, subject: Subject) -> list[Comparison]:
    """The quantizer alone, and what its ids stand for."""
    quantizer, comparisons = fsq_of(subject.tokenizer), list[Comparison]()
    if "z" in case:
        z = case["z"]
        comparisons += case.check("bounded", lambda: quantizer.bounded(z))
        comparisons += case.check("quants", lambda: quantizer.quantize(z))
        comparisons += case.check("tokens", lambda: quantizer.ids(quantizer.quantize(z)))
    if "ids" in case:
        ids = case["ids"]
        comparisons += case.check("ids_embedding", lambda: quantizer.lookup(ids[None, :, None])[0])
    return comparisons


def guidance(case: Case, subject: Subject) -> Iterator[Comparison]:
    """Guidance alone: plain, projected over several steps, and projected without memory."""

    def step(number: int) -> tuple[Tensor, Tensor]:
        end = "" if number == 1 else str(number)
        return case[f"cond{end}"], case[f"uncond{end}"]

    def projected(steps: int, scale: float) -> Tensor:
        rule = Guidance(FlowSampling(apg=True))
        return [rule(*step(i), scale) for i in range(1, steps + 1)][-1]

    for match in case.matching(r"cfg([\d.]+)"):
        yield from case.check(match[0], lambda g=float(match[1]): Guidance(FlowSampling())(*step(1), g))
    for match in case.matching(r"apg([\d.]+)_step(\d+)"):
        yield from case.check(match[0], lambda n=int(match[2]), g=float(match[1]): projected(n, g))
    for match in case.matching(r"apg([\d.]+)_nomomentum"):
        still = Guidance(FlowSampling(apg=True, apg_momentum=0.0))
        yield from case.check(match[0], lambda still=still, g=float(match[1]): still(*step(1), g))
