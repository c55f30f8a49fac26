"""Settings that metrics over Inception's features have in common. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from flexframe_registry import MetricConfig
from flexframe_registry.config import PLACE
from flexframe_registry.kinds import Cause

UNITS = "distances in different features have different units: they never compare"
"""The size of a change of the extractor."""
REFERENCES = (
    "an rFID is taken against the very images that were rebuilt, a gFID against a training set: they never "
    "compare (1d-tokenizer #46). One model, two references: FID 4.28 and 2.19 (LlamaGen #34), 2.70 and 0.92 "
    "(guided-diffusion #161), 1.90 and 0.58 (RAE #11)"
)
"""The size of a change of the reference."""
CROPS = (
    "one model, the reference resized or cropped otherwise: rFID 2.2 and 1.5 (D-AR #3), 1.90 and 0.58 (RAE #11), 4.28 "
    "and 2.19 (LlamaGen #34)"
)
_OTHER = "reference images"
OF_A_REFERENCE = (
    Cause(_OTHER, ("measured.reference",), REFERENCES),  # the suite's own, or others
    Cause(
        "extractor of the reference",
        tuple(f"measured.reference.*{each}" for each in ("extractor", "layer", "weights_sha256")),
        UNITS,
        follows=(_OTHER,),
    ),
    Cause(
        "versions and device behind the reference",
        tuple(f"measured.reference.*{each}" for each in ("pillow", "renderer", "torch-fidelity", "extracted_on*")),
        "usually the last digits",
        moves="digits",
        follows=(_OTHER,),
    ),
    Cause(
        "resize and crop of the reference",
        tuple(f"measured.reference.*{each}" for each in ("resize", "crop", "colour", "image_size")),
        CROPS,
        follows=(_OTHER,),
    ),
    Cause(
        "file format of the reference",
        ("measured.reference.*lossy_files*",),
        "JPEG's losses in the reference and not in the images, or the other way round: the better the model, the more",
        follows=(_OTHER,),
    ),
    Cause(
        "number of reference images",
        ("measured.reference.*count",),
        "FID falls as they grow in number",
        follows=(_OTHER,),
    ),
    Cause(
        "content of the reference",
        ("measured.reference.*sha256",),
        REFERENCES,
        follows=(
            _OTHER,
            "resize and crop of the reference",
            "file format of the reference",
            "number of reference images",
            "data set or split of the reference",
        ),
    ),
    Cause(
        "data set or split of the reference",
        ("measured.reference*",),
        "other images altogether, as a training set's in the place of the held-out ones (SEED-Voken #13)",
        follows=(_OTHER,),
    ),
)
"""What may differ between two references."""


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
        *OF_A_REFERENCE,
        *InceptionConfig.causes,
    )
    layer: Literal["64", "192", "768", "2048", "spatial"] = "2048"
    """Inception layer, by its width; published numbers are of 2048, and of `spatial` where they are sFID: ADM's, seven
    channels of mixed_6/conv at 17 x 17 places."""
