"""A second decoder, thrown away with the run, that teaches the tokens what the first one learns too late."""

from __future__ import annotations

from flexframe.parts import Decoder, Objective
from flexframe.rng import Rng
from flexframe.tokens import Batch, Losses, Outputs
from flexframe_registry import Spec, catalogue

from . import SecondDecoderConfig


class SecondDecoder(Objective):
    """See `SecondDecoderConfig`."""

    config: SecondDecoderConfig

    def __init__(self, config: SecondDecoderConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.decoder: Decoder = catalogue().build(config.decoder, spec)

    def forward(self, outputs: Outputs, batch: Batch, *, step: int, rng: Rng) -> Losses:
        if outputs.tokens is None or batch.latents is None:
            raise ValueError("second-decoder reads a tokenizer's tokens and the batch's latents; one is missing")
        out: Outputs = self.decoder(outputs.tokens, batch, taps=frozenset(), rng=rng)
        losses = dict(out.losses)
        if out.reconstruction is not None:
            losses["mse"] = (out.reconstruction.float() - batch.latents).square().mean((1, 2, 3))
        return losses
