"""Accumulated gradients of real models, with lengths that differ."""

import pytest
import torch

from flexframe.data.loader import split
from flexframe.rng import Rng
from flexframe.testing.checks import redraw_zeros
from flexframe.tokens import Batch
from flexframe.train.trainee import Trainee, total
from flexframe_registry import cards


def build(*overrides):
    torch.manual_seed(0)
    found = Trainee(cards().get("flextok/digits-tiny").train(overrides))
    redraw_zeros(found)
    return found


@pytest.fixture
def batch():
    images = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return Batch(torch.arange(100, 108), images)


def losses(trainee, batch, step=3):
    return trainee(batch, step=step, rng=Rng(0, batch.index, step))[0]


@pytest.mark.parametrize(
    "overrides",
    [(), ("decoder=vit", "masker=tail-drop"), ("decoder=vit", "masker=uniform", "quantizer=vq")],
    ids=["flow", "vit", "unequal-lengths"],
)
def test_accumulated_parts_have_the_gradients_of_one_batch(batch, overrides):
    gradients = []
    for parts in (1, 4):
        trainee = build(*overrides)
        for part in split(batch, parts):
            (total(losses(trainee, part)) / parts).backward()
        gradients.append({name: p.grad for name, p in trainee.named_parameters() if p.grad is not None})
    assert any(gradient.any() for gradient in gradients[0].values())
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-6, rtol=1e-4)
