"""The models that a file or a card can hold: a tokenizer, a generator (a prior over its codes), a codec alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import Field, field_validator, model_validator

from .errors import ConfigError
from .kinds import (
    SIZES,
    CodecConfig,
    CodesSpec,
    Config,
    DecoderConfig,
    EncoderConfig,
    LatentSpec,
    MaskerConfig,
    PriorConfig,
    QuantizerConfig,
    Size,
    Spec,
)  # fmt: skip
from .slots import Slot, resolve


class TokenizerConfig(Config):
    """A tokenizer: its parts, and the image and token sizes from which all widths follow."""

    size: Size | None = None
    """Size of parts whose own fields are not given: `tiny`, `small`, `base` or `large`."""
    image_size: tuple[int, int]
    """Height and width in pixels; one number stands for a square."""
    length: int = Field(ge=1)
    """The most tokens that one image can have."""
    codec: Slot[CodecConfig] = Field(default="identity", validate_default=True)
    """Frozen map between images and the latents the model works on."""
    encoder: Slot[EncoderConfig]
    """Latents to `length` features."""
    quantizer: Slot[QuantizerConfig]
    """Features to tokens, discrete or continuous."""
    masker: Slot[MaskerConfig] = Field(default="full", validate_default=True)
    """How many tokens training keeps."""
    decoder: Slot[DecoderConfig]
    """Tokens to latents."""

    @model_validator(mode="before")
    @classmethod
    def _fill_sizes(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or data.get("size") not in SIZES:
            return data
        filled, problems = dict(data), []
        for kind in ("codec", "encoder", "quantizer", "masker", "decoder"):
            if kind in filled:
                try:
                    filled[kind] = resolve(kind, filled[kind], filled["size"])
                except ConfigError as error:
                    problems += [(".".join(p for p in (kind, path) if p), text) for path, text in error.problems]
        if problems:
            raise ConfigError(problems)
        return filled

    @field_validator("image_size", mode="before")
    @classmethod
    def _square(cls, value: Any) -> Any:
        return (value, value) if isinstance(value, int) else value

    @model_validator(mode="after")
    def _check(self) -> TokenizerConfig:
        spec = self.spec
        for kind in ("codec", "encoder", "quantizer", "masker", "decoder"):
            try:
                getattr(self, kind).check(spec)
            except ConfigError:
                raise
            except ValueError as error:
                raise ConfigError.at(kind, str(error)) from None
        return self

    @property
    def spec(self) -> Spec:
        features = self.encoder.features()
        tokens = replace(self.quantizer.tokens(self.length, features), masked=self.masker.masked)
        return Spec(self.codec.latents(*self.image_size), features, tokens, self.decoder.taps())

    @property
    def budgets(self) -> tuple[int, ...]:
        """The token counts at which this model is meant to be used."""
        return self.masker.budgets(self.length)

    @property
    def bits_per_token(self) -> float | None:
        """log2 of the codes a token can take; None if continuous."""
        from math import log2

        tokens = self.spec.tokens
        return None if tokens.codebook_size is None else tokens.codebooks * log2(tokens.codebook_size)


class GeneratorConfig(Config):
    """A prior, and the codes that it models.

    `length`, `codebook_size` and `codebooks` follow from the tokenizer where it is a card or on this disk.
    """

    size: Size | None = None
    """Size of a prior whose own fields are not given."""
    tokenizer: str | None = None
    """The tokenizer that its codes are of, as `flexframe.load` finds it; None if that is for the user to know."""
    length: int = Field(ge=1)
    """The most tokens of a sequence."""
    codebook_size: int = Field(ge=2)
    """Entries of the tokenizer's codebook."""
    codebooks: int = Field(1, ge=1)
    """Codes a token."""
    classes: int | None = Field(None, ge=1)
    """Class labels it is conditioned on; None without."""
    class_names: tuple[str, ...] = ()
    """What the classes are called, in order; training takes the data's."""
    fingerprint: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    """Fingerprint of the tokenizer whose codes it was trained on; training fills it in."""
    prior: Slot[PriorConfig]
    """The model of the codes."""

    @model_validator(mode="before")
    @classmethod
    def _fill_size(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("size"), str) and "prior" in data:
            try:
                return {**data, "prior": resolve("prior", data["prior"], data["size"])}
            except ConfigError as error:
                problems = [(".".join(p for p in ("prior", at) if p), text) for at, text in error.problems]
                raise ConfigError(problems) from None
        return data

    @model_validator(mode="after")
    def _check(self) -> GeneratorConfig:
        if self.class_names and len(self.class_names) != self.classes:
            text = f"names {len(self.class_names)} classes, and classes is {self.classes}"
            raise ConfigError.at("class_names", text)
        try:
            self.prior.check_codes(self.spec)
        except ValueError as error:
            raise ConfigError.at("prior", str(error)) from None
        return self

    @property
    def spec(self) -> CodesSpec:
        return CodesSpec(self.length, self.codebook_size, self.codebooks, self.classes)


def continuous(name: str, config: TokenizerConfig) -> str:
    """Why no prior of integers can be of this tokenizer."""
    kind = config.quantizer.type
    return f"{name!r} has continuous tokens (quantizer {kind!r}); priors model integer codes, so choose another"


class CodecModelConfig(Config):
    """A codec by itself: the first stage of tokenizers that work on its latents."""

    image_size: tuple[int, int] = (256, 256)
    """Height and width in pixels that it was made for; one number stands for a square."""
    codec: Slot[CodecConfig]
    """The codec."""

    @field_validator("image_size", mode="before")
    @classmethod
    def _square(cls, value: Any) -> Any:
        return (value, value) if isinstance(value, int) else value

    @property
    def latents(self) -> LatentSpec:
        return self.codec.latents(*self.image_size)


ModelConfig = TokenizerConfig | GeneratorConfig | CodecModelConfig

MODELS: dict[str, type[TokenizerConfig] | type[GeneratorConfig] | type[CodecModelConfig]] = {
    "tokenizer": TokenizerConfig,
    "generator": GeneratorConfig,
    "codec": CodecModelConfig,
}
"""What a model file or a card can describe, by the word that its header has for it."""


def kind_of(config: ModelConfig) -> str:
    """The header's word for a config."""
    return next(kind for kind, cls in MODELS.items() if isinstance(config, cls))


def sampled_by(config: ModelConfig) -> DecoderConfig | PriorConfig | None:
    """The part that a model's settings of use are of; None for a codec, which has none."""
    if isinstance(config, CodecModelConfig):
        return None
    return config.prior if isinstance(config, GeneratorConfig) else config.decoder


def read_model(data: Any, path: str = "") -> ModelConfig:
    """A model's config of whichever kind it is: one with a `prior` is a generator, one with only a `codec` a codec."""
    if isinstance(data, dict) and "prior" in data:
        return GeneratorConfig.read(data, path)
    if isinstance(data, dict) and "codec" in data and not data.keys() & {"encoder", "decoder", "quantizer", "length"}:
        return CodecModelConfig.read(data, path)
    return TokenizerConfig.read(data, path)
