"""Resize protocols, against a resampling in float64 that is written here from the filters' definitions."""

from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from flexframe.commands.models import open_tokenizer
from flexframe.data.images import RESIZES, fit
from flexframe_registry import ConfigError
from flexframe_registry.cardfile import Preprocessing

SIZES = [(64, 64), (65, 64), (640, 427), (427, 640), (32, 200), (512, 384), (127, 129), (20, 24), (9, 7), (256, 256)]


def cubic(x):
    """Keys' cubic convolution of 1981 with a = -1/2."""
    x = np.abs(x)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def triangle(x):
    return np.maximum(1 - np.abs(x), 0)


def resample(pixels, new, kernel, axes):
    """`h w c` in float64 at another size (height, width): the kernel is widened where an axis shrinks. With `axes`, in
    this order and rounded as 8-bit images are in Pillow: weights to 22 bits, and values to 8 after each axis."""
    for axis in axes or (1, 0):
        ratio = pixels.shape[axis] / new[axis]
        centres = (np.arange(new[axis])[:, None] + 0.5) * ratio
        weights = kernel((np.arange(pixels.shape[axis]) + 0.5 - centres) * (1 / max(ratio, 1)))
        weights /= weights.sum(1, keepdims=True)
        if axes:
            weights = np.copysign(np.floor(np.abs(weights) * 2**22 + 0.5), weights) / 2**22
        pixels = np.moveaxis(np.tensordot(weights, pixels, (1, axis)), 0, axis)
        if axes:
            pixels = np.floor(pixels + 0.5).clip(0, 255)
    return pixels


def box(x):
    return ((x > -0.5) & (x <= 0.5)).astype(float)


def torchvision64(pixels, side, kernel, axes):
    height, width, _ = pixels.shape
    short = min(height, width)
    new = int(side * height / short), int(side * width / short)
    pixels = resample(pixels, new, kernel, axes)
    top, left = (round((n - side) / 2) for n in new)
    return pixels[top : top + side, left : left + side]


def adm64(pixels, side, _, axes):
    while min(pixels.shape[:2]) >= 2 * side:
        pixels = resample(pixels, (pixels.shape[0] // 2, pixels.shape[1] // 2), box, axes)
    scale = side / min(pixels.shape[:2])
    new = tuple(round(n * scale) for n in pixels.shape[:2])
    pixels = resample(pixels, new, cubic, axes)
    top, left = ((n - side) // 2 for n in new)
    return pixels[top : top + side, left : left + side]


REFERENCES = {
    "torchvision-bicubic": (torchvision64, cubic),
    "torchvision-bilinear": (torchvision64, triangle),
    "adm": (adm64, cubic),
}


def picture(width, height, noise):
    """A smooth image, or one of noise, whose values stay away from the ends of the range, where rounding would clip."""
    rng = np.random.default_rng(width * height)
    if noise:
        return rng.integers(70, 186, (height, width, 3), dtype=np.uint8)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 7 + y / 11), np.cos(x / 5 - y / 9), np.sin((x + y) / 13)]
    return np.rint(128 + 60 * np.stack(waves, 2)).astype(np.uint8)


@pytest.mark.parametrize("resize", REFERENCES)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("side", [16, 48])
@pytest.mark.parametrize("noise", [False, True], ids=["smooth", "noise"])
def test_pixels_are_those_of_the_float64_reference(size, side, resize, noise):
    reference, kernel = REFERENCES[resize]
    pixels = picture(*size, noise)
    found = np.asarray(fit(Image.fromarray(pixels), (side, side), resize)).astype(np.float64)
    orders = None, (1, 0), (0, 1)  # Pillow takes the axis first that makes the image the smaller
    exact, *rounded = (reference(pixels.astype(np.float64), side, kernel, axes) for axes in orders)
    assert found.shape == exact.shape == (side, side, 3)
    assert any(np.array_equal(found, each) for each in rounded)
    assert np.abs(found - exact).max() < 4  # half a level an axis and halving, spread by what follows
    assert np.abs(found - exact).mean() < (2.5 if resize == "adm" else 0.6)  # Pillow's boxes round each half up


def test_protocols_differ_where_they_should():
    image = Image.fromarray(picture(500, 375, noise=True))
    found = {name: np.asarray(fit(image, (48, 48), name)).astype(int) for name in RESIZES}
    for one, other in combinations(found.values(), 2):
        assert np.abs(one - other).mean() > 0.5


def test_adm_crops_an_odd_rest_below_and_right():
    pixels = np.arange(17 * 16 * 3, dtype=np.uint32).reshape(17, 16, 3).astype(np.uint8)
    assert np.array_equal(np.asarray(fit(Image.fromarray(pixels), (16, 16), "adm")), pixels[:16])
    assert np.array_equal(np.asarray(fit(Image.fromarray(pixels), (16, 16), "torchvision-bicubic")), pixels[:16])
    taller = np.arange(19 * 16 * 3, dtype=np.uint32).reshape(19, 16, 3).astype(np.uint8)
    assert np.array_equal(np.asarray(fit(Image.fromarray(taller), (16, 16), "adm")), taller[1:17])
    assert np.array_equal(np.asarray(fit(Image.fromarray(taller), (16, 16), "torchvision-bicubic")), taller[2:18])


@pytest.mark.parametrize("size", [(100, 40), (40, 100), (7, 5), (24, 16), (400, 300)])
@pytest.mark.parametrize("resize", RESIZES)
def test_an_oblong_is_covered(size, resize):
    found = fit(Image.new("RGB", size, (255, 255, 255)), (16, 24), resize)
    assert found.size == (24, 16)
    assert np.asarray(found).min() == 255  # no black border


@pytest.mark.parametrize("resize", RESIZES)
def test_an_image_of_the_right_size_is_left_as_it_is(resize):
    pixels = picture(16, 16, noise=True)
    assert np.array_equal(np.asarray(fit(Image.fromarray(pixels), (16, 16), resize)), pixels)


def test_cards_and_commands_know_the_protocols_by_the_same_names():
    for name in RESIZES:
        assert Preprocessing(resize=name).resize == name
    with pytest.raises(ConfigError, match=r"resize: Input should be .*'adm'"):
        Preprocessing.read({"resize": "lanczos"})
    with pytest.raises(ConfigError, match="there are: torchvision-bicubic, torchvision-bilinear, adm"):
        open_tokenizer("toy/digits-tiny", "cpu", "lanczos")
