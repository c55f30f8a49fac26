"""Blocks of real models, and a step of a prior, under the compiler."""

import os
import shutil
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


DRAWN = """
import torch
from torch._dynamo.utils import counters
from flexframe.models.generator import Generator
from flexframe.rng import Rng
from flexframe_registry import GeneratorConfig

torch.set_num_threads(1)

def generator(**raw):
    torch.manual_seed(0)
    prior = {"type": "gpt", "width": 48, "depth": 1, "heads": 3, **raw.pop("prior", {})}
    model = Generator(GeneratorConfig.read({"length": 7, "codebook_size": 30, "prior": prior, **raw})).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model

def graphs(model, rows, graphs=1, **given):
    counters.clear()
    for length in (7, 3, 7):
        for seed in (0, 1):
            rng = Rng(seed, torch.arange(rows))
            one, other = (
                model.sample(lengths=length, rng=rng, sampling={"guidance": 2.0, "compile": each}, **given).codes
                for each in (False, True)
            )
            assert torch.equal(one, other), (rows, length, seed)
            assert one.unique().numel() > 1
    assert counters["stats"]["unique_graphs"] == graphs, (given, counters["stats"])

rotated = generator(classes=4, prior={"positions": "rope"})
graphs(rotated, 3, labels=torch.arange(3))
with torch.no_grad():
    rotated.prior.blocks[0].fc2.weight.neg_()
graphs(rotated, 3, labels=torch.arange(3))
for text in ("cross", "prefix"):
    words = generator(conditioner={"type": "words", "width": 48, "depth": 1}, prior={"text": text})
    graphs(words, 2, texts=["a star", "a large red ring"])
    graphs(words, 2, 0, texts=["a large red ring before a wall", "a"])
"""


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="the compiler needs a C++ compiler")
def test_a_compiled_step_draws_the_same_codes(nursery: Nursery, tmp_path):
    """Once compiled it serves all lengths and texts, and is compiled anew where weights changed."""
    done = nursery.run(["-c", DRAWN], filter(None, sys.path), tmp_path, os.environ, first=True)
    assert done.returncode == 0, done.stderr
