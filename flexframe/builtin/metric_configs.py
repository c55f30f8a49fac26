"""Configs of the metrics that the harness brings. Imports no torch."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny

from flexframe_registry import Component, MetricConfig, SourceConfig
from flexframe_registry.configs import resolve


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
    layer: Literal["64", "192", "768", "2048"] = "2048"
    """Inception layer, by its width."""
    weights: str | None = None
    """File of torch-fidelity's Inception weights; not given: the one in torch's hub folder, fetched if need be."""
    few: bool = False
    """Give a number even where there are no more images than features, though its bias is then large."""


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
    """The most training images; the first ones of `data` are taken."""
    c: float = Field(10.0, gt=0)
    """Inverse strength of the machine's regularisation."""


def components() -> list[Component]:
    """The metrics, for the builtin plugin."""
    return [
        Component(PsnrConfig, "flexframe.builtin.metrics:Psnr"),
        Component(SsimConfig, "flexframe.builtin.metrics:Ssim"),
        Component(CodebookConfig, "flexframe.builtin.metrics:Codebook"),
        Component(ClassifierConfig, "flexframe.builtin.metrics:Classifier"),
        Component(FrechetConfig, "flexframe.builtin.metrics_frechet:Frechet"),
    ]
