"""Configs of the feeds: how a run's data come to the model."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from flexframe_registry import ConditionerConfig, ConfigError, FeedConfig
from flexframe_registry.config import ANEW, PLACE
from flexframe_registry.slots import Slot


class ImagesFeedConfig(FeedConfig):
    """Images of the run's data, for a tokenizer."""

    type: Literal["images"] = "images"
    workers: int = Field(0, ge=0, json_schema_extra=ANEW)
    """Loader processes; 0 loads in the main one."""
    preload: bool = Field(False, json_schema_extra=ANEW)
    """Hold the whole data set on the device, 8 bits a value: read once, and no loader at work afterwards. The batches
    and the numbers are the same."""
    keep_latents: bool = False
    """Encode each image once with the frozen codec and keep its latents in memory (4 bytes a value, for all images).
    A codec that draws then draws once for each image."""
    texts: Slot[ConditionerConfig] | None = None
    """A frozen encoder of the data's captions, for a decoder that reads texts (TA-TiTok, arXiv 2501.07730)."""

    @model_validator(mode="after")
    def _frozen(self) -> ImagesFeedConfig:
        if self.texts is not None and not self.texts.frozen:
            told = f"{self.texts.type!r} learns with a prior, and there is none here"
            raise ConfigError.at("texts", f"{told}; name an encoder that is frozen, as 't5', 'clip' or 'minilm'")
        return self

    def fixed(self) -> str | None:
        return "keeps one latent an image (keep_latents)" if self.keep_latents else None

    def keeps_latents(self) -> bool:
        return self.keep_latents


class LatentsFeedConfig(FeedConfig):
    """A folder that `flexframe precompute latents` filled from the run's data, which are then not read; with
    `precompute features`, features for objectives too. Of a codec that draws, its moments are there, and each step
    draws anew."""

    type: Literal["latents"] = "latents"
    path: str = Field(json_schema_extra=PLACE)
    """The folder."""
    workers: int = Field(0, ge=0, json_schema_extra=ANEW)
    """Loader processes; 0 loads in the main one."""

    def fixed(self) -> str | None:
        return "has images as they were when it was made (several of each with run.data.crops)"


class CodesFeedConfig(FeedConfig):
    """Base of feeds of codes, for a prior."""

    models = frozenset({"generator"})

    held_out: int = Field(0, ge=0)
    """So many of the data's last rows are not trained on, and their loss is logged as `held_out`."""


class TokensFeedConfig(CodesFeedConfig):
    """Images of the run's data, and their codes as the prior's frozen tokenizer gives them on the way."""

    type: Literal["tokens"] = "tokens"
    tokenizes = True
    workers: int = Field(0, ge=0, json_schema_extra=ANEW)
    """Loader processes; 0 loads in the main one."""
    preload: bool = Field(False, json_schema_extra=ANEW)
    """Hold the whole data set on the device, 8 bits a value."""
    keep_tokens: bool = False
    """Tokenize each image once and keep its codes in memory."""

    def fixed(self) -> str | None:
        return "keeps one sequence an image (keep_tokens)" if self.keep_tokens else None


class TokenFileFeedConfig(CodesFeedConfig):
    """A file that `flexframe precompute tokens` made of the run's data, which are then not read."""

    type: Literal["token-file"] = "token-file"
    path: str = Field(json_schema_extra=PLACE)
    """The file."""

    def fixed(self) -> str | None:
        return "has one sequence an image"
