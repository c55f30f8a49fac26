"""Training objectives: losses that belong to a run, named with weight and start step in its config."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, field_validator

from flexframe_registry import (
    Component,
    Config,
    DecoderConfig,
    ObjectiveConfig,
    PictureObjectiveConfig,
    SourceConfig,
    Spec,
    StepConfig,
    TargetSpec,
    catalogue,
    hookimpl,
)
from flexframe_registry.slots import resolve


class ProxyCodesConfig(ObjectiveConfig):
    """Cross-entropy of logits with the codes of another tokenizer (TiTok, stage 1, arXiv 2406.07550)."""

    type: Literal["proxy-codes"] = "proxy-codes"
    teacher: str | None = None
    """The tokenizer whose codes these are, as `flexframe.load` takes it: a card, a path, a published checkpoint. It
    encodes a batch's images where `batch.features["proxy_codes"]` does not hold their codes already."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of the target spread over all codes."""

    def needs(self) -> frozenset[str]:
        return frozenset({"logits"})

    def precomputes(self) -> Mapping[str, Mapping[str, Any]]:
        return {} if self.teacher is None else {"proxy_codes": {"teacher": self.teacher}}

    def targets(self, grid: tuple[int, int], classes: int) -> Mapping[str, TargetSpec]:
        return {"proxy_codes": TargetSpec(grid, classes)} if self.teacher is None else {}


class ImageObjectiveConfig(PictureObjectiveConfig):
    """Base of objectives that look at images: a model whose reconstructions are images."""

    def check(self, spec: Spec) -> None:
        if not spec.latents.images:
            raise ValueError(
                "looks at images, and what this model reconstructs are its codec's latents; train with codec "
                "'identity', or with an objective on latents, such as mse or l1"
            )


class LPIPSConfig(ImageObjectiveConfig):
    """Perceptual distance LPIPS 0.1 to the image (Zhang et al., 2018)."""

    sizes = {"tiny": {"net": "squeeze", "backbone": "random", "resize": 64}}

    type: Literal["lpips"] = "lpips"
    net: Literal["alex", "vgg", "squeeze"] = "vgg"
    """The network in whose features images are compared."""
    backbone: str | None = None
    """File of torchvision's weights of that network (safetensors, or PyTorch's read as tensors only); not given: the
    one in torch's hub folder, fetched if need be. `random` draws them, for tests."""
    linear: str | None = None
    """File of the weights by channel; not given: those that come with torchmetrics."""
    resize: int | None = Field(None, ge=1)
    """Side that both images are brought to first; not given: they stay as they are."""


class PerceptualConfig(ImageObjectiveConfig):
    """Squared difference of what a classification network makes of the two images; TiTok's is ConvNeXt-S's logits."""

    sizes = {"tiny": {"net": "test_convnext", "library": "timm", "weights": "random", "resize": 32}}

    type: Literal["perceptual"] = "perceptual"
    net: str = "convnext_small"
    """The network, by its name in the library."""
    library: Literal["torchvision", "timm"] = "torchvision"
    """Whose network and weights; the same name stands for other weights in the other one."""
    weights: str | None = None
    """File of the library's weights (safetensors, or PyTorch's read as tensors only); not given: the published ones,
    fetched if need be. `random` draws them, for tests."""
    compare: Literal["logits", "features"] = "logits"
    """The values compared: the network's answer, or its last feature map before pooling (timm's networks)."""
    resize: int | None = Field(224, ge=1)
    """Side that both images are brought to first; not given: they stay as they are."""

    def check(self, spec: Spec) -> None:
        super().check(spec)
        if self.compare == "features" and self.library != "timm":
            raise ValueError("torchvision's networks have no common name for features; set `library: timm`")


class BlurredCriticConfig(Config):
    """TiTok's: stages of a convolution, a blurring halving, norm and leak, then a fixed grid of verdicts."""

    type: Literal["blurred"] = "blurred"
    hidden: int = Field(128, ge=32, multiple_of=32)
    """Base width."""
    multipliers: tuple[Annotated[int, Field(ge=1)], ...] = Field((1, 2, 4), min_length=1)
    """Width of each halving in units of `hidden`."""
    grid: int = Field(16, ge=1)
    """Rows and columns of verdicts, whatever the image's size."""

    def least(self) -> int:
        """The smallest side of an image."""
        return 1


class PatchCriticConfig(Config):
    """PatchGAN (Isola et al., arXiv 1611.07004) with norms that see one image at a time."""

    type: Literal["patch"] = "patch"
    hidden: int = Field(64, ge=32, multiple_of=32)
    """Base width."""
    multipliers: tuple[Annotated[int, Field(ge=1)], ...] = Field((1, 2, 4), min_length=1)
    """Width of each halving in units of `hidden`; a last layer has twice the last one's."""

    def least(self) -> int:
        """The smallest side of an image."""
        return 3 * 2 ** len(self.multipliers)


CriticConfig = Annotated[BlurredCriticConfig | PatchCriticConfig, Field(discriminator="type")]


class AdversarialConfig(ImageObjectiveConfig):
    """A critic that learns to tell images from reconstructions, and the model's loss of being told (hinge)."""

    sizes = {"tiny": {"critic": {"type": "blurred", "hidden": 32, "multipliers": (1, 1), "grid": 4}}}

    type: Literal["adversarial"] = "adversarial"
    critic: CriticConfig = BlurredCriticConfig()
    """The critic's network."""
    lecam: float = Field(0.001, ge=0)
    """Weight, in the critic's loss, of its distance to running means of its verdicts (LeCam, arXiv 2104.03310)."""
    lecam_decay: float = Field(0.999, ge=0, lt=1)
    """Decay of those means, a step."""
    optimizer: StepConfig = StepConfig()
    """Settings of the critic's steps. Neither this nor its losses depend on `weight`, which is the model's term's."""

    def stepped(self) -> StepConfig:
        return self.optimizer

    def check(self, spec: Spec) -> None:
        super().check(spec)
        least = self.critic.least()
        if min(spec.latents.height, spec.latents.width) < least:
            size = f"{spec.latents.height} x {spec.latents.width}"
            raise ValueError(f"its critic needs images of {least} pixels, not {size}; give it fewer `multipliers`")


class REPAConfig(ObjectiveConfig):
    """Alignment of a decoder's features with a pretrained vision transformer's (REPA, arXiv 2410.06940)."""

    sizes = {"tiny": {"teacher": "test_vit", "weights": "random", "hidden": 32, "grid": None}}

    type: Literal["repa"] = "repa"
    tap: str = "block.1"
    """The decoder's features that are aligned; FlexTok's are those of the second block."""
    teacher: str | None = "vit_large_patch14_dinov2.lvd142m"
    """A vision transformer by its name in timm; null where `batch.features["repa"]` holds its features already."""
    weights: str | None = None
    """File of timm's weights of it (safetensors, or PyTorch's read as tensors only); not given: timm's on the hub.
    `random` draws them, for tests: there is nothing to learn from such a teacher."""
    dim: int | None = Field(None, ge=1)
    """Width of features that were computed before; not given with a `teacher`, whose own width it is."""
    hidden: int = Field(2048, ge=1)
    """Width of the projection's two inner layers."""
    grid: tuple[int, int] | None = (37, 37)
    """Rows and columns on which features are compared; one number stands for a square. The teacher's images are brought
    to as many patches, the decoder's features are interpolated. Null: the decoder's own grid, or that of features that
    were computed before."""
    resize: Literal["features", "projection"] = "features"
    """What is brought to that grid: the decoder's features, bilinearly (FlexTok); or their projection, by bicubic
    interpolation, so that fewer places are projected (Semanticist)."""

    @field_validator("grid", mode="before")
    @classmethod
    def _square(cls, value: object) -> object:
        return (value, value) if isinstance(value, int) else value

    def needs(self) -> frozenset[str]:
        return frozenset({self.tap})

    def precomputes(self) -> Mapping[str, Mapping[str, Any]]:
        if self.teacher is None:
            return {}
        if self.grid is None:
            raise ValueError("its grid is the decoder's own; to compute features before, give a grid, as grid=16")
        return {"repa": {"teacher": self.teacher, "weights": self.weights, "grid": list(self.grid)}}

    def targets(self, grid: tuple[int, int], classes: int) -> Mapping[str, TargetSpec]:
        if self.dim is None:
            return {}
        return {"repa": TargetSpec((*(self.grid or grid), self.dim))}

    def check(self, spec: Spec) -> None:
        if (self.teacher is None) == (self.dim is None):
            raise ValueError("give a `teacher`, or the `dim` of features that were computed before; one of the two")


class FeatureMSEConfig(ObjectiveConfig):
    """Squared difference of one part's features from another's, which are not moved: a decoder that finds again what
    its encoder's network gave (GigaTok, arXiv 2504.08736)."""

    type: Literal["feature-mse"] = "feature-mse"
    tap: str = "grid"
    """The features that are moved."""
    target: str = "encoder.grid"
    """The features that they are brought to, of the same width and grid; an encoder's begin with `encoder.`."""

    def needs(self) -> frozenset[str]:
        return frozenset({self.tap, self.target})

    def still(self) -> frozenset[str]:
        return frozenset({self.target})

    def check(self, spec: Spec) -> None:
        own, other = spec.taps[self.tap], spec.taps[self.target]
        if own != other:
            raise ValueError(f"{self.tap} is {own} wide and {self.target} {other}; they must be equally wide")


class FeatureSupervisionConfig(ObjectiveConfig):
    """Features on the way through encoder and decoder, each mapped linearly, point where a teacher's do, up to a margin
    (ResTok, arXiv 2601.03955; the loss is VA-VAE's, arXiv 2501.01423): the encoder's mean over a level of cells where
    the teacher's class token does, the decoder's cells where its patches do."""

    sizes = {"tiny": {"teacher": "test_vit", "weights": "random"}}

    type: Literal["feature-supervision"] = "feature-supervision"
    whole: str | None = "encoder.coarsest"
    """Features whose mean is to tell the whole image; none if null."""
    cells: str | None = "semantic"
    """Features each of whose cells is to tell the image there; none if null."""
    margin: float = Field(0.25, ge=0, lt=2)
    """A cosine of one less this is good enough, and has no loss."""
    teacher: str | None = "vit_large_patch16_dinov3.lvd1689m"
    """A vision transformer by its name in timm; null where `batch.features` holds its features already."""
    weights: str | None = None
    """File of timm's weights of it (safetensors, or PyTorch's read as tensors only); not given: timm's on the hub.
    `random` draws them, for tests: there is nothing to learn from such a teacher."""
    dim: int | None = Field(None, ge=1)
    """Width of features that were computed before; not given with a `teacher`, whose own width it is."""
    grid: tuple[int, int] | None = None
    """Rows and columns of the teacher's patches, for which images are resized; one number stands for a square. Null:
    those of `cells`, or of features that were computed before."""

    @field_validator("grid", mode="before")
    @classmethod
    def _square(cls, value: object) -> object:
        return (value, value) if isinstance(value, int) else value

    def needs(self) -> frozenset[str]:
        return frozenset(tap for tap in (self.whole, self.cells) if tap is not None)

    def precomputes(self) -> Mapping[str, Mapping[str, Any]]:
        if self.teacher is None:
            return {}
        if self.grid is None:
            raise ValueError("its grid is that of the tap; to compute features before, give a grid, as grid=16")
        settings = {"teacher": self.teacher, "weights": self.weights, "grid": list(self.grid)}
        return dict.fromkeys(self._names(), settings)

    def targets(self, grid: tuple[int, int], classes: int) -> Mapping[str, TargetSpec]:
        if self.dim is None:
            return {}
        shapes = {"supervision_whole": (self.dim,), "supervision_cells": (*(self.grid or grid), self.dim)}
        return {name: TargetSpec(shapes[name]) for name in self._names()}

    def check(self, spec: Spec) -> None:
        if (self.teacher is None) == (self.dim is None):
            raise ValueError("give a `teacher`, or the `dim` of features that were computed before; one of the two")
        if not self.needs():
            raise ValueError("supervises nothing: name the features `whole`, or `cells`")
        if self.cells is None and self.grid is None and self.teacher is not None:
            raise ValueError("give the `grid` of the teacher's patches; without `cells` nothing tells it")

    def _names(self) -> list[str]:
        return ["supervision_whole"] * (self.whole is not None) + ["supervision_cells"] * (self.cells is not None)


class TokenAlignmentConfig(ObjectiveConfig):
    """Telling, from the kept tokens alone, what a teacher sees in the whole image: meaning in the first tokens.

    The loss falls on the tokens before the decoder, at every length that the masker draws, so that a short prefix is
    worth more the more of the meaning it holds. After the semantic supervision of tokens in ImageFolder (arXiv
    2410.01756); the head is thrown away with the run.
    """

    sizes = {"tiny": {"teacher": "test_convnext", "weights": "random", "hidden": 16}}

    type: Literal["token-alignment"] = "token-alignment"
    teacher: str | None = None
    """A network by its name in timm, whose pooled features are to be told (cosine)."""
    weights: str | None = None
    """File of timm's weights of it (safetensors, or PyTorch's read as tensors only); not given: timm's on the hub.
    `random` draws them, for tests: there is nothing to learn from such a teacher."""
    source: Annotated[SerializeAsAny[SourceConfig] | None, BeforeValidator(partial(resolve, "source"))] = None
    """In place of a network: the source whose own classifier teaches, by what it answers of each attribute (the mean
    over attributes of the Kullback-Leibler divergence, in nats)."""
    first: int | None = Field(None, ge=1)
    """Read so many of the first tokens alone, and leave the others to what the decoder needs; all if not given."""
    size: tuple[int, int] = (64, 64)
    """Height and width of the images that such a source is built for; its classifier brings others to its own."""
    hidden: int = Field(128, ge=4)
    """Width of the head that tells."""

    def needs(self) -> frozenset[str]:
        return frozenset({"tokens"})

    def precomputes(self) -> Mapping[str, Mapping[str, Any]]:
        if self.source is not None:
            return {"token_alignment": {"source": self.source.model_dump(mode="json"), "size": list(self.size)}}
        return {"token_alignment": {"teacher": self.teacher, "weights": self.weights}}

    def check(self, spec: Spec) -> None:
        if (self.teacher is None) == (self.source is None):
            raise ValueError("give a `teacher`, or a `source` whose classifier teaches; one of the two")


class SecondDecoderConfig(ObjectiveConfig):
    """Decoding of the same tokens by a second decoder, which is thrown away with the run.

    A rectified flow learns to denoise long before it looks at its tokens, and so teaches its encoder late. A decoder
    that reconstructs at once (`vit`) needs them from the first steps.
    """

    sizes = {"tiny": {"decoder": {"type": "vit", "width": 16, "depth": 1, "heads": 2, "patch": 4}}}

    type: Literal["second-decoder"] = "second-decoder"
    decoder: Annotated[SerializeAsAny[DecoderConfig], BeforeValidator(partial(resolve, "decoder"))] = Field(
        default="vit",  # type: ignore[assignment]
        validate_default=True,
    )
    """The decoder. Its own losses count, and the mean squared error of what it reconstructs, on the model's latents."""

    def needs(self) -> frozenset[str]:
        return frozenset({"tokens"})

    def check(self, spec: Spec) -> None:
        self.decoder.check(spec)


class FlowDistillationConfig(ObjectiveConfig):
    """A flow that does in a few long steps, without guidance, what a trained and guided one does in many short ones.

    It stands in the place of the decoder's own losses. Encoder and quantizer are the teacher's, and stay so
    (`run.freeze`). The result is used with `sampling: {steps: N, guidance: 1}`, in steps of equal length.
    """

    sizes = {"tiny": {"teacher": "random", "teacher_steps": 4}}
    replaces = True

    type: Literal["flow-distillation"] = "flow-distillation"
    teacher: str | None = None
    """The tokenizer whose flow is taught, as `flexframe.load` takes it: a card, a path, a published checkpoint. Its own
    settings of use guide it. `random` draws a flow, for tests."""
    sampling: Mapping[str, Any] = {}
    """Settings laid on the teacher's, such as `{guidance: 2.0}`; its steps are `teacher_steps`, and Euler's."""
    by: Literal["trajectory", "consistency"] = "trajectory"
    """What a long step is brought to: the end of the teacher's short ones from the same place, on its way from noise
    (after progressive distillation, arXiv 2202.00512 and 2210.03142); or, from noised data, where a long step of the
    model's own ends that begins one short step of the teacher's further on (consistency distillation, arXiv 2303.01469,
    between the ends of long steps as in arXiv 2403.06807)."""
    steps: tuple[Annotated[int, Field(ge=1)], ...] = Field((2,), min_length=1)
    """Numbers of long steps from noise to data that it learns. Several need a decoder that is told the length of a step
    (of FlexTok's, `strides: true`)."""
    teacher_steps: int = Field(8, ge=1)
    """Short steps of the teacher from noise to data; the numbers of long ones divide it."""
    uses: int = Field(2, ge=1)
    """Long steps learned from each way of the teacher's, by `trajectory`."""

    def needs(self) -> frozenset[str]:
        return frozenset({"tokens", "flow"})

    def still(self) -> frozenset[str]:
        return frozenset({"tokens"})

    def check(self, spec: Spec) -> None:
        if self.teacher is None:
            raise ValueError("has no flow to learn from; name its `teacher`, such as flextok/scenes-64")
        for count in self.steps:
            if self.teacher_steps % count:
                text = f"{count} steps do not divide into the teacher's {self.teacher_steps}"
                raise ValueError(f"{text}; set `teacher_steps` to a multiple of all `steps`")


@hookimpl
def flexframe_components() -> Iterable[Component]:
    """List the plugin's components."""
    return [
        Component(ProxyCodesConfig, "flexframe_objectives.proxy_codes:ProxyCodes"),
        Component(LPIPSConfig, "flexframe_objectives.perceptual:LPIPS"),
        Component(PerceptualConfig, "flexframe_objectives.perceptual:Perceptual"),
        Component(AdversarialConfig, "flexframe_objectives.adversarial:Adversarial"),
        Component(REPAConfig, "flexframe_objectives.repa:REPA"),
        Component(FeatureMSEConfig, "flexframe_objectives.features:FeatureMSE"),
        Component(FeatureSupervisionConfig, "flexframe_objectives.feature_supervision:FeatureSupervision"),
        Component(FlowDistillationConfig, "flexframe_objectives.flow_distillation:FlowDistillation"),
        Component(SecondDecoderConfig, "flexframe_objectives.second_decoder:SecondDecoder"),
        Component(TokenAlignmentConfig, "flexframe_objectives.token_alignment:TokenAlignment"),
    ]


def __getattr__(name: str) -> Any:
    """Names that moved to `flexframe_standard`, for one minor version."""
    moved = {"MSEConfig": "mse", "L1Config": "l1"}
    if name not in moved:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"{name} is in flexframe_standard now, and leaves here in 0.3", DeprecationWarning, stacklevel=2)
    return catalogue().get("objective", moved[name]).config
