"""Encoders x quantizers x maskers x decoders that are installed: each builds, trains, encodes, decodes, learns whole.

Driven by the catalogue: a plugin joins by being installed. Any two parts meet in some cell here; all cells, thousands,
by `FLEXFRAME_MATRIX=whole pytest plugins/tests/test_matrix.py`.
"""

import os
import random
from itertools import combinations, product

import pytest
import torch

from flexframe.rng import Rng
from flexframe.testing.checks import assert_gradients, reached, redraw_zeros, sampling
from flexframe.testing.checks.materials import LATENTS
from flexframe.tokens import Batch
from flexframe.train.trainee import Trainee, total
from flexframe_registry import ConfigError, TrainConfig, catalogue
from flexframe_registry.catalogue import Catalogue

KINDS = ("encoder", "quantizer", "masker", "decoder")
REAL = [component for component in catalogue() if not component.provider.startswith("flexframe-toy ")]
"""Without the toys of the core's tests, where both run together."""
PARTICULAR = {c.name for c in REAL if c.kind == "decoder" and c.config.sized("tiny").token_dim(LATENTS) is not None}
"""Decoders that take tokens of one width alone, which their own tests give them."""
PARTS = {kind: sorted(c.name for c in REAL if c.kind == kind) for kind in KINDS}
PARTS["decoder"] = sorted({*PARTS["decoder"]} - PARTICULAR)
CELLS = list(product(*PARTS.values()))
BATCH = 4
SIZE = (8, 16)  # as many cells of 4 x 4 as tokens, so that parts with a grid fit


def part_of(kind, name):
    """As tiny as can be: how parts fit together does not hang on their depth."""
    sizes = catalogue().get(kind, name).config.sizes.get("tiny", {})
    return {"type": name} | {field: 1 for field in ("depth",) if field in sizes}


def config_of(cell):
    parts = {kind: part_of(kind, name) for kind, name in zip(KINDS, cell, strict=True)}
    model = {"size": "tiny", "image_size": SIZE, "length": 8, **parts}
    return TrainConfig.read({"model": model, "run": {"data": "digits", "steps": 2}})


def batch_of(step):
    images = torch.rand(BATCH, 3, *SIZE, generator=torch.Generator().manual_seed(step))
    return Batch(torch.arange(BATCH), images)


def test_the_matrix_holds_what_is_promised():
    quantizers = {"fsq", "vq", "lfq", "bsq", "simvq", "residual-vq", "residual-fsq", "kl", "none"}
    quantizers |= {"product-vq", "ibq", "softvq", "gumbel"}
    assert quantizers <= set(catalogue().names("quantizer"))
    assert {"full", "uniform", "pow2", "uniform-pow2", "doubling", "tail-drop"} <= set(catalogue().names("masker"))
    assert {"flow", "vit", "vqgan"} <= set(catalogue().names("decoder"))
    assert {"registers", "latent-tokens", "vqgan"} <= set(catalogue().names("encoder"))


def pairs(cell):
    """The parts of a cell, two by two."""
    return set(combinations(zip(KINDS, cell, strict=True), 2))


def sample(cells):
    """Cells in which any two parts meet, first those in which many meet for the first time; always the same."""
    shuffled, met, chosen = random.Random(0).sample(cells, len(cells)), set(), []
    for least in (6, 5, 4, 3, 2, 1):
        for cell in shuffled:
            if len(pairs(cell) - met) >= least:
                chosen.append(cell)
                met |= pairs(cell)
    return sorted(chosen)


CHOSEN = CELLS if os.environ.get("FLEXFRAME_MATRIX") == "whole" else sample(CELLS)


def test_any_two_parts_meet_but_those_of_one_width():
    assert {"cells"} == PARTICULAR
    assert set().union(*map(pairs, CHOSEN)) == set().union(*map(pairs, CELLS))


@pytest.fixture(scope="module", autouse=True)
def shared():
    """Parts are built once for each config and widths, and are handed out as they were built."""
    built, build = {}, Catalogue.build

    def handed(catalogue, config, *widths):
        key = config.kind, config.model_dump_json(), repr(widths)
        if key not in built:
            torch.manual_seed(0)
            part = build(catalogue, config, *widths)
            built[key] = part, {name: value.clone() for name, value in part.state_dict().items()}
        part, state = built[key]
        part.load_state_dict(state)
        return part

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Catalogue, "build", handed)
        yield


@pytest.mark.slow
@pytest.mark.parametrize("cell", CHOSEN, ids="-".join)
def test_cell(cell):
    try:
        config = config_of(cell)
    except ConfigError as error:
        pytest.fail(f"refused: {error}")  # nothing of the built-in matrix is senseless
    trainee, met = Trainee(config), set()
    optimizer = torch.optim.AdamW(trainee.parameters(), lr=1e-3, fused=True)
    trainee.train()
    for step in range(2):
        batch = batch_of(step)
        losses, codes = trainee(batch, step=step, rng=Rng(0, batch.index, step))
        assert all(loss.isfinite().all() for loss in losses.values()), losses
        assert codes.keep.any(1).all()
        optimizer.zero_grad()
        total(losses).backward()
        met |= reached(trainee)
        optimizer.step()

    model = trainee.model.eval()
    images = batch_of(9).images
    for length in (1, 5, 8):
        tokens = model.encode(images, lengths=length)
        assert tokens.codes.shape[:2] == (BATCH, length)
        again = model.decode(model.tokens(tokens.codes), rng=3, sampling=sampling(config.model.decoder))
        decoded = model.decode(tokens, rng=3, sampling=sampling(config.model.decoder))
        assert decoded.shape == images.shape
        assert decoded.min() >= 0
        assert decoded.max() <= 1
        torch.testing.assert_close(again, decoded)

    trainee = Trainee(config)
    redraw_zeros(trainee)
    with torch.no_grad():
        for name, weight in trainee.model.quantizer.named_parameters():
            if name.endswith("project.weight"):  # as it is drawn, tokens so narrow may all be rounded to the code of 0
                weight *= 10
    unused = [f"model.{kind}.{name}" for kind in KINDS for name in getattr(config.model, kind).unused()]

    def forward(step):
        batch = batch_of(step)
        losses, _ = trainee(batch, step=step, rng=Rng(0, batch.index, step))
        return total(losses)

    assert_gradients(trainee, unused, forward, met)
