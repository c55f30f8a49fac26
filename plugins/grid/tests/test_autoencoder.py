"""The codec `autoencoder`: a trained tokenizer's networks give what the tokenizer gives, as latents and as pictures."""

import pytest
import torch

from flexframe.models.modelfile import save
from flexframe.models.tokenizer import Tokenizer
from flexframe.rng import Rng
from flexframe.train.init import initialise, read_starts
from flexframe_registry import ConfigError, TokenizerConfig
from flexframe_registry.runs import InitConfig

SHAPE = {"hidden": 32, "multipliers": [1, 2], "blocks": 1, "stem": 2}
RENAME = {"encoder.net": "codec.encoder", "quantizer.project": "codec.project", "decoder.net": "codec.decoder"}


def trained(tmp_path, **quantizer):
    """A tokenizer of 16-pixel images in 4 x 4 tokens of 3 values, and its file."""
    torch.manual_seed(0)
    config = {"type": "kl", "dim": 3, **quantizer}
    model = Tokenizer(
        TokenizerConfig.read(
            {
                "image_size": 16,
                "length": 16,
                "encoder": {"type": "vqgan", **SHAPE},
                "quantizer": config,
                "decoder": {"type": "vqgan", **SHAPE},
            }
        )
    ).eval()
    save(model.state_dict(), model.config, tmp_path / "grid.safetensors")
    return model


def on_latents(tmp_path, parts=("codec",), rename=RENAME, **codec):
    """A model whose codec has that file's weights."""
    config = {"size": "tiny", "image_size": 16, "length": 4, "encoder": {"type": "registers", "patch": 1}}
    config |= {"quantizer": "fsq", "masker": "pow2", "decoder": {"type": "flow", "patch": 1}}
    codec = {"type": "autoencoder", **SHAPE, "channels": 3, **codec}
    model = Tokenizer(TokenizerConfig.read({**config, "codec": codec})).eval()
    start = {"from": str(tmp_path / "grid.safetensors"), "parts": parts, "rename": rename}
    taken = initialise(model, read_starts([InitConfig.read(start)]))
    return model, taken


def pictures(batch=2):
    return torch.rand(batch, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("quantizer", [{}, {"fixed_logvar": 0.0}], ids=["learned-variance", "fixed-variance"])
def test_latents_and_pictures_are_the_tokenizers(tmp_path, quantizer):
    grid = trained(tmp_path, **quantizer)
    model, taken = on_latents(tmp_path, scaling_factor=0.25)
    images = pictures()
    tokens = grid.encode(images)
    with torch.no_grad():
        latents = model.codec.encode(images, rng=Rng(0, torch.arange(2)))
        torch.testing.assert_close(latents, 0.25 * tokens.values.mT.unflatten(2, (4, 4)))
        torch.testing.assert_close(model.codec.decode(latents).clamp(0, 1), grid.decode(tokens))
    assert [(t["part"], t["tensors"]) for t in taken] == [("codec", len(model.codec.state_dict()))]


def test_arithmetic_is_the_codecs_own_inside_autocast(tmp_path):
    trained(tmp_path)
    codec = on_latents(tmp_path)[0].codec
    images, rng = pictures(), Rng(0, torch.arange(2))
    latents = codec.encode(images, rng=rng)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(codec.encode(images, rng=rng), latents)
        assert codec.decode(latents.bfloat16()).dtype == torch.float32
    codec.precision = "bf16"
    rounded = codec.encode(images, rng=rng)
    assert rounded.dtype == torch.float32
    assert 1e-4 < (rounded - latents).std() / latents.std() < 0.03


def test_another_shape_is_told_by_name(tmp_path):
    trained(tmp_path)
    with pytest.raises(ConfigError, match=r": is not in .*problems more") as told:
        on_latents(tmp_path, blocks=2)
    assert "codec.encoder.mid.1.conv1.weight" in dict(told.value.problems)
    with pytest.raises(ConfigError, match=r"codec\.project\.bias: is \(6,\) .* \(4,\) here"):
        on_latents(tmp_path, channels=4)


def test_images_must_divide(tmp_path):
    trained(tmp_path)
    codec = on_latents(tmp_path)[0].config.codec
    assert codec.latents(24, 16).height == 6
    with pytest.raises(ValueError, match="images of 18 x 16 must divide by 4"):
        codec.latents(18, 16)


def test_a_stem_makes_cells_as_large_as_it_says():
    shape = {"hidden": 32, "multipliers": (1, 1), "blocks": 1}
    for stem, side in ((1, 2), (2, 4), (4, 8)):
        cells = 16 // side
        raw = {"image_size": 16, "length": cells**2, "encoder": {"type": "vqgan", **shape, "stem": stem}}
        raw |= {"quantizer": "kl", "decoder": {"type": "vqgan", **shape, "stem": stem}}
        model = Tokenizer(TokenizerConfig.read(raw))
        assert model.encoder.net.conv_in.in_channels == 3 * stem**2
        assert model.encode(pictures()).values.shape == (2, cells**2, 16)
        assert model.decode(model.encode(pictures())).shape == (2, 3, 16, 16)
        with pytest.raises(ConfigError, match=f"set length to {cells**2}, not {cells**2 + 1}"):
            TokenizerConfig.read({**raw, "length": cells**2 + 1})
