"""2D convolutional tokenizers and codecs: the token sequence is a grid of latents in row-major order."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from flexframe_registry import (
    CodecConfig,
    Component,
    ComponentConfig,
    DecoderConfig,
    EncoderConfig,
    ImporterConfig,
    LatentSpec,
    Spec,
    hookimpl,
)
from flexframe_registry.cards import folders


class NetworkConfig(ComponentConfig):
    """The shape of MaskGIT-VQGAN's networks. The defaults are the published model's."""

    sizes = {
        "tiny": {"hidden": 32, "multipliers": (1, 1, 1), "blocks": 1},
        "small": {"hidden": 64, "multipliers": (1, 2), "blocks": 1, "stem": 4},
    }

    hidden: int = Field(128, ge=32, multiple_of=32)
    """Base width."""
    multipliers: tuple[Annotated[int, Field(ge=1)], ...] = Field((1, 1, 2, 2, 4), min_length=1)
    """Width of each resolution in units of `hidden`, the finest first; each one after the first halves the grid."""
    blocks: int = Field(2, ge=1)
    """Residual blocks at each resolution."""
    stem: int = Field(1, ge=1)
    """Side of the squares of pixels that are folded into channels, so that the finest resolution is as much coarser;
    1 in the published model. At 4, a network costs a twentieth."""

    @property
    def stride(self) -> int:
        """Side of a token's cell, in latent pixels."""
        return self.stem * 2 ** (len(self.multipliers) - 1)


class VQGANConfig(NetworkConfig):
    """Base of the encoder and the decoder of token grids."""

    def grid(self, spec: Spec) -> tuple[int, int]:
        """Rows and columns of tokens on these latents."""
        return spec.latents.height // self.stride, spec.latents.width // self.stride

    def check(self, spec: Spec) -> None:
        height, width = spec.latents.height, spec.latents.width
        if height % self.stride or width % self.stride:
            raise ValueError(
                f"{len(self.multipliers)} multipliers and a stem of {self.stem} make cells of {self.stride} x "
                f"{self.stride}, which do not divide latents of {height} x {width}; change the image size, "
                "`multipliers` or `stem`"
            )
        rows, columns = self.grid(spec)
        if spec.tokens.length != rows * columns:
            raise ValueError(
                f"latents of {height} x {width} in cells of {self.stride} x {self.stride} are a grid of "
                f"{rows} x {columns}: set length to {rows * columns}, not {spec.tokens.length}"
            )


class VQGANEncoderConfig(VQGANConfig, EncoderConfig):
    """MaskGIT-VQGAN's convolutional encoder (arXiv 2202.04200): a token for each cell of a grid, row by row."""

    type: Literal["vqgan"] = "vqgan"

    def features(self) -> int:
        return self.hidden * self.multipliers[-1]


class VQGANDecoderConfig(VQGANConfig, DecoderConfig):
    """MaskGIT-VQGAN's convolutional decoder (arXiv 2202.04200), of a token for each cell of a grid, row by row."""

    type: Literal["vqgan"] = "vqgan"

    def provides(self) -> frozenset[str]:
        return frozenset({"reconstruction"})

    def usual_objectives(self) -> tuple[str, ...]:
        return ("mse",)

    def doubts(self, spec: Spec, steps: int) -> Iterable[tuple[str, str]]:
        width, values = self.hidden * self.multipliers[0], spec.latents.channels * self.stem**2
        # of photographs' squares (Tiny-ImageNet), the best third of all directions gives 30 to 33 dB at any size, a
        # quarter 26 to 28 dB: below a third the width and not the tokens is what limits
        if 3 * width < values:
            text = f"{self.stem} folds {values} values into {width} channels, {width / values:.0%}"
            yield "stem", f"{text}, which alone keeps photographs below 30 dB; take a smaller stem, or widen `hidden`"


class CellsConfig(ComponentConfig):
    """Base of the encoder and the decoder of latents as they are. Neither has a parameter."""

    sizes = {"tiny": {"patch": 4}}

    patch: int = Field(1, ge=1)
    """Side of the squares of latents that are one token, as DiT's patches (arXiv 2212.09748); their values are a
    token's, channel by channel."""

    def check(self, spec: Spec) -> None:
        height, width = spec.latents.height, spec.latents.width
        if height % self.patch or width % self.patch:
            text = f"latents of {height} x {width} are not divided by patches of {self.patch} x {self.patch}"
            raise ValueError(f"{text}; change `patch` or the image size")
        rows, columns = height // self.patch, width // self.patch
        if spec.tokens.length != rows * columns:
            text = f"latents of {height} x {width} in patches of {self.patch} x {self.patch} are {rows} x {columns}"
            raise ValueError(f"{text} tokens: set length to {rows * columns}, not {spec.tokens.length}")

    def values(self, latents: LatentSpec) -> int:
        """Values of a token on these latents."""
        return latents.channels * self.patch**2


class CellsEncoderConfig(CellsConfig, EncoderConfig):
    """A codec's latents as they are: a token for each cell, row by row. With quantizer `none` and decoder `cells` the
    tokenizer is its codec by itself, and there is nothing to train."""

    type: Literal["cells"] = "cells"
    sizes = {"tiny": {"patch": 4, "channels": 3}}

    channels: int = Field(16, ge=1)
    """Channels of the codec's latents: 3 of `identity`."""

    def features(self) -> int:
        return self.channels * self.patch**2

    def check(self, spec: Spec) -> None:
        if self.channels != spec.latents.channels:
            raise ValueError(f"the latents have {spec.latents.channels} channels: set `channels` to that")
        super().check(spec)


class CellsDecoderConfig(CellsConfig, DecoderConfig):
    """Tokens as the latents that they are, each in its cell, row by row; an absent one's is the middle of the latents'
    range, 0 where they have none."""

    type: Literal["cells"] = "cells"

    def token_dim(self, latents: LatentSpec) -> int:
        return self.values(latents)

    def provides(self) -> frozenset[str]:
        return frozenset({"reconstruction"})

    def usual_objectives(self) -> tuple[str, ...]:
        return ("mse",)

    def check(self, spec: Spec) -> None:
        super().check(spec)
        dim, channels = self.values(spec.latents), spec.latents.channels
        if spec.tokens.dim != dim:
            text = f"{channels} channels in patches of {self.patch} x {self.patch} are {dim} values a token"
            raise ValueError(f"{text}, and tokens have {spec.tokens.dim}; take quantizer none, or set its dim to {dim}")


class AutoencoderCodecConfig(NetworkConfig, CodecConfig):
    """The networks of a trained grid tokenizer as a frozen codec; latents are the quantizer's means, nothing is drawn.

    Train encoder `vqgan`, quantizer `kl` and decoder `vqgan` first; a run then takes this codec's weights from there:

        init: {from: grid/scenes-64, parts: [codec], rename: {encoder.net: codec.encoder, quantizer.project:
          codec.project, decoder.net: codec.decoder}}

    `tools/latents.py` measures the `scaling_factor`.
    """

    type: Literal["autoencoder"] = "autoencoder"

    channels: int = Field(8, ge=1)
    """Latent channels: the tokenizer's `quantizer.dim`."""
    scaling_factor: float = Field(1.0, gt=0)
    """Latents are multiplied by this after encoding and divided by it before decoding."""

    def latents(self, height: int, width: int) -> LatentSpec:
        if height % self.stride or width % self.stride:
            raise ValueError(f"images of {height} x {width} must divide by {self.stride}, the codec's downsampling")
        return LatentSpec(self.channels, height // self.stride, width // self.stride, None)


class TAEF2CodecConfig(CodecConfig):
    """TAEF2, a small convolutional autoencoder of 8-fold downsampling, frozen and deterministic.

    With its published weights, latents of the Kodak photographs at 256 pixels have mean 0.04 and deviation 0.85 (by
    channel: -0.06 to 0.31, and 0.64 to 1.07). `scaling_factor: 1.17` gives them a deviation of 1.
    """

    type: Literal["taef2"] = "taef2"
    sizes = {"tiny": {"channels": 4, "width": 8, "blocks": 1}}

    channels: int = Field(32, ge=1)
    """Latent channels."""
    width: int = Field(64, ge=1)
    """Channels of every convolution inside."""
    blocks: int = Field(3, ge=1)
    """Residual blocks at each resolution; at the finest there is one."""
    scaling_factor: float = Field(1.0, gt=0)
    """Latents are multiplied by this after encoding and divided by it before decoding."""

    def latents(self, height: int, width: int) -> LatentSpec:
        if height % 8 or width % 8:
            raise ValueError(f"images of {height} x {width} must divide by 8, the codec's downsampling")
        return LatentSpec(self.channels, height // 8, width // 8, None)


class MaskGITVQGANImporterConfig(ImporterConfig):
    """Checkpoints of MaskGIT-VQGAN in torch, as github.com/bytedance/1d-tokenizer publishes it; no config is needed."""

    type: Literal["maskgit-vqgan"] = "maskgit-vqgan"


class TAEF2ImporterConfig(ImporterConfig):
    """TAEF2 as a codec: an encoder's and a decoder's file (github.com/madebyollin/taesd), or both in one."""

    type: Literal["taef2"] = "taef2"


class CellsImporterConfig(ImporterConfig):
    """A codec as a tokenizer by itself, a token a cell: whatever another importer reads as a codec. It is asked for by
    name, `--as cells`; `--assume image_size=128` says another size than 256 pixels."""

    type: Literal["cells"] = "cells"


@hookimpl
def flexframe_components() -> Iterable[Component]:
    """List the plugin's components."""
    return [
        Component(VQGANEncoderConfig, "flexframe_grid.vqgan:GridEncoder"),
        Component(VQGANDecoderConfig, "flexframe_grid.vqgan:GridDecoder"),
        Component(CellsEncoderConfig, "flexframe_grid.cells:CellsEncoder"),
        Component(CellsDecoderConfig, "flexframe_grid.cells:CellsDecoder"),
        Component(AutoencoderCodecConfig, "flexframe_grid.autoencoder:AutoencoderCodec"),
        Component(TAEF2CodecConfig, "flexframe_grid.taef2:TAEF2Codec"),
        Component(MaskGITVQGANImporterConfig, "flexframe_grid.importer:MaskGITVQGANImporter"),
        Component(CellsImporterConfig, "flexframe_grid.importer:CellsImporter"),
        Component(TAEF2ImporterConfig, "flexframe_grid.importer:TAEF2Importer"),
    ]


@hookimpl
def flexframe_cards() -> Iterable[Path]:
    """List the folders of the plugin's cards."""
    return folders(__file__)
