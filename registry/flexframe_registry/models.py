"""The models that a file or a card can hold: a tokenizer, a generator (a prior over its codes), a codec alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import log2
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from .config import SIZES, ComponentConfig, Config, SamplingConfig, Size
from .errors import ConfigError
from .kinds import (
    ENCODER,
    CodecConfig,
    ConditionerConfig,
    DecoderConfig,
    EncoderConfig,
    MaskerConfig,
    PriorConfig,
    QuantizerConfig,
)
from .slots import Slot, resolve
from .widths import CodesSpec, LatentSpec, Spec, TokenSpec

ModelKind = Literal["tokenizer", "generator", "codec"]
"""The words for what a card or a model file holds."""
MOST_TOKENS = 65_536
"""Tokens of an image or of a sequence that any model has."""
Side = Annotated[int, Field(ge=1, le=65_536)]
"""Pixels of an image's edge."""
PartName = Literal["codec", "encoder", "quantizer", "masker", "decoder"]
PARTS: tuple[PartName, ...] = get_args(PartName)
"""The parts of a tokenizer, in the order in which an image meets them."""


class ModelConfig(Config):
    """Base of the configs of whole models. Each answers for itself what it is called, built as and made of."""

    kind: ClassVar[ModelKind]
    """The word for it in cards and in the headers of model files."""
    target: ClassVar[str]
    """Its class, as "module:attribute"; constructed with `(config, sampling)`."""
    trainee: ClassVar[str | None] = None
    """The class that trains it, as "module:attribute"; constructed with the `TrainConfig`. None where nothing does."""

    @classmethod
    def of(cls, config: ModelConfig, where: str) -> Self:
        """A config of any kind, as one of this kind.

        Raises:
            ConfigError: it is of another kind; the sentence begins with `where`.
        """
        if not isinstance(config, cls):
            raise ConfigError.at(where, f"describes a {config.kind}, not a {cls.kind}")
        return config

    @property
    def parts(self) -> Mapping[str, ComponentConfig]:
        """Configs of its parts by name, in the order in which data meet them."""
        raise NotImplementedError(f"{type(self).__name__}.parts")

    @property
    def sampled(self) -> DecoderConfig | PriorConfig | None:
        """The part that its settings of use are of; None where there are no such settings."""
        return None

    @property
    def sampling(self) -> type[SamplingConfig] | None:
        """The class of its settings of use; None where there are none."""
        return None if self.sampled is None else self.sampled.sampling

    def check_sampling(self, given: Mapping[str, Any], place: str) -> None:
        """See that these are settings of its use.

        Raises:
            ConfigError: one is not, below `place`.
        """
        if self.sampling is not None:
            self.sampling.read(given, place)

    @property
    def widths(self) -> Spec | None:
        """Widths of those of a tokenizer's parts that it holds; None where it holds none."""
        return None

    @property
    def budgets(self) -> tuple[int, ...]:
        """The token counts at which it is meant to be used; none where it makes no tokens of images."""
        return ()

    @property
    def bits_per_token(self) -> float | None:
        """log2 of the codes a token can take; None if continuous, or where it makes no tokens of images."""
        return None

    @property
    def codes_of(self) -> str | None:
        """The tokenizer whose codes it models, as `flexframe.load` finds it; None where it names none."""
        return None

    def check_tokenizer(self, tokenizer: TokenizerConfig, name: str) -> None:
        """Check that the codes it models are such as a tokenizer gives; a model of no codes has nothing to check.

        Raises:
            ConfigError: they are not; the paths begin with `model`.
        """

    def describe(self) -> list[tuple[str, str]]:
        """Facts of its shapes for a person to read: label and text, what goes in first."""
        return []


class TokenizerConfig(ModelConfig):
    """A tokenizer: its parts, and the image and token sizes from which all widths follow."""

    kind = "tokenizer"
    target = "flexframe.models.tokenizer:Tokenizer"
    trainee = "flexframe.train.trainee:Trainee"
    later = frozenset({"conditioner"})

    size: Size | None = None
    """Size of parts whose own fields are not given: `tiny`, `small`, `base` or `large`."""
    image_size: tuple[Side, Side]
    """Height and width in pixels, as [64, 96] or 64x96; one number stands for a square."""
    length: int = Field(ge=1, le=MOST_TOKENS)
    """The most tokens that one image can have."""
    codec: Slot[CodecConfig] = Field(default="identity", validate_default=True)
    """Frozen map between images and the latents the model works on."""
    encoder: Slot[EncoderConfig]
    """Latents to `length` features."""
    quantizer: Slot[QuantizerConfig]
    """Features to tokens, discrete or continuous."""
    masker: Slot[MaskerConfig] = Field(default="full", validate_default=True)
    """The rule by which training keeps some tokens only."""
    decoder: Slot[DecoderConfig]
    """Tokens to latents."""
    conditioner: Slot[ConditionerConfig] | None = None
    """The frozen encoder of the texts that the decoder reads; training fills it in. None where it reads none."""

    @model_validator(mode="before")
    @classmethod
    def _fill_sizes(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or data.get("size") not in SIZES:
            return data
        filled, problems = dict(data), list[tuple[str, str]]()
        for kind in PARTS:
            if kind in filled:
                try:
                    filled[kind] = resolve(kind, filled[kind], filled["size"])
                except ConfigError as error:
                    problems += error.below(kind).problems
        if problems:
            raise ConfigError(problems)
        return filled

    @field_validator("image_size", mode="before")
    @classmethod
    def _square(cls, value: Any) -> Any:
        return _height_and_width(value)

    @model_validator(mode="after")
    def _check(self) -> TokenizerConfig:
        spec = self.spec
        for name, part in self.parts.items():
            try:
                part.check(spec)
            except ConfigError:
                raise
            except ValueError as error:
                raise ConfigError.at(name, str(error)) from None
        if self.conditioner is not None:
            self.conditioner.check_reader(self.decoder)
        return self

    def following(self, source: ModelConfig, names: Iterable[str]) -> Self:
        """This config as it must be for these parts to take the weights of another model's.

        Raises:
            ConfigError: they cannot mean here what they mean there.
        """
        there, changed = source.widths, dict[str, ComponentConfig]()
        if there is None:
            return self
        for name in names:
            own, other = self.parts[name], source.parts.get(name)
            if other is None or other.type != own.type:
                continue
            try:
                changed[name] = own.following(other, there, self.spec)
                changed[name].check(self.spec)
            except ValueError as error:
                raise ConfigError.at(name, str(error)) from None
        return self.model_copy(update=changed)

    @property
    def parts(self) -> Mapping[str, ComponentConfig]:
        return {name: getattr(self, name) for name in PARTS}

    @property
    def sampled(self) -> DecoderConfig:
        return self.decoder

    @property
    def widths(self) -> Spec:
        return self.spec

    @property
    def spec(self) -> Spec:
        """Every width that its parts need."""
        features = _given(self.encoder, "features", self.encoder.features(), int)
        tokens = _given(self.quantizer, "tokens", self.quantizer.tokens(self.length, features), TokenSpec)
        latents = _given(self.codec, "latents", self.codec.latents(*self.image_size), LatentSpec)
        inner = _given(self.encoder, "taps", self.encoder.taps(), Mapping)
        taps = {f"{ENCODER}{name}": width for name, width in inner.items()}
        taps |= _given(self.decoder, "taps", self.decoder.taps(), Mapping)
        return Spec(latents, features, replace(tokens, masked=self.masker.masked), taps, self.image_size)

    @property
    def budgets(self) -> tuple[int, ...]:
        return self.masker.budgets(self.length)

    @property
    def bits_per_token(self) -> float | None:
        tokens = self.spec.tokens
        return None if tokens.codebook_size is None else tokens.codebooks * log2(tokens.codebook_size)

    def describe(self) -> list[tuple[str, str]]:
        tokens, bits = self.spec.tokens, self.bits_per_token
        each = f"{tokens.codebooks} codes" if tokens.codebooks > 1 else "1 code"
        codes = f"{each} of {tokens.codebook_size:,}" if tokens.codebook_size else "continuous"
        facts = [("tokens", f"up to {tokens.length:,}, each {tokens.dim} numbers, {codes}")]
        if bits:
            facts.append(("bits", f"{bits:.4g} a token, {bits * tokens.length:,.0f} an image at full length"))
        if (read := self.decoder.texts()) is not None:
            by = "yours" if self.conditioner is None else self.conditioner.type
            facts.append(("text", f"up to {read.length:,} vectors of {read.width:,} numbers, by {by}"))
        return [*_pixels(self.image_size, self.spec.latents), *facts]


class GeneratorConfig(ModelConfig):
    """A prior, and the codes that it models.

    In a card, `length`, and `codebook_size` and `codebooks` or `dim`, follow from a tokenizer that is a card or on this
    disk.
    """

    kind = "generator"
    target = "flexframe.models.generator:Generator"
    trainee = "flexframe.train.trainee:PriorTrainee"
    later = frozenset({"conditioner", "dim", "mean", "deviation"})

    size: Size | None = None
    """Size of a prior whose own fields are not given."""
    tokenizer: str | None = None
    """The tokenizer that its codes are of, as `flexframe.load` finds it; None if that is for the user to know."""
    length: int = Field(ge=1, le=MOST_TOKENS)
    """The most tokens of a sequence."""
    codebook_size: int | None = Field(None, ge=2)
    """Entries of the tokenizer's codebook; None for continuous tokens."""
    codebooks: int = Field(1, ge=1)
    """Codes a token."""
    dim: int | None = Field(None, ge=1)
    """Values of a continuous token; None for integer codes."""
    mean: tuple[float, ...] | None = None
    """Mean of continuous tokens, one number or one for each value: it is taken off them before the prior sees them, and
    laid on what it draws. Training measures it; None stands for 0."""
    deviation: tuple[Annotated[float, Field(gt=0)], ...] | None = None
    """Deviation of continuous tokens, like `mean`: they are divided by it. None stands for 1."""
    classes: int | None = Field(None, ge=1)
    """Class labels it is conditioned on; None without."""
    class_names: tuple[str, ...] = ()
    """Names of the classes, in order; training takes the data's."""
    fingerprint: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    """Fingerprint of the tokenizer whose codes it was trained on; training fills it in."""
    prior: Slot[PriorConfig]
    """The model of the codes."""
    conditioner: Slot[ConditionerConfig] | None = None
    """The encoder of texts that the prior is conditioned on; None without."""

    @model_validator(mode="before")
    @classmethod
    def _fill_size(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("size"), str) and "prior" in data:
            try:
                return {**data, "prior": resolve("prior", data["prior"], data["size"])}
            except ConfigError as error:
                raise error.below("prior") from None
        return data

    @model_validator(mode="after")
    def _check(self) -> GeneratorConfig:
        if self.class_names and len(self.class_names) != self.classes:
            text = f"names {len(self.class_names)} classes, and classes is {self.classes}"
            raise ConfigError.at("class_names", text)
        if self.conditioner is not None and self.classes is not None:
            raise ConfigError.at("conditioner", "is there beside classes; a prior is conditioned on one of the two")
        if self.conditioner is not None and not self.prior.texts:
            text = f"is {self.conditioner.type!r}, and prior {self.prior.type!r} has no place for a text; leave it out"
            raise ConfigError.at("conditioner", text)
        self._check_values()
        try:
            self.prior.check_codes(self.spec)
        except ValueError as error:
            raise ConfigError.at("prior", str(error)) from None
        return self

    def _check_values(self) -> None:
        """Codes are integers or values, and the prior is one of these."""
        if (self.codebook_size is None) == (self.dim is None):
            text = "give this, of integer codes, or dim, of continuous tokens; one of the two"
            raise ConfigError.at("codebook_size", text)
        whose = "tokens are" if self.tokenizer is None else f"tokens of {self.tokenizer!r} are"
        if self.dim is not None and not self.prior.continuous:
            text = f"prior {self.prior.type!r} models integer codes, and {whose} continuous, {self.dim} values each"
            raise ConfigError.at("prior", f"{text}; take a prior of continuous tokens, or another tokenizer")
        if self.dim is None and self.prior.continuous:
            text = f"prior {self.prior.type!r} models continuous tokens, and {whose} codes of {self.codebook_size:,}"
            raise ConfigError.at("prior", f"{text}; take a prior of integer codes, or another tokenizer")
        right = "integer codes have none; leave it out" if self.dim is None else f"a token {self.dim} values"
        for name, given in (("mean", self.mean), ("deviation", self.deviation)):
            if given is not None and (self.dim is None or len(given) not in (1, self.dim)):
                raise ConfigError.at(name, f"has {len(given)} numbers, and {right}")
        if (self.mean is None) != (self.deviation is None):
            raise ConfigError.at("mean", "comes with deviation; give both, or neither, which training then measures")

    @property
    def parts(self) -> Mapping[str, ComponentConfig]:
        return {"prior": self.prior} | ({} if self.conditioner is None else {"conditioner": self.conditioner})

    @property
    def sampled(self) -> PriorConfig:
        return self.prior

    @property
    def spec(self) -> CodesSpec:
        """The codes that its prior models."""
        text = None if self.conditioner is None else self.conditioner.text()
        return CodesSpec(self.length, self.codebook_size, self.codebooks, self.classes, text, self.dim)

    @property
    def codes_of(self) -> str | None:
        return self.tokenizer

    def check_tokenizer(self, tokenizer: TokenizerConfig, name: str) -> None:
        tokens, problems = tokenizer.spec.tokens, list[tuple[str, str]]()
        if (tokens.codebook_size is None) != (self.dim is not None):
            kind, own = tokenizer.quantizer.type, "integer codes" if self.dim is None else "continuous tokens"
            theirs = "continuous tokens" if tokens.codebook_size is None else "integer codes"
            text = f"{name!r} has {theirs} (quantizer {kind!r}), and prior {self.prior.type!r} models {own}"
            raise ConfigError.at("model.tokenizer", f"{text}; choose another of the two")
        if self.length > tokens.length:
            problems.append(("model.length", f"is {self.length}; {name} has at most {tokens.length} tokens"))
        for field in ("codebook_size", "codebooks") if self.dim is None else ("dim",):
            own, theirs = getattr(self, field), getattr(tokens, field)
            if own != theirs:
                problems.append((f"model.{field}", f"is {own}; that of {name} is {theirs}"))
        if problems:
            raise ConfigError(problems)

    def describe(self) -> list[tuple[str, str]]:
        codes = f"{self.length:,} continuous, {self.dim} values each"
        if self.codebook_size is not None:
            codes = f"{self.codebooks} x {self.length:,} codes of {self.codebook_size:,}"
        facts = [("codes", f"{codes}, classes: {self.classes or 'none'}; tokenizer: {self.tokenizer or 'yours'}")]
        if self.conditioner is not None:
            text = self.conditioner.text()
            facts.append(
                ("text", f"up to {text.length:,} vectors of {text.width:,} numbers, by {self.conditioner.type}")
            )
        return facts


class CodecModelConfig(ModelConfig):
    """A codec by itself: the first stage of tokenizers that work on its latents."""

    kind = "codec"
    target = "flexframe.models.codec:CodecModel"

    image_size: tuple[Side, Side] = (256, 256)
    """Height and width in pixels that it was made for; one number stands for a square."""
    codec: Slot[CodecConfig]
    """The codec."""

    @field_validator("image_size", mode="before")
    @classmethod
    def _square(cls, value: Any) -> Any:
        return _height_and_width(value)

    @property
    def parts(self) -> Mapping[str, ComponentConfig]:
        return {"codec": self.codec}

    @property
    def widths(self) -> Spec:
        return Spec(self.latents, 1, TokenSpec(1, 1))  # a codec is built before any token is known

    @property
    def latents(self) -> LatentSpec:
        """The latents of an image of its size."""
        return self.codec.latents(*self.image_size)

    def describe(self) -> list[tuple[str, str]]:
        return _pixels(self.image_size, self.latents)


MODELS: Mapping[str, type[ModelConfig]] = {
    cls.kind: cls for cls in (TokenizerConfig, GeneratorConfig, CodecModelConfig)
}
"""The configs of all models, by the word that cards and headers have for each."""


def read_model(kind: str, data: Any, path: str = "") -> ModelConfig:
    """A model's config of a kind, which is one of `MODELS`.

    Raises:
        ConfigError: a kind of a later version, or what is wrong with the config.
    """
    if kind not in MODELS:
        raise ConfigError.at(path, f"holds a {kind!r}; this version knows: {', '.join(MODELS)}")
    if kind != "generator" and kind_by_keys(data) == "generator":
        raise ConfigError.at(path, f"is said to be a {kind}, and has a prior; write `kind: generator` beside it")
    return MODELS[kind].read(data, path)


def kind_by_keys(data: Any) -> ModelKind:
    """The kind of a model in a card or a run of before `kind` was written there, by the keys of its config."""
    keys = set(data) if isinstance(data, Mapping) else set[str]()
    if "prior" in keys:
        return "generator"
    return "codec" if "codec" in keys and not keys & {"encoder", "decoder", "quantizer", "length"} else "tokenizer"


def _given(part: ComponentConfig, what: str, answer: Any, wanted: Any) -> Any:
    """A part's answer about its widths, which may be a stranger's."""
    if isinstance(answer, wanted) and not isinstance(answer, bool):
        return answer
    told = f"{part.kind} {part.type!r} answers {answer!r}, and its contract is {wanted.__name__}"
    raise ConfigError.at(f"{part.kind}.{what}", f"{told}; its author has to mend that")


def _height_and_width(value: Any) -> Any:
    """An image's size as it may be written: one number for a square, `64x96` or a list, the height first."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value, value
    if isinstance(value, str):
        sides = re.fullmatch(r"\s*(\d{1,9})\s*[x×,]\s*(\d{1,9})\s*", value)
        if sides is not None:
            return int(sides[1]), int(sides[2])
        raise ConfigError.at("", f"is one number for a square, or height and width as 64x96 or [64, 96]; not {value!r}")
    return value


def _pixels(size: tuple[int, int], latents: LatentSpec) -> list[tuple[str, str]]:
    bounds = "unbounded" if latents.range is None else f"in [{latents.range[0]:g}, {latents.range[1]:g}]"
    shape = f"{latents.channels} x {latents.height} x {latents.width}, {bounds}"
    return [("size", f"{size[0]} x {size[1]} pixels, RGB in [0, 1]"), ("latents", shape)]
