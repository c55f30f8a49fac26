"""Transforms by torchvision's rules, with draws of each image's own."""

import pytest
import torch
from torchvision.transforms.v2 import functional as F

from flexframe.rng import Rng
from flexframe_registry import ConfigError, catalogue


def transform(kind, **fields):
    return catalogue().build(catalogue().get("transform", kind).config.read(fields))


@pytest.fixture
def images():
    return torch.randint(0, 256, (64, 3, 24, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def rng(count=64):
    return Rng(0, torch.arange(count), 3)


def test_a_part_is_brought_to_the_whole_and_stays_within_what_is_asked_for(images):
    crop = transform("random-resized-crop", scale=[0.2, 0.5], ratio=[0.8, 1.25])
    draws = rng().uniform("data/random-resized-crop", (10, 4)).tolist()
    parts = [crop.part(24, 32, each) for each in draws]
    for top, left, height, width in parts:
        assert 0 <= top <= 24 - height
        assert 0 <= left <= 32 - width
        assert 0.2 * 24 * 32 - 24 <= height * width <= 0.5 * 24 * 32 + 24
        assert 0.7 < width / height < 1.4
    assert len(set(parts)) > 50
    changed = crop(images, rng=rng())
    top, left, height, width = parts[5]
    assert torch.equal(changed[5], F.resized_crop(images[5], top, left, height, width, [24, 32], antialias=True))
    assert changed.shape == images.shape


def test_a_shape_that_never_fits_is_the_largest_in_the_middle():
    wide = transform("random-resized-crop", scale=[1.0, 1.0], ratio=[4.0, 4.0])
    assert wide.part(24, 32, [[0.5] * 4] * 10) == (8, 0, 8, 32)
    tall = transform("random-resized-crop", scale=[1.0, 1.0], ratio=[0.25, 0.25])
    assert tall.part(24, 32, [[0.5] * 4] * 10) == (0, 13, 24, 6)


def test_colours_change_by_factors_in_their_ranges(images):
    jitter = transform("colour-jitter", brightness=0.5)
    amounts = rng().uniform("data/colour-jitter", (4,))[:, 0]
    expected = torch.stack([F.adjust_brightness(i, 0.5 + a) for i, a in zip(images, amounts.tolist(), strict=True)])
    assert torch.equal(jitter(images, rng=rng()), expected)
    assert torch.equal(transform("colour-jitter")(images, rng=rng()), images)
    all_four = transform("colour-jitter", brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
    floats = all_four(images / 255, rng=rng())
    assert 0 <= float(floats.min()) <= float(floats.max()) <= 1


def test_some_images_are_mirrored_or_lose_their_colours(images):
    for kind, change in (("vertical-flip", lambda x: x.flip(1)), ("grayscale", lambda x: F.rgb_to_grayscale(x, 3))):
        changed = transform(kind, probability=0.5)(images, rng=rng())
        moved = [not torch.equal(a, b) for a, b in zip(changed, images, strict=True)]
        assert 20 < sum(moved) < 44
        for a, b, other in zip(changed, images, moved, strict=True):
            assert torch.equal(a, change(b) if other else b)


@pytest.mark.parametrize("fields", [{"scale": [0.5, 0.1]}, {"ratio": [0, 1]}])
def test_a_range_that_is_none_is_told(fields):
    with pytest.raises(ConfigError, match="a range of numbers above 0, the smaller one first"):
        transform("random-resized-crop", **fields)
