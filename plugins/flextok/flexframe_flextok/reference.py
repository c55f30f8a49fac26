"""Names of the reference implementation's tensors, and the ones they have here."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_BLOCK = {
    r"attn\.(wq|wk|wv|proj)\.weight": r"attn.\1.weight",
    r"mlp\.(fc1|fc2|fc3)\.weight": r"mlp.\1.weight",
    r"adaLN_modulation\.1\.(weight|bias)": r"modulation.\1",
}
_RULES = {
    r"vae\.vae\.(.+)": r"codec.vae.\1",
    r"encoder\.module_dict\.enc_patch_emb\.patch_proj\.(weight|bias)": r"encoder.patches.proj.\1",
    r"encoder\.module_dict\.enc_register_module\.registers": "encoder.registers",
    r"encoder\.module_dict\.enc_to_latents\.proj\.(weight|bias)": r"quantizer.project.\1",
    r"decoder\.module_dict\.dec_from_latents\.proj\.(weight|bias)": r"decoder.from_tokens.\1",
    r"decoder\.module_dict\.dec_registers_posemb_module\.posembs": "decoder.positions",
    r"decoder\.module_dict\.dec_nested_dropout\.dropout_mask_token": "decoder.mask_token",
    r"decoder\.module_dict\.dec_latent_dropout\.nullcond": "decoder.null_condition",
    r"decoder\.module_dict\.dec_noise_patch_emb\.patch_proj\.(weight|bias)": r"decoder.patches.proj.\1",
    r"decoder\.module_dict\.dec_time_embedder\.mlp\.(0|2)\.(weight|bias)": r"decoder.time.mlp.\1.\2",
    r"decoder\.module_dict\.dec_to_patches\.adaLN_modulation\.1\.(weight|bias)": r"decoder.head.modulation.\1",
    r"decoder\.module_dict\.dec_to_patches\.proj\.(weight|bias)": r"decoder.head.proj.\1",
    **{
        rf"{side}\.module_dict\.{short}_transformer\.blocks\.(?P<i>\d+)\.{there}": (side, here)
        for side, short in (("encoder", "enc"), ("decoder", "dec"))
        for there, here in _BLOCK.items()
    },
}
COMPUTED = re.compile(r"(encoder|decoder)\.module_dict\.(enc_posemb_module|dec_patches_posemb_module)\.posembs")
"""Fixed sine-cosine tables that the reference stores and this implementation computes."""


def rename(name: str) -> str | None:
    """Our name of a reference tensor; None for what is computed here; `LookupError` for a name that is unknown."""
    if COMPUTED.fullmatch(name):
        return None
    for pattern, target in _RULES.items():
        match = re.fullmatch(pattern, name)
        if match and isinstance(target, str):
            return match.expand(target)
        if match:
            side, tail = target
            # the block's number is group 1, so the tail's own group is the second
            return f"{side}.blocks.{match['i']}." + match.expand(tail.replace(r"\1", r"\2"))
    raise LookupError(f"the reference has no tensor {name!r}")


def translate(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A reference state dict under our names and shapes."""
    ours = {rename(name): value for name, value in state.items()}
    ours.pop(None, None)
    found = {name: value for name, value in ours.items() if name is not None}
    if "decoder.positions" in found:
        found["decoder.positions"] = found["decoder.positions"][0, 0].T.contiguous()  # 1 1 d k -> k d
    return found
