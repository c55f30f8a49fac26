"""Losses a value a sample, so that their mean is the same however samples are spread over processes."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from flexframe.contracts import Objective
from flexframe.rng import Rng
from flexframe.tokens import Batch, Losses, Outputs


def difference(outputs: Outputs, batch: Batch) -> Float[Tensor, "b c h w"]:
    """Reconstruction minus target, in fp32."""
    if outputs.reconstruction is None or batch.latents is None:
        raise ValueError("this objective needs a decoder that reconstructs, and the batch's latents")
    return outputs.reconstruction.float() - batch.latents


class MSE(Objective):
    def forward(self, outputs: Outputs, batch: Batch, *, step: int, rng: Rng) -> Losses:
        return {"mse": difference(outputs, batch).square().mean((1, 2, 3))}


class L1(Objective):
    def forward(self, outputs: Outputs, batch: Batch, *, step: int, rng: Rng) -> Losses:
        return {"l1": difference(outputs, batch).abs().mean((1, 2, 3))}


class ProxyCodes(Objective):
    def forward(self, outputs: Outputs, batch: Batch, *, step: int, rng: Rng) -> Losses:
        codes = batch.features.get("proxy_codes")
        if outputs.logits is None or codes is None:
            raise ValueError('proxy-codes needs a decoder with logits, and teacher codes in features["proxy_codes"]')
        logits = outputs.logits.float().flatten(2)  # b v n
        smoothing = self.config.label_smoothing
        loss = F.cross_entropy(logits, codes.flatten(1), reduction="none", label_smoothing=smoothing)
        return {"cross_entropy": loss.mean(1)}
