"""The case of the VAE, by itself and under a tokenizer. The reference's images lie in [-1, 1], ours in [0, 1]."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from flexframe.importing.compare import Comparison
from flexframe.models.codec import CodecModel
from flexframe.models.tokenizer import Tokenizer
from flexframe.rng import Rng
from flexframe.testing.tables import TableRng
from flexframe_registry import ConfigError

from .case import GUIDED, MIXED, Case, Subject, by_length, detokenize, quantize, values_of


@torch.no_grad()
def vae(case: Case, subject: Subject) -> list[Comparison]:
    """The codec, and a tokenizer over it. The reference's images lie in [-1, 1], ours in [0, 1].

    Raises:
        ConfigError: the model has no codec of its own.
    """
    model, images, comparisons = subject.model, (case["images"] + 1) / 2, list[Comparison]()
    if not isinstance(model, Tokenizer | CodecModel):
        raise ConfigError.at(str(case.path), f"is a case of a VAE, and this is a {type(model).__name__}")
    part: Any = model.codec
    mean, logvar = part.posterior(images)
    comparisons += case.check("posterior_mean", lambda: mean)
    comparisons += case.check("posterior_logvar", lambda: logvar)
    divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum((1, 2, 3))
    comparisons += case.check("kl", lambda: divergence, rtol=1e-5)
    rng: Rng = Rng(0, torch.arange(len(images)))
    for form, draws in (("mode", False), ("sampled", True)):
        if draws and "posterior_eps" in case:
            rng = TableRng({"codec/posterior": case["posterior_eps"]}, len(images))
        if not any(f"{name}_{form}{end}" in case for name, end in _FORMS):
            continue
        latents = _codec(part, draws).encode(images, rng=rng)
        comparisons += case.check(f"latents_{form}_scaled", lambda latents=latents: latents)
        if isinstance(model, Tokenizer):
            comparisons += case.check(f"enc_z_{form}", lambda latents=latents: values_of(model, latents))
            comparisons += case.check(f"tokens_{form}", lambda x=latents: quantize(model, x).codes[..., 0])
    if "vae_decode_of_mode" in case:
        shown = part.decode(case["latents_mode_scaled"]) * 2 - 1
        comparisons += case.check("vae_decode_of_mode", lambda: shown)
    if "detok_images" in case and isinstance(model, Tokenizer):
        comparisons += _detok_images(case, model)
    return comparisons


_FORMS = (("latents", "_scaled"), ("enc_z", ""), ("tokens", ""))


def _codec(part: nn.Module, draws: bool) -> Any:
    """The same codec, sampling its posterior or not."""
    codec: Any = copy.copy(part)
    codec.config = codec.config.model_copy(update={"sample_posterior": draws})
    return codec


def _detok_images(case: Case, tokenizer: Tokenizer) -> Iterator[Comparison]:
    ids, noise, length = case["tokens_mode"], case["detok_noise"], tokenizer.spec.tokens.length

    def run(lengths: Tensor) -> Tensor:
        tokens = tokenizer.tokens(ids, lengths=lengths)
        return tokenizer.codec.decode(detokenize(tokenizer, tokens, noise, 2)) * 2 - 1

    if "keep_k" in case:
        lengths, note = case["keep_k"], ""
        images = run(lengths)
    else:
        guess = torch.full((len(ids),), length)
        guess[0] = min(MIXED, length)
        images, note = by_length(case["detok_images"], run, guess, length)
    yield from case.check("detok_images", lambda: images, GUIDED, note=note)
