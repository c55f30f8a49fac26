"""Settings of the Fréchet distance (FID). Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, SerializeAsAny

from flexframe_registry import SourceConfig
from flexframe_registry.kinds import Cause
from flexframe_registry.slots import resolve
from flexframe_standard.metrics.inception_config import REFERENCES, LayerConfig


class FrechetConfig(LayerConfig):
    """Fréchet distance (FID) between Inception features of the images and of their reconstructions (torch-fidelity).

    At layer 2048 this is the FID (Heusel et al., 2017). At the earlier layers it checks a pipeline and is no FID.
    """

    type: Literal["frechet"] = "frechet"
    causes: ClassVar[Sequence[Cause]] = (
        Cause("reference images", ("metric.reference*",), REFERENCES),
        *LayerConfig.causes,
    )
    reference: Annotated[SerializeAsAny[SourceConfig] | None, BeforeValidator(partial(resolve, "source"))] = None
    """Images to compare with; not given: the suite's own, of which each has its reconstruction (rFID). Distances to
    different references do not compare."""
    few: bool = False
    """Give a number even where there are no more images than features, though its bias is then large."""
