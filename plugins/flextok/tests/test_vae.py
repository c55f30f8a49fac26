"""The VAE codec: diffusers' KL autoencoder as FlexTok uses it. Parity with the reference: test_golden.py."""

import sys

import pytest
import torch

from flexframe.models.tokenizer import Tokenizer
from flexframe.rng import Rng
from flexframe_flextok import VAECodecConfig
from flexframe_flextok.codec import VAECodec
from flexframe_registry import ConfigError, Spec, TokenizerConfig, TokenSpec


def test_absent_diffusers_is_told_in_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match=r"^codec 'vae' needs diffusers: pip install diffusers$"):
        codec()


def test_latents_follow_from_the_config():
    config = VAECodecConfig()
    found = config.latents(256, 128)
    assert (found.channels, found.height, found.width, found.range) == (16, 32, 16, None)
    with pytest.raises(ValueError, match="images of 20 x 16 must divide by 8, the codec's downsampling"):
        config.latents(20, 16)
    with pytest.raises(ConfigError, match="must each divide by groups 5"):
        VAECodecConfig.read({"groups": 5})


def codec(**fields):
    """Of 16 x 16 images, down to 8 x 8; its weights are random."""
    config = VAECodecConfig.sized("tiny", **fields)
    torch.manual_seed(0)
    return VAECodec(config, Spec(config.latents(16, 16), 8, TokenSpec(4, 6, 1, 64))).eval()


def pictures(batch=3, height=16, width=16):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def rng(*index, seed=0):
    return Rng(seed, torch.tensor(index))


@torch.no_grad()
def test_shapes_at_any_size():
    for height, width in ((16, 16), (8, 24)):
        latents = codec().encode(pictures(2, height, width), rng=rng(0, 1))
        assert latents.shape == (2, 4, height // 2, width // 2)
        assert codec().decode(latents).shape == (2, 3, height, width)


@torch.no_grad()
def test_images_lie_in_0_to_1_here_and_in_minus_1_to_1_inside():
    part, pixels = codec(), pictures()
    latents = part.encode(pixels, rng=rng(0, 1, 2))
    torch.testing.assert_close(latents, part.vae.encode(2 * pixels - 1).latent_dist.mean)
    torch.testing.assert_close(2 * part.decode(latents) - 1, part.vae.decode(latents).sample)


@torch.no_grad()
def test_the_posteriors_mode_is_drawn_from_nothing():
    one = codec().encode(pictures(), rng=rng(0, 1, 2))
    assert torch.equal(one, codec().encode(pictures(), rng=rng(5, 6, 7, seed=9)))
    assert torch.equal(one, codec().posterior(pictures())[0])


@torch.no_grad()
def test_a_sampled_posterior_is_seeded_row_by_row():
    part = codec(sample_posterior=True)
    found = part.encode(pictures(), rng=rng(0, 1, 2))
    assert torch.equal(found, part.encode(pictures(), rng=rng(0, 1, 2)))
    assert not torch.equal(found, part.encode(pictures(), rng=rng(0, 1, 2, seed=1)))
    alone = part.encode(pictures()[1:2], rng=rng(1))
    torch.testing.assert_close(alone, found[1:2], atol=1e-5, rtol=1e-5)
    same = part.encode(pictures()[:1].expand(2, -1, -1, -1), rng=rng(4, 5))
    assert not torch.allclose(same[0], same[1])
    mean, logvar = part.posterior(pictures())
    drawn = rng(0, 1, 2).normal("codec/posterior", mean.shape[1:])
    torch.testing.assert_close(found, mean + (logvar / 2).exp() * drawn)


@torch.no_grad()
def test_latents_are_scaled_after_encoding_and_unscaled_before_decoding():
    plain, scaled = codec(), codec(scaling_factor=0.25)
    latents = plain.encode(pictures(), rng=rng(0, 1, 2))
    torch.testing.assert_close(scaled.encode(pictures(), rng=rng(0, 1, 2)), latents * 0.25)
    torch.testing.assert_close(scaled.decode(latents * 0.25), plain.decode(latents))


@torch.no_grad()
def test_arithmetic_is_the_codecs_own_inside_autocast():
    part = codec()
    latents = part.encode(pictures(), rng=rng(0, 1, 2))
    images = part.decode(latents)
    with torch.autocast("cpu", torch.bfloat16):
        inside = part.encode(pictures(), rng=rng(0, 1, 2))
        assert inside.dtype == torch.float32
        assert torch.equal(inside, latents)
        assert torch.equal(part.decode(latents), images)
        assert part.decode(latents.bfloat16()).dtype == torch.float32
    part.precision = "bf16"
    rounded = part.encode(pictures(), rng=rng(0, 1, 2))
    assert rounded.dtype == torch.float32
    assert 1e-4 < (rounded - latents).std() / latents.std() < 0.03
    assert torch.equal(part.decode(latents), images)


def test_without_convolutions_around_the_latents():
    part = codec(quant_conv=False)
    with_them = set(codec().state_dict()) - set(part.state_dict())
    assert {name.split(".")[1] for name in with_them} == {"quant_conv", "post_quant_conv"}
    assert part.decode(part.encode(pictures(), rng=rng(0, 1, 2))).shape == (3, 3, 16, 16)


def test_a_tokenizers_codec_is_frozen():
    parts = {"codec": "vae", "encoder": {"type": "registers", "patch": 2}, "quantizer": "fsq", "masker": "pow2"}
    decoder = {"type": "flow", "patch": 2}
    model = Tokenizer(
        TokenizerConfig.read({"size": "tiny", "image_size": 16, "length": 8, "decoder": decoder, **parts})
    )
    assert not model.train().codec.training
    assert not any(p.requires_grad for p in model.codec.parameters())
    images = model.decode(model.encode(pictures()), sampling={"steps": 1})
    assert images.shape == (3, 3, 16, 16)


def test_kept_moments_give_the_latents_that_images_give():
    part, rng = codec(sample_posterior=True), Rng(3, torch.arange(3), 7)
    moments = part.moments(pictures())
    assert moments.shape[1] == 2 * part.config.channels
    assert torch.equal(part.drawn(moments, rng=rng), part.encode(pictures(), rng=rng))
    assert codec(sample_posterior=False).moments(pictures()) is None
