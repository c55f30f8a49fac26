"""What decays of real models."""

import pytest
import torch
from torch import nn

from flexframe.train.trainee import Trainee
from flexframe_registry import cards


def trainee(*overrides):
    torch.manual_seed(0)
    return Trainee(cards().get("flextok/digits-tiny").train(overrides))


def names(found, parameters):
    wanted = {id(p) for p in parameters}
    return {name for name, p in found.named_parameters() if id(p) in wanted}


@pytest.mark.parametrize(
    "overrides",
    [(), ("quantizer=vq", "decoder=vit", "encoder=latent-tokens", "masker=full"), ("codec=vae", "quantizer=simvq")],
    ids=["flextok", "titok", "vae"],
)
def test_matrices_decay_and_norms_biases_and_embeddings_do_not(overrides):
    found = trainee(*overrides)
    group = found.groups()["model"]
    decayed, plain = names(found, group.decayed), names(found, group.plain)
    assert not decayed & plain
    assert decayed | plain == {name for name, p in found.named_parameters() if p.requires_grad}
    for name in decayed:
        owner = found.get_submodule(name.rpartition(".")[0])
        assert name.endswith(".weight"), name
        assert isinstance(owner, nn.Linear | nn.Conv2d | nn.ConvTranspose2d), name
    for name in plain:
        assert not (name.endswith(".weight") and isinstance(found.get_submodule(name.rpartition(".")[0]), nn.Linear)), (
            name
        )
    assert decayed


def test_learned_tokens_and_positions_do_not_decay():
    found = trainee()
    plain = names(found, found.groups()["model"].plain)
    for name in ("encoder.registers", "decoder.positions", "decoder.mask_token", "decoder.null_condition"):
        assert f"model.{name}" in plain


def test_a_codebook_does_not_decay():
    found = trainee("quantizer=vq")
    books = {name for name, p in found.named_parameters() if name.startswith("model.quantizer") and p.shape == (64, 8)}
    assert books
    assert not books & names(found, found.groups()["model"].decayed)
