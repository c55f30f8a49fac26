"""What a model file can hold beside a tokenizer: a generator (a prior over a tokenizer's codes), or a codec alone."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator, model_validator

from .configs import (
    CodecConfig,
    CodesSpec,
    Config,
    DecoderConfig,
    LatentSpec,
    PriorConfig,
    Size,
    Slot,
    TokenizerConfig,
    resolve,
)
from .errors import ConfigError


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
    """`flexframe.fingerprint.fingerprint` of the tokenizer whose codes it was trained on; training fills it in."""
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

    @model_validator(mode="before")
    @classmethod
    def _fill_codes(cls, data: Any) -> Any:
        wanted = {"length", "codebook_size"}
        if not isinstance(data, dict) or not isinstance(data.get("tokenizer"), str) or wanted <= data.keys():
            return data
        from .cards import tokenizer_of  # which reads configs of these classes

        found = tokenizer_of(data["tokenizer"])
        if found is None:
            missing = " and ".join(sorted(wanted - data.keys()))
            text = f"{data['tokenizer']!r} is no card and not on this disk, so its codes are unknown: give {missing}"
            raise ConfigError([("tokenizer", text)])
        tokens = found.spec.tokens
        if tokens.codebook_size is None:
            raise ConfigError([("tokenizer", continuous(data["tokenizer"], found))])
        widths = {"length": tokens.length, "codebook_size": tokens.codebook_size, "codebooks": tokens.codebooks}
        return {**widths, **data}

    @model_validator(mode="after")
    def _check(self) -> GeneratorConfig:
        if self.class_names and len(self.class_names) != self.classes:
            text = f"names {len(self.class_names)} classes, and classes is {self.classes}"
            raise ConfigError([("class_names", text)])
        try:
            self.prior.check_codes(self.spec)
        except ValueError as error:
            raise ConfigError([("prior", str(error))]) from None
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
