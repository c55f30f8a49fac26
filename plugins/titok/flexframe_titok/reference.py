"""Names in the published checkpoints (github.com/bytedance/1d-tokenizer, Apache-2.0) of what a tokenizer here has.

Names only: a caller reads the tensors, from safetensors, and loads what `convert` gives. The quantizers are `vq` for
the codebook models and `kl` for the VAE ones, as the cards have them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

UNUSED = frozenset({"quantize.embed_prob"})
"""Statistics of their training that use does not read."""

RULES: tuple[tuple[str, str], ...] = (
    (r"^latent_tokens$", "encoder.latent_tokens"),
    (r"^encoder\.conv_out\.", "quantizer.project."),
    (r"^quantize\.", "quantizer.codebook."),
    (r"^pixel_quantize\.embedding\.", "decoder.pixels.codebook."),
    (r"^pixel_decoder\.", "decoder.pixels.decoder."),
    (r"^decoder\.ffn\.", "decoder.head."),
    (r"^decoder\.conv_out\.", "decoder.head.2."),
    (r"\.transformer\.", ".blocks."),
    (r"\.attn\.in_proj_", ".attn.in_proj."),
    (r"\.mlp\.c_fc\.", ".mlp.0."),
    (r"\.mlp\.c_proj\.", ".mlp.2."),
)
"""Patterns and what replaces them, applied in order, each to what those before it left."""


def translate(name: str) -> str:
    """The reference's name of a tensor as a `Tokenizer` names it."""
    for pattern, replacement in RULES:
        name = re.sub(pattern, replacement, name)
    return name


def convert(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A reference's state as a `Tokenizer`'s."""
    state = {translate(name): tensor for name, tensor in tensors.items() if name not in UNUSED}
    projection = "quantizer.project.weight"
    if projection in state:  # a 1x1 convolution there, a linear layer here
        state[projection] = state[projection].flatten(1)
    return state
