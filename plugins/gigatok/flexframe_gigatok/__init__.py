"""GigaTok (Xiong et al., arXiv 2504.08736): convolutions, and queries that read their grid; and the same way back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from flexframe_registry import Component, ComponentConfig, DecoderConfig, EncoderConfig, ImporterConfig, Spec, hookimpl
from flexframe_registry.cards import folders


class QFormerConfig(ComponentConfig):
    """A convolutional network, and a transformer whose queries read its grid. The defaults are those of the published
    S-S."""

    sizes = {
        "tiny": {"width": 64, "depth": 2, "heads": 2, "hidden": 32, "multipliers": (1, 1), "channels": 16},
        "small": {"width": 512, "depth": 6, "heads": 8},
        "base": {"width": 768, "depth": 12, "heads": 12},
        "large": {"width": 1024, "depth": 24, "heads": 16},
    }

    width: int = Field(512, ge=1)
    """Width of the transformer."""
    depth: int = Field(6, ge=1)
    """Transformer blocks."""
    heads: int = Field(8, ge=1)
    """Attention heads."""
    hidden: int = Field(128, ge=32, multiple_of=32)
    """Base width of the convolutional network."""
    multipliers: tuple[Annotated[int, Field(ge=1)], ...] = Field((1, 1, 2, 2, 4), min_length=1)
    """Its width at each resolution in units of `hidden`, the finest first; each one after the first halves the grid."""
    channels: int = Field(256, ge=1)
    """Width between the network and the transformer, and between the transformer and the quantizer."""

    def grid(self, spec: Spec) -> tuple[int, int]:
        """Rows and columns of the network's coarsest resolution on these latents."""
        stride = 2 ** (len(self.multipliers) - 1)
        return spec.latents.height // stride, spec.latents.width // stride

    def check(self, spec: Spec) -> None:
        height, width, stride = spec.latents.height, spec.latents.width, 2 ** (len(self.multipliers) - 1)
        if height % stride or width % stride:
            raise ValueError(
                f"{len(self.multipliers)} multipliers make cells of {stride} x {stride}, which do not divide latents "
                f"of {height} x {width}; change the image size or `multipliers`"
            )
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must divide by heads {self.heads}")


class QFormerEncoderConfig(QFormerConfig, EncoderConfig):
    """Queries that read the grid of a convolutional network: each begins as the mean of a region, the first two as that
    of the whole image, and every level of them halves the regions."""

    type: Literal["q-former"] = "q-former"

    def features(self) -> int:
        return self.channels

    def taps(self) -> Mapping[str, int]:
        return {"grid": self.channels}


class QFormerDecoderConfig(QFormerConfig, DecoderConfig):
    """A grid of queries, all begun as the first token, that read the tokens; and a convolutional network whose norms
    follow what they gave."""

    type: Literal["q-former"] = "q-former"

    def provides(self) -> frozenset[str]:
        return frozenset({"reconstruction", "direct", *self.taps()})

    def taps(self) -> Mapping[str, int]:
        return {"grid": self.channels} | {f"block.{i}": self.width for i in range(self.depth)}

    def shortcuts(self, spec: Spec) -> Mapping[str, tuple[str, tuple[int, int, int]]]:
        return {"direct": ("grid", (*self.grid(spec), self.channels))}

    def usual_objectives(self) -> tuple[str, ...]:
        return ("mse",)


class GigaTokImporterConfig(ImporterConfig):
    """Checkpoints of GigaTok: the published files, whose config lies beside them, and bare state dicts."""

    type: Literal["gigatok"] = "gigatok"


@hookimpl
def flexframe_components() -> Iterable[Component]:
    """List the plugin's components."""
    return [
        Component(QFormerEncoderConfig, "flexframe_gigatok.parts:QFormerEncoder"),
        Component(QFormerDecoderConfig, "flexframe_gigatok.parts:QFormerDecoder"),
        Component(GigaTokImporterConfig, "flexframe_gigatok.importer:GigaTokImporter"),
    ]


@hookimpl
def flexframe_cards() -> Iterable[Path]:
    """List the folders of the plugin's cards."""
    return folders(__file__)
