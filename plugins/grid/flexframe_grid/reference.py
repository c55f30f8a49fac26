"""Names that the published checkpoints give to what a tokenizer here has.

Names only: a caller reads the tensors and loads what `convert` or `convert_taef2` gives.

- MaskGIT-VQGAN in torch: `maskgit-vqgan-imagenet-f16-256.bin` of fun-research/TiTok, Apache-2.0.
- TAEF2: an encoder's and a decoder's file, MIT.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

RULES: tuple[tuple[str, str], ...] = (
    (r"^encoder\.conv_out\.", "quantizer.project."),
    (r"^(encoder|decoder)\.", r"\1.net."),
    (r"^quantize\.embedding\.", "quantizer.codebook.embedding."),
)
"""Patterns and what replaces them, applied in order, each to what those before it left."""


def translate(name: str) -> str:
    """The reference's name of a tensor of MaskGIT-VQGAN as a `Tokenizer` names it."""
    for pattern, replacement in RULES:
        name = re.sub(pattern, replacement, name)
    return name


def convert(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """MaskGIT-VQGAN's state as a `Tokenizer`'s with encoder and decoder `vqgan` and quantizer `vq`."""
    state = {translate(name): tensor for name, tensor in tensors.items()}
    projection = "quantizer.project.weight"
    if projection in state:  # a 1x1 convolution there, a linear layer here
        state[projection] = state[projection].flatten(1)
    return state


def convert_taef2(encoder: Mapping[str, Tensor], decoder: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The two files of TAEF2 as the codec's part of a `Tokenizer`'s state, in fp32."""
    sides = {"encoder": encoder, "decoder": decoder}
    return {f"codec.{side}.{name}": tensor.float() for side, state in sides.items() for name, tensor in state.items()}
