"""A codec by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flexframe.models import shown
from flexframe.models.precision import exact, use
from flexframe.models.published import Published
from flexframe.models.tokenizer import Random, save
from flexframe.parts import Codec
from flexframe.rng import as_rng
from flexframe_registry import CodecModelConfig, catalogue


@final
class CodecModel(nn.Module, Published):
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

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CodecModel:
        """Move it; it stays in float32 where it would go below."""
        self.codec._apply(exact(fn))  # type: ignore[no-untyped-call]
        return self

    @property
    def device(self) -> torch.device:
        """The device of its weights; the CPU where it has none."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    def __repr__(self) -> str:
        return shown.text(self, self.config, self.id)

    def _repr_html_(self) -> str:
        return shown.html(self, self.config, self.id)

    def save(self, path: str | Path) -> None:
        """Write it as a model file, which `flexframe.load` reads. A folder gets a `model.safetensors`.

        Raises:
            OSError: the disk does not take it.
        """
        save(self, path, self.config, self.about)

    def encode(self, images: Float[Tensor, "b 3 h w"], *, rng: Random = None) -> Float[Tensor, "b c y x"]:
        """Images in [0, 1] to latents, with a gradient where the images require one."""
        with use(self, images, self.device):
            return self.codec.encode(images.float(), rng=as_rng(rng, len(images), images.device)).float()

    def decode(self, latents: Float[Tensor, "b c y x"]) -> Float[Tensor, "b 3 h w"]:
        """Latents to images in [0, 1], with a gradient where the latents require one."""
        with use(self, latents, self.device):
            return self.codec.decode(latents.float()).float().clamp(0, 1)
