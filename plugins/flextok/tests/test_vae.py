"""The VAE codec: diffusers' KL autoencoder as FlexTok uses it, and parity with the reference's tensors."""

import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flexframe.rng import Rng
from flexframe.testing.golden import assert_parity, shared
from flexframe.testing.tables import TableRng
from flexframe.tokenizer import Tokenizer
from flexframe_flextok import VAECodecConfig
from flexframe_flextok.codec import VAECodec
from flexframe_flextok.reference import translate
from flexframe_registry import ConfigError, Spec, TokenizerConfig, TokenSpec

GOLDEN = shared(Path(__file__)) / "golden" / "flextok_tiny_vae"
golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no golden tensors at {GOLDEN}")


def test_absent_diffusers_is_told_in_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match=r"^codec 'vae' needs diffusers: pip install 'flexframe-flextok\[vae\]'$"):
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


needs_diffusers = pytest.mark.usefixtures("diffusers")


@pytest.fixture
def diffusers():
    return pytest.importorskip("diffusers", reason="the extra `vae` is not installed")


@needs_diffusers
@torch.no_grad()
def test_shapes_at_any_size():
    for height, width in ((16, 16), (8, 24)):
        latents = codec().encode(pictures(2, height, width), rng=rng(0, 1))
        assert latents.shape == (2, 4, height // 2, width // 2)
        assert codec().decode(latents).shape == (2, 3, height, width)


@needs_diffusers
@torch.no_grad()
def test_images_lie_in_0_to_1_here_and_in_minus_1_to_1_inside():
    part, pixels = codec(), pictures()
    latents = part.encode(pixels, rng=rng(0, 1, 2))
    torch.testing.assert_close(latents, part.vae.encode(2 * pixels - 1).latent_dist.mean)
    torch.testing.assert_close(2 * part.decode(latents) - 1, part.vae.decode(latents).sample)


@needs_diffusers
@torch.no_grad()
def test_the_posteriors_mode_is_drawn_from_nothing():
    one = codec().encode(pictures(), rng=rng(0, 1, 2))
    assert torch.equal(one, codec().encode(pictures(), rng=rng(5, 6, 7, seed=9)))
    assert torch.equal(one, codec().posterior(pictures())[0])


@needs_diffusers
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


@needs_diffusers
@torch.no_grad()
def test_latents_are_scaled_after_encoding_and_unscaled_before_decoding():
    plain, scaled = codec(), codec(scaling_factor=0.25)
    latents = plain.encode(pictures(), rng=rng(0, 1, 2))
    torch.testing.assert_close(scaled.encode(pictures(), rng=rng(0, 1, 2)), latents * 0.25)
    torch.testing.assert_close(scaled.decode(latents * 0.25), plain.decode(latents))


@needs_diffusers
@torch.no_grad()
def test_fp32_inside_autocast():
    part = codec()
    latents = part.encode(pictures(), rng=rng(0, 1, 2))
    images = part.decode(latents)
    with torch.autocast("cpu", torch.bfloat16):
        inside = part.encode(pictures(), rng=rng(0, 1, 2))
        assert inside.dtype == torch.float32
        assert torch.equal(inside, latents)
        assert torch.equal(part.decode(latents), images)
        assert part.decode(latents.bfloat16()).dtype == torch.float32


@needs_diffusers
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


# --- parity ------------------------------------------------------------------------------------------------------


@cache
def case():
    return load_file(GOLDEN / "case_vae.safetensors")


@cache
def tokenizer(sample_posterior=False):
    """The tiny reference model, read from its own config."""
    width = {"width": 128, "depth": 1, "patch": 2}
    vae = {"type": "vae", "channels": 16, "widths": [16, 16, 32, 32], "layers": 1, "groups": 8, "scaling_factor": 0.6}
    config = TokenizerConfig.read(
        {
            "image_size": 64,
            "length": 16,
            "codec": {**vae, "sample_posterior": sample_posterior},
            "encoder": {"type": "registers", **width},
            "quantizer": "fsq",
            "masker": "pow2",
            "decoder": {"type": "flow", **width, "max_timestep": 1000.0, "null_dropout": 0.2},
        }
    )
    model = Tokenizer(config)
    model.load_state_dict(translate(load_file(GOLDEN / "model.safetensors")))
    return model.eval()


def images():
    """The reference's images lie in [-1, 1], ours in [0, 1]."""
    return (case()["images"] + 1) / 2


@golden
@needs_diffusers
@torch.no_grad()
def test_posterior():
    mean, logvar = tokenizer().codec.posterior(images())
    assert_parity("posterior_mean", mean, case()["posterior_mean"])
    assert_parity("posterior_logvar", logvar, case()["posterior_logvar"])


@golden
@needs_diffusers
@torch.no_grad()
@pytest.mark.parametrize("form", ["mode", "sampled"])
def test_encode(form):
    model = tokenizer(form == "sampled")
    draws = TableRng({"codec/posterior": case()["posterior_eps"]}, 2)
    latents = model.codec.encode(images(), rng=draws)
    assert_parity(f"latents_{form}_scaled", latents, case()[f"latents_{form}_scaled"])
    z = model.quantizer.project(model.encoder(latents, torch.ones(2, 16, dtype=torch.bool)))
    assert_parity(f"enc_z_{form}", z, case()[f"enc_z_{form}"])
    assert_parity(f"tokens_{form}", model.encode(images(), rng=draws).codes[..., 0], case()[f"tokens_{form}"])


@golden
@needs_diffusers
@torch.no_grad()
def test_decode():
    found = tokenizer().codec.decode(case()["latents_mode_scaled"])
    assert_parity("vae_decode_of_mode", found * 2 - 1, case()["vae_decode_of_mode"])


@golden
@needs_diffusers
@torch.no_grad()
def test_detokenize():
    model = tokenizer()
    tokens = model.tokens(case()["tokens_mode"], lengths=[4, 16])
    draws = TableRng({"decoder/sample": case()["detok_noise"]}, 2)
    settings = {"steps": 2, "guidance": 3.0, "apg": True}
    sampling = model.config.decoder.sampling.read(settings)
    latents = model.decoder.decode(tokens, condition=None, size=(8, 8), rng=draws, sampling=sampling)
    # the reference leaves images as they come; with random weights many pixels lie far outside
    assert_parity("detok_images", model.codec.decode(latents) * 2 - 1, case()["detok_images"])
    found = model.decode(tokens, rng=draws, sampling=settings)
    assert_parity("detok_images (clamped)", found * 2 - 1, case()["detok_images"].clamp(-1, 1))
