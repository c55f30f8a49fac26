"""TiTok (Yu et al., NeurIPS 2024, arXiv 2406.07550): an image as a short 1D sequence of latent tokens."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field

from flexframe_registry import Component, Config, DecoderConfig, EncoderConfig, ImporterConfig, Spec, TextSpec, hookimpl
from flexframe_registry.cards import folders

from .maskgen_configs import MaskGenImporterConfig, MaskGenKLConfig, MaskGenVQConfig
from .maskgit_configs import BERTMaskGITConfig, MaskGITImporterConfig, UViTMaskGITConfig

CLIP = "openai/clip-vit-large-patch14-336"
"""The CLIP whose texts TA-TiTok and MaskGen read."""
SMALL = {"width": 512, "depth": 8, "heads": 8, "patch": 16}
BASE = {"width": 768, "depth": 12, "heads": 12, "patch": 16}
LARGE = {"width": 1024, "depth": 24, "heads": 16, "patch": 16}


def check_transformer(width: int, heads: int, patch: int, spec: Spec) -> None:
    """Check that a transformer of this shape can see these latents.

    Raises:
        ValueError: the heads do not divide its width, or its patches the latents.
    """
    height, columns = spec.latents.height, spec.latents.width
    if width % heads:
        raise ValueError(f"width {width} is not divisible by its {heads} heads; choose a multiple of {heads}")
    if height % patch or columns % patch:
        raise ValueError(f"patch {patch} does not divide latents of {height} x {columns}; choose one that divides both")


class LatentTokenEncoderConfig(EncoderConfig):
    """A vision transformer that reads K learned latent tokens behind the patches (TiTok, section 3.2)."""

    sizes = {"tiny": {"width": 64, "depth": 2, "heads": 2, "patch": 4}, "small": SMALL, "base": BASE, "large": LARGE}

    type: Literal["latent-tokens"] = "latent-tokens"
    width: int = Field(512, ge=1)
    """Transformer width, which is also the width of its features."""
    depth: int = Field(8, ge=1)
    """Transformer blocks."""
    heads: int = Field(8, ge=1)
    """Attention heads."""
    patch: int = Field(16, ge=1)
    """Side of a patch, in latent pixels."""
    legacy: bool = False
    """Mix tokens and channels as the two-stage checkpoints do, which reshape `K w` to `w K` without a transpose."""

    def features(self) -> int:
        return self.width

    def check(self, spec: Spec) -> None:
        check_transformer(self.width, self.heads, self.patch, spec)


class PixelDecoderConfig(Config):
    """The second stage: the proxy codes' own convolutional decoder (MaskGIT-VQGAN)."""

    dim: int = Field(256, ge=1)
    """Width of a proxy code's vector."""
    hidden: int = Field(128, ge=32, multiple_of=32)
    """Base width."""
    multipliers: tuple[int, ...] = Field((1, 1, 2, 2, 4), min_length=1)
    """Width of each resolution in units of `hidden`, the finest first; each one after the first doubles the image."""
    blocks: int = Field(2, ge=1)
    """Residual blocks at each resolution."""


class TextConfig(Config):
    """Guidance by text (TA-TiTok, arXiv 2501.07730): its embeddings stand behind the tokens in the sequence."""

    width: int = Field(768, ge=1)
    """Width of the embeddings that are given; TA-TiTok's are those of CLIP ViT-L/14-336 behind its last norm."""
    length: int = Field(77, ge=1)
    """The most embeddings of one text."""


class MaskTokenDecoderConfig(DecoderConfig):
    """A vision transformer that fills a grid of mask tokens from the tokens behind it (TiTok, section 3.2)."""

    sizes = {"tiny": {"width": 64, "depth": 3, "heads": 2, "patch": 4}, "small": SMALL, "base": BASE, "large": LARGE}

    type: Literal["vit"] = "vit"
    width: int = Field(512, ge=1)
    """Transformer width."""
    depth: int = Field(8, ge=1)
    """Transformer blocks."""
    heads: int = Field(8, ge=1)
    """Attention heads."""
    patch: int = Field(16, ge=1)
    """Side of a patch, in latent pixels."""
    head: Literal["pixels", "proxy-codes"] = "pixels"
    """Results for a patch: its pixels, or logits over the codes of another tokenizer (TiTok's two-stage training)."""
    proxy_codebook: int = Field(1024, ge=2)
    """Codes that the head `proxy-codes` predicts."""
    pixel_decoder: PixelDecoderConfig | None = None
    """Stage 2 of the head `proxy-codes`, which turns its logits into pixels; without it, logits are all there is."""
    text: TextConfig | None = None
    """Guidance by the embeddings of a text, which training and use must then be given; None without."""

    def texts(self) -> TextSpec | None:
        return None if self.text is None else TextSpec(self.text.length, self.text.width)

    @property
    def gives(self) -> Literal["reconstruction", "logits"]:
        """Names of what comes out: `logits` of proxy codes where nothing turns them into pixels."""
        return "logits" if self.head == "proxy-codes" and self.pixel_decoder is None else "reconstruction"

    def provides(self) -> frozenset[str]:
        return frozenset({self.gives, *self.taps()})

    def taps(self) -> dict[str, int]:
        return {f"block.{i}": self.width for i in range(self.depth)}

    def logits(self, spec: Spec) -> tuple[int, int, int] | None:
        if self.gives != "logits":
            return None
        return self.proxy_codebook, spec.latents.height // self.patch, spec.latents.width // self.patch

    def usual_objectives(self) -> tuple[str, ...]:
        return ("mse",) if self.gives == "reconstruction" else ("proxy-codes",)

    def check(self, spec: Spec) -> None:
        check_transformer(self.width, self.heads, self.patch, spec)
        if self.pixel_decoder is None:
            return
        if self.head != "proxy-codes":
            raise ValueError(f"a pixel_decoder needs the head 'proxy-codes', not {self.head!r}")
        scale = 2 ** (len(self.pixel_decoder.multipliers) - 1)
        if scale != self.patch:
            raise ValueError(
                f"the pixel_decoder enlarges {scale} times, but patch is {self.patch}; "
                "each multiplier after the first doubles"
            )

    def doubts(self, spec: Spec, steps: int) -> Iterable[tuple[str, str]]:
        if self.head != "pixels":
            return
        values = spec.latents.channels * self.patch**2
        # of photographs' patches (Tiny-ImageNet), the best third of all directions gives 30 to 33 dB at any patch size,
        # a quarter 26 to 28 dB: below a third the width and not the tokens is what limits
        if 3 * self.width < values:
            text = f"{self.width} spans {self.width / values:.0%} of the {values} values of a patch"
            yield (
                "width",
                f"{text}, which alone keeps photographs below 30 dB; widen it, or take a smaller decoder.patch",
            )
        for name, value in self.changed("proxy_codebook"):
            yield name, f"{value} does nothing with the head 'pixels'; leave it out"


class TiTokImporterConfig(ImporterConfig):
    """Checkpoints of TiTok and TA-TiTok, as github.com/bytedance/1d-tokenizer publishes them, and of One-D-Piece."""

    type: Literal["titok"] = "titok"


@hookimpl
def flexframe_components() -> Iterable[Component]:
    """List the plugin's components."""
    return [
        Component(LatentTokenEncoderConfig, "flexframe_titok.encoder:LatentTokenEncoder"),
        Component(MaskTokenDecoderConfig, "flexframe_titok.decoder:MaskTokenDecoder"),
        Component(BERTMaskGITConfig, "flexframe_titok.maskgit_bodies:BERTMaskGIT"),
        Component(UViTMaskGITConfig, "flexframe_titok.maskgit_bodies:UViTMaskGIT"),
        Component(MaskGenVQConfig, "flexframe_titok.maskgen_vq:MaskGenVQ"),
        Component(MaskGenKLConfig, "flexframe_titok.maskgen_kl:MaskGenKL"),
        Component(MaskGenImporterConfig, "flexframe_titok.maskgen_importer:MaskGenImporter"),
        Component(MaskGITImporterConfig, "flexframe_titok.maskgit_importer:MaskGITImporter"),
        Component(TiTokImporterConfig, "flexframe_titok.importer:TiTokImporter"),
    ]


@hookimpl
def flexframe_cards() -> Iterable[Path]:
    """List the folders of the plugin's cards."""
    return folders(__file__)
