"""The VAE of a checkpoint, and VAEs by themselves: sizes from tensors, settings from where they are, the rest asked."""

import json
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from flexframe import load
from flexframe.importing import importer_of, open_foreign
from flexframe.importing.verify import verify_folder
from flexframe_flextok.blocks import stored_table
from flexframe_registry import ConfigError


@pytest.fixture
def autoencoder():
    import diffusers  # seconds to import

    def make(widths=(8, 16), layers=1, groups=4, channels=6, **fields):
        torch.manual_seed(0)
        levels = len(widths)
        return diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=widths,
            layers_per_block=layers,
            latent_channels=channels,
            norm_num_groups=groups,
            **fields,
        ).eval()

    return make


def with_vae(maker, vae, settings=(), prefix="vae.vae.", beside=None):
    config, state = maker.config_of(maker.Shape()), maker.state_of(maker.Shape(), stored_table)
    config["vae"] |= dict(settings)
    state |= {f"{prefix}{name}": value for name, value in vae.state_dict().items()}
    folder = maker.folder(config, state)
    if beside is not None:
        (folder / "vae_config.json").write_text(json.dumps(beside))
    return folder


def write_vae_case(folder, vae, scale):
    """`case_vae`, of diffusers' own numbers."""
    images = torch.rand(2, 3, 12, 20, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        posterior = vae.encode(images).latent_dist
        eps = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(1))
        mode = posterior.mode() * scale
        case = {
            "images": images, "posterior_mean": posterior.mean, "posterior_logvar": posterior.logvar,
            "posterior_eps": eps, "kl": posterior.kl(), "latents_mode_scaled": mode,
            "latents_sampled_scaled": (posterior.mean + posterior.std * eps) * scale,
            "vae_decode_of_mode": vae.decode(mode / scale).sample,
        }  # fmt: skip
    save_file({name: value.contiguous() for name, value in case.items()}, folder / "case_vae.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["vae.vae.", "vae."])
def test_the_vaes_sizes_are_its_tensors(maker, autoencoder, prefix):
    vae = autoencoder(widths=(8, 16, 8), layers=2)
    folder = with_vae(maker, vae, {"norm_num_groups": 4, "sample_posterior": True}, prefix)
    write_vae_case(folder, vae, 0.5)
    found = verify_folder(folder)
    assert len(found) == 6
    assert all(c.passed for c in found)
    codec = load(folder).config.codec
    assert (codec.widths, codec.layers, codec.channels, codec.groups) == ((8, 16, 8), 2, 6, 4)
    assert (codec.scaling_factor, codec.sample_posterior) == (0.5, True)
    assert load(folder).config.image_size == (40, 56)


def test_groups_are_beside_the_checkpoint_or_asked_for(maker, autoencoder):
    vae = autoencoder()
    folder = with_vae(maker, vae)
    words = r"vae.norm_num_groups: is 32, which does not divide the widths \[8, 16\]; if you know it, say --assume vae."
    with pytest.raises(ConfigError, match=words):
        load(folder)
    assert load(folder, assume={"vae.norm_num_groups": 4}).config.codec.groups == 4
    beside = {key: value for key, value in vae.config.items() if key != "_use_default_values"}
    assert load(with_vae(maker, vae, beside=beside)).config.codec.groups == 4
    with pytest.raises(ConfigError, match=r"vae_config.json.layers_per_block: is 3, but by its tensors the VAE has 1"):
        load(with_vae(maker, vae, beside=beside | {"layers_per_block": 3}))


def test_a_vae_without_convolutions_around_the_latents(maker, autoencoder):
    vae = autoencoder(use_quant_conv=False, use_post_quant_conv=False)
    assert not load(with_vae(maker, vae, {"norm_num_groups": 4})).config.codec.quant_conv
    given = {"norm_num_groups": 4, "use_quant_conv": True, "use_post_quant_conv": True}
    with pytest.raises(ConfigError, match=r"vae.use_quant_conv: is True, but by its tensors the VAE has False"):
        load(with_vae(maker, vae, given))


def test_a_vae_that_is_not_the_configs_is_refused(maker, autoencoder):
    with pytest.raises(ConfigError, match=r"vae.latent_channels: is 6, but by its tensors the VAE has 4"):
        load(with_vae(maker, autoencoder(channels=4), {"norm_num_groups": 4}))
    path = with_vae(maker, autoencoder(), {"norm_num_groups": 4, "scaling_factor": None})
    with pytest.raises(ConfigError, match=r"vae.scaling_factor: is not given; if you know it, say --assume vae.sc"):
        load(path)
    assert load(path, assume={"vae.scaling_factor": 2}).config.codec.scaling_factor == 2


def test_a_sampled_posterior_is_told(maker, autoencoder):
    config = {"norm_num_groups": 4, "sample_posterior": True}
    source = open_foreign(with_vae(maker, autoencoder(), config))
    notes = importer_of(source).convert(source).notes
    assert any("tokenizing is a seeded draw; codec.sample_posterior=false takes its mode" in note for note in notes)


def alone(folder, vae, config, prefix=""):
    folder.mkdir()
    state = {f"{prefix}{name}": value.contiguous() for name, value in vae.state_dict().items()}
    save_file(state, folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_vae_by_itself_as_diffusers_saves_it(autoencoder, tmp_path):
    vae = autoencoder(scaling_factor=0.7)
    vae.save_pretrained(tmp_path)
    model = load(tmp_path, kind="codec")
    codec = model.config.codec
    assert (codec.widths, codec.groups, codec.scaling_factor, codec.sample_posterior) == ((8, 16), 4, 0.7, False)
    write_vae_case(tmp_path, vae, 0.7)
    found = verify_folder(tmp_path)
    assert len(found) == 6
    assert all(c.passed for c in found)
    with pytest.raises(ConfigError, match="holds a codec, not a tokenizer"):
        load(tmp_path)


@pytest.mark.parametrize("prefix", ["vae.vae.", "vae."])
def test_a_vae_by_itself_in_the_wrappers_words(maker, autoencoder, tmp_path, prefix):
    config = maker.config_of(maker.Shape())["vae"] | {"norm_num_groups": 4}
    model = load(alone(tmp_path / "a", autoencoder(), config, prefix), kind="codec")
    assert (model.config.codec.channels, model.config.codec.scaling_factor) == (6, 0.5)
    del config["_target_"], config["sample_posterior"]
    assert load(alone(tmp_path / "b", autoencoder(), config, prefix), kind="codec").config.codec.sample_posterior


def test_a_vae_by_itself_is_read_as_carefully(autoencoder, tmp_path):
    vae = autoencoder()
    config = json.loads(vae.to_json_string())
    for i, (change, words) in enumerate(
        {
            "scaling": ({"scaling_factor": None}, "scaling_factor: is not given"),
            "unknown": ({"tiled": True}, "tiled: True is unknown here"),
            "class": ({"_class_name": "AutoencoderTiny"}, "_class_name: is 'AutoencoderTiny', which is not supported"),
            "blocks": ({"down_block_types": ["AttnDownEncoderBlock2D"] * 2}, "names 'AttnDownEncoderBlock2D'"),
            "hostile": (
                {"act_fn": {"_target_": "os.system"}},
                "act_fn._target_: 'os.system' is no module of FlexTok's",
            ),
        }.values()
    ):
        with pytest.raises(ConfigError, match=words):
            load(alone(tmp_path / str(i), vae, config | change), kind="codec")
    state = load_file(tmp_path / "0" / "diffusion_pytorch_model.safetensors")
    state["discriminator.weight"] = torch.zeros(1)
    del state["encoder.conv_out.bias"]
    save_file(state, tmp_path / "0" / "diffusion_pytorch_model.safetensors")
    (tmp_path / "0" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"left over .*discriminator.weight.*missing codec.vae.encoder.conv_out.bias"):
        load(tmp_path / "0", kind="codec")


def test_absent_diffusers_is_told(maker, autoencoder, monkeypatch):
    folder = with_vae(maker, autoencoder(), {"norm_num_groups": 4})
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match=r"codec 'vae' needs diffusers: pip install diffusers"):
        load(folder)
