"""Settings that metrics over Inception's features have in common. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from flexframe_registry import MetricConfig
from flexframe_registry.kinds import PLACE, Cause

UNITS = "distances in different features have different units: they never compare"
"""The size of a change of the extractor."""
REFERENCES = (
    "an rFID is taken against the very images that were rebuilt, a gFID against a training set: they never "
    "compare (1d-tokenizer #46). One model, two references: FID 4.28 and 2.19 (LlamaGen #34), 2.70 and 0.92 "
    "(guided-diffusion #161), 1.90 and 0.58 (RAE #11)"
)
"""The size of a change of the reference."""


class InceptionConfig(MetricConfig):
    """A number over what torch-fidelity's Inception network makes of images."""

    causes: ClassVar[Sequence[Cause]] = (
        Cause("versions", ("measured.torch-fidelity",)),
        Cause("device", ("measured.extracted_on*",)),
        Cause("reconstructions or samples", ("measured.samples",)),
        Cause("rule for 8 bits", ("measured.reconstructions",)),
        Cause("extractor", ("measured.extractor", "measured.layer"), UNITS),
        Cause(
            "weights of the extractor",
            ("measured.*_sha256", "measured.weights*"),
            "TensorFlow's Inception and torchvision's are other networks: their FIDs never compare (pytorch-fid #14, "
            "#16)",
        ),
    )
    weights: str | None = Field(None, json_schema_extra=PLACE)
    """File of torch-fidelity's Inception weights; not given: the one in torch's hub folder, fetched if need be."""


class LayerConfig(InceptionConfig):
    """A comparison of features of one layer."""

    causes: ClassVar[Sequence[Cause]] = (
        Cause("extractor", ("metric.layer",), UNITS),
        Cause(
            "reference images",
            ("measured.reference*",),
            REFERENCES,
        ),
        *InceptionConfig.causes,
    )
    layer: Literal["64", "192", "768", "2048"] = "2048"
    """Inception layer, by its width; published numbers are of 2048."""
