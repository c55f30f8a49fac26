"""The kinds of parts, as data: the config base of each, and the widths that follow. Knows no installed part."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from textwrap import dedent
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo

from .errors import ConfigError, explain

Size = Literal["tiny", "small", "base", "large"]
SIZES: tuple[Size, ...] = get_args(Size)
Resize = Literal["torchvision-bicubic", "torchvision-bilinear", "adm"]
"""Ways to bring an image file to a model's size; `flexframe.data.images` does it."""
PLACE: JsonDict = {"place": True}
"""Marks a field that says where a file lies. What is in it moves a number, and is hashed; its place does not."""


ANEW: JsonDict = {"anew": True}
"""Marks a field that a run may be given anew where it goes on: no number of a step that is done hangs on it."""


def is_place(field: FieldInfo) -> bool:
    """Say whether a config's field is marked as a `PLACE`."""
    return isinstance(field.json_schema_extra, Mapping) and bool(field.json_schema_extra.get("place"))


def is_anew(field: FieldInfo) -> bool:
    """Say whether a config's field is marked as `ANEW`."""
    return isinstance(field.json_schema_extra, Mapping) and bool(field.json_schema_extra.get("anew"))


def may_change(config: BaseModel, path: str) -> bool:
    """Tell whether the field at a dotted path is one that a run may be given anew: `ANEW`, or a `PLACE`."""
    value: Any = config
    for name in path.split("."):
        field = type(value).model_fields.get(name) if isinstance(value, BaseModel) else None
        if field is None:
            return False
        if is_place(field) or is_anew(field):
            return True
        value = getattr(value, name)
    return False


# --- widths, computed once ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LatentSpec:
    """Latents, as the codec hands them to the encoder: `b channels height width`, bounded by `range` or unbounded."""

    channels: int
    height: int
    width: int
    range: tuple[float, float] | None = (0.0, 1.0)
    images: bool = False
    """True where they are the images themselves, in [0, 1], so that a reconstruction of one is of the other."""


@dataclass(frozen=True, slots=True)
class TokenSpec:
    """Tokens that travel: at most `length` slots of `dim` values, `codebooks` codes each of `codebook_size` entries.

    `codebook_size` is None for a continuous quantizer, whose codes are its values.
    """

    length: int
    dim: int
    codebooks: int = 1
    codebook_size: int | None = None
    masked: bool = False
    """True where training puts a learned mask token in an absent one's place, for decoders that have one; else, and in
    all others, an absent token is not there at all."""


@dataclass(frozen=True, slots=True)
class Spec:
    """Every width a part needs beyond its own config. Follows from the tokenizer's config alone."""

    latents: LatentSpec
    features: int
    """The encoder's own width `e`; the quantizer projects from it."""
    tokens: TokenSpec
    taps: Mapping[str, int] = field(default_factory=dict, hash=False)
    """Width of the decoder's features by tap, and of the encoder's by `encoder.` and its tap."""
    image_size: tuple[int, int] | None = None
    """Height and width in pixels of the model's images; None where they are those of the latents."""

    @property
    def images(self) -> LatentSpec:
        """Images, for an encoder that reads them."""
        return LatentSpec(3, *(self.image_size or (self.latents.height, self.latents.width)), (0.0, 1.0), images=True)


@dataclass(frozen=True, slots=True)
class TextSpec:
    """Texts as a conditioner gives them: at most `length` vectors `width` wide."""

    length: int
    width: int
    pooled: int | None = None
    """Width of the one vector of the whole text; None where there is none."""


@dataclass(frozen=True, slots=True)
class CodesSpec:
    """The codes that a prior models: `length` slots of `codebooks` integers below `codebook_size`, or of `dim` values.

    Values come to a prior, and go from it, at mean 0 and deviation 1, as far as their generator knows these.
    """

    length: int
    codebook_size: int | None
    """None for continuous tokens."""
    codebooks: int = 1
    classes: int | None = None
    """Class labels it is conditioned on, 0..classes-1; None without."""
    text: TextSpec | None = None
    """Texts it is conditioned on; None without."""
    dim: int | None = None
    """Values of a continuous token; None for integer codes."""

    @property
    def entries(self) -> int:
        """Entries of the codebook.

        Raises:
            ValueError: there is none, for tokens are continuous.
        """
        if self.codebook_size is None:
            raise ValueError("continuous tokens have no codebook")
        return self.codebook_size

    @property
    def values(self) -> int:
        """Values of a continuous token.

        Raises:
            ValueError: it has none, for codes are integers.
        """
        if self.dim is None:
            raise ValueError("integer codes have no values")
        return self.dim


@dataclass(frozen=True, slots=True)
class TargetSpec:
    """An entry of a batch's features for an objective: `shape` values a sample."""

    shape: tuple[int, ...]
    below: int | None = None
    """Whole numbers from 0 to below this one; None for real numbers."""


# --- configs -----------------------------------------------------------------------------------------------------


class Config(BaseModel):
    """Base of every config: frozen, unknown fields refused, a docstring under each field as its documentation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)
    later: ClassVar[frozenset[str]] = frozenset()
    """Fields that came after models or results were out, with a default that leaves these what they were. At it they
    are no part of a fingerprint or a protocol, so that token files, priors and results of before still fit."""

    @classmethod
    def read(cls, value: Any, path: str = "") -> Self:
        """Validate plain data, which stands at `path` of a larger whole.

        Raises:
            ConfigError: one sentence a problem.
        """
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise explain(error, cls, path) from None

    def changed(self, *fields: str) -> Iterable[tuple[str, Any]]:
        """Pick of these fields those whose values are not the defaults, with the values: for settings that do nothing
        beside others."""
        defaults = type(self).model_fields
        return [(name, value) for name in fields if (value := getattr(self, name)) != defaults[name].get_default()]

    def deciding(self) -> dict[str, Any]:
        """The config as plain data, without `later` fields that are at their default: what a fingerprint
        or a protocol is made of."""
        fields = type(self).model_fields
        return self.model_dump(
            mode="json", exclude={name for name in self.later if getattr(self, name) == fields[name].default}
        )

    @classmethod
    def documentation(cls) -> dict[str, str]:
        """The docstrings under the fields, by field. Read from the source when asked for, which a listing never does;
        empty where the source is not at hand."""
        texts: dict[str, str] = {}
        for base in reversed(cls.__mro__):
            if issubclass(base, Config):
                texts |= _field_docstrings(base)
        return {name: texts[name] for name in cls.model_fields if name in texts}


def _field_docstrings(cls: type[Config]) -> dict[str, str]:
    try:
        body = ast.parse(dedent(inspect.getsource(cls))).body[0]
    except (OSError, TypeError, SyntaxError):  # a class made in a session or by code
        return {}
    texts: dict[str, str] = {}
    statements = body.body if isinstance(body, ast.ClassDef) else []
    for declared, below in pairwise(statements):
        match declared, below:
            case ast.AnnAssign(target=ast.Name(name)), ast.Expr(value=ast.Constant(value=str(text))):
                texts[name] = inspect.cleandoc(text)
    return texts


class SamplingConfig(Config):
    """Base of the settings of use: how a decoder or a prior draws. A part without settings takes this one, which has
    none. All settings have defaults and are plain values, so that they can be saved and compared."""

    @model_validator(mode="before")
    @classmethod
    def _no_callback(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and "on_step" in data:
            raise ConfigError.at("on_step", "is no setting; give it as an argument: decode(tokens, on_step=...)")
        return data

    @classmethod
    def quick(cls) -> Self:
        """Settings for a quick check: as few steps as still show all that drawing does. Those that take no time of
        their own stay as they are."""
        return cls()

    def laid(self, given: SamplingConfig | Mapping[str, Any] | None, place: str = "sampling") -> Self:
        """These settings with others laid on; whole settings stand for themselves.

        Raises:
            ConfigError: a setting that there is not, below `place`.
            ValueError: whole settings of another class, most of which would be ignored in silence.
        """
        if type(given) is type(self):
            return given
        if isinstance(given, SamplingConfig):
            own, other = type(self).__name__, type(given).__name__
            raise ValueError(f"this model's settings of use are {own}, not {other}; give those, or a mapping")
        if given is not None and not isinstance(given, Mapping):
            raise ConfigError.at(place, f"is {given!r}, and settings are a mapping: {{name: value}}")
        said = {name: getattr(self, name) for name in self.model_fields_set}
        return self.read(said | dict(given or {}), place)

    def by_step(self) -> Sequence[tuple[Self, int]]:
        """Settings, and how often each occurs, that together cost what these do. For estimates: a part that draws in
        many like steps gives one step of each kind."""
        return [(self, 1)]


class ComponentConfig(Config):
    """Base of all parts' configs. `type` names the part; its default is the name it is registered under."""

    kind: ClassVar[str]
    contract: ClassVar[str]
    """The abstract class that this kind's parts fulfil, as "module:attribute"."""
    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Fields by size, of `tiny`, `small`, `base`, `large`; a size not listed is the fields' defaults."""
    type: str

    @classmethod
    def sized(cls, size: Size | None = None, /, **fields: Any) -> Any:
        """The config at a size, with `fields` set on top."""
        return cls.read({**cls.sizes.get(size or "", {}), **fields})

    def unused(self) -> tuple[str, ...]:
        """Parameters that receive no gradient by design, as their names within the part."""
        return ()

    def check(self, spec: Spec) -> None:
        """Raise `ValueError`, in one sentence, where this part cannot work with these widths."""

    def following(self, source: ComponentConfig, there: Spec, here: Spec) -> ComponentConfig:
        """This config as it must be to take the weights of a part of its type, where their meaning hangs on what no
        tensor holds: the grid that positions are stretched over.

        Args:
            source: that part's config.
            there: the widths of its model.
            here: this model's widths.

        Raises:
            ValueError: they cannot mean here what they mean there; in one sentence.
        """
        return self

    def obstacles(self, spec: Spec) -> Iterable[tuple[str, str]]:
        """Pairs of a field and a sentence on what keeps this part from learning, whatever the run. A run is refused
        for it; a model that is there already is not asked."""
        return ()

    def doubts(self, spec: Spec, steps: int) -> Iterable[tuple[str, str]]:
        """Pairs of a field and a sentence on what a run of so many steps can do and is unlikely to be meant: a loss
        that is the widths' own, a setting without effect. Told before the first step; `run.strict` refuses them."""
        return ()


class CodecConfig(ComponentConfig):
    """Base of codecs' configs."""

    kind = "codec"
    contract = "flexframe.parts:Codec"

    def latents(self, height: int, width: int) -> LatentSpec:
        """The latents of an image of this size."""
        raise NotImplementedError(f"{type(self).__name__}.latents")


class EncoderConfig(ComponentConfig):
    """Base of encoders' configs."""

    kind = "encoder"
    contract = "flexframe.parts:Encoder"
    reads: ClassVar[Literal["latents", "images"]] = "latents"
    """What it is given: the codec's latents (`Spec.latents`), or the images themselves (`Spec.images`), whatever the
    decoder works on."""

    def features(self) -> int:
        """The encoder's own width `e`."""
        raise NotImplementedError(f"{type(self).__name__}.features")

    def taps(self) -> Mapping[str, int]:
        """Widths `e`, by name, of features `b h w e` on the way that it shows objectives, as `encoder.NAME`."""
        return {}

    def usual_objectives(self) -> tuple[str, ...]:
        """Objectives that train what this encoder alone has, beside the decoder's: those of a run that names none, and
        missed in one that names others."""
        return ()

    def prefixes(self) -> bool:
        """Return whether a slot's features are the same however many slots are kept. Where they are not (recurrent
        allocation, an encoder told the length), whatever wants another number of tokens encodes the images anew."""
        return True


class QuantizerConfig(ComponentConfig):
    """Base of quantizers' configs."""

    kind = "quantizer"
    contract = "flexframe.parts:Quantizer"

    def tokens(self, length: int, features: int) -> TokenSpec:
        """The tokens that `length` slots of width `features` become."""
        raise NotImplementedError(f"{type(self).__name__}.tokens")

    def remedy(self) -> str:
        """Settings to try where its codebook collapses: few codes in use, or the same ones for all images. Empty where
        it learns no codebook, so that none can collapse."""
        return ""


class MaskerConfig(ComponentConfig):
    """Base of length maskers' configs."""

    kind = "masker"
    contract = "flexframe.parts:LengthMasker"
    masked: ClassVar[bool] = True
    """True where an absent token is replaced by a learned mask token, False where it is not there at all."""

    quantize_all: bool = False
    """Training: drop behind the quantizer, so that its losses and its codebook's statistics are of all tokens; else it
    sees the kept ones alone."""

    def budgets(self, length: int) -> tuple[int, ...]:
        """The lengths at which a model trained this way is meant to be used, rising, `length` among them."""
        raise NotImplementedError(f"{type(self).__name__}.budgets")

    def doubts(self, spec: Spec, steps: int) -> Iterable[tuple[str, str]]:
        if self.quantize_all and self.budgets(spec.tokens.length) == (spec.tokens.length,):
            yield "quantize_all", "true does nothing where no token is ever dropped; leave it out"


class DecoderConfig(ComponentConfig):
    """Base of decoders' configs."""

    kind = "decoder"
    contract = "flexframe.parts:Decoder"
    sampling: ClassVar[type[SamplingConfig]] = SamplingConfig

    def provides(self) -> frozenset[str]:
        """Names of what its outputs hold for objectives: `reconstruction`, `logits`, features by tap; and `flow`, where
        the decoder is a rectified flow and shows it."""
        return frozenset()

    def knows_strides(self) -> bool:
        """Tell whether its flow is told how long a step its velocity is for."""
        return False

    def taps(self) -> Mapping[str, int]:
        """Widths `e`, by name, of the features that it provides: `b h w e` over the grid of its patches."""
        return {}

    def logits(self, spec: Spec) -> tuple[int, int, int] | None:
        """Classes, rows and columns of its logits; None where it gives none."""
        return None

    def usual_objectives(self) -> tuple[str, ...]:
        """The objectives of a run that names none."""
        return ()

    def shortcuts(self, spec: Spec) -> Mapping[str, tuple[str, tuple[int, int, int]]]:
        """Outputs of `provides` that it makes of an encoder's features alone, without tokens: by name, latents
        `b c y x` like its reconstruction; the encoder's tap; and the tap's shape `h w e`, a sample."""
        return {}


Betas = tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]]


class StepConfig(Config):
    """Settings by which the optimizer steps parameters that are not the model's. What is not given is the run's."""

    lr: float | None = Field(None, gt=0)
    """Peak learning rate; its schedule has the run's shape, from the objective's `start` to the last step."""
    betas: Betas | None = None
    """Moment decays, of an optimizer that has them."""
    weight_decay: float | None = Field(None, ge=0)
    """Decay of linear and convolution weights."""


ENCODER = "encoder."
"""Beginning of the names that objectives have for an encoder's taps."""
OUTPUTS = frozenset({"tokens", "reconstruction", "logits", "flow"})
"""What an objective may need beside features by tap."""


class ObjectiveConfig(ComponentConfig):
    """Base of objectives' configs: losses of a run beside the model's own."""

    kind = "objective"
    contract = "flexframe.parts:Objective"
    replaces: ClassVar[bool] = False
    """Whether it stands in the place of the decoder's own losses, which are not computed while it counts."""

    weight: float = Field(1.0, ge=0)
    """Factor of its losses in the total."""
    start: int = Field(0, ge=0)
    """The first step at which it counts."""
    until: int | None = Field(None, ge=1)
    """The step from which it no longer counts; to the end if not given."""

    @model_validator(mode="after")
    def _counts(self) -> Self:
        if self.until is not None and self.until <= self.start:
            raise ValueError(f"counts from step {self.start} until step {self.until}, so never; raise `until`")
        return self

    def counts(self, step: int) -> bool:
        """Tell whether it counts at a step."""
        return self.start <= step and (self.until is None or step < self.until)

    def needs(self) -> frozenset[str]:
        """Names of what it reads of the outputs: `tokens`, which every tokenizer gives; of the decoder's
        `reconstruction`, `logits`, `flow`, or features by tap; of the encoder features by `encoder.` and its tap."""
        return frozenset()

    def still(self) -> frozenset[str]:
        """Names of `needs` that are compared with and not moved: no gradient reaches them."""
        return frozenset()

    def precomputes(self) -> Mapping[str, Mapping[str, Any]]:
        """Features that it computes of the images alone and can be given instead, by their names in `batch.features`,
        each with the settings that decide it.

        Raises:
            ValueError: they cannot be told before a model is there.
        """
        return {}

    def targets(self, grid: tuple[int, int], classes: int) -> Mapping[str, TargetSpec]:
        """Entries of `batch.features` that it must be given, by name, because it cannot make them of the images itself.

        Args:
            grid: rows and columns of the decoder's logits or features.
            classes: classes of its logits.
        """
        return {}

    def stepped(self) -> StepConfig:
        """Steps of its own parameters, if it has any."""
        return StepConfig()


class PictureObjectiveConfig(ObjectiveConfig):
    """Base of the configs of objectives that compare what a decoder makes with what the encoder was given."""

    of: str = "reconstruction"
    """What is compared, by the decoder's name for it: its reconstruction of the tokens, or what it makes of the
    encoder's features without tokens (`direct`, of decoders that have it)."""

    def needs(self) -> frozenset[str]:
        return frozenset({self.of})


class FeedConfig(ComponentConfig):
    """Base of the configs of feeds: how a run's data come to the model."""

    kind = "feed"
    contract = "flexframe.train.feeds.base:Feed"
    models: ClassVar[frozenset[str]] = frozenset({"tokenizer"})
    """Kinds of model that it feeds, by the word that a model file's header has for them."""
    tokenizes: ClassVar[bool] = False
    """Whether it needs the tokenizer whose codes a prior models, and not only its fingerprint."""

    def fixed(self) -> str | None:
        """A sentence on why an image must be the same at every step, so that no transform can act on it; None where
        images are taken anew each time."""
        return None

    def keeps_latents(self) -> bool:
        """Tell whether the frozen codec encodes each image once, and its latents are kept in memory."""
        return False


class TransformConfig(ComponentConfig):
    """Base of the configs of transforms: what is done to training images."""

    kind = "transform"
    contract = "flexframe.data.transform:Transform"


class ObserverConfig(ComponentConfig):
    """Base of the configs of observers: who is told what a run logs."""

    kind = "observer"
    contract = "flexframe.train.observer:Observer"
    packages: ClassVar[Mapping[str, str]] = {}
    """Modules that it imports, and for each the words after `pip install` that bring it."""


class OptimizerConfig(ComponentConfig):
    """Base of the configs of optimizers, with what all of them have: a schedule, and groups of parameters."""

    kind = "optimizer"
    contract = "flexframe.train.optim:Optimizer"
    packages: ClassVar[Mapping[str, str]] = {}
    """Modules that it imports, and for each the words after `pip install` that bring it."""
    whole: ClassVar[bool] = False
    """Whether a step needs whole matrices, of which a sharded run (`fsdp`) has only pieces."""

    lr: float = Field(1e-3, gt=0)
    """Peak learning rate."""
    final_lr: float = Field(0.0, ge=0)
    """Learning rate that the cosine ends at."""
    warmup: int = Field(100, ge=0)
    """Steps of linear warm-up."""
    weight_decay: float = Field(0.0, ge=0)
    """Decay of linear and convolution weights; norms, biases, embeddings and tokens are never decayed."""
    clip: float = Field(1.0, gt=0)
    """Largest global gradient norm."""
    parts: dict[str, Annotated[float, Field(gt=0)]] = {}
    """Factors of the learning rate by part, or by module within one: `{encoder: 0.1, decoder.head: 2}`. The innermost
    name counts."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """Factor of the learning rate from one block to the one before it, within each part; 1 for the same in all. The
    part's last block and what comes after have the full rate (BEiT, arXiv 2106.08254)."""


class AllocatorConfig(ComponentConfig):
    """Base of allocators' configs."""

    kind = "allocator"
    contract = "flexframe.models.allocator:Allocator"


class SourceConfig(ComponentConfig):
    """Base of image sources' configs."""

    kind = "source"
    contract = "flexframe.data.source:Source"

    def resized(self, resize: Resize) -> SourceConfig:
        """This config with its images brought to size so, where it does not itself say how."""
        return self

    def way(self) -> Resize | None:
        """The way images are brought to size; None where there are no files to be resized."""
        return None

    def like(self, other: SourceConfig) -> SourceConfig:
        """This config with its images brought to size as another's are, where it does not itself say how."""
        way = other.way()
        return self if way is None else self.resized(way)


@dataclass(frozen=True)
class Cause:
    """One thing that moves numbers, as `flexframe explain` tells it where two results differ in it."""

    name: str
    paths: tuple[str, ...]
    """Patterns of the settings that show it: of a metric `metric.FIELD` and, of what its protocol says,
    `measured.NAME`; of flexframe's own, the first part is `measure`, `use` or `model`."""
    size: str = ""
    """How much it usually moves what; empty for a cause of that name that flexframe itself has words for."""
    moves: Literal["numbers", "digits", "nothing"] = "numbers"
    """What it moves: last digits only, so that numbers compare all the same; or nothing, and then it is not told."""
    follows: tuple[str, ...] = ()
    """Names of causes beside which it is none of its own, but what follows from them."""


class MetricConfig(ComponentConfig):
    """Base of metrics' configs. A field that is marked as a `PLACE` moves no number."""

    kind = "metric"
    contract = "flexframe.bench.metric:Metric"
    causes: ClassVar[Sequence[Cause]] = ()
    """What of its fields and of its protocol moves its numbers how; the first whose pattern fits. What none fits is
    told as "settings of the metric"."""
    unsaid: ClassVar[Mapping[str, str]] = {}
    """What results of before leave unsaid, and how it was then: by `measured.NAME`. So a default that changed does not
    pass for a setting that one of two results merely does not mention."""


class PriorConfig(ComponentConfig):
    """Base of priors' configs."""

    kind = "prior"
    contract = "flexframe.parts:Prior"
    sampling: ClassVar[type[SamplingConfig]] = SamplingConfig
    texts: ClassVar[bool] = False
    """Whether it can be conditioned on texts."""
    continuous: ClassVar[bool] = False
    """Whether it models a continuous quantizer's values, and not integer codes."""

    def check_codes(self, spec: CodesSpec) -> None:
        """Raise `ValueError`, in one sentence, where this prior cannot model such codes; that they are of the sort it
        models, integers or values, has been seen to."""

    def doubts_of_codes(self, spec: CodesSpec, steps: int) -> Iterable[tuple[str, str]]:
        """`doubts`, of a part that models codes."""
        return ()


class ConditionerConfig(ComponentConfig):
    """Base of conditioners' configs: texts to what a prior is conditioned on."""

    kind = "conditioner"
    contract = "flexframe.parts:Conditioner"
    packages: ClassVar[Mapping[str, str]] = {}
    """Modules that it imports, and for each the words after `pip install` that bring it."""
    frozen: ClassVar[bool] = False
    """Whether its encoder is another's work, which no training moves and no checkpoint holds; else it learns with the
    prior."""

    def text(self) -> TextSpec:
        """The widths of what it gives."""
        raise NotImplementedError(f"{type(self).__name__}.text")


class ImporterConfig(ComponentConfig):
    """Base of importers' configs."""

    kind = "importer"
    contract = "flexframe.importing.importer:Importer"


KINDS: dict[str, type[ComponentConfig]] = {
    base.kind: base
    for base in (
        CodecConfig, EncoderConfig, QuantizerConfig, MaskerConfig, DecoderConfig, ObjectiveConfig,
        AllocatorConfig, SourceConfig, MetricConfig, PriorConfig, ConditionerConfig, ImporterConfig, FeedConfig,
        TransformConfig, ObserverConfig, OptimizerConfig,
    )
}  # fmt: skip
