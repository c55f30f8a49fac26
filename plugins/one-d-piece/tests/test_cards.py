"""The published sizes by config alone, what the importer refuses of their configs, and a training at tiny size."""

import json
from pathlib import Path

import pytest
import torch

import flexframe
from flexframe.models.build import build
from flexframe.models.tokenizer import Tokenizer
from flexframe.rng import Rng
from flexframe.testing.golden import shared
from flexframe.tokens import Batch
from flexframe.train.run import Run
from flexframe_registry import ConfigError, cards

GOLDEN = shared(Path(__file__)) / "golden" / "one_d_piece" / "tokenizer"
TITOK = {"s-256": (83_674_639, 128, 512), "b-256": (204_814_095, 64, 768), "l-256": (641_054_735, 32, 1024)}
"""Of TiTok's published two-stage models: parameters, tokens, width. One-D-Piece's are these at 256 tokens."""
MASKGIT = 177_201_664
"""Parameters of the generator of TiTok-L-32, which has 1 + 32 positions of width 768."""


def count(name):
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(cards().get(name).described).parameters())


@pytest.mark.parametrize(("size", "counted"), [("s-256", 83_871_247), ("b-256", 205_256_463), ("l-256", 641_742_863)])
def test_a_published_size_is_titoks_with_three_rows_for_each_further_token(size, counted):
    theirs, tokens, width = TITOK[size]
    assert count(f"one-d-piece/{size}") == counted == theirs + 3 * (256 - tokens) * width
    assert cards().get(f"one-d-piece/{size}").described.budgets == tuple(range(1, 257))


@pytest.mark.parametrize("size", ["s", "b", "l"])
def test_a_generator_is_titoks_at_256_tokens(size):
    assert count(f"one-d-piece/maskgit-{size}-256") == MASKGIT + (256 - 32) * 768


@pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no golden tensors at {GOLDEN}; set FLEXFRAME_SHARED")
@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        ("model.type", "two_d_piece", "model.type: is 'two_d_piece', which is not supported"),
        ("model.vq_model.strict_length_assertion", True, "strict_length_assertion: is True, which is not supported"),
        ("losses.target_codebook_size", 512, "target_codebook_size: is 512, but the tensors have 1024"),
    ],
)
def test_a_config_of_something_else_is_refused(tmp_path, place, value, told):
    config = json.loads((GOLDEN / "config.json").read_text())
    *path, name = place.split(".")
    settings = config
    for step in path:
        settings = settings[step]
    settings[name] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").symlink_to(GOLDEN / "model.safetensors")
    with pytest.raises(ConfigError, match=told):
        flexframe.load(tmp_path)


@pytest.mark.parametrize(("masker", "slots"), [("tail-drop", {1, 2, 3, 4, 5, 6, 7, 8}), ("pow2", {8})])
def test_what_is_dropped_behind_the_quantizer_counts_in_its_losses_and_codes(masker, slots):
    card, plain = cards().get("one-d-piece/digits-tiny"), "quantizer={type: vq, codebook_size: 256, dim: 12}"
    torch.manual_seed(0)
    model = Tokenizer(card.train([f"masker={{type: {masker}, quantize_all: true}}", plain]).model).train()
    batch, lengths = Batch(torch.arange(4), torch.rand(4, 3, 16, 16)), set()
    with torch.no_grad():
        outputs = [model(batch, rng=Rng(0, batch.index, step)) for step in range(12)]
    for out in outputs:
        assert out.codes.codes.shape == (4, 8, 1)
        assert out.codes.keep.all()
        assert out.tokens.values.shape[1] in slots
        torch.testing.assert_close(out.losses["quantizer/commitment"], outputs[0].losses["quantizer/commitment"])
        lengths |= set(out.tokens.lengths.tolist())
    assert len(lengths) > 3


def test_a_masker_that_drops_nothing_is_doubted():
    config = cards().get("one-d-piece/digits-tiny").train(["masker={type: full, quantize_all: true}"]).model
    assert [name for name, _ in config.masker.doubts(config.spec, 1)] == ["quantize_all"]


@pytest.mark.slow
def test_two_hundred_steps_lower_the_loss(tmp_path, go):
    go(Run.create(cards().get("one-d-piece/digits-tiny").train(), tmp_path / "run", torch.device("cpu"), {}))
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.5 * losses[0]
