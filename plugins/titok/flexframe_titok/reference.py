"""How the published checkpoints (github.com/bytedance/1d-tokenizer, Apache-2.0) name what this plugin has.

Names only: a caller reads the tensors, from safetensors, and puts them where these functions say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

RULES: tuple[tuple[str, str], ...] = (
    (r"^latent_tokens$", "encoder.latent_tokens"),
    (r"^encoder\.conv_out\.", "quantizer.projection."),
    (r"^quantize\.embedding\.weight$", "quantizer.codebook"),
    (r"^quantize\.embed_prob$", "quantizer.usage"),
    (r"^pixel_quantize\.embedding\.", "decoder.pixels.codebook."),
    (r"^pixel_decoder\.", "decoder.pixels.decoder."),
    (r"^decoder\.ffn\.", "decoder.head."),
    (r"^decoder\.conv_out\.", "decoder.head.2."),
    (r"\.transformer\.", ".blocks."),
    (r"\.attn\.in_proj_", ".attn.in_proj."),
    (r"\.mlp\.c_fc\.", ".mlp.0."),
    (r"\.mlp\.c_proj\.", ".mlp.2."),
)
"""Applied in order, each to what the ones before it left."""


def translate(name: str) -> str:
    """The reference's name of a tensor in our words: `encoder.*`, `quantizer.*`, `decoder.*`.

    The quantizer's part is `projection.{weight,bias}`, `codebook` and `usage`; its own names, its plugin knows.
    """
    for pattern, replacement in RULES:
        name = re.sub(pattern, replacement, name)
    return name


def convert(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """The state of one part (`encoder`, `quantizer` or `decoder`) out of a reference's state."""
    renamed = {translate(name): tensor for name, tensor in tensors.items()}
    found = {name.removeprefix(f"{part}."): t for name, t in renamed.items() if name.startswith(f"{part}.")}
    if "projection.weight" in found:  # a 1x1 convolution there, a linear layer here
        found["projection.weight"] = found["projection.weight"].flatten(1)
    return found
