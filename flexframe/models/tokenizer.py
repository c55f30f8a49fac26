"""The composition of parts. Final: a new method is a new part, not a new tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from flexframe.models import shown
from flexframe.models.precision import exact, precision, use
from flexframe.models.published import Published
from flexframe.parts import Codec, Conditioner, Decoder, Encoder, LengthMasker, OnStep, Quantizer
from flexframe.rng import Rng, as_rng
from flexframe.tokens import Batch, Codes, Condition, Outputs, Tokens, prefix
from flexframe_registry import ModelConfig, SamplingConfig, TokenizerConfig, catalogue
from flexframe_registry.kinds import ENCODER
from flexframe_registry.runfolder import MODEL

Random = Rng | torch.Generator | int | None
Lengths = int | Sequence[int] | Tensor | None
Images = Float[Tensor, "b 3 h w"] | Float[np.ndarray, "b 3 h w"]
SLACK = 0.2
"""Tolerance beyond [0, 1] of images: resizing overshoots, and what is in [-1, 1] is further out."""


@final
class Tokenizer(nn.Module, Published):
    """Images in, a 1D token sequence out, and back.

    Built with random weights; `flexframe.load` builds one with trained weights. `sampling` holds the decoder settings
    that `decode` starts from.
    """

    codec: Codec
    encoder: Encoder
    masker: LengthMasker
    quantizer: Quantizer
    decoder: Decoder
    conditioner: Conditioner | None

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
        self.conditioner = None if config.conditioner is None else build(config.conditioner)

    def train(self, mode: bool = True) -> Tokenizer:
        """Set the mode of all parts but the codec, which stays in evaluation."""
        super().train(mode)
        self.codec.eval()  # frozen, dropout and statistics included
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Tokenizer:
        """Move or cast its parts; codec and quantizer stay in float32 where the rest goes below it, for they tell apart
        what is near."""
        for name, part in self.named_children():
            part._apply(exact(fn) if name in ("codec", "quantizer") else fn)  # type: ignore[no-untyped-call]
        return self

    @property
    def device(self) -> torch.device:
        """The device of its weights; the CPU where it has none."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    @property
    def precision(self) -> str:
        """The floating type that it computes in, by torch's name: its weights', or that of an autocast around it. Token
        ids of another precision are others where features lie near the border between two codes.

        Raises:
            ValueError: weights of a type that it cannot be used in.
        """
        return precision(self, self.device)

    def __repr__(self) -> str:
        return shown.text(self, self.config, self.id, self.sampling)

    def _repr_html_(self) -> str:
        return shown.html(self, self.config, self.id, self.sampling)

    def save(self, path: str | Path) -> None:
        """Write it as a model file, which `flexframe.load` reads, its weights as float32. A folder gets a
        `model.safetensors`.

        Raises:
            OSError: the disk does not take it.
        """
        save(self, path, self.config, self.about, self.sampling)

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
        return batch.with_latents(self.codec.encode(batch.images.float(), rng=rng))

    def read(self, batch: Batch) -> Tensor:
        """The encoder's input of a prepared batch, `b c y x`: its latents, or its images.

        Raises:
            ValueError: the batch lacks it.
        """
        what = self.config.encoder.reads
        given = batch.images if what == "images" else batch.latents
        if given is None:
            text = "train on images, without run.feed=latents" if what == "images" else "prepare the batch"
            raise ValueError(f"encoder {self.config.encoder.type!r} reads {what}, and this batch holds none; {text}")
        return given.float() if what == "images" else given

    def forward(self, batch: Batch, *, taps: frozenset[str] = frozenset(), rng: Rng, decodes: bool = True) -> Outputs:
        """One training pass: losses of the quantizer and the decoder, and what `taps` asks for of all parts.

        Args:
            decodes: False leaves out the decoder's pass, where nobody asks for more than tokens and flow.
        """
        batch = self.prepare(batch, rng=rng)
        length = self.spec.tokens.length
        kept = self.masker.draw(len(batch), length, rng=rng)
        whole = self.config.masker.quantize_all
        seen = kept.keep.new_ones(len(batch), length) if whole else kept.keep
        inner = frozenset(name.removeprefix(ENCODER) for name in taps if name.startswith(ENCODER))
        inner |= {tap for name, (tap, _) in self.config.decoder.shortcuts(self.spec).items() if name in taps}
        features, shown = self.encoder.tapped(self.read(batch), seen, taps=inner, rng=rng)
        quantized = self.quantizer(features, seen, rng=rng)
        tokens = Tokens(quantized.values[:, : kept.slots], kept.keep, quantized.codes[:, : kept.slots])
        shown = {f"{ENCODER}{name}": value for name, value in shown.items()}
        given = replace(batch, features={**batch.features, **shown}) if shown else batch
        taps = frozenset(name for name in taps if not name.startswith(ENCODER))
        out: Outputs = self.decoder(tokens, given, taps=taps, rng=rng) if decodes else Outputs({})
        flow = self.decoder.flow(tokens) if "flow" in self.config.decoder.provides() else None
        shown |= out.features
        losses = {f"quantizer/{name}": loss for name, loss in quantized.losses.items()}
        losses |= {f"decoder/{name}": loss for name, loss in out.losses.items()}
        codes = Codes(quantized.codes, seen)
        return Outputs(losses, out.reconstruction, out.logits, shown, codes, tokens, flow)

    # --- use -----------------------------------------------------------------------------------------------------

    def encode(self, images: Images, *, lengths: Lengths = None, rng: Random = None) -> Tokens:
        """Images in [0, 1] to tokens.

        Gradients are on where the caller has them on and the images require one: token values pass it straight through
        to the features.

        Args:
            images: of any floating type, numpy's too.
            lengths: tokens kept of each image, one number or one each; all if None. 1..`config.length`.
            rng: for codecs and quantizers that draw; a seed, a generator, an `Rng`, or None for seed 0.

        Raises:
            ValueError: images of another type, shape or range, or of a size that the model does not take; images that
                require a gradient, and a quantizer that gives none.
        """
        return self.tokenized(self._in_range(images), lengths=lengths, rng=rng)

    def tokenized(self, images: Images, *, lengths: Lengths = None, rng: Random = None) -> Tokens:
        """`encode` without a look at the images' values, for which it waits for the device."""
        return self.described(images, lengths=lengths, rng=rng)[1]

    def described(
        self, images: Images, *, lengths: Lengths = None, rng: Random = None
    ) -> tuple[Float[Tensor, "b k e"], Tokens]:
        """The encoder's features of images in [0, 1], and the tokens that they become, by one pass: what `features` and
        `encode` give. Images are taken as `tokenized` takes them."""
        images = self._taken(images)
        rows = as_rng(rng, len(images), images.device)
        keep = self._keep(lengths, len(images), self.spec.tokens.length, images.device)
        with use(self, images, self.device):
            features: Tensor = self.encoder(self._read(images, rows), keep)
            quantized = self.quantizer(features.float(), keep, rng=rows)
        if features.requires_grad and not quantized.values.requires_grad:
            name = self.config.quantizer.type
            raise ValueError(f"quantizer {name!r} gives no gradient in evaluation; take one of `features(images)`")
        size = images.shape[2], images.shape[3]
        return features.float(), Tokens(quantized.values, keep, quantized.codes, size)

    def shortened(self, tokens: Tokens, images: Images, length: int, *, rng: Random = None) -> Tokens:
        """Images at `length` tokens each: the first ones of `tokens`, which `encode` gave of them by the same `rng`, or
        the images encoded anew where the encoder's features hang on how many are kept (`EncoderConfig.prefixes`)."""
        if self.config.encoder.prefixes():
            return tokens.truncate(length)
        return self.tokenized(images, lengths=length, rng=rng)

    def features(self, images: Images, *, lengths: Lengths = None, rng: Random = None) -> Float[Tensor, "b k e"]:
        """The encoder's features of images in [0, 1], a vector a token slot, before the quantizer. All else is as
        `encode` has it."""
        images = self._in_range(images)
        rows = as_rng(rng, len(images), images.device)
        keep = self._keep(lengths, len(images), self.spec.tokens.length, images.device)
        with use(self, images, self.device):
            features: Tensor = self.encoder(self._read(images, rows), keep)
        return features.float()

    @torch.no_grad()
    def tokens(
        self,
        codes: Integer[Tensor, "b k q"] | Integer[Tensor, "b k"] | Float[Tensor, "b k d"] | np.ndarray,
        *,
        lengths: Lengths = None,
        size: tuple[int, int] | None = None,
    ) -> Tokens:
        """Codes of any length up to the model's, as tokens: integers of any type, numpy's too. Integers of shape `b k`
        stand for one codebook.

        Args:
            lengths: tokens present in each row; all if None.
            size: height and width of the images that they are of, for `decode`.

        Raises:
            ValueError: codes of another shape, or that the model does not have.
        """
        spec = self.spec.tokens
        codes = self._codes(codes)
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
        return Tokens(self.quantizer.lookup(codes), keep, codes, size)

    def decode(
        self,
        tokens: Tokens,
        *,
        texts: Sequence[str | None] | None = None,
        condition: Condition | None = None,
        size: tuple[int, int] | None = None,
        rng: Random = None,
        sampling: SamplingConfig | Mapping[str, Any] | None = None,
        on_step: OnStep | None = None,
    ) -> Float[Tensor, "b 3 h w"]:
        """Tokens to images in [0, 1].

        Gradients are on where the caller has them on and the tokens' values require one.

        Args:
            texts: a text a row, or None for none, where the decoder reads texts and a conditioner embeds them.
            condition: instead: embeddings that were made before.
            size: height and width in pixels; if None that of the images that the tokens are of, else the model's own.
            rng: for decoders that draw; a seed, a generator, an `Rng`, or None for seed 0.
            sampling: the decoder's settings, or a mapping that is laid on the model's own.
            on_step: told (steps done, steps in all) by a decoder that takes steps; moves no number.

        Raises:
            ConfigError: a setting that the decoder has not.
            ValueError: no tokens; whole settings of another decoder; a size, texts or a condition that the decoder does
                not take.
        """
        if not isinstance(tokens, Tokens):
            text = "`tokens(codes)` of the same model makes them of ids"
            raise ValueError(f"what is decoded are Tokens, as `encode` gives, not {type(tokens).__name__}; {text}")
        tokens = tokens if tokens.values.dtype == torch.float32 else tokens.to(torch.float32)
        if size is not None and (not isinstance(size, Sequence) or len(size) != 2 or min(size) < 1):
            raise ValueError(f"a size is height and width in pixels, (64, 96), not {size!r}")
        settings = self.sampling.laid(sampling)
        if texts is not None:
            if condition is not None or len(texts) != len(tokens):
                text = "a condition beside them" if condition is not None else f"{len(texts)} of them"
                raise ValueError(f"texts are one a row of {len(tokens)}, and by themselves; there is {text}")
            condition = self.told(texts)
        latents = self.config.codec.latents(*(size or tokens.size or self.config.image_size))
        rows = as_rng(rng, len(tokens), tokens.values.device)
        told = {} if on_step is None or not _tells(self.decoder) else {"on_step": on_step}
        with use(self, tokens.values, self.device):
            decoded = self.decoder.decode(
                tokens, condition=condition, size=(latents.height, latents.width), rng=rows, sampling=settings, **told
            )
            images = self.codec.decode(decoded)
        return images.float().clamp(0, 1)

    def told(self, texts: Sequence[str | None]) -> Condition:
        """What the decoder reads of texts, one a row, of which some may be None.

        Raises:
            ConfigError: the encoder of texts cannot be had.
            ValueError: nothing here embeds texts.
        """
        if self.conditioner is None:
            reads = self.config.decoder.texts() is not None
            told = "no conditioner is set; give a condition with embeddings" if reads else "it reads none; give none"
            raise ValueError(f"{self.id or 'this tokenizer'} is given texts, and {told}")
        text, like = self.conditioner([each or "" for each in texts]), next(self.decoder.parameters())
        null = torch.tensor([each is None for each in texts], dtype=torch.bool, device=like.device)
        embeddings, pooled = (None if each is None else each.to(like) for each in (text.embeddings, text.pooled))
        return Condition(
            null, texts=tuple(texts), embeddings=embeddings, present=text.present.to(like.device), pooled=pooled
        )

    # --- within --------------------------------------------------------------------------------------------------

    def _read(self, images: Tensor, rng: Rng) -> Tensor:
        """What the encoder reads of images."""
        return images if self.config.encoder.reads == "images" else self.codec.encode(images, rng=rng)

    def _in_range(self, images: Images) -> Tensor:
        taken = self._taken(images)
        self.config.codec.latents(*taken.shape[2:])
        if taken.numel():
            low, high = (float(value) for value in taken.detach().aminmax())
            if not (low >= -SLACK and high <= 1 + SLACK):  # not finite ones too
                text = "x / 2 + 0.5 brings [-1, 1] there, x / 255 brings 0..255"
                raise ValueError(f"images are in [0, 1], and these span {low:.4g}..{high:.4g}; {text}")
        return taken

    def _taken(self, images: Images) -> Tensor:
        """Images as float32 of shape `b 3 h w`."""
        if isinstance(images, np.ndarray):
            images = torch.from_numpy(np.ascontiguousarray(images))
        if not isinstance(images, Tensor):
            made = "flexframe.data.images has `fit` and `to_tensor`: torch.stack([to_tensor(fit(image, size, "
            made += "'torchvision-bicubic')) for image in images]) / 255"
            raise ValueError(f"images are floats of shape b 3 h w in [0, 1], not {type(images).__name__}; {made}")
        self._check_images(images)
        return images.float()

    def _check_images(self, images: Tensor) -> None:
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            given = f"{images.dtype} of shape {tuple(images.shape)}"
            raise ValueError(f"images are floats of shape b 3 h w in [0, 1], not {given}")

    def _codes(self, codes: Tensor | np.ndarray) -> Tensor:
        """Codes of the type that the quantizer looks up."""
        ids = self.spec.tokens.codebook_size is not None
        wanted = f"whole numbers of shape b k {self.spec.tokens.codebooks}" if ids else "floats of shape b k d"
        if isinstance(codes, np.ndarray):
            codes = torch.from_numpy(np.ascontiguousarray(codes))
        if not isinstance(codes, Tensor):
            raise ValueError(f"codes are a tensor of {wanted}, not {type(codes).__name__}")
        if codes.is_floating_point() == ids or codes.is_complex() or codes.dtype == torch.bool:
            raise ValueError(f"this model's codes are {wanted}, not {codes.dtype}")
        return codes.long() if ids else codes.float()

    def _keep(self, lengths: Lengths, batch: int, most: int, device: torch.device) -> Tensor:
        if lengths is None:
            return torch.ones(batch, most, dtype=torch.bool, device=device)
        try:
            rows = torch.as_tensor(lengths, device=device)
        except (TypeError, ValueError, RuntimeError):  # of what makes no tensor torch raises each of them
            rows = torch.empty(0, device=device)
        if rows.is_floating_point() or rows.shape not in ((), (batch,)):
            raise ValueError(f"lengths are one whole number, or one for each of {batch} rows, not {lengths!r}")
        rows = rows.expand(batch)
        low, high = (int(rows.min()), int(rows.max())) if batch else (most, most)
        if low < 1 or high > most:
            raise ValueError(f"lengths span {low}..{high}; they must lie in 1..{most}")
        return prefix(rows, high)


def save(
    model: nn.Module,
    path: str | Path,
    config: ModelConfig,
    about: Mapping[str, Any],
    sampling: SamplingConfig | None = None,
) -> None:
    """Write a model of any kind as a model file, its weights as float32; a folder gets a `model.safetensors`."""
    from flexframe.models import modelfile  # it knows of models

    target = Path(path) if Path(path).suffix == ".safetensors" else Path(path) / MODEL
    target.parent.mkdir(parents=True, exist_ok=True)
    said = {} if sampling is None else sampling.model_dump(mode="json", exclude_unset=True)
    state = {name: value.float() if value.is_floating_point() else value for name, value in model.state_dict().items()}
    modelfile.save(state, config, target, sampling=said, about=about)


def _tells(decoder: Decoder) -> bool:
    """Tell whether a decoder can be given an `on_step`; those of before it was an argument cannot."""
    return "on_step" in signature(decoder.decode).parameters
