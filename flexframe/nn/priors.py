"""Helpers that priors share: the class of a row, and draws from logits."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flexframe.tokens import Condition


def class_ids(
    condition: Condition | None, classes: int | None, batch: int, device: torch.device, guided: bool = False
) -> Int[Tensor, " n"]:
    """The class of each row; `classes`, which is one past the last, where a row has none.

    Args:
        guided: as many rows without a class stand behind them.

    Raises:
        ValueError: a row has a condition, and it is no label.
    """
    null = torch.full((batch,), classes or 0, device=device)
    if guided:
        return torch.cat([class_ids(condition, classes, batch, device), null])
    if condition is None or classes is None:
        return null
    if condition.labels is None:
        if condition.embeddings is None and not bool(condition.null.all()):
            raise ValueError("a row that is not `null` needs a label; this prior is conditioned on classes alone")
        return null
    return torch.where(condition.null, null, condition.labels)


def gumbel(uniform: Float[Tensor, ...]) -> Float[Tensor, ...]:
    """Standard Gumbel noise of uniform draws; the argmax of logits plus it is a draw from their softmax."""
    return -torch.log((-torch.log(uniform.clamp(min=1e-20))).clamp(min=1e-20))
