"""FlexTok's golden cases: what the reference computed from a checkpoint's weights, against the model made from it.

A case is a file of tensors: inputs, and results by name. Every result is compared, or the case is refused; shapes,
lengths and widths are the tensors' and the model's own. Constants that a case does not hold (the steps and the scale
of `detok_*`, the lengths of two results) are those of the golden folder's description.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flexframe.generator import CodecModel
from flexframe.importing import Foreign, TensorFile
from flexframe.importing.compare import Comparison, compare
from flexframe.loading import Model, assemble
from flexframe.rng import Rng
from flexframe.testing.tables import TableRng
from flexframe.tokenizer import Tokenizer
from flexframe.tokens import Tokens, prefix
from flexframe_registry import ConfigError, TokenizerConfig

from . import FlowSampling
from .encoder import causal_registers
from .flow import Guidance

GUIDED = 3e-5
"""Tolerance after several guided steps; one pass has `compare`'s."""
DETOKENIZE = {"guidance": 3.0, "apg": True}
MIXED = 4
"""Tokens of each row of `velocity_null_mixed`, and of the first of `case_vae`'s `detok_images`."""


@dataclass(frozen=True)
class Subject:
    """The model to compare, and what its checkpoint says beside its config."""

    model: Model
    names: Mapping[str, str] = field(default_factory=dict)
    """The file's name of each tensor of ours."""
    inner_layers: tuple[int, ...] = ()

    @property
    def tokenizer(self) -> Tokenizer:
        if not isinstance(self.model, Tokenizer):
            raise ConfigError([("", f"is a case of a tokenizer, and this is a {type(self.model).__name__}")])
        return self.model

    @property
    def length(self) -> int:
        return self.tokenizer.spec.tokens.length


class Case:
    """The tensors of one file, and which of them were used."""

    def __init__(self, path: Path) -> None:
        self.path, self.name, self.tensors = path, path.stem, TensorFile([path])
        self._used: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise ConfigError([(str(self.path), f"has no {name!r}, from which its results were computed")])
        self._used.add(name)
        return self.tensors[name]

    def matching(self, pattern: str) -> list[re.Match[str]]:
        """Names that are of a form."""
        return [found for name in self.tensors if (found := re.fullmatch(pattern, name))]

    def check(
        self, name: str, found: Callable[[], Tensor], atol: float = 2e-5, rtol: float = 0.0, note: str = ""
    ) -> Iterator[Comparison]:
        """Compare a result, if the case has it."""
        if name in self.tensors:
            yield compare(self.name, name, found(), self[name], atol, rtol, note)

    def finish(self) -> None:
        left = sorted(self.tensors.keys() - self._used)
        if left:
            raise ConfigError([(str(self.path), f"has tensors that nothing here compares: {', '.join(left)}")])


def compare_cases(source: Foreign, subject: Subject) -> Iterator[Comparison]:
    """Every `case*.safetensors` in a checkpoint's folder, by its name."""
    from .golden_train import train

    kinds: dict[str, Callable[[Case, Subject], Iterable[Comparison]]] = {
        "case_encode": encode,
        "case_decode": decode,
        "case_sample": sample,
        "case_train": train,
        "case_mixed_sizes": mixed_sizes,
        "case_fsq": fsq,
        "case_guidance": guidance,
        "case_vae": vae,
    }
    folder = source.path if source.path.is_dir() else source.path.parent
    for path in sorted(folder.glob("case*.safetensors")):
        kind = next((kind for kind in kinds if path.stem == kind or path.stem.startswith(f"{kind}_")), None)
        if kind is None:
            raise ConfigError([(str(path), f"is no case of FlexTok; known: {', '.join(kinds)}")])
        case = Case(path)
        yield from kinds[kind](case, subject)
        case.finish()


# --- the model's parts -------------------------------------------------------------------------------------------


def variant(tokenizer: Tokenizer, **parts: Mapping[str, Any]) -> Tokenizer:
    """The same weights under settings that are others."""
    raw = tokenizer.config.model_dump(mode="json")
    for part, fields in parts.items():
        raw[part] |= fields
    return assemble(TokenizerConfig.read(raw), tokenizer.state_dict(), "golden case")  # type: ignore[return-value]


def fsq_of(tokenizer: Tokenizer) -> Any:
    """The quantizer, which an imported FlexTok has of the one kind."""
    return tokenizer.quantizer


@torch.no_grad()
def values_of(tokenizer: Tokenizer, latents: Tensor) -> Tensor:
    """Token values before the quantizer."""
    keep = torch.ones(len(latents), tokenizer.spec.tokens.length, dtype=torch.bool)
    return fsq_of(tokenizer).project(tokenizer.encoder(latents, keep))


@torch.no_grad()
def quantize(tokenizer: Tokenizer, latents: Tensor) -> Any:
    keep = torch.ones(len(latents), tokenizer.spec.tokens.length, dtype=torch.bool)
    rng = Rng(0, torch.arange(len(latents)))
    return tokenizer.quantizer(tokenizer.encoder(latents, keep), keep, rng=rng)


def tokens_of(values: Tensor, lengths: Tensor | int) -> Tokens:
    """Tokens of these values, so many of each row."""
    keep = prefix(torch.as_tensor(lengths).expand(len(values)), values.shape[1])
    return Tokens(values, keep, torch.zeros(*values.shape[:2], 1, dtype=torch.long))


@torch.no_grad()
def velocity(
    tokenizer: Tokenizer, x: Tensor, times: Tensor, tokens: Tokens, null: Tensor | None = None, tap: str | None = None
) -> Any:
    """The decoder's velocity, or the features of one tap."""
    decoder: Any = tokenizer.decoder
    taps = frozenset() if tap is None else frozenset({tap})
    found, features = decoder.velocity(x, times, decoder.registers(tokens, null), tokens.keep, taps, null)
    return found if tap is None else features[tap]


def by_length(golden: Tensor, run: Callable[[Tensor], Tensor], guess: Tensor, most: int) -> tuple[Tensor, str]:
    """A result whose lengths the case does not hold: those of the description, else of 1..most the ones that fit.

    Rows do not depend on each other, so that each row's length is found by itself; a wrong model fits at none.
    """
    found = run(guess)
    if found.shape != golden.shape or float((found - golden).abs().max()) <= GUIDED:
        return found, ""
    tried = torch.stack([run(torch.full_like(guess, k)) for k in range(1, most + 1)])
    best = (tried - golden).abs().flatten(2).amax(-1).argmin(0)
    return tried[best, torch.arange(len(guess))], f"lengths {(best + 1).tolist()}, found by trying all"


# --- cases -------------------------------------------------------------------------------------------------------


def encode(case: Case, subject: Subject) -> Iterator[Comparison]:
    """Encoder and quantizer, block by block."""
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
    for found in case.matching(r"enc_block(\d+)_out"):
        if int(found[1]) >= len(blocks):
            raise ConfigError([(str(case.path), f"has {found[0]!r}; the encoder has {len(blocks)} blocks")])
        yield from case.check(found[0], lambda i=int(found[1]): packed[1 + i])
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
    """Velocities at several lengths, without tokens, and under other settings of time."""
    tokenizer, length = subject.tokenizer, subject.length
    x, times, values = case["x_t"], case["timesteps"], case["fsq_quants"]
    null = torch.ones(len(x), dtype=torch.bool)

    def at(lengths: Tensor | int, null: Tensor | None = None, model: Tokenizer = tokenizer) -> Tensor:
        found: Tensor = velocity(model, x, times, tokens_of(values, lengths), null)
        return found

    for found in case.matching(r"velocity_keep(\d+)"):
        yield from case.check(found[0], lambda k=int(found[1]): at(k))
    if "keep_mixed" in case:
        yield from case.check("velocity_keep_mixed", lambda: at(case["keep_mixed"]))
    yield from case.check("velocity_no_keep_key", lambda: at(length))
    yield from case.check("velocity_null", lambda: at(length, null))
    if "velocity_null_mixed" in case:
        first = torch.arange(len(x)) == 0
        guess = torch.full((len(x),), min(MIXED, length))
        result, note = by_length(case["velocity_null_mixed"], lambda k: at(k, first), guess, length)
        yield from case.check("velocity_null_mixed", lambda: result, note=note)
    for found in case.matching(r"velocity_no_keep_key_max_timestep_([\d.]+)"):
        other = variant(tokenizer, decoder={"max_timestep": float(found[1])})
        yield from case.check(found[0], lambda other=other: at(length, model=other))
    yield from _time(case, tokenizer, times)
    if "repa_patches_no_keep_key" in case:
        if len(subject.inner_layers) != 1:
            text = f"has features of an inner layer; the config names layers {list(subject.inner_layers)}"
            raise ConfigError([(str(case.path), text)])
        tap, tokens = f"block.{subject.inner_layers[0]}", tokens_of(values, length)
        yield from case.check("repa_patches_no_keep_key", lambda: velocity(tokenizer, x, times, tokens, tap=tap))


@torch.no_grad()
def _time(case: Case, tokenizer: Tokenizer, times: Tensor) -> list[Comparison]:
    embed: Any = tokenizer.decoder.time
    found = case.check("temb_sinusoid", lambda: embed.sinusoid(times))
    return [*found, *case.check("temb", lambda: embed(times))]


@torch.no_grad()
def sample(case: Case, subject: Subject) -> Iterator[Comparison]:
    """Whole integrations, guided in each way, and from token ids."""
    tokenizer, decoder = subject.tokenizer, subject.tokenizer.decoder
    settings = {
        found[0]: {"steps": int(found[1]), "guidance": float(found[3]), "apg": found[2] == "apg"}
        for found in case.matching(r"sample(\d+)_(cfg|apg)([\d.]+)")
    }
    for found in case.matching(r"sample(\d+)_cfgfn"):
        settings[found[0]] = {"steps": int(found[1]), "guidance": lambda t: 1 + 4 * t}
    lengths = case["keep_k"]
    for name, each in settings.items():
        tokens, noise = tokens_of(case["fsq_quants"], lengths), case["init_noise"]

        def run(tokens: Tokens = tokens, noise: Tensor = noise, each: Mapping[str, Any] = each) -> Tensor:
            with torch.no_grad():
                return decoder.integrate(tokens, noise, FlowSampling(**each))  # type: ignore[operator,no-any-return]

        yield from case.check(name, run, GUIDED)
    if "detok_latents" in case:
        noise = case["detok_noise"]
        tokens = tokenizer.tokens(case["detok_tokens_padded0"], lengths=lengths)
        yield from case.check("detok_latents", lambda: _detokenize(tokenizer, tokens, noise, 4), GUIDED)


@torch.no_grad()
def _detokenize(tokenizer: Tokenizer, tokens: Tokens, noise: Tensor, steps: int) -> Tensor:
    rng = TableRng({"decoder/sample": noise}, len(noise))
    size = (noise.shape[2], noise.shape[3])
    settings = FlowSampling.read({"steps": steps, **DETOKENIZE})
    return tokenizer.decoder.decode(tokens, condition=None, size=size, rng=rng, sampling=settings)


def mixed_sizes(case: Case, subject: Subject) -> Iterator[Comparison]:
    """Latents of several sizes, which the reference packs into one sequence."""
    tokenizer = subject.tokenizer
    for i, found in enumerate(sorted(case.matching(r"latents_(\w+)"), key=lambda found: found[1])):
        which, latents, row = found[1], case[found[0]], slice(i, i + 1)
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
    quantizer, found = fsq_of(subject.tokenizer), list[Comparison]()
    if "z" in case:
        z = case["z"]
        found += case.check("bounded", lambda: quantizer.bounded(z))
        found += case.check("quants", lambda: quantizer.quantize(z))
        found += case.check("tokens", lambda: quantizer.ids(quantizer.quantize(z)))
    if "ids" in case:
        ids = case["ids"]
        found += case.check("ids_embedding", lambda: quantizer.lookup(ids[None, :, None])[0])
    return found


def guidance(case: Case, subject: Subject) -> Iterator[Comparison]:
    """Guidance alone: plain, projected over several steps, and projected without memory."""

    def step(number: int) -> tuple[Tensor, Tensor]:
        end = "" if number == 1 else str(number)
        return case[f"cond{end}"], case[f"uncond{end}"]

    def projected(steps: int, scale: float) -> Tensor:
        rule = Guidance(FlowSampling(apg=True))
        return [rule(*step(i), scale) for i in range(1, steps + 1)][-1]

    for found in case.matching(r"cfg([\d.]+)"):
        yield from case.check(found[0], lambda g=float(found[1]): Guidance(FlowSampling())(*step(1), g))
    for found in case.matching(r"apg([\d.]+)_step(\d+)"):
        yield from case.check(found[0], lambda n=int(found[2]), g=float(found[1]): projected(n, g))
    for found in case.matching(r"apg([\d.]+)_nomomentum"):
        still = Guidance(FlowSampling(apg=True, apg_momentum=0.0))
        yield from case.check(found[0], lambda still=still, g=float(found[1]): still(*step(1), g))


@torch.no_grad()
def vae(case: Case, subject: Subject) -> list[Comparison]:
    """The codec, and a tokenizer over it. The reference's images lie in [-1, 1], ours in [0, 1]."""
    model, images, found = subject.model, (case["images"] + 1) / 2, list[Comparison]()
    if not isinstance(model, Tokenizer | CodecModel):
        raise ConfigError([(str(case.path), f"is a case of a VAE, and this is a {type(model).__name__}")])
    part: Any = model.codec
    mean, logvar = part.posterior(images)
    found += case.check("posterior_mean", lambda: mean)
    found += case.check("posterior_logvar", lambda: logvar)
    divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum((1, 2, 3))
    found += case.check("kl", lambda: divergence, rtol=1e-5)
    rng: Rng = Rng(0, torch.arange(len(images)))
    for form, draws in (("mode", False), ("sampled", True)):
        if draws and "posterior_eps" in case:
            rng = TableRng({"codec/posterior": case["posterior_eps"]}, len(images))
        if not any(f"{name}_{form}{end}" in case for name, end in _FORMS):
            continue
        latents = _codec(part, draws).encode(images, rng=rng)
        found += case.check(f"latents_{form}_scaled", lambda latents=latents: latents)
        if isinstance(model, Tokenizer):
            found += case.check(f"enc_z_{form}", lambda latents=latents: values_of(model, latents))
            found += case.check(f"tokens_{form}", lambda x=latents: quantize(model, x).codes[..., 0])
    if "vae_decode_of_mode" in case:
        shown = part.decode(case["latents_mode_scaled"]) * 2 - 1
        found += case.check("vae_decode_of_mode", lambda: shown)
    if "detok_images" in case and isinstance(model, Tokenizer):
        found += _detok_images(case, model)
    return found


_FORMS = (("latents", "_scaled"), ("enc_z", ""), ("tokens", ""))


def _codec(part: nn.Module, draws: bool) -> Any:
    """The same codec, sampling its posterior or not."""
    found: Any = copy.copy(part)
    found.config = found.config.model_copy(update={"sample_posterior": draws})
    return found


def _detok_images(case: Case, tokenizer: Tokenizer) -> Iterator[Comparison]:
    ids, noise, length = case["tokens_mode"], case["detok_noise"], tokenizer.spec.tokens.length

    def run(lengths: Tensor) -> Tensor:
        tokens = tokenizer.tokens(ids, lengths=lengths)
        return tokenizer.codec.decode(_detokenize(tokenizer, tokens, noise, 2)) * 2 - 1

    if "keep_k" in case:
        lengths, note = case["keep_k"], ""
        found = run(lengths)
    else:
        guess = torch.full((len(ids),), length)
        guess[0] = min(MIXED, length)
        found, note = by_length(case["detok_images"], run, guess, length)
    yield from case.check("detok_images", lambda: found, GUIDED, note=note)


def gradient_norms(case: Case) -> Mapping[str, float | None]:
    """The norms of all gradients, beside the case."""
    path = case.path.with_name(f"{case.name}_grad_norms.json")
    if not path.is_file():
        return {}
    found: dict[str, float | None] = json.loads(path.read_text(encoding="utf-8"))
    return found
