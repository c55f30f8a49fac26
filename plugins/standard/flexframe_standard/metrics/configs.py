"""Configs of the metrics that the harness brings. Imports no torch."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny
from pydantic.config import JsonDict

from flexframe_registry import Component, MetricConfig, SourceConfig
from flexframe_registry.slots import resolve

Layer = Literal["64", "192", "768", "2048"]
PLACE: JsonDict = {"place": True}
"""Marks a field that says where a file lies. What is in it moves a number, and is hashed; its place does not."""


class PsnrConfig(MetricConfig):
    """Peak signal-to-noise ratio of each image, averaged over images in dB."""

    type: Literal["psnr"] = "psnr"
    cap: float = Field(100.0, gt=0)
    """The most dB that one image counts for; an exact reconstruction would be infinite."""
    rounded: bool = False
    """Round reconstructions to 8 bits first, as if read back from files. Then a pixel on the edge of a step, where a
    batch of another size computes another last digit, moves an image's number."""


class SsimConfig(MetricConfig):
    """Structural similarity of each image (Wang et al., 2004), averaged over images."""

    type: Literal["ssim"] = "ssim"
    sigma: float = Field(1.5, gt=0)
    """Standard deviation of the Gaussian window in pixels; the window is 2 * floor(3.5 sigma + 0.5) + 1 wide."""
    rounded: bool = False
    """Round reconstructions to 8 bits first, as if read back from files. Then a pixel on the edge of a step, where a
    batch of another size computes another last digit, moves an image's number."""

    def window(self) -> int:
        """Width of the window in pixels; no image may be smaller."""
        return 2 * int(3.5 * self.sigma + 0.5) + 1


class FrechetConfig(MetricConfig):
    """Fréchet distance between Inception features of the images and of their reconstructions (torch-fidelity).

    At layer 2048 this is the FID (Heusel et al., 2017). At the earlier layers it checks a pipeline and is no FID.
    """

    type: Literal["frechet"] = "frechet"
    layer: Layer = "2048"
    """Inception layer, by its width."""
    weights: str | None = Field(None, json_schema_extra=PLACE)
    """File of torch-fidelity's Inception weights; not given: the one in torch's hub folder, fetched if need be."""
    reference: Annotated[SerializeAsAny[SourceConfig] | None, BeforeValidator(partial(resolve, "source"))] = None
    """Images to compare with; not given: the suite's own, of which each has its reconstruction (rFID). Distances to
    different references do not compare."""
    few: bool = False
    """Give a number even where there are no more images than features, though its bias is then large."""


class KidConfig(MetricConfig):
    """Kernel distance (KID) between Inception features of the images and of their reconstructions."""

    type: Literal["kid"] = "kid"
    layer: Layer = "2048"
    """Inception layer, by its width; the KID is that of 2048."""
    weights: str | None = Field(None, json_schema_extra=PLACE)
    """File of torch-fidelity's Inception weights; not given: the one in torch's hub folder, fetched if need be."""
    subsets: int = Field(100, ge=1)
    """Random subsets whose distances are averaged."""
    subset_size: int = Field(1000, ge=2)
    """Images of each kind in a subset; fewer images than that have no number."""
    seed: int = Field(2020, ge=0, lt=2**32)
    """Seed of the subsets."""


class PrecisionRecallConfig(MetricConfig):
    """Precision and recall of the reconstructions among the images, by neighbours in Inception features.

    Kynkäänniemi et al., 2019, on Inception features in place of VGG's, as torch-fidelity has it.
    """

    type: Literal["precision-recall"] = "precision-recall"
    layer: Layer = "2048"
    """Inception layer, by its width."""
    weights: str | None = Field(None, json_schema_extra=PLACE)
    """File of torch-fidelity's Inception weights; not given: the one in torch's hub folder, fetched if need be."""
    k: int = Field(3, ge=1)
    """The neighbour whose distance is the radius of an image's ball."""
    few: bool = False
    """Give numbers of fewer than 1,000 images, though they say little."""


class InceptionScoreConfig(MetricConfig):
    """Inception score of the reconstructions (Salimans et al., 2016), with torch-fidelity's classes and splits."""

    type: Literal["inception-score"] = "inception-score"
    weights: str | None = Field(None, json_schema_extra=PLACE)
    """File of torch-fidelity's Inception weights; not given: the one in torch's hub folder, fetched if need be."""
    splits: int = Field(10, ge=1)
    """Parts of the images that are scored by themselves; fewer parts give a higher score."""
    seed: int = Field(2020, ge=0, lt=2**32)
    """Seed of the order in which images are split."""
    few: bool = False
    """Give a number even where a split holds fewer images than there are classes."""


class LpipsConfig(MetricConfig):
    """Perceptual distance LPIPS 0.1 of each image (Zhang et al., 2018), averaged over images."""

    type: Literal["lpips"] = "lpips"
    net: Literal["alex", "vgg", "squeeze"] = "alex"
    """The network in whose features images are compared; distances in different ones do not compare."""
    backbone: str | None = Field(None, json_schema_extra=PLACE)
    """File of torchvision's weights of that network (safetensors or PyTorch's); not given: the one in torch's hub
    folder, fetched if need be."""
    linear: str | None = Field(None, json_schema_extra=PLACE)
    """File of the weights by channel; not given: those that come with torchmetrics."""
    rounded: bool = False
    """Round reconstructions to 8 bits first, as if read back from files."""

    def fetches(self) -> bool:
        return self.backbone is None


class BitsConfig(MetricConfig):
    """Bits and tokens of an image, averaged over images."""

    type: Literal["bits"] = "bits"


class CodebookConfig(MetricConfig):
    """How much of the codebook the images use: the fraction of entries, and the perplexity of their frequencies."""

    type: Literal["codebook"] = "codebook"


class ClassifierConfig(MetricConfig):
    """Whether a classifier sees the same in an image and in its reconstruction.

    A support vector machine on pixels, trained on `data`; or the one that comes with the suite's source, which may also
    read attributes, each of them a number of its own.
    """

    type: Literal["classifier"] = "classifier"
    data: Annotated[SerializeAsAny[SourceConfig] | None, BeforeValidator(partial(resolve, "source"))] = None
    """Labelled images to train it on, of the suite's classes and none of the suite's images; not given: the classifier
    that comes with the suite's source."""
    limit: int = Field(5000, ge=2)
    """The most training images, evenly spread over those of `data`."""
    c: float = Field(10.0, gt=0)
    """Inverse strength of the machine's regularisation."""


def components() -> list[Component]:
    """The metrics, for the plugin's front door."""
    return [
        Component(PsnrConfig, "flexframe_standard.metrics.pixels:Psnr"),
        Component(SsimConfig, "flexframe_standard.metrics.pixels:Ssim"),
        Component(CodebookConfig, "flexframe_standard.metrics.pixels:Codebook"),
        Component(ClassifierConfig, "flexframe_standard.metrics.pixels:Classifier"),
        Component(FrechetConfig, "flexframe_standard.metrics.fid:Frechet"),
        Component(KidConfig, "flexframe_standard.metrics.features_based:Kid"),
        Component(PrecisionRecallConfig, "flexframe_standard.metrics.features_based:PrecisionRecall"),
        Component(InceptionScoreConfig, "flexframe_standard.metrics.features_based:InceptionScore"),
        Component(LpipsConfig, "flexframe_standard.metrics.lpips:Lpips"),
        Component(BitsConfig, "flexframe_standard.metrics.rate:Bits"),
    ]
