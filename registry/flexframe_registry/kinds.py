"""The kinds of parts, as data: the config base of each. Knows no installed part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from .config import ComponentConfig, Config, SamplingConfig
from .errors import ConfigError
from .widths import CodesSpec, LatentSpec, Spec, TargetSpec, TextSpec, TokenSpec

Resize = Literal["torchvision-bicubic", "torchvision-bilinear", "adm"]
"""Ways to bring an image file to a model's size; `flexframe.data.images` does it."""


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

    def token_dim(self, latents: LatentSpec) -> int | None:
        """Values of a token, of a decoder that takes tokens of one width alone and refuses others in `check`; None
        takes any."""
        return None

    def provides(self) -> frozenset[str]:
        """Names of what its outputs hold for objectives: `reconstruction`, `logits`, features by tap; and `flow`, where
        the decoder is a rectified flow and shows it."""
        return frozenset()

    def texts(self) -> TextSpec | None:
        """The widths of the texts that it reads beside tokens, the most vectors of one among them; None of none."""
        return None

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
    """Base of conditioners' configs: texts to what a prior is conditioned on, or a decoder reads."""

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

    def check_reader(self, decoder: DecoderConfig) -> None:
        """See that a tokenizer's decoder can read what it gives.

        Raises:
            ConfigError: it cannot.
        """
        read, given = decoder.texts(), self.text()
        if read is None:
            text = f"is {self.type!r}, and decoder {decoder.type!r} reads no texts as it is set; leave it out"
            raise ConfigError.at("conditioner", text)
        if not self.frozen:
            text = f"{self.type!r} learns with a prior, and there is none here"
            raise ConfigError.at("conditioner", f"{text}; name an encoder that is frozen, as 't5', 'clip' or 'minilm'")
        if given.width != read.width or given.length > read.length:
            text = f"gives up to {given.length} vectors {given.width} wide, and decoder {decoder.type!r} reads up to"
            raise ConfigError.at("conditioner", f"{text} {read.length} of {read.width}; set the one like the other")


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
