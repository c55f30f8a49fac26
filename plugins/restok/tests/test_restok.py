"""Known answers: sizes, levels of cells and tokens, who sees whom, other sizes of images; a training."""

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from flexframe.models.build import build
from flexframe.models.tokenizer import Tokenizer
from flexframe.rng import Rng
from flexframe.tokens import Batch
from flexframe.train.run import Run
from flexframe_registry import ConfigError, cards

CARD = "restok/digits-tiny"


def made(*overrides):
    torch.manual_seed(0)
    return Tokenizer(cards().get(CARD).train(overrides).model).eval()


@pytest.fixture(scope="module")
def model():
    return made()


@pytest.fixture
def images():
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def block(width, head):
    """Of attention without a key's bias, norms of heads, a feed-forward of four times, norms and scales."""
    attention = 3 * width * width + 2 * width + 4 * head + width * width + width
    return attention + 8 * width * width + 5 * width + 4 * width + 2 * width


def test_parameters_of_the_published_size():
    """Counted by hand from the shapes of the reference's layers. Its README says 662M: the count here, and the two maps
    of 1024 x 1024 that supervision trains and no model holds."""
    with torch.device("meta"):
        own = build(cards().get("restok/l-128").described)
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in own.named_children()}
    trunk, levels = 24 * block(1024, 64) + 4 * 1024, 8
    convolutions = {
        part: sum(p.numel() for p in getattr(own, part).pixels.parameters()) for part in count if count[part] > 1e6
    }
    assert count["encoder"] == convolutions["encoder"] + 512 * 256 + 256 + 257 * 1024 + (4 + levels) * 1024 + trunk
    assert count["quantizer"] == levels * (1024 * 8 + 8) + 8192 * 8
    assert (
        count["decoder"] == convolutions["decoder"] + levels * 9 * 1024 + (levels + 2) * 1024 + 8 + trunk + 1025 * 256
    )
    assert sum(count.values()) == 659_694_795
    assert round((sum(count.values()) + 2 * 1024 * 1024) / 1e6) == 662


def test_tokens_start_as_what_the_coarser_ones_leave(model):
    """Each level's means, added up over the image, give the means of the last level's grid."""
    cells = torch.randn(2, 64, 4, 4, generator=torch.Generator().manual_seed(0))
    parts, grids = model.encoder.started(cells).split([1, 1, 2, 4], 1), [(1, 1), (1, 1), (1, 2), (2, 2)]
    maps = [part.mT.unflatten(2, grid) for part, grid in zip(parts, grids, strict=True)]
    total = sum(F.interpolate(part, (4, 4), mode="nearest") for part in maps)
    torch.testing.assert_close(F.avg_pool2d(total, 2), F.avg_pool2d(cells, 2))
    torch.testing.assert_close(maps[0][..., 0, 0], cells.mean((2, 3)))
    pooled = made("encoder.start=pooled").encoder.started(cells).split([1, 1, 2, 4], 1)[3]
    torch.testing.assert_close(pooled.mT.unflatten(2, (2, 2)), F.avg_pool2d(cells, 2))


@pytest.mark.parametrize("start", ["flat", "learned"])
def test_tokens_start_without_levels(start, images):
    own = made(f"encoder.start={start}")
    assert own.encode(images).codes.shape == (3, 8, 1)
    assert ("tokens" in dict(own.encoder.named_parameters())) == (start == "learned")


def test_merged_cells_stand_in_front_and_are_taken_from_those_that_merge(model):
    """Two merges at depth 3: rows of 4 cells, of 2, of 1."""
    layer = model.encoder.blocks[0]
    assert model.encoder.merges == [0, 1]
    x = torch.randn(1, 16 + 8, 64, generator=torch.Generator().manual_seed(0))
    turned, seen = model.encoder.places([(4, 4)], x.device)
    with torch.no_grad():
        after = x + layer.gamma_1 * layer.attn(layer.norm1(x), turned, seen)
        whole = layer(x, turned, seen, (16, 2, True))
        expected = torch.cat(
            [after[:, :16:2], after[:, :16] - after[:, :16:2].repeat_interleave(2, 1), after[:, 16:]], 1
        )
        expected = expected + layer.gamma_2 * layer.mlp(layer.norm2(expected))
    torch.testing.assert_close(whole, expected)
    cells = model.encoder.run(torch.rand(2, 3, 16, 16))[1]
    assert [tuple(part.shape[1:3]) for part in cells] == [(4, 1), (4, 2), (4, 4)]


def test_a_token_sees_cells_and_levels_up_to_its_own(model):
    _, seen = model.encoder.places([(4, 2), (4, 4)], torch.device("cpu"))
    assert not seen[:8, 8:].any()  # the coarsest see themselves alone
    assert seen[24:, :24].all()
    assert [int(row.sum()) for row in seen[24:, 24:]] == [1, 2, 4, 4, 8, 8, 8, 8]


@torch.no_grad()
def test_images_of_other_sizes_are_read_and_given(model, images):
    larger = F.interpolate(images, (32, 48))
    tokens = model.encode(larger)
    assert tokens.codes.shape == (3, 8, 1)
    assert model.decode(tokens).shape == larger.shape
    with pytest.raises(ValueError, match="16 x 18 pixels do not divide into cells of 4"):
        model.decode(tokens, size=(16, 18))
    with pytest.raises(
        ConfigError, match="6 cells in a row cannot merge 2 times by 2; take wider images, or fewer stages"
    ):
        made("image_size=24")


@torch.no_grad()
def test_weights_go_to_another_image_size_and_to_a_shorter_sequence(model, images):
    for override, length in (("image_size=32", 8), ("length=4", 4)):
        own = made(override)
        for name in ("encoder", "quantizer", "decoder"):
            part = getattr(own, name)
            part.load_state_dict(part.adapt(getattr(model, name).state_dict(), model.spec))
        tokens = own.encode(images)
        assert tokens.codes.shape == (3, length, 1)
        if length == 8:
            assert torch.equal(tokens.codes, model.encode(images).codes)


@pytest.mark.parametrize("width", [64, 256])
def test_a_token_is_read_as_large_beside_its_level_at_any_width(width):
    """As the reference begins at its one width: with 0.02 beside 64 ** -0.5 a tiny model stayed at the mean image."""
    decoder = made(f"decoder.width={width}").decoder
    maps = torch.cat([each.weight.flatten() for each in decoder.embed.modules() if isinstance(each, torch.nn.Linear)])
    assert maps.std().item() * width**0.5 == pytest.approx(0.02 * 1024**0.5, rel=0.05)


def test_a_length_between_levels_has_the_last_one_cut(images):
    own = made("length=6", "masker=uniform")
    assert own.encode(images).codes.shape == (3, 6, 1)
    assert own.decode(own.encode(images)).shape == images.shape


def test_supervision_reads_the_coarsest_cells_and_a_second_pass(images):
    own = made("decoder.semantic=true").train()
    batch, rng = Batch(torch.arange(3), images), Rng(0, torch.arange(3))
    taps = frozenset({"encoder.coarsest", "semantic", "block.1"})
    out = own(batch, taps=taps, rng=rng)
    assert {name: tuple(value.shape[1:]) for name, value in out.features.items()} == {
        "encoder.coarsest": (4, 1, 64),
        "semantic": (4, 4, 64),
        "block.1": (4, 4, 64),
    }
    out.features["semantic"].sum().backward()
    reached = {name for name, p in own.decoder.named_parameters() if p.grad is not None and p.grad.any()}
    assert "semantic_token" in reached
    assert not {"mask_token", "head.weight"} & reached
    again = own.decoder(out.tokens, batch, taps=frozenset(), rng=rng)
    torch.testing.assert_close(again.reconstruction, out.reconstruction)


def test_an_absent_token_is_the_learned_one_before_the_maps_by_level(model, images):
    tokens = model.encode(images)
    embedded, there = model.decoder.embedded(tokens.truncate(3))
    filled = replace(tokens, values=torch.cat([tokens.values[:, :3], model.decoder.absent_token.expand(3, 5, -1)], 1))
    torch.testing.assert_close(embedded, model.decoder.embedded(filled)[0])
    assert there is None


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_two_hundred_steps_lower_the_loss(tmp_path, go):
    supervision = "{type: feature-supervision, teacher: test_vit, weights: random, weight: 0.1}"
    given = ["decoder.semantic=true", f"run.objectives=[mse, {supervision}]", "run.batch_size=8"]
    go(Run.create(cards().get(CARD).train(given), tmp_path / "run", torch.device("cpu"), {}))
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    for name in ("loss", "mse/mse", "feature-supervision/whole", "feature-supervision/cells"):
        values = [line[name] for line in lines if name in line]
        assert sum(values[-3:]) < 0.8 * sum(values[:3]), name
