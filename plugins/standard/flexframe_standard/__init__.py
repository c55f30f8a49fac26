"""The standard plugin: codec `identity`, masker `full`, losses `mse` and `l1`, sources, metrics, observers.

None is a method. They ship in flexframe's wheel, and register through the same hook as a stranger's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from flexframe_registry import (
    CodecConfig,
    Component,
    LatentSpec,
    MaskerConfig,
    PictureObjectiveConfig,
    hookimpl,
)
from flexframe_standard import metrics
from flexframe_standard.feeds.configs import (
    ImagesFeedConfig,
    LatentsFeedConfig,
    TokenFileFeedConfig,
    TokensFeedConfig,
)
from flexframe_standard.observers_config import TensorBoardConfig, WandbConfig
from flexframe_standard.optimizers_config import AdamConfig, AdamWConfig, LionConfig, MuonConfig, SGDConfig
from flexframe_standard.sources.digits_config import DigitsConfig
from flexframe_standard.sources.files_config import ArraysConfig, FolderConfig, ImagesConfig, TarConfig
from flexframe_standard.sources.scenes_config import ScenesConfig
from flexframe_standard.sources.tables_config import DatasetsConfig, ParquetConfig
from flexframe_standard.transforms_config import (
    ColourJitterConfig,
    FlipConfig,
    GrayscaleConfig,
    RandomResizedCropConfig,
    ShiftConfig,
    VerticalFlipConfig,
)


class IdentityCodecConfig(CodecConfig):
    """Latents are the images themselves, or latents that come from elsewhere."""

    type: Literal["identity"] = "identity"
    channels: int = Field(3, ge=1)
    """Channels of the latents; 3 for images."""
    downsample: int = Field(1, ge=1)
    """Image pixels along each axis for one latent; 1 for images. Above 1, only latents can be fed."""
    range: tuple[float, float] | None = (0.0, 1.0)
    """The values' bounds, or null for unbounded latents."""

    def latents(self, height: int, width: int) -> LatentSpec:
        images = (self.channels, self.downsample, self.range) == (3, 1, (0.0, 1.0))
        return LatentSpec(self.channels, height // self.downsample, width // self.downsample, self.range, images)


class FullConfig(MaskerConfig):
    """Every token, always: a fixed-length tokenizer."""

    masked = False
    type: Literal["full"] = "full"

    def budgets(self, length: int) -> tuple[int, ...]:
        return (length,)


class MSEConfig(PictureObjectiveConfig):
    """Mean squared error of the reconstruction, in the codec's range."""

    type: Literal["mse"] = "mse"


class L1Config(PictureObjectiveConfig):
    """Mean absolute error of the reconstruction, in the codec's range."""

    type: Literal["l1"] = "l1"


@hookimpl
def flexframe_components() -> Iterable[Component]:
    return [
        Component(IdentityCodecConfig, "flexframe_standard.codec:IdentityCodec"),
        Component(FullConfig, "flexframe_standard.masker:Full"),
        Component(MSEConfig, "flexframe_standard.losses:MSE"),
        Component(L1Config, "flexframe_standard.losses:L1"),
        Component(DigitsConfig, "flexframe_standard.sources.digits:Digits"),
        Component(FolderConfig, "flexframe_standard.sources.files:Folder"),
        Component(TarConfig, "flexframe_standard.sources.files:Tar"),
        Component(ArraysConfig, "flexframe_standard.sources.arrays:Arrays"),
        Component(ImagesConfig, "flexframe_standard.sources.files:Images"),
        Component(ParquetConfig, "flexframe_standard.sources.tables:Parquet"),
        Component(DatasetsConfig, "flexframe_standard.sources.tables:Datasets"),
        Component(ScenesConfig, "flexframe_standard.sources.scenes:Scenes"),
        Component(ImagesFeedConfig, "flexframe_standard.feeds.images:Images"),
        Component(LatentsFeedConfig, "flexframe_standard.feeds.latents:Latents"),
        Component(TokensFeedConfig, "flexframe_standard.feeds.codes:Tokenized"),
        Component(TokenFileFeedConfig, "flexframe_standard.feeds.codes:Stored"),
        Component(FlipConfig, "flexframe_standard.transforms:Flip"),
        Component(VerticalFlipConfig, "flexframe_standard.transforms:VerticalFlip"),
        Component(ShiftConfig, "flexframe_standard.transforms:Shift"),
        Component(RandomResizedCropConfig, "flexframe_standard.transforms:RandomResizedCrop"),
        Component(ColourJitterConfig, "flexframe_standard.transforms:ColourJitter"),
        Component(GrayscaleConfig, "flexframe_standard.transforms:Grayscale"),
        Component(AdamWConfig, "flexframe_standard.optimizers:AdamW"),
        Component(AdamConfig, "flexframe_standard.optimizers:Adam"),
        Component(SGDConfig, "flexframe_standard.optimizers:SGD"),
        Component(LionConfig, "flexframe_standard.optimizers:Lion"),
        Component(MuonConfig, "flexframe_standard.optimizers:Muon"),
        Component(TensorBoardConfig, "flexframe_standard.observers:TensorBoard"),
        Component(WandbConfig, "flexframe_standard.observers:Wandb"),
        *metrics.COMPONENTS,
    ]
