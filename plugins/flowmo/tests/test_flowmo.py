"""Known answers: sizes, who sees whom, what is drawn, what a step may not do, where guidance acts."""

import itertools

import pytest
import torch

from flexframe.models.tokenizer import Tokenizer
from flexframe.rng import Rng
from flexframe.testing.checks import redraw_zeros
from flexframe.tokens import Batch
from flexframe_flowmo import MMDiTDecoderConfig, MMDiTEncoderConfig, MMDiTSampling
from flexframe_flowmo.blocks import hold_norms
from flexframe_flowmo.importer import channels
from flexframe_registry import ConfigError, TokenizerConfig, cards


def build(*overrides):
    torch.manual_seed(0)
    model = Tokenizer(cards().get("flowmo/digits-tiny").train(overrides).model)
    redraw_zeros(model)
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.fixture
def images():
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def side_of(width, depth, values, code):
    """All that the published code builds for an encoder or a decoder: twelve heads, both streams in every block."""
    block = 2 * ((18 * width + 15) * width + 2 * (width // 12))
    ends = 2 * (values + code) * width + width + width + values + code  # patches and tokens in, and out again
    time, changes = 257 * width + (width + 1) * width, 2 * 2 * (width + 1) * width
    return depth * block + ends + time + changes


def dead_of(width, decoder_width, values, code):
    """What of that no output depends on."""
    end = (9 * width + 6) * width + width // 12  # behind the last attention in one stream; its queries' norm
    modulations = 8 * 2 * 6 * (width + 1) * width + 257 * width + (width + 1) * width + 2 * 2 * (width + 1) * width
    encoder = end + modulations + (width + 1) * values + code * width
    width, code = decoder_width, code + 1
    return encoder + (9 * width + 6) * width + width // 12 + 2 * (width + 1) * width + (width + 1) * code


@pytest.mark.parametrize(
    ("name", "overrides", "width", "patch", "code", "counted", "published"),
    [
        ("lo", (), 1152, 4, 18, 865_533_730, 945_374_085),
        ("hi", (), 1152, 4, 56, 865_606_728, 945_520_081),
        ("lo", ("encoder.patch=8", "decoder.patch=8", "decoder.width=768"), 768, 8, 18, 445_287_250, 517_117_861),
    ],
)
def test_parameters_of_the_published_sizes(name, overrides, width, patch, code, counted, published):
    """945 and 517 million of the paper's table of hyperparameters, which are of the whole files."""
    with torch.device("meta"):
        model = Tokenizer(cards().get(f"flowmo/{name}").train([*overrides, "run.data=digits"]).model)
    values = 3 * patch**2
    assert side_of(768, 8, values, code) + side_of(width, 16, values, code + 1) == published
    assert published - dead_of(768, width, values, code) == counted == sum(p.numel() for p in model.parameters())


def test_channels_of_a_head_by_axis():
    assert MMDiTEncoderConfig().rotary() == (8, 28, 28)
    assert MMDiTDecoderConfig().rotary() == (12, 42, 42)
    assert sum(MMDiTEncoderConfig(width=60, heads=3).rotary()) == 20
    with pytest.raises(ConfigError, match=r"axes \(8, 28, 26\) must be even and add up to the width of a head, 64"):
        cards().get("flowmo/lo").train(["encoder.axes=[8, 28, 26]", "run.data=digits"])


def test_bits_of_a_token_as_the_file_has_them():
    assert channels(3, 2).tolist() == [4, 2, 0, 5, 3, 1]


def test_times_and_guidance():
    sampling = MMDiTSampling(steps=4, guidance=2.0, interval=(0.0625, 0.5))
    assert sampling.times() == [1, 0.31640625, 0.0625, 0.00390625, 0]
    assert [sampling.scale(t) for t in sampling.times()] == [1, 2, 2, 1, 1]
    assert [(each.guidance, count) for each, count in sampling.by_step()] == [(2.0, 2), (1.0, 2)]
    assert MMDiTSampling(steps=4, power=1).times() == [1, 0.75, 0.5, 0.25, 0]
    with pytest.raises(ConfigError, match=r"begins at 0\.5 and ends before, at 0\.1"):
        MMDiTSampling.read({"interval": [0.5, 0.1]})


def test_a_flow_that_is_told_the_velocity_finds_the_data(model):
    data = torch.linspace(-1, 1, 48).view(1, 3, 4, 4)
    noise = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    times = MMDiTSampling(steps=7).times()
    x = noise
    for t, end in itertools.pairwise(times):
        x = x - (t - end) * (noise - data)
    torch.testing.assert_close(x, data)


@torch.no_grad()
@pytest.mark.parametrize("settings", [{"guidance": 1.0}, {"guidance": 2.0, "interval": (0.3, 0.8)}], ids=str)
def test_a_flow_is_what_decoding_integrates(model, images, settings):
    sampling, tokens = MMDiTSampling(steps=4, power=1, **settings), model.encode(images)
    flow, x = model.decoder.flow(tokens, sampling), Rng(0, torch.arange(3)).normal("decoder/sample", (3, 16, 16))
    for t in sampling.times()[:-1]:
        x = x - flow.velocity(x, torch.full((3,), t), torch.full((3,), 0.25)) / 4
    found = model.decoder.decode(tokens, condition=None, size=(16, 16), rng=Rng(0, torch.arange(3)), sampling=sampling)
    torch.testing.assert_close(model.decoder.rescale.inverse(x), found, atol=1e-5, rtol=1e-4)


def test_an_absent_token_is_zeros_and_its_mark_too(model, images):
    tokens = model.encode(images)
    given = model.decoder.condition(tokens.truncate(3), torch.tensor([False, True, False]))
    assert given.shape == (3, 8, 11)
    assert torch.equal(given[0, :3], torch.cat([tokens.values[0, :3], torch.ones(3, 1)], 1))
    assert not given[0, 3:].any()
    assert not given[1].any()


def test_other_sizes_and_lengths_take_the_same_weights(model):
    wide = build("length=5")
    wide.load_state_dict(model.state_dict())
    images = torch.rand(1, 3, 24, 40, generator=torch.Generator().manual_seed(0))
    tokens = wide.encode(images)
    assert tokens.codes.shape == (1, 5, 2)
    assert wide.decode(tokens, sampling={"steps": 1}).shape == images.shape
    with pytest.raises(ValueError, match="latents of 18 x 16 do not divide into patches of 4"):
        model.encode(torch.zeros(1, 3, 18, 16))


def test_times_of_training_are_sometimes_even_and_rows_sometimes_null(model):
    rng, decoder = Rng(0, torch.arange(20000)), model.decoder
    times, even = decoder.times(rng), rng.uniform("decoder/even") > 0.9
    assert times[even].std().item() == pytest.approx(12**-0.5, abs=0.02)
    assert times[~even].logit().std().item() == pytest.approx(1, abs=0.02)
    assert (rng.uniform("decoder/null") <= 0.1).float().mean().item() == pytest.approx(0.1, abs=0.01)


def test_a_step_changes_no_norm_of_the_blocks_matrices():
    model = build().train()
    block, head = model.decoder.blocks[0].tokens, model.decoder.head
    before = [block.modulation.weight.norm(), block.modulation.bias.norm(), head.weight.norm()]
    with torch.no_grad():
        behind = [part.before_step() for part in (model.encoder, model.decoder)]
        for parameter in model.parameters():
            parameter.mul_(2).add_(0.1)
        for act in behind:
            act()
    torch.testing.assert_close(block.modulation.weight.norm(), before[0])
    assert block.modulation.bias.norm() > 1.5 * before[1]
    assert head.weight.norm() > 1.5 * before[2]
    assert build("decoder.fixed_norms=false").decoder.before_step() is None
    model.decoder.requires_grad_(False)
    weight = block.modulation.weight.clone()
    hold_norms(model.decoder.blocks)()
    assert torch.equal(block.modulation.weight, weight)


def test_a_chain_judges_its_end_and_teaches_through_all_steps(images):
    model = build("decoder.chain=3").train()
    batch, rng = model.prepare(Batch(torch.arange(3), images), rng=Rng(0, torch.arange(3))), Rng(0, torch.arange(3))
    out = model(batch, rng=rng)
    found = model.decoder.chained(out.tokens, images.shape[1:], rng)
    torch.testing.assert_close(model.decoder.rescale(out.reconstruction), found)
    estimate = build().train()(batch, rng=rng).reconstruction
    assert not torch.allclose(estimate, out.reconstruction)
    (gradient,) = torch.autograd.grad(out.reconstruction.square().sum(), model.decoder.time.mlp[0].bias)
    assert gradient.abs().max() > 0


def test_parts_of_other_families_stand_in_their_places():
    raw = {"size": "tiny", "image_size": 16, "length": 8, "masker": "uniform"}
    for parts in (
        {"encoder": "registers", "quantizer": "fsq", "decoder": "mmdit"},
        {"encoder": "mmdit", "quantizer": "vq", "decoder": "flow"},
        {"encoder": "latent-tokens", "quantizer": "vq", "decoder": "mmdit"},
    ):
        model = Tokenizer(TokenizerConfig.read({**raw, **parts}))
        batch = Batch(torch.arange(2), torch.rand(2, 3, 16, 16))
        assert model(batch, rng=Rng(0, batch.index)).losses
