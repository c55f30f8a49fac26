"""The abstract parts of a 1D image tokenizer, and of the harness around it. Shape letters: `flexframe.tokens`.

A part's constructor is `(config, spec)`; its config class names it, and `spec` holds every width that follows from the
rest of the model. Images at the public border are RGB floats in [0, 1]; a part that wants another range converts
inside. Subclasses are final.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar
from weakref import finalize

from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from flexframe.rng import Rng
from flexframe.tokens import Batch, Codes, Condition, Kept, Losses, Outputs, Quantized, Tokens, prefix
from flexframe_registry.configs import (
    AllocatorConfig,
    CodecConfig,
    CodesSpec,
    ComponentConfig,
    DecoderConfig,
    EncoderConfig,
    ImporterConfig,
    MaskerConfig,
    MetricConfig,
    ObjectiveConfig,
    PriorConfig,
    QuantizerConfig,
    SamplingConfig,
    SourceConfig,
    Spec,
    TokenizerConfig,
)

if TYPE_CHECKING:
    from flexframe.importing import Foreign, Imported
    from flexframe.importing.compare import Comparison
    from flexframe.loading import Model
    from flexframe.tokenizer import Tokenizer  # which is composed of what stands here

C = TypeVar("C", bound=ComponentConfig)


class Part(nn.Module, ABC, Generic[C]):
    """A buildable part of a model."""

    def __init__(self, config: C, spec: Spec) -> None:
        super().__init__()
        self.config = config
        self.spec = spec

    def adapt(self, state: Mapping[str, Tensor], spec: Spec) -> Mapping[str, Tensor]:
        """Another model's tensors of this part, made to fit this one's widths where that has a meaning.

        Args:
            state: tensors by their names within the part.
            spec: the other model's widths.
        """
        return state


class Codec(Part[CodecConfig]):
    """A frozen map between images and the latents that the model works on."""

    @abstractmethod
    def encode(self, images: Float[Tensor, "b 3 h w"], *, rng: Rng) -> Float[Tensor, "b c y x"]:
        """Images in [0, 1] to latents in the range of `spec.latents`."""

    @abstractmethod
    def decode(self, latents: Float[Tensor, "b c y x"]) -> Float[Tensor, "b 3 h w"]:
        """Latents to images, not clamped: the tokenizer clamps at the border."""

    def moments(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b m y x"] | None:
        """Of a codec that draws, what `encode` knows before it does, to be kept and drawn from at every step; None
        where nothing is drawn."""
        return None

    def drawn(self, moments: Float[Tensor, "b m y x"], *, rng: Rng) -> Float[Tensor, "b c y x"]:
        """The latents that `encode` gives of images with these `moments`."""
        raise ValueError(f"codec {self.config.type!r} has no moments to draw from")


class Encoder(Part[EncoderConfig]):
    """Latents to one feature vector a token slot."""

    @abstractmethod
    def forward(self, latents: Float[Tensor, "b c y x"], keep: Bool[Tensor, "b k"]) -> Float[Tensor, "b k e"]:
        """Features of the first `k` slots, as many as `keep` has; an absent slot changes no present one."""


class Quantizer(Part[QuantizerConfig]):
    """Features to tokens. Projects from the encoder's width `e` to its own `d`."""

    @abstractmethod
    def forward(self, values: Float[Tensor, "b k e"], keep: Bool[Tensor, "b k"], *, rng: Rng) -> Quantized:
        """Quantize; absent slots change neither losses nor statistics."""

    @abstractmethod
    def lookup(self, codes: Int[Tensor, "b k q"] | Float[Tensor, "b k d"]) -> Float[Tensor, "b k d"]:
        """The token values of codes; what `forward` gives in evaluation, exactly."""


class LengthMasker(Part[MaskerConfig]):
    """How many tokens of each sample training keeps (nested dropout and its kin). Keeps prefixes of at least one."""

    @abstractmethod
    def draw(self, batch: int, length: int, *, rng: Rng) -> Kept:
        """Draw what is kept of `length` slots for each of `batch` rows."""

    @property
    def budgets(self) -> tuple[int, ...]:
        """The lengths that this masker makes usable."""
        return self.config.budgets(self.spec.tokens.length)


class Decoder(Part[DecoderConfig]):
    """Tokens to latents."""

    @abstractmethod
    def forward(self, tokens: Tokens, batch: Batch, *, taps: frozenset[str], rng: Rng) -> Outputs:
        """Training: losses of its own, what objectives need, features by `taps`; targets are in `batch.latents`."""

    @abstractmethod
    def decode(
        self,
        tokens: Tokens,
        *,
        condition: Condition | None,
        size: tuple[int, int],
        rng: Rng,
        sampling: SamplingConfig,
    ) -> Float[Tensor, "b c h w"]:
        """Use: latents of `size` (height, width in latent units)."""


class Objective(Part[ObjectiveConfig]):
    """A loss of the run, not of the model: never in a model's checkpoint.

    Parameters of its own (an opponent, a projection) are stepped as its config's `stepped` says, and are in the run's
    checkpoints. A frozen network (a teacher, a judge) is held as no module, so that no checkpoint has it.
    """

    own: ClassVar[frozenset[str]] = frozenset()
    """Of its losses, those that train its own parameters alone: `weight` does not scale them."""

    def check(self, model: TokenizerConfig) -> None:
        """Raise `ValueError`, in one sentence, where it cannot train this model; asked before the first step."""

    def facts(self) -> Mapping[str, Any]:
        """What moves its losses beyond its config, for the run's manifest: hashes of weights."""
        return {}

    def features(self, batch: Batch) -> Mapping[str, Tensor]:
        """What it makes of a batch's images whatever the model does, a row a sample, by its name in `batch.features`:
        what is found there is not made again, so it may be computed before training."""
        return {}

    @abstractmethod
    def forward(self, outputs: Outputs, batch: Batch, *, step: int, rng: Rng) -> Losses:
        """Unweighted losses, a value a sample; the trainee applies `weight` and `start`."""


class Prior(nn.Module, ABC):
    """A model of a tokenizer's codes, built as `(config, spec)` with the spec of the codes."""

    def __init__(self, config: PriorConfig, spec: CodesSpec) -> None:
        super().__init__()
        self.config, self.spec = config, spec

    @abstractmethod
    def forward(self, codes: Codes, condition: Condition | None, *, rng: Rng) -> Losses:
        """Training: the losses of these codes, a value a sample."""

    @abstractmethod
    def sample(
        self,
        condition: Condition | None,
        lengths: Int[Tensor, " b"],
        *,
        rng: Rng,
        sampling: SamplingConfig,
        on_token: Callable[[int], None] | None = None,
    ) -> Codes:
        """Draw codes, `lengths[i]` of them for row i; `on_token` is told how many steps are done.

        Codes have the longest row's slots; what stands in an absent one means nothing. Row i depends on its own
        condition, length and row of `rng` alone.
        """


class LikelihoodPrior(Prior):
    """A prior that says how likely codes are."""

    @abstractmethod
    def log_prob(self, codes: Codes, condition: Condition | None) -> Float[Tensor, "b k"]:
        """Natural logarithm of each token's probability given those before it; 0 where a token is absent."""


class Allocator(Part[AllocatorConfig]):
    """How many tokens each image gets at use, built as `(config, tokenizer.spec)`; never part of a model."""

    @abstractmethod
    def choose(self, tokenizer: Tokenizer, images: Float[Tensor, "b 3 h w"], *, rng: Rng) -> Int[Tensor, " b"]:
        """A length in 1..K for each image in [0, 1]. It depends on that image and its row of `rng` alone."""


# --- the harness's own kinds: not modules, built as (config, ...) --------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a source: RGB uint8 and what is known about it."""

    image: UInt8[Tensor, "3 h w"]
    label: int | None
    id: str
    caption: str | None = None
    attributes: Mapping[str, int] = field(default_factory=dict)
    """By name, what is exactly known of it."""


class AttributeClassifier(ABC):
    """Reads off images what a source knows of them. It comes with the source."""

    label: str
    """The attribute that is the class."""
    values: Mapping[str, int]
    """By attribute, how many values it takes in the source's images, all equally likely. What does not show in them, or
    is the same in all, is not there."""

    @abstractmethod
    def __call__(self, images: UInt8[Tensor, "b 3 h w"]) -> Mapping[str, Int[Tensor, " b"]]:
        """Each of the `values`, as read."""

    @abstractmethod
    def protocol(self) -> Mapping[str, Any]:
        """What it is: network, input size, hash of its weights, what it was trained on and how well it reads."""


class Source(ABC):
    """A finite, indexable data set of images of one size, built as `(config, (height, width))`."""

    def __init__(self, config: SourceConfig, size: tuple[int, int]) -> None:
        self.config, self.size = config, size

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Sample: ...

    def samples(self, indices: Sequence[int]) -> Sequence[Sample]:
        """Several at once, the same as one by one; for sources that are faster so."""
        return [self[index] for index in indices]

    def class_names(self) -> Sequence[str]:
        """What the labels 0, 1, ... are called; nothing where nobody knows."""
        return ()

    def classifier(self) -> AttributeClassifier | None:
        """The classifier that comes with the source, or None. `ValueError` says why it cannot be used here."""
        return None

    @abstractmethod
    def protocol(self) -> Mapping[str, Any]:
        """What was done to the images: resize, crop, library versions; part of every number's fingerprint."""

    def remarks(self) -> Sequence[str]:
        """What a user must know of these images, in sentences that stand at the end of what a command prints."""
        return ()


@dataclass(frozen=True, slots=True)
class Measure:
    """A number that a metric gives, and how to show it."""

    name: str
    label: str
    better: Literal["higher", "lower"] | None = None
    """The direction of good, or None for a number that only describes."""
    unit: str = ""
    digits: int = 2
    note: str = ""
    """What must not be concluded from it."""


@dataclass(frozen=True, slots=True)
class Reconstructions:
    """A batch of a suite's images, and what a model made of them."""

    real: UInt8[Tensor, "b 3 h w"]
    fake: UInt8[Tensor, "b 3 h w"]
    """What a file would hold: `exact` rounded to 8 bits."""
    exact: Float[Tensor, "b 3 h w"]
    """The reconstructions in [0, 1] before rounding, so that a number need not jump where a last digit does."""
    labels: Sequence[int | None]
    tokens: Tokens
    attributes: Sequence[Mapping[str, int]] = ()
    """Each image's, as its source knows them; empty where nobody told."""


class Scratch:
    """Folders for what grows with the number of images and so must not be held in memory; made when first asked for.

    They outlive an interruption of the run, and are gone when it has ended. What is written there is addressed by the
    images' position, so that a batch that is measured again writes the same bytes to the same place.
    """

    def __init__(self, own: Path | None = None, common: Path | None = None) -> None:
        self._own, self._common = own, common

    @property
    def own(self) -> Path:
        """The folder of one model at one budget, common to its metrics."""
        if self._own is None:
            self._own = self._temporary()
        self._own.mkdir(parents=True, exist_ok=True)
        return self._own

    @property
    def common(self) -> Path:
        """The folder of what all models share: what is known of the originals."""
        if self._common is None:
            self._common = self._temporary()
        self._common.mkdir(parents=True, exist_ok=True)
        return self._common

    def _temporary(self) -> Path:
        path = Path(mkdtemp(prefix="flexframe-"))
        finalize(self, rmtree, path, ignore_errors=True)
        return path


class Metric(ABC):
    """Numbers over images and their reconstructions, built as `(config, source)` over the images of a suite.

    One is built a suite: it holds what all models share (networks, classifiers). `start` gives the tally of one model
    at one budget, whose state is constant in the number of images; what cannot be goes into its `scratch`. Tallies
    see the images of `source` from the first to the last, all the same ones.
    """

    scratch: Scratch
    of_classes: ClassVar[bool] = False
    """Whether it looks at the classes that samples were asked for: of a prior without classes it has no number."""

    def __init__(self, config: MetricConfig, source: Source) -> None:
        self.config, self.source = config, source

    def of_samples(self) -> Metric | None:
        """This metric as it is of what a prior draws: `fake` are samples, `real` the suite's images at the same
        positions, which they were not made from, and `labels` the classes asked for. None where it makes no sense of
        them, as one that compares each image with its own reconstruction."""
        return None

    def start(self, spec: Spec, scratch: Scratch | None = None) -> Metric:
        """An empty tally for one model at one budget; without `scratch` it has a temporary one."""
        tally = copy(self)
        tally.scratch = scratch or Scratch()
        tally.reset(spec)
        return tally

    @property
    @abstractmethod
    def tallied(self) -> tuple[str, ...]:
        """Names of the attributes that `reset` makes and `update` changes; a class may set it as a plain attribute.

        They are numbers, tensors, or lists and mappings of these: with them an interrupted run goes on.
        """

    def state(self) -> Mapping[str, Any]:
        """The tally so far, as plain data and tensors."""
        return {name: getattr(self, name) for name in self.tallied}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state` of the same metric, model and budget."""
        for name in self.tallied:
            setattr(self, name, state[name])

    @abstractmethod
    def measures(self) -> Sequence[Measure]:
        """The numbers that `compute` gives, in the order to show them."""

    @abstractmethod
    def reset(self, spec: Spec) -> None:
        """Make this an empty tally of a model with these widths."""

    @abstractmethod
    def update(self, batch: Reconstructions) -> Mapping[str, Float[Tensor, " b"]]:
        """Take in a batch; returns per-image values by name, if the metric has any."""

    @abstractmethod
    def compute(self) -> Mapping[str, float]:
        """The numbers over all images so far."""

    def details(self) -> Mapping[str, Mapping[str, Any]]:
        """By number, plain data that is reported beside its value. Asked after `compute`.

        `subsets` of a number that is no mean of per-image values: `{"size": images in each, "values": [...]}` over
        disjoint parts of the images, the same parts for all models, so that an interval can be shown. Other names are
        the metric's own; see `flexframe.bench.results`.
        """
        return {}

    def unavailable(self) -> str | None:
        """Why this tally has no numbers, and how to mend it, or None. Asked before the first batch and at the end."""
        return None

    def protocol(self) -> Mapping[str, Any]:
        """What moves the numbers beyond the images: extractor, weights hash, layer, window. Asked at the end."""
        return {}


class Importer(ABC):
    """Reads checkpoints of one published format. Built as `(config,)`; holds no state.

    What it may use of a checkpoint is a whitelist: it reads plain settings and tensors, and refuses what it does not
    know. It never imports, calls or builds anything that a checkpoint names.
    """

    def __init__(self, config: ImporterConfig) -> None:
        self.config = config

    @abstractmethod
    def recognises(self, source: Foreign) -> bool:
        """Whether the checkpoint is of this format, judged by names only; it may still be broken."""

    @abstractmethod
    def convert(self, source: Foreign) -> Imported:
        """The checkpoint as one of our configs and its state; `ConfigError` lists what cannot be taken over."""

    def compare(self, source: Foreign, model: Model) -> Iterable[Comparison]:
        """Run the golden cases that lie beside a checkpoint (`case*.safetensors`) on the model made from it."""
        return ()


__all__ = [
    "Allocator",
    "AttributeClassifier",
    "Batch",
    "Codec",
    "Codes",
    "Condition",
    "Decoder",
    "Encoder",
    "Importer",
    "Kept",
    "LengthMasker",
    "LikelihoodPrior",
    "Losses",
    "Metric",
    "Objective",
    "Outputs",
    "Part",
    "Prior",
    "Quantized",
    "Quantizer",
    "Reconstructions",
    "Rng",
    "Sample",
    "Scratch",
    "Source",
    "Tokens",
    "prefix",
]
