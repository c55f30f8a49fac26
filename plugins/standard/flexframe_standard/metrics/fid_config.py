"""Settings of the Fréchet distance (FID). Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny

from flexframe_registry import SourceConfig
from flexframe_registry.config import PLACE, Config
from flexframe_registry.kinds import Cause
from flexframe_registry.slots import resolve
from flexframe_standard.metrics.inception_config import LayerConfig


class StatisticsConfig(Config):
    """Statistics of images that were measured before, `mu` and `sigma` in a `.npz`: those of `flexframe stats`, ADM's,
    pytorch-fid's, clean-fid's (mode legacy_tensorflow); or a `.pt` of torch-fidelity's cache. They must be of the
    layer's features, by the same network: what a file says of that, itself or in its name, is checked, and its width.
    """

    statistics: str = Field(json_schema_extra=PLACE)
    """The file."""
    count: int | None = Field(None, ge=2)
    """Of how many images they are, for the protocol, where the file does not say it."""


def _reference(value: Any) -> Any:
    """A source, or a file of statistics, `.npz` or `.pt`: by its name alone, or `{statistics: FILE, count: N}`."""
    if isinstance(value, str) and value.lower().endswith((".npz", ".pt")):
        value = {"statistics": value}
    if isinstance(value, Mapping) and ("statistics" in value or "type" not in value):
        return StatisticsConfig.read(dict(value))
    return resolve("source", value)


class FrechetConfig(LayerConfig):
    """Fréchet distance (FID) between Inception features of the images and of their reconstructions (torch-fidelity).

    At layer 2048 this is the FID (Heusel et al., 2017). At the earlier layers it checks a pipeline and is no FID.
    """

    causes: ClassVar[Sequence[Cause]] = (
        Cause("the reference's setting", ("metric.reference*",), "told by what was measured of it", moves="nothing"),
        *LayerConfig.causes,
    )
    type: Literal["frechet"] = "frechet"
    reference: Annotated[SerializeAsAny[SourceConfig] | StatisticsConfig | None, BeforeValidator(_reference)] = None
    """Images to compare with, or a file of their statistics; not given: the suite's own, of which each has its
    reconstruction (rFID). Distances to different references do not compare."""
    few: bool = False
    """Give a number even where there are no more images than features, though its bias is then large."""
