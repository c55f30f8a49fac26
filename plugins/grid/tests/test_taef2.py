"""The codec TAEF2: its structure, its border, and the quality that its published weights reach."""

import tarfile
from functools import cache
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torchvision.transforms.v2.functional import pil_to_tensor

from flexframe.models.tokenizer import Tokenizer
from flexframe.rng import Rng
from flexframe.testing.golden import shared
from flexframe_grid import TAEF2CodecConfig
from flexframe_grid.reference import convert_taef2
from flexframe_grid.taef2 import Block, TAEF2Codec
from flexframe_registry import Spec, TokenizerConfig, TokenSpec

pytestmark = pytest.mark.slow

DATA = shared(Path(__file__)) / "data"
FILES = ("taef2-encoder.safetensors", "taef2-decoder.safetensors", "kodak24.tar")
published = pytest.mark.skipif(
    not all((DATA / name).is_file() for name in FILES),
    reason=f"not all of {', '.join(FILES)} at {DATA}; set FLEXFRAME_SHARED",
)


def codec(config, height=16, width=24):
    torch.manual_seed(0)
    return TAEF2Codec(config, Spec(config.latents(height, width), 8, TokenSpec(4, 6, 1, 64))).eval()


def tiny(**fields):
    return codec(TAEF2CodecConfig.sized("tiny", **fields))


def pictures(batch=3, height=16, width=24):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def rng(batch=3, seed=0):
    return Rng(seed, torch.arange(batch))


def count(module):
    return sum(p.numel() for p in module.parameters())


# --- structure ---------------------------------------------------------------------------------------------------


def names(part):
    """Tensors by their position in the sequence."""
    found = {}
    for name in part.state_dict():
        place, _, tail = name.partition(".")
        found.setdefault(int(place), set()).add(tail)
    return found


def test_published_names():
    whole = {"weight", "bias"}
    block = {f"conv.{i}.{kind}" for i in (0, 2, 4) for kind in whole}
    pooled = block | {"pool.0.weight", "pool.1.weight", "pool.1.bias", "pool.3.weight"}
    at = {
        "encoder": {(0, 14): whole, (2, 6, 10): {"weight"}, (1, 3, 4, 5, 7, 8, 9): block, (11, 12, 13): pooled},
        "decoder": {(1, 19): whole, (7, 12, 17): {"weight"}, (8, 9, 10, 13, 14, 15, 18): block, (3, 4, 5): pooled},
    }
    part = codec(TAEF2CodecConfig())
    for side, expected in at.items():
        assert names(getattr(part, side)) == {place: found for places, found in expected.items() for place in places}


def test_published_sizes():
    block, pool, resample = 3 * (9 * 64 * 64 + 64), 2 * 64 * 256 + 2 * 256, 9 * 64 * 64
    trunk = 10 * block + 3 * pool + 3 * resample
    part = codec(TAEF2CodecConfig())
    assert count(part.encoder) == trunk + (9 * 3 * 64 + 64) + (9 * 64 * 32 + 32) == 1_338_528
    assert count(part.decoder) == trunk + (9 * 32 * 64 + 64) + (9 * 64 * 3 + 3) == 1_338_499


@torch.no_grad()
def test_a_pool_adds_to_what_the_skip_carries():
    block, x = Block(8, pool=True), torch.randn(2, 8, 4, 4)
    torch.nn.init.zeros_(block.conv[4].weight)
    torch.nn.init.zeros_(block.conv[4].bias)
    torch.testing.assert_close(block(x), torch.relu(x + block.pool(x)))


@torch.no_grad()
def test_latents_saturate_in_the_decoder():
    part = tiny()
    far = torch.full((1, 4, 2, 3), 60.0)
    assert torch.equal(part.decode(far), part.decode(1000 * far))
    assert not torch.allclose(part.decode(far), part.decode(-far), atol=1e-3)
    torch.testing.assert_close(part.decoder[0](torch.tensor([-1.5, 0.0, 3.0])), torch.tensor([-1.38635, 0.0, 2.28478]))


# --- border ------------------------------------------------------------------------------------------------------


def test_latents_follow_from_the_config():
    found = TAEF2CodecConfig().latents(256, 128)
    assert (found.channels, found.height, found.width, found.range) == (32, 32, 16, None)
    with pytest.raises(ValueError, match="images of 20 x 16 must divide by 8, the codec's downsampling"):
        TAEF2CodecConfig().latents(20, 16)


@torch.no_grad()
def test_shapes_at_any_size():
    for height, width in ((16, 24), (8, 8), (32, 8)):
        latents = tiny().encode(pictures(2, height, width), rng=rng(2))
        assert latents.shape == (2, 4, height // 8, width // 8)
        assert tiny().decode(latents).shape == (2, 3, height, width)


@torch.no_grad()
def test_nothing_is_drawn_and_rows_are_independent():
    part = tiny()
    latents = part.encode(pictures(), rng=rng())
    assert torch.equal(latents, part.encode(pictures(), rng=rng(seed=1)))
    torch.testing.assert_close(part.encode(pictures()[1:2], rng=rng(1)), latents[1:2])
    torch.testing.assert_close(part.decode(latents[1:2]), part.decode(latents)[1:2])


@torch.no_grad()
def test_latents_are_scaled_after_encoding_and_unscaled_before_decoding():
    plain, scaled = tiny(), tiny(scaling_factor=0.25)
    latents = plain.encode(pictures(), rng=rng())
    torch.testing.assert_close(scaled.encode(pictures(), rng=rng()), latents * 0.25)
    torch.testing.assert_close(scaled.decode(latents * 0.25), plain.decode(latents))


@torch.no_grad()
def test_arithmetic_is_the_codecs_own_inside_autocast():
    part = tiny()
    latents = part.encode(pictures(), rng=rng())
    images = part.decode(latents)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(part.encode(pictures(), rng=rng()), latents)
        assert torch.equal(part.decode(latents), images)
        assert part.decode(latents.bfloat16()).dtype == torch.float32
    part.precision = "bf16"
    rounded = part.encode(pictures(), rng=rng())
    assert rounded.dtype == torch.float32
    assert 1e-4 < (rounded - latents).std() / latents.std() < 0.03
    assert torch.equal(part.decode(latents), images)


def test_a_tokenizer_s_codec_is_frozen():
    codec = {"type": "taef2", "channels": 4, "width": 8, "blocks": 1}
    part = {"type": "vqgan", "hidden": 32, "multipliers": (1, 1), "blocks": 1}  # a grid of 1 x 2 on latents of 2 x 4
    raw = {"image_size": [16, 32], "length": 2, "codec": codec, "encoder": part, "quantizer": "vq", "decoder": part}
    model = Tokenizer(TokenizerConfig.read(raw))
    assert not model.train().codec.training
    assert not any(p.requires_grad for p in model.codec.parameters())
    assert model.decode(model.encode(pictures(height=16, width=32))).shape == (3, 3, 16, 32)


# --- published weights -------------------------------------------------------------------------------------------


def test_names_of_the_reference():
    half = torch.ones(2, dtype=torch.float16)
    found = convert_taef2({"1.conv.0.bias": half}, {"3.pool.1.weight": half})
    assert found.keys() == {"codec.encoder.1.conv.0.bias", "codec.decoder.3.pool.1.weight"}
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}


@cache
def trained():
    state = convert_taef2(*(load_file(DATA / name) for name in FILES[:2]))
    part = codec(TAEF2CodecConfig(), 256, 256)
    part.load_state_dict({name.removeprefix("codec."): tensor for name, tensor in state.items()})
    return part


def kodak(every):
    """Every so manieth photograph, cropped to its middle square and brought to 256 pixels by Lanczos."""
    with tarfile.open(DATA / "kodak24.tar") as tar:
        for member in sorted((m for m in tar if m.name.endswith(".png")), key=lambda m: m.name)[::every]:
            image = Image.open(BytesIO(tar.extractfile(member).read())).convert("RGB")
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            square = image.crop((left, top, left + side, top + side))
            yield pil_to_tensor(square.resize((256, 256), Image.Resampling.LANCZOS))[None] / 255


KODAK = (
    26.629, 30.422, 32.424, 30.568, 24.129, 27.863, 29.923, 24.253, 30.778, 31.086, 27.885, 31.911,
    23.429, 25.742, 29.619, 31.377, 29.879, 26.291, 27.922, 30.363, 27.552, 29.176, 29.850, 26.921,
)  # fmt: skip
"""PSNR in dB of all 24 photographs, as it was measured once: the card's number is their mean."""
EVERY = 6


@published
@pytest.mark.slow
@torch.no_grad()
def test_published_quality_and_the_scale_of_the_latents():
    """Of every sixth photograph, each by itself."""
    assert sum(KODAK) / len(KODAK) == pytest.approx(28.58, abs=0.005)
    psnr, each = [], []
    for image in kodak(EVERY):
        each.append(trained().encode(image, rng=rng(1)))
        found = trained().decode(each[-1]).clamp(0, 1)
        psnr.append(float(-10 * (found - image).square().mean().log10()))
    assert psnr == pytest.approx(KODAK[::EVERY], abs=0.02)
    latents = torch.cat(each)
    assert float(latents.mean()) == pytest.approx(0.0617, abs=0.005)
    assert float(latents.std()) == pytest.approx(0.856, abs=0.005)
    means, deviations = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    assert [float(means.min()), float(means.max())] == pytest.approx([-0.146, 0.386], abs=0.01)
    assert [float(deviations.min()), float(deviations.max())] == pytest.approx([0.582, 1.095], abs=0.01)
