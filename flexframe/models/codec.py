"""A codec by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flexframe.models.tokenizer import Random
from flexframe.parts import Codec
from flexframe.rng import as_rng
from flexframe_registry import CodecModelConfig, catalogue


@final
class CodecModel(nn.Module):
    """A codec by itself, always in evaluation mode."""

    codec: Codec

    def __init__(self, config: CodecModelConfig, sampling: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.config = config
        self.id = ""  # where it was loaded from
        self.about: Mapping[str, Any] = {}  # what its file says of it, or of its import
        if sampling:
            raise ValueError(f"a codec takes no sampling settings, not {', '.join(sampling)}")
        self.codec = catalogue().build(config.codec, config.widths).eval().requires_grad_(False)

    @torch.no_grad()
    def encode(self, images: Float[Tensor, "b 3 h w"], *, rng: Random = None) -> Float[Tensor, "b c y x"]:
        """Images in [0, 1] to latents."""
        return self.codec.encode(images, rng=as_rng(rng, len(images), images.device))

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b c y x"]) -> Float[Tensor, "b 3 h w"]:
        """Latents to images in [0, 1]."""
        return self.codec.decode(latents).clamp(0, 1)
