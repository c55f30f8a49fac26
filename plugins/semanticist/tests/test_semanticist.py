"""Known answers: sizes, the diffusion's tables, who sees whom, what training drops."""

import pytest
import torch

from flexframe.models.tokenizer import Tokenizer
from flexframe.rng import Rng
from flexframe.testing.checks import redraw_zeros
from flexframe.tokens import Batch
from flexframe_registry import ConfigError, TokenizerConfig, cards
from flexframe_semanticist import DDPMSampling
from flexframe_semanticist.diffusion import process, taken


def build(*overrides):
    torch.manual_seed(0)
    model = Tokenizer(cards().get("semanticist/digits-tiny").train(overrides).model)
    redraw_zeros(model)
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.fixture
def images():
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def encoder_of(width, depth, slots, patches):
    return 3 * 16 * 16 * width + width + width * (1 + slots + 1 + patches + slots) + (12 * width + 13) * width * depth


def decoder_of(width, depth, slots=256, dim=16, channels=16):
    ends = 4 * channels * width + width + dim * width + width + slots * dim + 8 * channels * (width + 1)
    time = 256 * width + width + width * width + width
    return ends + time + (18 * width + 15) * width * depth + 2 * (width + 1) * width


@pytest.mark.parametrize(("name", "width", "depth"), [("l", 1024, 24), ("xl", 1152, 28)])
def test_parameters_of_the_published_sizes(name, width, depth):
    """Counted by hand from the shapes that the published code gives its layers: ViT-B/16 with 256 slots, DiT-L/2 or
    DiT-XL/2 without labels, and the map to 16 values. What training alone has (its projection, its teacher) is not
    there."""
    with torch.device("meta"):
        model = Tokenizer(cards().get(f"semanticist/{name}").model)
    count = {part: sum(p.numel() for p in getattr(model, part).parameters()) for part in ("encoder", "decoder")}
    assert count["encoder"] == encoder_of(768, 12, 256, 256) + 2 * 768
    assert count["decoder"] == decoder_of(width, depth)
    assert sum(count.values()) + 768 * 16 + 16 == {"l": 543_234_960, "xl": 760_121_488}[name]
    assert sum(p.numel() for p in model.quantizer.parameters()) == 768 * 16 + 16


def test_the_steps_that_are_taken():
    assert taken(DDPMSampling(steps=4)) == [0, 333, 666, 999]
    assert taken(DDPMSampling(steps=1)) == [0]
    assert taken(DDPMSampling(steps=25, spacing="stride")) == list(range(0, 1000, 40))
    with pytest.raises(ConfigError, match="no whole stride through 1000 makes 900 steps"):
        DDPMSampling.read({"steps": 900, "spacing": "stride"})


def test_a_chain_that_is_told_the_noise_finds_the_data():
    """With the true noise at every step, the last state is the data, whatever is drawn on the way."""
    chain, data = process(taken(DDPMSampling(steps=20))), torch.linspace(-1, 1, 8).view(2, 1, 2, 2)
    x = torch.randn(2, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    for i in reversed(range(20)):
        t = torch.full((2,), i)
        bar = chain.at(chain.bars, t, x)
        noise = (x - bar.sqrt() * data) / (1 - bar).sqrt()
        x, _ = chain.step(x, noise, torch.zeros_like(x), t)
    assert torch.allclose(x, data, atol=1e-4)


def test_patches_see_no_slot_and_a_slot_none_behind_it(model, images):
    encoder, keep = model.encoder, torch.ones(3, 8, dtype=torch.bool)
    with torch.no_grad():
        before = encoder(images, keep)
        slots = encoder.slots.data.clone()
        encoder.slots.data[4] += 1
        after = encoder(images, keep)
        encoder.slots.data.copy_(slots)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 5:], after[:, 5:])


def test_tokens_are_standardized(model, images):
    values = model.encode(images).values
    assert torch.allclose(values.mean(-1), torch.zeros(3, 8), atol=1e-5)
    assert torch.allclose(values.std(-1), torch.ones(3, 8), atol=1e-5)


def test_an_absent_token_is_the_null_condition_of_its_place(model, images):
    tokens, decoder = model.encode(images), model.decoder
    given = decoder.condition(tokens.truncate(3))
    assert torch.equal(given[:, :3], tokens.values[:, :3])
    assert torch.equal(given[:, 3:], decoder.null[3:].expand(3, -1, -1))


def test_nesting_begins_where_null_rows_end(images):
    model = build("masker.begin=5", "decoder.null_end=5", "decoder.null_dropout=0.5").train()
    index = torch.arange(64)
    for step, nested in ((4, False), (5, True)):
        rng = Rng(0, index, step)
        keep, null = model.masker.draw(64, 8, rng=rng).keep, model.decoder.dropped(rng)
        assert (len(keep.sum(1).unique()) == 8) == nested
        assert (null is None) == nested
    assert 16 < int(model.decoder.dropped(Rng(0, index, 4)).sum()) < 48
    assert model.eval().decoder.dropped(Rng(0, index, 4)) is None


def test_branches_are_dropped_by_their_depth_and_keep_the_mean():
    encoder = build("encoder.drop_path=0.5").encoder.train()
    factors = encoder.branches(Rng(0, torch.arange(4000)))
    assert torch.equal(factors[:, 0], torch.ones(4000, 2))
    assert set(factors[:, 1].unique().tolist()) == {0.0, 2.0}
    assert factors[:, 1].mean().item() == pytest.approx(1, abs=0.05)


def test_the_bound_teaches_the_variance_alone(model, images):
    batch, rng = model.prepare(Batch(torch.arange(3), images), rng=Rng(0, torch.arange(3))), Rng(0, torch.arange(3))
    head = model.decoder.head
    model.decoder.zero_grad(set_to_none=True)
    model(batch, rng=rng).losses["decoder/variance"].mean().backward()
    rows = head.bias.grad.unflatten(0, (-1, 6)).abs().sum(0)  # channels are innermost: three of noise, then the shares
    model.zero_grad(set_to_none=True)
    assert not rows[:3].any()
    assert (rows[3:] > 0).all()


def test_positions_of_another_image_size_are_stretched():
    there, here = build(), build("image_size=32")
    adapted = here.encoder.adapt(there.encoder.state_dict(), there.spec)
    assert adapted["positions"].shape == here.encoder.positions.shape
    assert torch.equal(adapted["positions"][-8:], there.encoder.positions[-8:])
    shorter = build("length=4").encoder.adapt(there.encoder.state_dict(), there.spec)
    assert torch.equal(shorter["slots"], there.encoder.slots[:4])


def test_a_size_that_the_encoder_was_not_made_for_is_refused(model):
    with pytest.raises(ValueError, match="reads images of 16 x 16, not 32 x 32; resize them"):
        model.encode(torch.zeros(1, 3, 32, 32))


def test_parts_of_other_families_stand_in_their_places():
    raw = {"size": "tiny", "image_size": 16, "length": 8, "masker": "uniform"}
    for parts in (
        {"encoder": "registers", "quantizer": "fsq", "decoder": "ddpm"},
        {"encoder": "slots", "quantizer": "fsq", "decoder": "flow"},
    ):
        model = Tokenizer(TokenizerConfig.read({**raw, **parts}))
        batch = Batch(torch.arange(2), torch.rand(2, 3, 16, 16))
        assert model(batch, rng=Rng(0, batch.index)).losses
