"""The masker of models that are never shortened: TiTok's, and whatever else has one length."""

from __future__ import annotations

import torch

from flexframe.parts import LengthMasker
from flexframe.rng import Rng
from flexframe.tokens import Kept


class Full(LengthMasker):
    """Keeps every token of every sample, and draws nothing."""

    def draw(self, batch: int, length: int, *, rng: Rng) -> Kept:
        return Kept(length, torch.ones(batch, length, dtype=torch.bool, device=rng.index.device))
