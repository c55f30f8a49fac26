"""What encoder and decoder share beside the transformer's blocks: embeddings, positions, initialisation."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from flexframe.nn.positions import resize_positions
from flexframe.nn.transformer import Attention
from flexframe_registry import Spec


def embedding(*shape: int) -> nn.Parameter:
    """A learned embedding of deviation width ** -0.5."""
    return nn.Parameter(torch.randn(*shape) * shape[-1] ** -0.5)


def adapt_positions(state: Mapping[str, Tensor], there: Spec, here: Spec, patch: int) -> dict[str, Tensor]:
    """A part's tensors with its grid's positions stretched to another image size; the class token's stays."""
    name = "positional_embedding"
    before, after = ((s.latents.height // patch, s.latents.width // patch) for s in (there, here))
    if name not in state or before == after or len(state[name]) != 1 + before[0] * before[1]:
        return dict(state)
    own, cells = state[name][:1], state[name][1:]
    return {**state, name: torch.cat([own, resize_positions(cells, before, after)])}


def init_weights(module: nn.Module) -> None:
    """Initialise one module, truncated normals of deviation 0.02, zero biases; `in_proj` as `nn.MultiheadAttention`."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, Attention):
        nn.init.xavier_uniform_(module.in_proj.weight)
