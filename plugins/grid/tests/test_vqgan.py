"""MaskGIT-VQGAN's networks as parts: sizes, the order of the grid, absent tokens, ranges, errors, names."""

import pytest
import torch

from flexframe.models.tokenizer import Tokenizer
from flexframe.nn.convolutional import ConvEncoder, DownLevel
from flexframe.rng import Rng
from flexframe.tokens import Batch, Tokens, prefix
from flexframe_grid import VQGANDecoderConfig, VQGANEncoderConfig
from flexframe_grid.reference import convert, translate
from flexframe_grid.vqgan import GridDecoder, GridEncoder
from flexframe_registry import ConfigError, LatentSpec, SamplingConfig, Spec, TokenizerConfig, TokenSpec
from flexframe_registry.cards import cards

ROWS, COLUMNS, DIM = 2, 4, 5
LENGTH = ROWS * COLUMNS
PUBLISHED = {"hidden": 128, "multipliers": (1, 1, 2, 2, 4), "blocks": 2}


def make_spec(channels=3, bounds=(0.0, 1.0), masked=False, length=LENGTH):
    """Latents of 8 x 16; the tiny networks see them as 2 rows of 4 cells."""
    return Spec(LatentSpec(channels, 8, 16, bounds), 32, TokenSpec(length, DIM, masked=masked))


def make_encoder(spec, **fields):
    torch.manual_seed(0)
    return GridEncoder(VQGANEncoderConfig.sized("tiny", **fields), spec).eval()


def make_decoder(spec, **fields):
    torch.manual_seed(0)
    return GridDecoder(VQGANDecoderConfig.sized("tiny", **fields), spec).eval()


def make_tokens(lengths, slots=LENGTH):
    values = torch.randn(len(lengths), slots, DIM, generator=torch.Generator().manual_seed(1))
    return Tokens(values, prefix(torch.tensor(lengths), slots), torch.zeros(len(lengths), slots, 1, dtype=torch.long))


def pictures(batch=2, channels=3):
    return torch.rand(batch, channels, 8, 16, generator=torch.Generator().manual_seed(2))


def everything(batch=2):
    return torch.ones(batch, LENGTH, dtype=torch.bool)


def decode(decoder, tokens, size=(8, 16)):
    rng = Rng(0, torch.arange(len(tokens)))
    return decoder.decode(tokens, condition=None, size=size, rng=rng, sampling=SamplingConfig())


def count(module):
    return sum(p.numel() for p in module.parameters())


# --- published sizes ---------------------------------------------------------------------------------------------


def test_published_sizes():
    """By arithmetic: a block of width w is two 3x3 convolutions without bias and two norms; 2 w * (9 w + 2)."""

    def block(inputs, outputs):
        changed = outputs**2 if inputs != outputs else 0  # nin_shortcut
        return 9 * inputs * outputs + 9 * outputs**2 + 2 * (inputs + outputs) + changed

    widths = [128, 128, 256, 256, 512]
    down = sum(block(i, o) + block(o, o) for i, o in zip([128, *widths[:-1]], widths, strict=True))
    encoder = 9 * 3 * 128 + down + 2 * block(512, 512) + 2 * 512
    up = sum(block(i, o) + block(o, o) for i, o in zip([*widths[1:], 512], widths, strict=True))
    doubling = sum(9 * w * w + w for w in widths[1:])
    ends = (9 * 256 * 512 + 512) + 2 * 128 + (9 * 128 * 3 + 3)
    decoder = ends + 2 * block(512, 512) + up + doubling
    projection, codebook = 512 * 256 + 256, 1024 * 256

    with torch.device("meta"):
        model = Tokenizer(cards().get("grid/maskgit-vqgan").model)
    assert count(model.encoder) == encoder == 23_643_776
    assert count(model.decoder) == decoder == 30_478_339  # published as 30.48M
    assert count(model.quantizer.project) == projection
    assert count(model.quantizer.codebook) == codebook == 262_144
    assert count(model) == 54_515_587


def test_the_published_model_is_the_default():
    card = cards().get("grid/maskgit-vqgan").model
    assert card.encoder == VQGANEncoderConfig(**PUBLISHED) == VQGANEncoderConfig()
    assert card.decoder == VQGANDecoderConfig(**PUBLISHED) == VQGANDecoderConfig()
    assert card.bits_per_token == 10
    assert card.spec.features == 512
    assert card.encoder.grid(card.spec) == (16, 16)


# --- the grid ----------------------------------------------------------------------------------------------------


def test_a_level_halves_by_the_mean():
    level = DownLevel(32, 32, 1, halve=True)
    torch.nn.init.zeros_(level.block[0].conv2.weight)  # the block passes its input on
    x = torch.randn(1, 32, 4, 6)
    torch.testing.assert_close(level(x)[0, 3, 1, 2], x[0, 3, 2:4, 4:6].mean())


def test_features_run_row_by_row():
    encoder = make_encoder(make_spec())
    features, grid = encoder(pictures(), everything()), encoder.net(pictures())
    assert grid.shape == (2, 32, ROWS, COLUMNS)
    for row in range(ROWS):
        for column in range(COLUMNS):
            assert torch.equal(features[:, row * COLUMNS + column], grid[:, :, row, column])


def test_tokens_run_row_by_row():
    tokens = make_tokens([LENGTH, LENGTH])
    cells = make_decoder(make_spec()).cells(tokens)
    assert cells.shape == (2, DIM, ROWS, COLUMNS)
    assert torch.equal(cells[:, :, 1, 2], tokens.values[:, 1 * COLUMNS + 2])


def test_encoder_gives_the_first_slots_and_the_same_whatever_is_kept():
    encoder = make_encoder(make_spec())
    whole = encoder(pictures(), everything())
    short = encoder(pictures(), prefix(torch.tensor([1, 3]), 3))
    assert torch.equal(short, whole[:, :3])


# --- absent tokens -----------------------------------------------------------------------------------------------


def test_a_masked_token_is_the_learned_one():
    decoder, tokens = make_decoder(make_spec(masked=True)), make_tokens([3, LENGTH])
    cells = decoder.cells(tokens).flatten(2).mT
    assert torch.equal(cells[0, :3], tokens.values[0, :3])
    assert torch.equal(cells[0, 3:], decoder.mask_token.expand(5, -1))
    assert torch.equal(cells[1], tokens.values[1])


def test_without_a_mask_token_an_absent_one_leaves_its_cell_empty():
    decoder, tokens = make_decoder(make_spec()), make_tokens([3, LENGTH])
    assert decoder.mask_token is None
    cells = decoder.cells(tokens).flatten(2).mT
    assert not cells[0, 3:].any()
    assert torch.equal(cells[0, :3], tokens.values[0, :3])


@pytest.mark.parametrize("masked", [True, False])
def test_absent_and_cut_off_are_the_same(masked):
    decoder, tokens = make_decoder(make_spec(masked=masked)), make_tokens([3, 3])
    assert torch.equal(decode(decoder, tokens), decode(decoder, tokens.truncate(3)))
    assert not torch.allclose(decode(decoder, tokens), decode(decoder, tokens.truncate(2)), atol=1e-4)


@pytest.mark.parametrize("masked", [True, False])
def test_an_absent_value_is_never_read(masked):
    decoder, tokens = make_decoder(make_spec(masked=masked)), make_tokens([3, LENGTH])
    spoiled = tokens.values.masked_fill(~tokens.keep[..., None], torch.nan).requires_grad_()
    found = decode(decoder, Tokens(spoiled, tokens.keep, tokens.codes))
    assert torch.equal(found, decode(decoder, tokens))
    found.square().sum().backward()
    assert not spoiled.grad[0, 3:].any()
    assert spoiled.grad[0, :3].any(-1).all()


# --- widths, ranges, errors --------------------------------------------------------------------------------------


def test_training_and_use_agree():
    decoder, tokens = make_decoder(make_spec()), make_tokens([LENGTH, 3])
    rows = torch.arange(2)
    out = decoder(tokens, Batch(rows), taps=frozenset(), rng=Rng(0, rows))
    assert torch.equal(out.reconstruction, decode(decoder, tokens))
    assert not out.losses


def test_the_codec_s_range_is_converted_inside():
    unit, signed, tokens = make_spec(), make_spec(bounds=(-1.0, 1.0)), make_tokens([LENGTH, LENGTH])
    features = make_encoder(unit)(pictures(), everything())
    torch.testing.assert_close(make_encoder(signed)(2 * pictures() - 1, everything()), features)
    torch.testing.assert_close(decode(make_decoder(signed), tokens), 2 * decode(make_decoder(unit), tokens) - 1)


def test_unbounded_latents_of_any_channels():
    spec = make_spec(channels=16, bounds=None)
    assert make_encoder(spec)(pictures(channels=16), everything()).shape == (2, LENGTH, 32)
    assert decode(make_decoder(spec), make_tokens([LENGTH, 1])).shape == (2, 16, 8, 16)


def test_errors_say_what_to_do():
    spec, tokens, rows = make_spec(), make_tokens([LENGTH]), torch.arange(1)
    with pytest.raises(ValueError, match=r"reads latents of shape \(3, 8, 16\), not \(3, 16, 8\); resize them"):
        make_encoder(spec)(pictures().mT, everything())
    with pytest.raises(ValueError, match=r"gives latents of \(8, 16\), not \(16, 16\)"):
        decode(make_decoder(spec), tokens, (16, 16))
    with pytest.raises(ValueError, match=r"'vqgan' has no tap block\.1; it has: reconstruction"):
        make_decoder(spec)(tokens, Batch(rows), taps=frozenset({"block.1"}), rng=Rng(0, rows))
    with pytest.raises(ValueError, match="multiple of 32"):
        ConvEncoder(3, 40, (1, 1), 1)


@pytest.mark.parametrize("config", [VQGANEncoderConfig, VQGANDecoderConfig])
def test_a_length_that_is_not_the_grid_s_is_refused(config):
    config.sized("tiny").check(make_spec())
    words = "8 x 16 in cells of 4 x 4 are a grid of 2 x 4: set length to 8, not 16"
    with pytest.raises(ValueError, match=words):
        config.sized("tiny").check(make_spec(length=16))
    words = "5 multipliers and a stem of 1 make cells of 16 x 16, which do not divide latents of 8 x 16"
    with pytest.raises(ValueError, match=words):
        config().check(make_spec())


def test_a_config_names_the_length_that_fits():
    raw = {"size": "tiny", "image_size": 32, "length": 8, "encoder": "vqgan", "quantizer": "vq", "decoder": "vqgan"}
    with pytest.raises(ConfigError, match=r"^encoder: .* set length to 64, not 8$"):
        TokenizerConfig.read(raw)
    assert TokenizerConfig.read({**raw, "length": 64}).spec.tokens.length == 64


# --- training ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_tiny_card_trains():
    torch.manual_seed(0)
    card = cards().get("grid/digits-tiny").train()
    assert [objective.type for objective in card.objectives] == ["mse"]
    model, rows = Tokenizer(card.model).train(), torch.arange(4)
    images = torch.rand(4, 3, 16, 16)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    losses = []
    for step in range(30):
        out = model(Batch(rows, images), rng=Rng(0, rows, step))
        loss = (out.reconstruction - images).square().mean() + sum(term.mean() for term in out.losses.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


# --- names -------------------------------------------------------------------------------------------------------


def test_names_of_the_reference():
    assert translate("encoder.down.4.block.0.nin_shortcut.weight") == "encoder.net.down.4.block.0.nin_shortcut.weight"
    assert translate("encoder.conv_in.weight") == "encoder.net.conv_in.weight"
    assert translate("encoder.conv_out.bias") == "quantizer.project.bias"
    assert translate("decoder.conv_out.bias") == "decoder.net.conv_out.bias"
    assert translate("quantize.embedding.weight") == "quantizer.codebook.embedding.weight"


def test_the_reference_s_last_convolution_is_the_quantizer_s_projection():
    there = {"encoder.conv_out.weight": torch.arange(6.0).reshape(2, 3, 1, 1), "encoder.conv_out.bias": torch.ones(2)}
    here = convert(there)
    assert here.keys() == {"quantizer.project.weight", "quantizer.project.bias"}
    assert torch.equal(here["quantizer.project.weight"], torch.arange(6.0).reshape(2, 3))
