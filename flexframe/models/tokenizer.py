"""The composition of parts. Final: a new method is a new part, not a new tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from flexframe.parts import Codec, Decoder, Encoder, LengthMasker, OnStep, Quantizer
from flexframe.rng import Rng, as_rng
from flexframe.tokens import Batch, Codes, Condition, Outputs, Tokens, prefix
from flexframe_registry import SamplingConfig, TokenizerConfig, catalogue

Random = Rng | torch.Generator | int | None
Lengths = int | Sequence[int] | Tensor | None
SLACK = 0.2
"""Tolerance beyond [0, 1] of images: resizing overshoots, and what is in [-1, 1] is further out."""


@final
class Tokenizer(nn.Module):
    """Images in, a 1D token sequence out, and back.

    Built with random weights; `flexframe.load` builds one with trained weights. `sampling` holds the decoder settings
    that `decode` starts from.
    """

    codec: Codec
    encoder: Encoder
    masker: LengthMasker
    quantizer: Quantizer
    decoder: Decoder

    def __init__(self, config: TokenizerConfig, sampling: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.config, self.spec = config, config.spec
        self.id = ""  # where it was loaded from
        self.about: Mapping[str, Any] = {}  # what its file says of it: step, run, commit; or of its import
        self.sampling: SamplingConfig = config.decoder.sampling.read(dict(sampling or {}), "sampling")
        build = catalogue().build
        self.codec = build(config.codec, self.spec).eval().requires_grad_(False)
        self.encoder = build(config.encoder, self.spec)
        self.masker = build(config.masker, self.spec)
        self.quantizer = build(config.quantizer, self.spec)
        self.decoder = build(config.decoder, self.spec)

    def train(self, mode: bool = True) -> Tokenizer:
        """Set the mode of all parts but the codec, which stays in evaluation."""
        super().train(mode)
        self.codec.eval()  # frozen, dropout and statistics included
        return self

    @property
    def device(self) -> torch.device:
        """The device of its weights."""
        return next(self.parameters()).device

    # --- training ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def prepare(self, batch: Batch, *, rng: Rng) -> Batch:
        """The batch with latents: its own, or the frozen codec's of its images.

        Raises:
            ValueError: the batch holds neither latents nor images, or images of another type or shape.
        """
        if batch.latents is not None:
            return batch
        if batch.images is None:
            raise ValueError("a batch for a tokenizer holds images or latents; this one holds neither")
        self._check_images(batch.images)
        return batch.with_latents(self.codec.encode(batch.images, rng=rng))

    def forward(self, batch: Batch, *, taps: frozenset[str] = frozenset(), rng: Rng) -> Outputs:
        """One training pass: losses of the quantizer and the decoder, and what `taps` asks for."""
        batch = self.prepare(batch, rng=rng)
        latents = batch.latents
        assert latents is not None
        kept = self.masker.draw(len(batch), self.spec.tokens.length, rng=rng)
        quantized = self.quantizer(self.encoder(latents, kept.keep), kept.keep, rng=rng)
        tokens = Tokens(quantized.values, kept.keep, quantized.codes)
        out: Outputs = self.decoder(tokens, batch, taps=taps, rng=rng)
        losses = {f"quantizer/{name}": loss for name, loss in quantized.losses.items()}
        losses |= {f"decoder/{name}": loss for name, loss in out.losses.items()}
        codes = Codes(quantized.codes, kept.keep)
        return Outputs(losses, out.reconstruction, out.logits, out.features, codes, tokens)

    # --- use -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, images: Float[Tensor, "b 3 h w"], *, lengths: Lengths = None, rng: Random = None) -> Tokens:
        """Images in [0, 1] to tokens.

        Args:
            lengths: tokens kept of each image, one number or one each; all if None. 1..`config.length`.
            rng: for codecs and quantizers that draw; a seed, a generator, an `Rng`, or None for seed 0.

        Raises:
            ValueError: images of another type, shape or range, or of a size that the model does not take.
        """
        self._check_images(images)
        self.config.codec.latents(*images.shape[2:])
        if images.numel():
            low, high = (float(value) for value in images.aminmax())
            if not (low >= -SLACK and high <= 1 + SLACK):  # not finite ones too
                text = "x / 2 + 0.5 brings [-1, 1] there, x / 255 brings 0..255"
                raise ValueError(f"images are in [0, 1], and these span {low:.4g}..{high:.4g}; {text}")
        return self.tokenized(images, lengths=lengths, rng=rng)

    @torch.no_grad()
    def tokenized(self, images: Float[Tensor, "b 3 h w"], *, lengths: Lengths = None, rng: Random = None) -> Tokens:
        """`encode` without a look at the images' values, for which it waits for the device."""
        self._check_images(images)
        rows = as_rng(rng, len(images), images.device)
        keep = self._keep(lengths, len(images), self.spec.tokens.length, images.device)
        features = self.encoder(self.codec.encode(images, rng=rows), keep)
        quantized = self.quantizer(features, keep, rng=rows)
        return Tokens(quantized.values, keep, quantized.codes)

    @torch.no_grad()
    def tokens(
        self, codes: Int[Tensor, "b k q"] | Int[Tensor, "b k"] | Float[Tensor, "b k d"], *, lengths: Lengths = None
    ) -> Tokens:
        """Codes of any length up to the model's, as tokens. Integers of shape `b k` stand for one codebook.

        Raises:
            ValueError: codes of another shape, or that the model does not have.
        """
        spec = self.spec.tokens
        if codes.ndim == 2:
            codes = codes[..., None]
        width = spec.dim if spec.codebook_size is None else spec.codebooks
        if codes.ndim != 3 or codes.shape[2] != width or not 1 <= codes.shape[1] <= spec.length:
            expected = f"b k {width} with k in 1..{spec.length}"
            raise ValueError(f"codes have shape {tuple(codes.shape)}; this model's are {expected}")
        if spec.codebook_size is not None and len(codes):
            low, high = int(codes.min()), int(codes.max())
            if low < 0 or high >= spec.codebook_size:
                raise ValueError(f"token ids span {low}..{high}; this model's codes are 0..{spec.codebook_size - 1}")
        keep = self._keep(lengths, len(codes), codes.shape[1], codes.device)
        codes = codes[:, : keep.shape[1]]
        return Tokens(self.quantizer.lookup(codes), keep, codes)

    @torch.no_grad()
    def decode(
        self,
        tokens: Tokens,
        *,
        condition: Condition | None = None,
        size: tuple[int, int] | None = None,
        rng: Random = None,
        sampling: SamplingConfig | Mapping[str, Any] | None = None,
        on_step: OnStep | None = None,
    ) -> Float[Tensor, "b 3 h w"]:
        """Tokens to images in [0, 1].

        Args:
            size: height and width in pixels; the model's own if None.
            rng: for decoders that draw; a seed, a generator, an `Rng`, or None for seed 0.
            sampling: the decoder's settings, or a mapping that is laid on the model's own.
            on_step: told (steps done, steps in all) by a decoder that takes steps; moves no number.

        Raises:
            ConfigError: a setting that the decoder has not.
            ValueError: whole settings of another decoder; a size or a condition that the decoder does not take.
        """
        settings = self.sampling.laid(sampling)
        latents = self.config.codec.latents(*(size or self.config.image_size))
        rows = as_rng(rng, len(tokens), tokens.values.device)
        told = {} if on_step is None or not _tells(self.decoder) else {"on_step": on_step}
        decoded = self.decoder.decode(
            tokens, condition=condition, size=(latents.height, latents.width), rng=rows, sampling=settings, **told
        )
        return self.codec.decode(decoded).clamp(0, 1)

    def _check_images(self, images: Tensor) -> None:
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            given = f"{images.dtype} of shape {tuple(images.shape)}"
            raise ValueError(f"images are floats of shape b 3 h w in [0, 1], not {given}")

    def _keep(self, lengths: Lengths, batch: int, most: int, device: torch.device) -> Tensor:
        if lengths is None:
            return torch.ones(batch, most, dtype=torch.bool, device=device)
        rows = torch.as_tensor(lengths, device=device)
        if rows.is_floating_point() or rows.shape not in ((), (batch,)):
            raise ValueError(f"lengths are one whole number, or one for each of {batch} rows, not {lengths!r}")
        rows = rows.expand(batch)
        low, high = (int(rows.min()), int(rows.max())) if batch else (most, most)
        if low < 1 or high > most:
            raise ValueError(f"lengths span {low}..{high}; they must lie in 1..{most}")
        return prefix(rows, high)


def _tells(decoder: Decoder) -> bool:
    """Tell whether a decoder can be given an `on_step`; those of before it was an argument cannot."""
    return "on_step" in signature(decoder.decode).parameters
