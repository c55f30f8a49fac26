"""What a model file can hold beside a tokenizer: a generator (a prior over a tokenizer's codes), or a codec alone."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator, model_validator

from .configs import CodecConfig, CodesSpec, Config, LatentSpec, PriorConfig, Size, Slot, TokenizerConfig, resolve
from .errors import ConfigError


class GeneratorConfig(Config):
    """A prior, and the codes that it models."""

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
        try:
            self.prior.check_codes(self.spec)
        except ValueError as error:
            raise ConfigError([("prior", str(error))]) from None
        return self

    @property
    def spec(self) -> CodesSpec:
        return CodesSpec(self.length, self.codebook_size, self.codebooks, self.classes)


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


def read_model(data: Any, path: str = "") -> ModelConfig:
    """A model's config of whichever kind it is: one with a `prior` is a generator, one with only a `codec` a codec."""
    if isinstance(data, dict) and "prior" in data:
        return GeneratorConfig.read(data, path)
    if isinstance(data, dict) and "codec" in data and not data.keys() & {"encoder", "decoder", "quantizer", "length"}:
        return CodecModelConfig.read(data, path)
    return TokenizerConfig.read(data, path)
