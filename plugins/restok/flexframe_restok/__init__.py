"""ResTok (Zhang et al., arXiv 2601.03955): tokens in levels, each for what the coarser ones leave of the image."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field

from flexframe_registry import Component, Config, DecoderConfig, EncoderConfig, ImporterConfig, Spec, hookimpl
from flexframe_registry.cards import folders

SMALL = {"width": 512, "depth": 6, "heads": 8}
BASE = {"width": 768, "depth": 12, "heads": 12}
LARGE = {"width": 1024, "depth": 24, "heads": 16}
TINY = {
    "width": 64, "depth": 3, "heads": 2, "pixels": {"dim": 32, "hidden": 32, "multipliers": (1, 1, 1), "blocks": 1}
}  # fmt: skip


class PixelsConfig(Config):
    """The convolutional network between pixels and the transformer's cells (MaskGIT-VQGAN's)."""

    dim: int = Field(256, ge=1)
    """Channels between it and the transformer."""
    hidden: int = Field(128, ge=32, multiple_of=32)
    """Base width."""
    multipliers: tuple[int, ...] = Field((1, 1, 2, 2, 4), min_length=1)
    """Width of each resolution in units of `hidden`, the finest first; each one after the first halves the image."""
    blocks: int = Field(2, ge=1)
    """Residual blocks at each resolution."""

    @property
    def scale(self) -> int:
        """Pixels of a cell along each axis."""
        return 2 ** (len(self.multipliers) - 1)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of cells.

        Raises:
            ValueError: the images are no whole number of them.
        """
        if height % self.scale or width % self.scale:
            text = f"{height} x {width} pixels do not divide into cells of {self.scale}"
            raise ValueError(f"{text}; take a multiple of that, or other pixels.multipliers")
        return height // self.scale, width // self.scale


def check_transformer(width: int, heads: int) -> None:
    """Check that rotary positions over two axes fit the heads.

    Raises:
        ValueError: they do not.
    """
    if width % (4 * heads):
        raise ValueError(f"width {width} in {heads} heads: a head has two axes of pairs, so 4 * heads must divide it")


class ResidualLevelsEncoderConfig(EncoderConfig):
    """ViT over cells of the image, which merge with depth, each level less what the coarser one holds, and levels of
    tokens that start as what is left of the pooled image; a token sees all cells, and levels up to its own."""

    reads = "images"
    type: Literal["residual-levels"] = "residual-levels"
    width: int = Field(1024, ge=4)
    """Width of the transformer, which is also that of its features."""
    depth: int = Field(24, ge=1)
    """Transformer blocks."""
    heads: int = Field(16, ge=1)
    """Attention heads."""
    pixels: PixelsConfig = PixelsConfig()
    """The network that makes cells of pixels."""
    stages: int = Field(4, ge=1)
    """Levels of cells: between each two of as many equal parts of the depth, neighbours in a row merge."""
    merge: int = Field(2, ge=2)
    """Neighbours that merge into one, the first of them."""
    residual_cells: bool = True
    """Take what merged cells hold from those that they were merged of."""
    start: Literal["residual", "pooled", "flat", "learned"] = "residual"
    """First values of tokens: the cells' means over each level's grid, less what the levels before hold; the means as
    they are; means over runs of cells, without levels; or learned ones."""
    legacy: bool = False
    """Mix tokens and channels as the published checkpoint does, which reshapes `K w` to `w K` without a transpose."""

    sizes = {"tiny": TINY | {"stages": 3}, "small": SMALL, "base": BASE, "large": LARGE}

    def features(self) -> int:
        return self.width

    def taps(self) -> dict[str, int]:
        return {"coarsest": self.width}

    def merges(self) -> list[int]:
        """The blocks in which cells merge."""
        return sorted({int(i / self.stages * self.depth) - 1 for i in range(1, self.stages)} - {-1})

    def grids(self, height: int, width: int) -> list[tuple[int, int]]:
        """Rows and columns of each level of cells of an image, the coarsest last.

        Raises:
            ValueError: the image is no whole number of cells, or they cannot merge so often.
        """
        rows, columns = self.pixels.grid(height, width)
        if columns % self.merge ** len(self.merges()):
            text = f"{columns} cells in a row cannot merge {len(self.merges())} times by {self.merge}"
            raise ValueError(f"{text}; take wider images, or fewer stages")
        return [(rows, columns // self.merge**i) for i in range(len(self.merges()) + 1)]

    def check(self, spec: Spec) -> None:
        check_transformer(self.width, self.heads)
        self.grids(spec.images.height, spec.images.width)


class LevelsDecoderConfig(DecoderConfig):
    """ViT that fills a grid of mask tokens from the tokens in front of it, each level of which it reads by a map of its
    own; then convolutions to pixels."""

    type: Literal["levels"] = "levels"
    width: int = Field(1024, ge=4)
    """Width of the transformer."""
    depth: int = Field(24, ge=1)
    """Transformer blocks."""
    heads: int = Field(16, ge=1)
    """Attention heads."""
    pixels: PixelsConfig = PixelsConfig()
    """The network that makes pixels of cells."""
    by_level: bool = True
    """Read each level of tokens by a map of its own; else all by one."""
    semantic: bool = False
    """Offer the tap `semantic`: what comes out where a second learned mask token stands in all cells, for objectives
    that teach the tokens meaning. It costs a second pass of the transformer in training, and nothing in use."""

    sizes = {"tiny": TINY, "small": SMALL, "base": BASE, "large": LARGE}

    def provides(self) -> frozenset[str]:
        return frozenset({"reconstruction", *self.taps()})

    def taps(self) -> dict[str, int]:
        names = [f"block.{i}" for i in range(self.depth)] + ["semantic"] * self.semantic
        return dict.fromkeys(names, self.width)

    def usual_objectives(self) -> tuple[str, ...]:
        return ("mse",)

    def unused(self) -> tuple[str, ...]:
        return ("semantic_token",) if self.semantic else ()

    def check(self, spec: Spec) -> None:
        check_transformer(self.width, self.heads)
        self.pixels.grid(spec.latents.height, spec.latents.width)


class ResTokImporterConfig(ImporterConfig):
    """Checkpoints of ResTok, as github.com/Kwai-Kolors/ResTok publishes them: a config and a state dict."""

    type: Literal["restok"] = "restok"


@hookimpl
def flexframe_components() -> Iterable[Component]:
    """List the plugin's components."""
    return [
        Component(ResidualLevelsEncoderConfig, "flexframe_restok.encoder:ResidualLevelsEncoder"),
        Component(LevelsDecoderConfig, "flexframe_restok.decoder:LevelsDecoder"),
        Component(ResTokImporterConfig, "flexframe_restok.importer:ResTokImporter"),
    ]


@hookimpl
def flexframe_cards() -> Iterable[Path]:
    """List the folders of the plugin's cards."""
    return folders(__file__)
