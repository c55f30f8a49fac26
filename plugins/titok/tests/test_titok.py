"""What must hold of the parts without any published tensor: sizes, lengths, ranges, errors."""

import pytest
import torch

from flexframe.models.tokenizer import Tokenizer
from flexframe.nn.convolutional import ConvDecoder, ResidualBlock
from flexframe.rng import Rng
from flexframe.tokens import Batch, Tokens, prefix
from flexframe_registry import LatentSpec, SamplingConfig, Spec, TokenSpec
from flexframe_registry.cards import cards
from flexframe_titok import LatentTokenEncoderConfig, MaskTokenDecoderConfig, PixelDecoderConfig
from flexframe_titok.decoder import MaskTokenDecoder
from flexframe_titok.encoder import LatentTokenEncoder
from flexframe_titok.reference import translate

LENGTH, DIM = 8, 5
NONE: frozenset[str] = frozenset()
STAGE2 = {"head": "proxy-codes", "pixel_decoder": PixelDecoderConfig(dim=8, hidden=32, multipliers=(1, 1, 1), blocks=1)}
HEADS = [{}, {"head": "proxy-codes", "proxy_codebook": 16}, STAGE2]


def make_spec(channels=3, side=16, bounds=(0.0, 1.0)):
    return Spec(LatentSpec(channels, side, side, bounds), 64, TokenSpec(LENGTH, DIM))


def make_encoder(spec, **fields):
    torch.manual_seed(0)
    return LatentTokenEncoder(LatentTokenEncoderConfig.sized("tiny", **fields), spec)


def make_decoder(spec, **fields):
    torch.manual_seed(0)
    return MaskTokenDecoder(MaskTokenDecoderConfig.sized("tiny", **fields), spec)


def make_tokens(lengths, slots=LENGTH):
    values = torch.randn(len(lengths), slots, DIM, generator=torch.Generator().manual_seed(1))
    return Tokens(values, prefix(torch.tensor(lengths), slots), torch.zeros(len(lengths), slots, 1, dtype=torch.long))


def run(decoder, tokens, taps=NONE):
    rows = torch.arange(len(tokens))
    return decoder(tokens, Batch(rows), taps=taps, rng=Rng(0, rows))


def decode(decoder, tokens, size=(16, 16)):
    rng = Rng(0, torch.arange(len(tokens)))
    return decoder.decode(tokens, condition=None, size=size, rng=rng, sampling=SamplingConfig())


def count(module):
    return sum(p.numel() for p in module.parameters())


# --- published sizes ---------------------------------------------------------------------------------------------

# card, published millions, exact
SIZES = [
    ("l-32", "641.05", 641_054_735),
    ("b-64", "204.81", 204_814_095),
    ("s-128", "83.67", 83_674_639),
    ("bl-64-vq8k", "390.0", 390_016_148),
    ("bl-128-vq8k", "390.2", 390_179_988),
    ("sl-256-vq8k", "330.3", 330_260_884),
    ("ll-32-vae", "606.9", 606_879_604),
    ("bl-64-vae", "389.4", 389_418_100),
    ("bl-128-vae", None, 389_581_940),
]


@pytest.mark.parametrize(("name", "published", "exact"), SIZES)
def test_published_sizes(name, published, exact):
    config = cards().get(f"titok/{name}").model
    with torch.device("meta"):
        total = count(Tokenizer(config))
    assert total == exact
    if published is not None:
        assert f"{total / 1e6:.{len(published.partition('.')[2])}f}" == published


@pytest.mark.parametrize(
    ("size", "length", "encoder_millions", "decoder_millions"),
    [("small", 128, "25.82", "27.00"), ("base", 64, "85.90", "88.07"), ("large", 32, "303.41", "306.82")],
)
def test_published_parts(size, length, encoder_millions, decoder_millions):
    encoder = LatentTokenEncoderConfig.sized(size)
    spec = Spec(LatentSpec(3, 256, 256), encoder.width, TokenSpec(length, 12))
    with torch.device("meta"):
        found = LatentTokenEncoder(encoder, spec)
        decoder = MaskTokenDecoder(MaskTokenDecoderConfig.sized(size, head="proxy-codes"), spec)
    # the published count has the projection, which is the quantizer's here, but not the latent tokens
    assert f"{(count(found) + (encoder.width + 1) * 12 - found.latent_tokens.numel()) / 1e6:.2f}" == encoder_millions
    assert f"{count(decoder) / 1e6:.2f}" == decoder_millions


def test_published_pixel_decoder():
    with torch.device("meta"):
        assert count(ConvDecoder(256, 128, (1, 1, 2, 2, 4), 2, 3)) == 30_478_339


@pytest.mark.slow
def test_the_tiny_card_trains():
    torch.manual_seed(0)
    config = cards().get("titok/digits-tiny").model
    model = Tokenizer(config).train()
    rows = torch.arange(4)
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
    assert config.decoder.usual_objectives() == ("mse",)


# --- encoder -----------------------------------------------------------------------------------------------------


def test_encoder_gives_the_first_slots_and_the_same_whatever_is_kept():
    encoder = make_encoder(make_spec())
    images = torch.rand(3, 3, 16, 16)
    whole = encoder(images, torch.ones(3, LENGTH, dtype=torch.bool))
    short = encoder(images, prefix(torch.tensor([1, 3, 2]), 3))
    assert whole.shape == (3, LENGTH, 64)
    torch.testing.assert_close(short, whole[:, :3], atol=0, rtol=0)


def test_legacy_reads_the_memory_of_the_features_transposed():
    spec, images, keep = make_spec(), torch.rand(2, 3, 16, 16), torch.ones(2, LENGTH, dtype=torch.bool)
    proper, legacy = make_encoder(spec)(images, keep), make_encoder(spec, legacy=True)(images, keep)
    assert not torch.allclose(proper, legacy, atol=0.1)
    width = 64
    for i in (0, 9, 511):  # element i of a sample's memory is token i // w, channel i % w; read as w x K it is
        token, channel = divmod(i, width)
        channel_read, token_read = divmod(i, LENGTH)
        torch.testing.assert_close(legacy[:, token_read, channel_read], proper[:, token, channel])


def test_rows_are_independent():
    encoder, decoder = make_encoder(make_spec()), make_decoder(make_spec())
    images, tokens, keep = torch.rand(3, 3, 16, 16), make_tokens([8, 3, 5]), torch.ones(3, LENGTH, dtype=torch.bool)
    alone = Tokens(tokens.values[1:2], tokens.keep[1:2], tokens.codes[1:2])
    torch.testing.assert_close(encoder(images, keep)[1:2], encoder(images[1:2], keep[1:2]))
    torch.testing.assert_close(decode(decoder, tokens)[1:2], decode(decoder, alone))


def test_latents_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"reads latents of shape \(3, 16, 16\), not \(3, 8, 8\)"):
        make_encoder(make_spec())(torch.rand(1, 3, 8, 8), torch.ones(1, LENGTH, dtype=torch.bool))


def test_initial_weights():
    encoder = make_encoder(make_spec(), width=256, heads=4)
    assert encoder.blocks[0].mlp[0].weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert encoder.blocks[0].attn.in_proj.weight.std().item() == pytest.approx((2 / (4 * 256)) ** 0.5, rel=0.05)
    assert encoder.latent_tokens.std().item() == pytest.approx(256**-0.5, rel=0.1)
    assert not encoder.blocks[0].attn.in_proj.bias.any()


# --- decoder -----------------------------------------------------------------------------------------------------


def test_absent_tokens_are_not_there():
    decoder = make_decoder(make_spec())
    tokens = make_tokens([3, 3])
    torch.testing.assert_close(decode(decoder, tokens), decode(decoder, tokens.truncate(3)))
    assert not torch.allclose(decode(decoder, tokens), decode(decoder, tokens.truncate(2)), atol=1e-4)


def test_an_absent_value_is_never_read():
    decoder = make_decoder(make_spec())
    tokens = make_tokens([3, 8])
    spoiled = tokens.values.masked_fill(~tokens.keep[..., None], torch.nan).requires_grad_()
    found = run(decoder, Tokens(spoiled, tokens.keep, tokens.codes)).reconstruction
    torch.testing.assert_close(found, run(decoder, tokens).reconstruction, atol=0, rtol=0)
    found.square().sum().backward()
    assert not spoiled.grad[0, 3:].any()
    assert spoiled.grad[0, :3].any(-1).all()


@pytest.mark.parametrize("fields", HEADS)
def test_training_reaches_every_parameter(fields):
    decoder = make_decoder(make_spec(), **fields)
    out = run(decoder, make_tokens([8, 3]), frozenset({"block.1"}))
    assert out.features["block.1"].shape == (2, 4, 4, 64)
    assert not out.losses
    given = getattr(out, decoder.config.gives)
    assert given.shape == ((2, 16, 4, 4) if decoder.config.gives == "logits" else (2, 3, 16, 16))
    (given.square().sum() + out.features["block.1"].sum()).backward()
    assert [name for name, p in decoder.named_parameters() if p.grad is None] == list(decoder.config.unused())


def test_training_and_use_agree():
    for fields in ({}, STAGE2):
        decoder, tokens = make_decoder(make_spec(), **fields), make_tokens([8, 3])
        torch.testing.assert_close(run(decoder, tokens).reconstruction, decode(decoder, tokens), atol=0, rtol=0)


def test_the_codec_s_range_is_converted_inside():
    unit, signed = make_spec(), make_spec(bounds=(-1.0, 1.0))
    images, keep, tokens = torch.rand(2, 3, 16, 16), torch.ones(2, LENGTH, dtype=torch.bool), make_tokens([8, 8])
    torch.testing.assert_close(make_encoder(signed)(images * 2 - 1, keep), make_encoder(unit)(images, keep))
    torch.testing.assert_close(decode(make_decoder(signed), tokens), decode(make_decoder(unit), tokens) * 2 - 1)


def test_unbounded_latents_of_any_channels():
    spec = make_spec(channels=16, side=8, bounds=None)
    features = make_encoder(spec)(torch.randn(2, 16, 8, 8), torch.ones(2, LENGTH, dtype=torch.bool))
    assert features.shape == (2, LENGTH, 64)
    assert decode(make_decoder(spec), make_tokens([8, 1]), (8, 8)).shape == (2, 16, 8, 8)


def test_what_a_decoder_offers_follows_from_its_head():
    pixels, codes, both = (MaskTokenDecoderConfig.sized("tiny", **fields) for fields in HEADS)
    blocks = {"block.0", "block.1", "block.2"}
    assert pixels.provides() == both.provides() == blocks | {"reconstruction"}
    assert codes.provides() == blocks | {"logits"}
    assert pixels.usual_objectives() == both.usual_objectives() == ("mse",)
    assert codes.usual_objectives() == ("proxy-codes",)


def test_errors_say_what_to_do():
    tokens = make_tokens([8])
    with pytest.raises(ValueError, match=r"no tap block\.3; it has: block\.0, block\.1, block\.2, reconstruction"):
        run(make_decoder(make_spec()), tokens, frozenset({"block.3"}))
    with pytest.raises(ValueError, match=r"gives latents of \(16, 16\), not \(32, 16\)"):
        decode(make_decoder(make_spec()), tokens, (32, 16))
    with pytest.raises(ValueError, match="needs a `pixel_decoder`"):
        decode(make_decoder(make_spec(), head="proxy-codes"), tokens)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LatentTokenEncoderConfig.sized("tiny", patch=5), "patch 5 does not divide latents of 16 x 16"),
        (LatentTokenEncoderConfig.sized("tiny", heads=3), "width 64 is not divisible by its 3 heads"),
        (MaskTokenDecoderConfig.sized("tiny", patch=5), "patch 5 does not divide latents of 16 x 16"),
        (MaskTokenDecoderConfig.sized("tiny", pixel_decoder={}), "needs the head 'proxy-codes'"),
        (
            MaskTokenDecoderConfig.sized("tiny", head="proxy-codes", pixel_decoder={}),
            "but patch is 4",
        ),
    ],
)
def test_checks(config, message):
    with pytest.raises(ValueError, match=message):
        config.check(make_spec())


# --- MaskGIT-VQGAN and names -------------------------------------------------------------------------------------


def test_a_block_of_changing_width_takes_its_skip_from_the_processed_branch():
    block = ResidualBlock(64, 32)
    assert block.nin_shortcut.weight.shape == (32, 32, 1, 1)
    torch.nn.init.zeros_(block.conv2.weight)  # with nothing processed, nothing is left: not even the input
    assert not block(torch.randn(1, 64, 4, 4)).any()


def test_the_pixel_decoder_refuses_widths_that_its_norms_cannot_split():
    with pytest.raises(ValueError, match="multiple of 32"):
        ConvDecoder(8, 40, (1, 1), 1, 3)


def test_names_of_the_reference():
    assert translate("encoder.transformer.3.attn.in_proj_weight") == "encoder.blocks.3.attn.in_proj.weight"
    assert translate("decoder.transformer.0.mlp.c_fc.bias") == "decoder.blocks.0.mlp.0.bias"
    assert translate("latent_tokens") == "encoder.latent_tokens"
    assert translate("encoder.conv_out.weight") == "quantizer.project.weight"
    assert translate("decoder.conv_out.weight") == "decoder.head.2.weight"
    assert translate("pixel_decoder.conv_out.bias") == "decoder.pixels.decoder.conv_out.bias"
