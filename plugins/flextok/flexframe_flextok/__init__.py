"""FlexTok (Bachmann et al., ICML 2025, arXiv 2502.13967): register encoder, rectified-flow decoder, VAE codec."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from flexframe_registry import (
    CodecConfig,
    Component,
    ComponentConfig,
    DecoderConfig,
    EncoderConfig,
    ImporterConfig,
    LatentSpec,
    SamplingConfig,
    Spec,
    hookimpl,
)
from flexframe_registry.cards import folders


class TrunkConfig(ComponentConfig):
    """Base of encoder and decoder: a transformer over patches of latents."""

    width: int = Field(768, ge=4)
    """Width of the trunk; 64 x depth in the published models."""
    depth: int = Field(12, ge=1)
    """Transformer blocks."""
    head_dim: int = Field(64, ge=1)
    """Channels of an attention head."""
    patch: int = Field(2, ge=1)
    """Latents along each axis that one patch covers."""
    positions: Literal["absolute", "interpolate"] = "absolute"
    """Positions of a grid unlike the model's own: by its own coordinates, or stretched over the model's grid."""
    grid: tuple[int, int] | None = None
    """Rows and columns of the stored table that `positions` refer to in place of the model's own grid: of pretraining,
    where images are now of another size. Imported checkpoints have it."""

    @field_validator("grid")
    @classmethod
    def _cells(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value is not None and min(value) < 1:
            raise ValueError(f"a grid has at least one row and one column, not {value}")
        return value

    def check(self, spec: Spec) -> None:
        height, width = spec.latents.height, spec.latents.width
        if height % self.patch or width % self.patch:
            raise ValueError(
                f"latents of {height} x {width} do not divide into patches of {self.patch}; change `patch`"
            )
        if self.width % self.head_dim or self.width % 4:
            raise ValueError(
                f"width {self.width} must divide by head_dim {self.head_dim} and by 4 (sine-cosine positions)"
            )
        rows, columns = self.cells(spec)
        if self.grid and self.positions == "absolute" and (rows > self.grid[0] or columns > self.grid[1]):
            raise ValueError(
                f"{rows} x {columns} patches have no positions in `grid` {self.grid[0]} x {self.grid[1]}; "
                "set `positions: interpolate`"
            )

    def cells(self, spec: Spec) -> tuple[int, int]:
        """Rows and columns of its patches on these latents."""
        return spec.latents.height // self.patch, spec.latents.width // self.patch

    def following(self, source: ComponentConfig, there: Spec, here: Spec) -> TrunkConfig:
        """Return the config with `grid` as the weights have it: positions are no tensors, and weights know the cells
        they were trained on.

        Weights of a model without `grid`, or of a part of a square one, know plain coordinates, which any grid has. So
        `absolute` goes on with them, and `interpolate` stretches those of the weights' own images.
        """
        if not isinstance(source, TrunkConfig):
            return self
        cells, table = source.cells(there), source.grid
        plain = table is None or (table[0] == table[1] and (source.positions == "absolute" or table == cells))
        if table is None or (plain and self.positions == "interpolate"):
            table = cells
        of = f"these weights were trained with positions of {table[0]} x {table[1]}"
        if self.positions == "absolute":
            if plain and (self.grid is None or self.grid[0] == self.grid[1]):
                return self
            if source.positions == "interpolate" and table != cells:
                raise ValueError(f"{of}, stretched to {cells[0]} x {cells[1]}; set `positions: interpolate`")
        elif plain and self.grid is None and cells == self.cells(here):
            return self
        elif (plain and table[0] != table[1]) or (source.positions == "absolute" and table != cells):
            raise ValueError(f"{of}, and cannot be stretched, which takes a square or a whole table; set them absolute")
        if self.grid not in (None, table):
            raise ValueError(
                f"`grid` is {self.grid[0]} x {self.grid[1]}, and {of}; set `grid` to {list(table)}, or leave it out"
            )
        return self.model_copy(update={"grid": table})


class RegisterEncoderConfig(TrunkConfig, EncoderConfig):
    """ViT over latent patches and learned registers; register i sees all patches and registers up to i."""

    later = frozenset({"causal"})
    type: Literal["registers"] = "registers"
    causal: bool = True
    """Let register i see registers 0..i only, so that the first k tokens are those of an encoding to k, and cost no
    more. False, FlexTok's ablation: each register sees all registers, and patches see patches alone as before. Always
    the model's whole `length` of registers is then computed, so that a prefix is still the same however many tokens
    are asked for; but it was made in view of those after it, and nothing makes token i a function of what stands
    before it, which a prior that draws tokens in turn relies on."""
    sizes = {
        "tiny": {"width": 64, "depth": 2, "head_dim": 32, "patch": 4},
        "small": {"width": 384, "depth": 6},
        "base": {"width": 768, "depth": 12},
        "large": {"width": 1152, "depth": 18},
    }

    def features(self) -> int:
        return self.width


class FlowSampling(SamplingConfig):
    """Steps from noise to data, with classifier-free guidance against the null condition."""

    later = frozenset({"schedule", "shift", "power"})
    steps: int = Field(25, ge=1)
    """Steps from t=1 to t=0."""
    solver: Literal["euler", "ab2", "dpmpp-2m", "heun", "midpoint"] = "euler"
    """Euler, or a second-order solver: with one model evaluation a step, which remembers the step before, of Adams and
    Bashforth or DPM-Solver++(2M) (arXiv 2211.01095); or with two (Heun's last step is Euler's)."""
    schedule: Literal["uniform", "shift", "power"] = "uniform"
    """Steps of equal length; or shorter ones at the noise, by `shift` (arXiv 2403.03206, section 5.3.2), or at the
    data, by `power` (as arXiv 2206.00364, appendix D.1, spaces noise levels)."""
    shift: float = Field(3.0, gt=0)
    """Of schedule `shift`: u becomes shift u / (1 + (shift - 1) u); 1 is uniform, less shortens those at the data."""
    power: float = Field(2.0, gt=0)
    """Of schedule `power`: u becomes u to this power; 1 is uniform, less shortens those at the noise."""
    guidance: float | tuple[tuple[float, float], ...] = 1.0
    """Guidance scale; or a schedule: knots (t, scale), linear between and constant beyond. Any function f of t is the
    knots (t, f(t)) at all `times()`."""
    apg: bool = False
    """Adaptive projected guidance (arXiv 2410.02416) in place of plain guidance."""
    apg_momentum: float = -0.5
    """Momentum of the running guidance direction."""
    apg_threshold: float = Field(2.5, gt=0)
    """Largest norm of the direction, over a whole latent."""
    apg_eta: float = 0.0
    """Weight of the part parallel to the conditional prediction."""

    @field_validator("guidance", mode="before")
    @classmethod
    def _no_function(cls, value: Any) -> Any:
        if callable(value):
            text = "is a function f, which cannot be saved; give its values at the steps"
            raise ValueError(f"{text}: guidance=[(t, f(t)) for t in FlowSampling(steps=25).times()]")
        return value

    @field_validator("guidance")
    @classmethod
    def _knots(cls, value: Any) -> Any:
        if isinstance(value, tuple) and not value:
            raise ValueError("a guidance schedule needs at least one (t, scale) knot")
        return tuple(sorted(value)) if isinstance(value, tuple) else value

    @model_validator(mode="after")
    def _of_its_schedule(self) -> FlowSampling:
        for name in ("shift", "power"):
            if name in self.model_fields_set and self.schedule != name and self.changed(name):
                raise ValueError(
                    f"{name} does nothing with schedule {self.schedule!r}; set `schedule: {name}` beside it"
                )
        return self

    def scale(self, t: float) -> float:
        """The guidance scale at time t."""
        if not isinstance(self.guidance, tuple):
            return self.guidance
        knots = self.guidance
        if t <= knots[0][0]:
            return knots[0][1]
        for (t0, g0), (t1, g1) in itertools.pairwise(knots):
            if t <= t1:
                return g0 + (g1 - g0) * (t - t0) / (t1 - t0)
        return knots[-1][1]

    def times(self) -> list[float]:
        """The times at which the model is evaluated, in order; never 0."""
        moments = []
        for start, end in itertools.pairwise(self.knots()):
            moments.append(start)
            if self.solver == "midpoint":
                moments.append((start + end) / 2)
            elif self.solver == "heun" and end:
                moments.append(end)
        return moments

    def knots(self) -> list[float]:
        """The times between which steps go, by `schedule`: from 1 to 0."""
        shares = [i / self.steps for i in range(self.steps, -1, -1)]
        if self.schedule == "shift":
            return [self.shift * share / (1 + (self.shift - 1) * share) for share in shares]
        return [share**self.power for share in shares] if self.schedule == "power" else shares

    def paces(self) -> list[float]:
        """Steps of this length to the unit of time, for each step."""
        if self.schedule == "uniform":
            return [float(self.steps)] * self.steps
        return [1 / (start - end) for start, end in itertools.pairwise(self.knots())]

    @classmethod
    def quick(cls) -> FlowSampling:
        return cls(steps=2)

    def by_step(self) -> Sequence[tuple[FlowSampling, int]]:
        times = self.times()
        guided = sum(self.scale(t) != 1 for t in times)
        kinds = [(2.0, guided), (1.0, len(times) - guided)]  # any scale but 1 evaluates the model twice
        single = {"steps": 1, "solver": "euler", "schedule": "uniform"}
        return [(self.model_copy(update={**single, "guidance": scale}), count) for scale, count in kinds if count]


class FlowDecoderConfig(TrunkConfig, DecoderConfig):
    """Rectified-flow transformer on latents, conditioned on tokens; predicts the velocity noise - data."""

    later = frozenset({"strides"})
    type: Literal["flow"] = "flow"
    sampling = FlowSampling
    sizes = {
        "tiny": {"width": 64, "depth": 3, "head_dim": 32, "patch": 4},
        "small": {"width": 384, "depth": 6},
        "base": {"width": 768, "depth": 12},
        "large": {"width": 1152, "depth": 18},
    }

    null_dropout: float = Field(0.1, ge=0, lt=1)
    """Share of training samples whose tokens are all replaced by the null condition, for guidance."""
    single_null: bool = False
    """Let the null condition be one token in all tokens' place, rather than one in the place of each."""
    time_sampling: Literal["mode", "logit-normal"] = "mode"
    """Distribution of training times (Esser et al., arXiv 2403.03206, section 3.1)."""
    mode_scale: float = Field(0.25, ge=-1, le=1.75)
    """Weight of the middle times under `mode`; 0 is uniform."""
    max_timestep: float = Field(1.0, gt=0)
    """Time that the embedding's frequencies are scaled to: times run over [0, 1], so 1 gives frequencies up to 1000."""
    strides: bool = False
    """Tell the network beside the time how long a step its velocity is for, so that one decoder can be distilled for
    several numbers of steps (`flow-distillation`); it starts without effect. Guided velocities are not told."""

    def provides(self) -> frozenset[str]:
        return frozenset({"flow", *self.taps()})

    def knows_strides(self) -> bool:
        return self.strides

    def taps(self) -> dict[str, int]:
        return {f"block.{i}": self.width for i in range(self.depth)}

    def unused(self) -> tuple[str, ...]:
        unused = () if self.null_dropout else ("null_condition",)
        return (*unused, "stride.weight", "stride.bias") if self.strides else unused

    def obstacles(self, spec: Spec) -> Iterable[tuple[str, str]]:
        channels, patch = spec.latents.channels, self.patch
        values = channels * patch * patch
        if self.width >= values:
            return
        # noise fills all dimensions of a patch evenly with variance 1, and the head's image has `width` of them
        least = 1 - self.width / values
        text = f"is less than the {values} values of a patch ({channels} x {patch} x {patch}), whose noise has no "
        text += f"direction to spare: the loss cannot fall below {least:.3f}, and samples stay noise. Set decoder.width"
        yield "width", f"{self.width} {text} to {values} or more, or a smaller decoder.patch"

    def doubts(self, spec: Spec, steps: int) -> Iterable[tuple[str, str]]:
        for name, value in self.changed("mode_scale") if self.time_sampling != "mode" else ():
            yield name, f"{value:g} does nothing with time_sampling {self.time_sampling!r}; leave it out"
        if self.single_null and not self.null_dropout:
            yield "single_null", "does nothing where null_dropout is 0; leave it out"


class VAECodecConfig(CodecConfig):
    """Stable-Diffusion-style KL autoencoder, frozen (diffusers' AutoencoderKL)."""

    type: Literal["vae"] = "vae"
    sizes = {"tiny": {"channels": 4, "widths": (8, 8), "layers": 1, "groups": 4}}

    channels: int = Field(16, ge=1)
    """Latent channels."""
    widths: tuple[int, ...] = (128, 256, 512, 512)
    """Channels of each level; every level but the last halves the resolution."""
    layers: int = Field(2, ge=1)
    """Residual blocks of a level."""
    groups: int = Field(32, ge=1)
    """Groups of the group norms."""
    quant_conv: bool = True
    """Put 1 x 1 convolutions around the latents."""
    scaling_factor: float = Field(1.0, gt=0)
    """Latents are multiplied by this after encoding and divided by it before decoding."""
    sample_posterior: bool = False
    """Sample the posterior, seeded; or take its mode. The reference samples by default, and so tokenizes at random."""

    @model_validator(mode="after")
    def _groups(self) -> VAECodecConfig:
        if any(width % self.groups for width in self.widths):
            raise ValueError(f"widths {self.widths} must each divide by groups {self.groups}")
        return self

    def latents(self, height: int, width: int) -> LatentSpec:
        down = 2 ** (len(self.widths) - 1)
        if height % down or width % down:
            raise ValueError(f"images of {height} x {width} must divide by {down}, the codec's downsampling")
        return LatentSpec(self.channels, height // down, width // down, None)


class FlexTokImporterConfig(ImporterConfig):
    """Checkpoints of FlexTok, and of its VAEs by themselves: safetensors with the nested config of their modules."""

    type: Literal["flextok"] = "flextok"


@hookimpl
def flexframe_components() -> Iterable[Component]:
    """List the plugin's components."""
    return [
        Component(RegisterEncoderConfig, "flexframe_flextok.encoder:RegisterEncoder"),
        Component(FlowDecoderConfig, "flexframe_flextok.decoder:FlowDecoder"),
        Component(VAECodecConfig, "flexframe_flextok.codec:VAECodec"),
        Component(FlexTokImporterConfig, "flexframe_flextok.importer:FlexTokImporter"),
    ]


@hookimpl
def flexframe_cards() -> Iterable[Path]:
    """List the folders of the plugin's cards."""
    return folders(__file__)
