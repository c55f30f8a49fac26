"""A second decoder teaches the tokens and is no part of the model."""

import pytest
import torch

from flexframe.rng import Rng
from flexframe.tokens import Batch, Outputs, Tokens, prefix
from flexframe_objectives import SecondDecoderConfig
from flexframe_objectives.second_decoder import SecondDecoder
from flexframe_registry import LatentSpec, Spec, TokenSpec

SPEC = Spec(LatentSpec(3, 16, 16, (0.0, 1.0)), 8, TokenSpec(4, 3, None, 1))
VIT = {"type": "vit", "width": 16, "depth": 1, "heads": 2, "patch": 8}


def built(**fields) -> SecondDecoder:
    torch.manual_seed(0)
    return SecondDecoder(SecondDecoderConfig(**fields), SPEC)


def given() -> tuple[Outputs, Batch]:
    values = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    tokens = Tokens(values, prefix(torch.tensor([4, 2]), 4), values.detach())
    return Outputs({}, tokens=tokens), Batch(torch.arange(2), latents=torch.rand(2, 3, 16, 16))


def test_its_loss_is_that_of_its_own_reconstruction_of_the_kept_tokens() -> None:
    objective, (outputs, batch) = built(decoder=VIT), given()
    rng = Rng(0, batch.index)
    losses = objective(outputs, batch, step=0, rng=rng)
    made = objective.decoder(outputs.tokens, batch, taps=frozenset(), rng=rng).reconstruction
    torch.testing.assert_close(losses["mse"], (made - batch.latents).square().mean((1, 2, 3)))
    losses["mse"].sum().backward()
    assert torch.equal(outputs.tokens.values.grad.abs().sum(2) > 0, outputs.tokens.keep)


def test_a_decoder_with_losses_of_its_own_gives_them() -> None:
    flow = {"type": "flow", "width": 192, "depth": 1, "head_dim": 64, "patch": 8}
    objective, (outputs, batch) = built(decoder=flow), given()
    assert set(objective(outputs, batch, step=0, rng=Rng(0, batch.index))) == {"flow"}


def test_its_decoder_is_checked_on_the_models_latents() -> None:
    with pytest.raises(ValueError, match="patch"):
        SecondDecoderConfig(decoder={**VIT, "patch": 5}).check(SPEC)
