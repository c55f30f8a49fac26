"""The abstract parts of a 1D image tokenizer and of the priors over its codes. Shape letters: `flexframe.tokens`.

A part's constructor is `(config, spec)`; its config class names it, and `spec` holds every width that follows from the
rest of the model. Images at the public border are RGB floats in [0, 1]; a part that wants another range converts
inside. Subclasses are final.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Generic

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from typing_extensions import TypeVar

from flexframe.rng import Rng
from flexframe.tokens import Batch, Codes, Condition, Flow, Kept, Losses, Outputs, Quantized, Text, Tokens
from flexframe_registry.config import ComponentConfig, Precision, SamplingConfig
from flexframe_registry.kinds import (
    CodecConfig,
    ConditionerConfig,
    DecoderConfig,
    EncoderConfig,
    MaskerConfig,
    ObjectiveConfig,
    PriorConfig,
    QuantizerConfig,
)
from flexframe_registry.models import TokenizerConfig
from flexframe_registry.widths import CodesSpec, Spec

OnStep = Callable[[int, int], None]
"""Told by what takes steps how many are done, and how many there are in all."""
C = TypeVar("C", bound=ComponentConfig, default=ComponentConfig)
PriorC = TypeVar("PriorC", bound=PriorConfig, default=PriorConfig)
ConditionerC = TypeVar("ConditionerC", bound=ConditionerConfig, default=ConditionerConfig)


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

    def layers(self) -> Sequence[nn.Module]:
        """Blocks in the order in which data pass them, for learning rates that fall with depth (`layer_decay`).

        Unless a part says otherwise: the entries of its module lists that have modules of their own, in order of
        registration; of lists within such an entry, the entry as a whole.
        """
        layers, inner = [], set[nn.Module]()
        for module in self.modules():
            if isinstance(module, nn.ModuleList) and module not in inner:
                for block in module:
                    if any(True for _ in block.children()):
                        layers.append(block)
                        inner.update(block.modules())
        return layers

    def before_step(self) -> Callable[[], None] | None:
        """Look at the weights before every step of the optimizer, for a part that bounds what a step may do to them.

        What it returns is called behind the step, without gradients, and may change the weights in place. It may hang
        on the weights before and after alone: nothing is kept from step to step, so that a run that goes on is the
        same run.
        """
        return None


class Codec(Part[CodecConfig]):
    """A frozen map between images and the latents that the model works on."""

    precision: Precision = "fp32"
    """Arithmetic of `encode` and `moments`, by `arithmetic`. `bf16` is for encoding many images before training on
    their latents, and no setting of the model: token ids are always those of fp32."""

    def arithmetic(self, images: Tensor) -> torch.autocast:
        """Return a region in which images are encoded in `precision`, whatever autocast is on around it."""
        return torch.autocast(images.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    @abstractmethod
    def encode(self, images: Float[Tensor, "b 3 h w"], *, rng: Rng) -> Float[Tensor, "b c y x"]:
        """Images in [0, 1] to latents in the range of `spec.latents`."""

    @abstractmethod
    def decode(self, latents: Float[Tensor, "b c y x"]) -> Float[Tensor, "b 3 h w"]:
        """Latents to images, not clamped: the tokenizer clamps at the border."""

    def moments(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b m y x"] | None:
        """Moments that `encode` draws from, to be kept and drawn from at every step; None where nothing is drawn."""
        return None

    def drawn(self, moments: Float[Tensor, "b m y x"], *, rng: Rng) -> Float[Tensor, "b c y x"]:
        """Latents that `encode` gives of images with these `moments`.

        Raises:
            ValueError: the codec has no moments.
        """
        raise ValueError(f"codec {self.config.type!r} has no moments to draw from")


class Encoder(Part[EncoderConfig]):
    """Latents, or images where its config `reads` them, to one feature vector a token slot."""

    @abstractmethod
    def forward(self, latents: Float[Tensor, "b c y x"], keep: Bool[Tensor, "b k"]) -> Float[Tensor, "b k e"]:
        """Features of the first `k` slots, as many as `keep` has; an absent slot changes no present one."""

    def taught(
        self, latents: Float[Tensor, "b c y x"], keep: Bool[Tensor, "b k"], *, rng: Rng
    ) -> Float[Tensor, "b k e"]:
        """Features in a pass of training, for an encoder that draws there; any other's are those of `forward`."""
        features: Tensor = self(latents, keep)
        return features

    def tapped(
        self, latents: Float[Tensor, "b c y x"], keep: Bool[Tensor, "b k"], *, taps: frozenset[str], rng: Rng
    ) -> tuple[Float[Tensor, "b k e"], Mapping[str, Float[Tensor, "b h w f"]]]:
        """Return what `taught` gives, and the features on the way that objectives asked for, by the config's `taps`.

        Raises:
            ValueError: a tap that there is not.
        """
        if taps:
            known = ", ".join(sorted(self.config.taps())) or "none"
            raise ValueError(f"encoder {self.config.type!r} has no tap {', '.join(sorted(taps))}; it has: {known}")
        return self.taught(latents, keep, rng=rng), {}


class Quantizer(Part[QuantizerConfig]):
    """Features to tokens. Projects from the encoder's width `e` to its own `d`."""

    @abstractmethod
    def forward(self, values: Float[Tensor, "b k e"], keep: Bool[Tensor, "b k"], *, rng: Rng) -> Quantized:
        """Quantize; absent slots change neither losses nor statistics."""

    @abstractmethod
    def lookup(self, codes: Int[Tensor, "b k q"] | Float[Tensor, "b k d"]) -> Float[Tensor, "b k d"]:
        """The token values of codes; what `forward` gives in evaluation, exactly."""


class LengthMasker(Part[MaskerConfig]):
    """A rule for the tokens of each sample that training keeps (nested dropout and its kin): a prefix, never empty."""

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
        """Own losses, what objectives need and features by `taps`, in training; targets are in `batch.latents`, and the
        encoder's features that its `shortcuts` name in `batch.features`, as `encoder.NAME`."""

    @abstractmethod
    def decode(
        self,
        tokens: Tokens,
        *,
        condition: Condition | None,
        size: tuple[int, int],
        rng: Rng,
        sampling: SamplingConfig,
        on_step: OnStep | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """Latents of `size` (height, width in latent units), at use.

        `on_step` is for decoders that take steps, and moves no number; one without this parameter is called without it.
        """

    def flow(self, tokens: Tokens, sampling: SamplingConfig | None = None) -> Flow:
        """The flow under these tokens, of a decoder whose config provides `flow`: guided as `sampling` says, without
        guidance if None.

        Raises:
            ValueError: it has none; or guidance that hangs on more than a place and a time.
        """
        raise ValueError(f"decoder {self.config.type!r} integrates no flow")

    def check_taps(self, taps: frozenset[str]) -> None:
        """Refuse taps that this decoder does not provide.

        Raises:
            ValueError: there are some.
        """
        unknown = sorted(taps - self.config.provides())
        if unknown:
            known = ", ".join(sorted(self.config.provides())) or "none"
            raise ValueError(f"decoder {self.config.type!r} has no tap {', '.join(unknown)}; it has: {known}")

    def check_size(self, size: tuple[int, int], why: str) -> None:
        """Refuse another size of latents (height, width) than the model's own.

        Raises:
            ValueError: `size` is another; `why` says in a few words what is fixed.
        """
        own = (self.spec.latents.height, self.spec.latents.width)
        if size != own:
            raise ValueError(f"decoder {self.config.type!r} gives latents of {own}, not {size}: {why}")


class Objective(Part[ObjectiveConfig]):
    """A loss of the run, not of the model: never in a model's checkpoint.

    Parameters of its own (an opponent, a projection) are stepped as its config's `stepped` says, and are in the run's
    checkpoints. A frozen network (a teacher, a judge) is held as no module, so that no checkpoint has it.
    """

    own: ClassVar[frozenset[str]] = frozenset()
    """Names of its losses that train its own parameters alone: `weight` does not scale them."""

    def check(self, model: TokenizerConfig) -> None:
        """Check, before the first step, that it can train this model.

        Raises:
            ValueError: it cannot; one sentence says why.
        """

    def facts(self) -> Mapping[str, Any]:
        """Facts that move its losses beyond its config, for the run's manifest: hashes of weights."""
        return {}

    def features(self, batch: Batch) -> Mapping[str, Tensor]:
        """Features that it makes of a batch's images whatever the model does, a row a sample, by their names in
        `batch.features`: those that are there already are not made again, so they may be computed before training."""
        return {}

    @abstractmethod
    def forward(self, outputs: Outputs, batch: Batch, *, step: int, rng: Rng) -> Losses:
        """Unweighted losses, a value a sample; the trainee applies `weight` and `start`."""


class Prior(nn.Module, ABC, Generic[PriorC]):
    """A model of a tokenizer's codes, built as `(config, spec)` with the spec of the codes."""

    def __init__(self, config: PriorC, spec: CodesSpec) -> None:
        super().__init__()
        self.config, self.spec = config, spec

    @abstractmethod
    def forward(self, codes: Codes, condition: Condition | None, *, rng: Rng) -> Losses:
        """Losses of these codes in training, a value a sample."""

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


class SymbolWalk(ABC):
    """A way of a prior through sequences, symbol by symbol, each with its chances given those before it: what an
    entropy coder needs. A token is `period` symbols, one after the other."""

    period: int
    device: torch.device

    @abstractmethod
    def symbols(self, codes: Int[Tensor, "b k q"]) -> Int[Tensor, "b n"]:
        """Codes as symbols, `period` a token."""

    @abstractmethod
    def codes(self, symbols: Int[Tensor, "b n"]) -> Int[Tensor, "b k q"]:
        """The inverse of `symbols`, for whole tokens."""

    @abstractmethod
    def logits(self, symbols: Int[Tensor, "b m"]) -> Float[Tensor, "b v"]:
        """Logits of the symbol after these, which are one more at each call. Two walks through the same symbols give
        the same ones, to the bit."""


class LikelihoodPrior(Prior[PriorC]):
    """A prior that says how likely codes are."""

    def walk(self, condition: Condition | None, count: int) -> SymbolWalk | None:
        """Begin to read `count` sequences symbol by symbol; None where the prior knows no chances of single symbols."""
        return None

    @abstractmethod
    def log_prob(self, codes: Codes, condition: Condition | None) -> Float[Tensor, "b k"]:
        """Natural logarithm of each token's probability given those before it; 0 where a token is absent."""


class Conditioner(nn.Module, ABC, Generic[ConditionerC]):
    """A map from texts to what a prior is conditioned on, built as `(config,)`.

    One that learns has parameters, and trains with the prior. A frozen one holds its encoder as no module, so that no
    checkpoint has it, and loads it when it is first asked for something; `settled` says which one it is.
    """

    def __init__(self, config: ConditionerC) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def forward(self, texts: Sequence[str]) -> Text:
        """Embed texts, each for itself: at most as many vectors as `config.text()` says, of a longer text the first
        ones. The empty text stands for none, and has at least one vector present.

        Raises:
            ConfigError: its encoder is not there, or is another than it was.
        """

    @abstractmethod
    def count(self, text: str) -> int:
        """Number of vectors that a text would have, were it not cut."""

    def settled(self) -> ConditionerC:
        """The config with what holds it to these very weights, where they are no part of the checkpoint: a hash.
        Training writes it into the model's config.

        Raises:
            ConfigError: as `forward`.
        """
        return self.config
