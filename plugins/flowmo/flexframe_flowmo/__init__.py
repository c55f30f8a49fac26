"""FlowMo (Sargent et al., arXiv 2503.11056): tokens and patches in two streams, and a rectified flow of pixels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from flexframe_registry import (
    Component,
    ComponentConfig,
    DecoderConfig,
    EncoderConfig,
    ImporterConfig,
    SamplingConfig,
    Spec,
    hookimpl,
)
from flexframe_registry.cards import folders


class TwoStreamConfig(ComponentConfig):
    """Base of encoder and decoder: a transformer with weights of their own for tokens and for patches, and attention
    over both."""

    width: int = Field(768, ge=1)
    """Width of both streams."""
    depth: int = Field(8, ge=1)
    """Transformer blocks."""
    heads: int = Field(12, ge=1)
    """Attention heads."""
    patch: int = Field(4, ge=1)
    """Latents along each axis that one patch covers."""
    axes: tuple[int, int, int] | None = None
    """Channels of a head that turn with a token's number, and with a patch's row and column, where a token has its
    number too; not given: an eighth of the head, and half of the rest each."""
    fixed_norms: bool = True
    """Training: let no step of the optimizer change the norm of a matrix in the blocks."""

    def rotary(self) -> tuple[int, int, int]:
        """Channels of a head that turn with each axis."""
        planes = self.width // self.heads // 2
        first = planes // 8
        rows = (planes - first + 1) // 2
        return self.axes or (2 * first, 2 * rows, 2 * (planes - first - rows))

    def check(self, spec: Spec) -> None:
        height, width = spec.latents.height, spec.latents.width
        if height % self.patch or width % self.patch:
            text = f"latents of {height} x {width} do not divide into patches of {self.patch}"
            raise ValueError(f"{text}; change `patch`")
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} must divide into {self.heads} heads of an even width")
        head = self.width // self.heads
        if self.axes is not None and (sum(self.axes) != head or any(axis < 0 or axis % 2 for axis in self.axes)):
            raise ValueError(f"axes {self.axes} must be even and add up to the width of a head, {head}")


class MMDiTEncoderConfig(TwoStreamConfig, EncoderConfig):
    """Two streams of which tokens, told apart by their positions alone, leave as features (after MMDiT, arXiv
    2403.03206). Each token sees all others, so all are computed however many are kept."""

    type: Literal["mmdit"] = "mmdit"

    sizes = {
        "tiny": {"width": 64, "depth": 2, "heads": 2},
        "small": {"width": 384, "depth": 8, "heads": 12},
        "base": {"width": 768, "depth": 8, "heads": 12},
        "large": {"width": 1152, "depth": 8, "heads": 12},
    }

    def features(self) -> int:
        return self.width


class MMDiTSampling(SamplingConfig):
    """Euler steps from noise to data, with classifier-free guidance over a part of the way."""

    steps: int = Field(25, ge=1)
    """Steps from t=1 to t=0."""
    power: float = Field(4.0, gt=0)
    """Steps lie at equal distances of t to the power of 1/`power`: above 1 shorter at the data, 1 for equal steps."""
    guidance: float = 1.0
    """Scale of the conditional velocity's difference from the unconditional one; 1 is without, at half the cost."""
    interval: tuple[float, float] = (0.0, 1.0)
    """Times between which guidance acts, both included (arXiv 2404.07724)."""

    @field_validator("interval")
    @classmethod
    def _rises(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] > value[1]:
            raise ValueError(f"begins at {value[0]:g} and ends before, at {value[1]:g}; give the lower time first")
        return value

    def times(self) -> list[float]:
        """Times between which steps go, from 1 to 0."""
        return [((self.steps - i) / self.steps) ** self.power for i in range(self.steps + 1)]

    def scale(self, t: float) -> float:
        """Scale of guidance at time t."""
        return self.guidance if self.interval[0] <= t <= self.interval[1] else 1.0

    @classmethod
    def quick(cls) -> MMDiTSampling:
        return cls(steps=2)

    def by_step(self) -> Sequence[tuple[MMDiTSampling, int]]:
        guided = sum(self.scale(t) != 1 for t in self.times()[:-1])
        kinds = ((self.guidance, guided), (1.0, self.steps - guided))
        return [(MMDiTSampling(steps=1, guidance=scale), count) for scale, count in kinds if count]


class MMDiTDecoderConfig(TwoStreamConfig, DecoderConfig):
    """Rectified flow (arXiv 2209.03003) in two streams; predicts the velocity noise - data. A token that is absent, or
    hidden from training, is zeros with a mark."""

    type: Literal["mmdit"] = "mmdit"
    sampling = MMDiTSampling
    width: int = Field(1152, ge=1)
    """Width of both streams."""
    depth: int = Field(16, ge=1)
    """Transformer blocks."""
    null_dropout: float = Field(0.1, ge=0, lt=1)
    """Share of training samples whose tokens are all hidden, for guidance."""
    uniform_times: float = Field(0.1, ge=0, le=1)
    """Share of training times that are drawn evenly, so that none is rare; of the others the logit is normal."""
    chain: int | None = Field(None, ge=1)
    """Training: let `reconstruction`, which objectives judge, be the end of a chain of so many random steps from noise,
    with a gradient through all of them (FlowMo's post-training). Not given: the data at the end of the velocity that
    the flow's loss is of."""

    sizes = {
        "tiny": {"width": 64, "depth": 2, "heads": 2},
        "small": {"width": 384, "depth": 8, "heads": 12},
        "base": {"width": 768, "depth": 16, "heads": 12},
        "large": {"width": 1152, "depth": 16, "heads": 12},
    }

    def provides(self) -> frozenset[str]:
        return frozenset({"reconstruction", "flow", *self.taps()})

    def taps(self) -> dict[str, int]:
        return {f"block.{i}": self.width for i in range(self.depth)}

    def obstacles(self, spec: Spec) -> Iterable[tuple[str, str]]:
        values = spec.latents.channels * self.patch**2
        if self.width < values:
            least = 1 - self.width / values
            text = f"{self.width} is less than the {values} values of a patch, whose noise has no direction to spare: "
            text += f"the loss cannot fall below {least:.3f}. Set decoder.width to {values} or more, or a smaller patch"
            yield "width", text

    def doubts(self, spec: Spec, steps: int) -> Iterable[tuple[str, str]]:
        if not self.null_dropout and not spec.tokens.masked:
            yield "null_dropout", "is 0 and no token is ever hidden, so guidance has nothing to step away from"


class FlowMoImporterConfig(ImporterConfig):
    """Checkpoints of FlowMo: state dicts with the project's config, and the published files without one."""

    type: Literal["flowmo"] = "flowmo"


@hookimpl
def flexframe_components() -> Iterable[Component]:
    """List the plugin's components."""
    return [
        Component(MMDiTEncoderConfig, "flexframe_flowmo.encoder:MMDiTEncoder"),
        Component(MMDiTDecoderConfig, "flexframe_flowmo.decoder:MMDiTDecoder"),
        Component(FlowMoImporterConfig, "flexframe_flowmo.importer:FlowMoImporter"),
    ]


@hookimpl
def flexframe_cards() -> Iterable[Path]:
    """List the folders of the plugin's cards."""
    return folders(__file__)
