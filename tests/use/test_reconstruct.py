"""Images beside their reconstructions."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from flexframe.pictures import Strip, grid, psnr_of
from flexframe.rng import Rng
from flexframe.use import reconstruct as module
from flexframe.use.encode import load
from flexframe.use.inputs import entries
from flexframe.use.reconstruct import numbers, reconstruct, spread, usual_lengths
from flexframe_registry import ConfigError

from .conftest import IDS


@pytest.mark.parametrize("batch_size", [1, 3])
def test_reconstructions_are_those_of_a_prefix_of_each_images_tokens(tiny, photos, batch_size):
    settings = {"steps": 2, "guidance": 1.5}
    strips, total = reconstruct(tiny, [photos], count=3, seed=2, sampling=settings, batch_size=batch_size)
    assert ([strip.id for strip in strips], total) == (IDS[:3], 7)
    for i, (strip, entry) in enumerate(zip(strips, sorted(entries([photos]), key=lambda e: e.id), strict=False)):
        image = load(entry, (16, 16), "torchvision-bicubic")
        assert torch.equal(strip.original, image)
        rng = Rng(2, torch.tensor([i]))
        tokens = tiny.encode(image[None].float() / 255, rng=rng)
        assert list(strip.reconstructions) == [1, 2, 4, 8]
        for length, found in strip.reconstructions.items():
            expected = tiny.decode(tokens.truncate(length), rng=rng, sampling=settings)[0]
            assert (found.float() - expected * 255).abs().max() <= 0.51
            error = (found.double() - image.double()).square().mean()
            assert strip.psnr[length] == pytest.approx(10 * math.log10(255**2 / error))


def test_lengths_and_progress(tiny, photos):
    told = []
    strips, _ = reconstruct(
        tiny, [photos], count=3, lengths=(4, 1, 4), batch_size=2, progress=lambda done, of: told.append((done, of))
    )
    assert [list(strip.reconstructions) for strip in strips] == [[4, 1]] * 3
    assert told == [(n, 6) for n in (0, 1, 2, 2, 3, 4, 4, 4.5, 5, 5, 5.5, 6, 6)]  # two steps each, rows of 2 and of 1


def test_fewer_images_than_asked_for(tiny, photos):
    strips, total = reconstruct(tiny, [photos / "b"], lengths=(1,))
    assert (len(strips), total) == (2, 2)
    with pytest.raises(ConfigError, match="there is no such file"):
        reconstruct(tiny, [photos / "nowhere"])


def test_lengths_are_spread_with_first_and_last_among_them():
    assert spread((1, 2, 4, 8), 8) == (1, 2, 4, 8)
    assert spread((32,), 3) == (32,)
    powers = tuple(1 << i for i in range(9))
    assert spread(powers, 8) == (1, 2, 4, 8, 32, 64, 128, 256)
    assert spread(powers, 3) == (1, 16, 256)
    assert spread(range(1, 257), 4) == (1, 6, 40, 256)
    assert spread(range(1, 6), 4) == (1, 2, 3, 5)


def test_a_large_model_on_a_cpu_shows_fewer(tiny, monkeypatch):
    assert usual_lengths(tiny) == (1, 2, 4, 8)
    monkeypatch.setattr(module, "LARGE", 5_000)
    assert usual_lengths(tiny) == (1, 2, 8)


def test_psnr_of_known_images():
    one = torch.zeros(3, 4, 4, dtype=torch.uint8)
    assert psnr_of(one, one) == 100.0
    assert psnr_of(one, one + 255) == 0.0
    assert psnr_of(one, one + 51) == pytest.approx(20 * math.log10(5))


def strips(size=(4, 6), lengths=(1, 2), count=2, name="a.png"):
    def flat(value):
        return torch.full((3, *size), value, dtype=torch.uint8)

    return [
        Strip(name, flat(10 + i), {k: flat(100 + 10 * i + k) for k in lengths}, {k: 12.345 + k for k in lengths})
        for i in range(count)
    ]


def test_the_grid_has_a_row_an_image_and_a_column_a_length():
    sheet = grid(strips())
    pixels = np.asarray(sheet)
    scale = 22  # 6 pixels become at least 128
    width, height = 6 * scale, 4 * scale
    assert sheet.size == (12 + 3 * (width + 12), 12 + 2 * (height + 48))
    for row in range(2):
        top = 12 + row * (height + 48)
        for column, value in enumerate((10 + row, 101 + 10 * row, 102 + 10 * row)):
            left = 12 + column * (width + 12)
            assert (pixels[top : top + height, left : left + width] == value).all()
            below = pixels[top + height : top + height + 36, left : left + width]
            assert (below[:18] < 128).any()  # a caption of two lines
            assert (below[18:] < 160).any()
            assert (pixels[top + height + 36 : top + height + 48] == 255).all()


def test_pictures_of_the_size_of_a_tile_are_not_enlarged_and_long_names_are_cut():
    sheet = grid(strips((256, 256), (4,), 1, "a/very/long/name/" * 8 + "end.png"))
    assert sheet.size == (12 + 2 * 268, 12 + 256 + 48)
    assert (np.asarray(sheet)[:, 268:280] == 255).all()  # no name reaches over the margin


def test_numbers_are_plain():
    assert numbers(strips(count=1)) == [{"id": "a.png", "psnr": {"1": 13.345, "2": 14.345}}]
    assert isinstance(grid(strips()), Image.Image)
