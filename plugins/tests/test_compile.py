"""Blocks of real models under the compiler."""

import os
import sys

import pytest

from .nursery import Nursery

COMPILED = """
import torch
from torch._dynamo.utils import counters
from flexframe.rng import Rng
from flexframe.tokens import Batch
from flexframe.train import sharding
from flexframe.train.trainee import create_trainee, total
from flexframe_registry.cards import card

def gradients(again, compiled):
    torch.manual_seed(0)
    trainee = create_trainee(card("flextok/digits-tiny").train([]))
    for parameter in trainee.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    if again:
        sharding.recompute(trainee.model)
    if compiled:
        sharding.compiled(trainee.model, backend="aot_eager")
    counters.clear()
    index = torch.arange(4)
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    losses, _ = trainee(Batch(index, images), step=0, rng=Rng(0, index))
    total(losses).backward()
    assert (counters["stats"]["unique_graphs"] > 1) == compiled, (again, compiled, counters["stats"])
    assert not counters["graph_break"], counters["graph_break"]
    return [p.grad for p in trainee.parameters() if p.grad is not None]

for again in (False, True):
    for a, b in zip(gradients(again, False), gradients(again, True), strict=True):
        torch.testing.assert_close(b, a, atol=1e-5, rtol=1e-3)
"""


@pytest.mark.slow
def test_blocks_are_compiled_also_where_they_are_recomputed(nursery: Nursery, tmp_path):
    """In a process of its own: what checks types in tests is not to be compiled."""
    done = nursery.run(["-c", COMPILED], filter(None, sys.path), tmp_path, os.environ, first=True)
    assert done.returncode == 0, done.stderr
