"""Procedural scenes: the same at every call, size and batch, as their ground truth says, and pinned to the byte."""

import hashlib
import itertools
import re

import numpy as np
import pytest
import torch

from flexframe.data.loader import batches
from flexframe_registry import ConfigError, RunConfig, catalogue
from flexframe_standard.sources.scenes import VERSION, Scenes, render
from flexframe_standard.sources.scenes.backgrounds import BACKGROUNDS as DRAWN
from flexframe_standard.sources.scenes.colours import HUES, PALETTES
from flexframe_standard.sources.scenes.layout import LIGHTS, draw
from flexframe_standard.sources.scenes.objects import MARGIN
from flexframe_standard.sources.scenes.patterns import TEXTURES as PATTERNS
from flexframe_standard.sources.scenes.patterns import bands, checks, dots
from flexframe_standard.sources.scenes.shapes import SHAPES
from flexframe_standard.sources.scenes_config import BACKGROUNDS, MOST, TEXTURES, WORDS, ScenesConfig

LEVELS = range(5)


def source(size=(64, 64), **fields):
    return catalogue().build(ScenesConfig(**fields), size)


def sha(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


# --- pixels ------------------------------------------------------------------------------------------------------

PINNED = {
    0: "41bf94a1ca1e2b71",
    1: "38fcb191c971f203",
    2: "af8238f80488b108",
    3: "adf3cc500e34343a",
    4: "53a773bcc667772b",
}


@pytest.mark.parametrize("level", LEVELS)
def test_renders_are_what_they_were(level):
    """If this fails, pixels have changed: raise `render.VERSION`, train the classifier anew, and say so."""
    found = render(ScenesConfig(complexity=level), [*range(12), 2**31, 2**31 + 1], (64, 64))
    assert (VERSION, sha(found)) == (1, PINNED[level])


@pytest.mark.parametrize("size", [(64, 64), (8, 8), (16, 24), (40, 33)], ids=str)
@pytest.mark.parametrize("level", LEVELS)
def test_a_picture_depends_neither_on_its_batch_nor_on_its_place_in_it(level, size):
    config, numbers = ScenesConfig(complexity=level), list(range(24))
    whole = render(config, numbers, size)
    assert np.array_equal(np.concatenate([render(config, [n], size) for n in numbers]), whole)
    assert np.array_equal(render(config, numbers[::-1], size)[::-1], whole)
    assert np.array_equal(render(config, [5, 5, 3], size), whole[[5, 5, 3]])


def test_a_large_picture_is_drawn_in_portions_and_comes_out_the_same():
    config = ScenesConfig(complexity=3)
    assert np.array_equal(render(config, [7, 8, 9, 10, 11], (256, 256))[4], render(config, [11], (256, 256))[0])


@pytest.mark.parametrize(("level", "decibels"), [(0, 44), (1, 42), (2, 40), (3, 38), (4, 36)])
def test_a_scene_shrunk_is_the_scene_drawn_small(level, decibels):
    config, numbers = ScenesConfig(complexity=level), list(range(32))
    small = render(config, numbers, (64, 64)).astype(np.float64)
    large = render(config, numbers, (256, 256)).astype(np.float64)
    shrunk = large.reshape(32, 3, 64, 4, 64, 4).mean((3, 5))
    psnr = 10 * np.log10(255**2 / ((small - shrunk) ** 2).mean((1, 2, 3)))
    assert psnr.min() > decibels
    assert np.abs(small - shrunk).mean() < 1.2


def test_an_oblong_picture_has_the_square_one_in_its_middle():
    config, numbers = ScenesConfig(backgrounds=("plain", "stripes", "bokeh")), list(range(6))
    square, wide = render(config, numbers, (32, 32)), render(config, numbers, (32, 48))
    assert np.array_equal(wide[:, :, :, 8:40], square)
    assert render(config, numbers, (48, 32)).shape == (6, 3, 48, 32)


def test_seeds_numbers_and_settings_make_other_pictures():
    given = [{}, {"seed": 1}, {"complexity": 3}, {"lighting": "shaded"}, {"textures": ("smooth",)}, {"objects": (2, 2)}]
    pictures = [render(ScenesConfig(**fields), [4], (32, 32))[0] for fields in given]
    pictures.append(render(ScenesConfig(), [5], (32, 32))[0])
    for one, other in itertools.combinations(pictures, 2):
        assert not np.array_equal(one, other)


def test_the_order_of_words_does_not_matter():
    forth = ScenesConfig(backgrounds=("plain", "hills"), textures=("smooth", "dots"))
    back = ScenesConfig(backgrounds=("hills", "plain"), textures=("dots", "smooth"))
    assert np.array_equal(render(forth, range(6), (32, 32)), render(back, range(6), (32, 32)))


def test_edges_are_soft_and_colours_not_burnt():
    """Anti-aliased: a flat disc before a flat wall has between its two colours some of all shades."""
    config = ScenesConfig(complexity=0, count=200)
    row = next(i for i, s in enumerate(Scenes(config, (64, 64)).samples(range(60))) if s.attributes["shape"] == 0)
    found = Scenes(config, (64, 64)).objects(row)[0]
    picture = render(config, [row], (64, 64))[0].astype(float)
    middle = picture[:, int(found.y * 64), int(found.x * 64)]
    x, y = np.meshgrid((np.arange(64) + 0.5) / 64, (np.arange(64) + 0.5) / 64)
    away = np.hypot(x - found.x, y - found.y) - 0.95 * found.radius
    assert np.abs(picture - middle[:, None, None])[:, away < -0.5 / 64].max() < 1
    edge = picture[:, np.abs(away) < 0.4 / 64]
    assert len(np.unique(edge.round(), axis=1).T) > 20


# --- shapes and patterns -----------------------------------------------------------------------------------------


def plane(side, reach):
    line = np.linspace(-reach, reach, side, dtype=np.float32)
    return np.broadcast_arrays(line[None, None, :], line[None, :, None])


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: s.distance.__name__)
def test_a_shape_is_a_signed_distance_within_its_reach(shape):
    x, y = plane(401, 2.5)
    distance, radius = shape.distance(x, y)[0], np.hypot(x, y)[0]
    assert distance.dtype == np.float32
    assert distance.min() < -0.25
    assert 0.15 < (distance < 0).mean() * 25 / np.pi < 1
    # nowhere steeper than the way there, so that no cover is narrower than a pixel
    for down, right in ((0, 1), (1, 0), (1, 1), (2, 1), (1, 3)):
        step = distance[down:, right:] - distance[: 401 - down, : 401 - right]
        assert np.abs(step).max() < 1.001 * np.hypot(down, right) * 5 / 400
    assert (distance[radius > shape.reach] > 0).all()
    # beyond a window's margin nothing shows, whatever a pixel's size
    for pixel in (0.02, 0.1, 0.5, 1.0):
        assert (distance[radius > shape.reach + MARGIN * pixel] >= pixel / 2).all()
    assert (shape.cast(x, y)[0] >= radius - shape.reach - 1e-6).all()


def test_shapes_differ():
    x, y = plane(101, 1.2)
    inside = [shape.distance(x, y)[0] < 0 for shape in SHAPES]
    for one, other in itertools.combinations(inside, 2):
        assert (one & other).sum() / (one | other).sum() < 0.95


@pytest.mark.parametrize("pattern", [lambda x, y, f: bands(x, f), dots, lambda x, y, f: checks(x, y, f, f)])
def test_a_pattern_fades_to_its_mean(pattern):
    x, y = np.meshgrid(np.arange(400) / 50, np.arange(400) / 50)
    fine, coarse = (pattern(x, y, np.full_like(x, f)) for f in (0.02, 1.0))
    assert fine.min() < 0.01
    assert fine.max() > 0.99
    assert np.ptp(coarse) < 1e-6
    assert abs(fine.mean() - coarse.mean()) < 0.02


def test_words_and_what_they_stand_for_go_together():
    assert len(SHAPES) == len(WORDS["shape"])
    assert [s.distance.__name__ for s in SHAPES] == list(WORDS["shape"])
    assert [f.__name__ for f in DRAWN] == list(BACKGROUNDS)
    assert len(PATTERNS) == len(TEXTURES)
    assert len(HUES) == len(WORDS["colour"])
    assert len(PALETTES) == len(WORDS["palette"])
    assert len(LIGHTS) == len(WORDS["light"])
    assert np.hypot(*LIGHTS.T) == pytest.approx(1)


# --- truth -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_attributes_are_drawn_evenly_from_what_the_settings_allow(level):
    config = ScenesConfig(complexity=level)
    attributes = draw(config, range(4000)).attributes
    chances = config.chances()
    for name, words in WORDS.items():
        values, numbers = np.unique(attributes[name], return_counts=True)
        assert values.min() >= 0
        assert values.max() < len(words)
        if name in chances:
            assert len(values) == chances[name]
            assert np.abs(numbers / 4000 - 1 / len(values)).max() < 0.035
        else:
            assert len(values) == 1 or name == "light"
    assert ("light" in chances) == (config.lighting != "flat")


def test_a_sample_says_what_is_in_it():
    found = source(count=300)
    for i, sample in enumerate(found.samples(range(100))):
        main, *others = found.objects(i)
        words = {name: WORDS[name][value] for name, value in sample.attributes.items()}
        assert (words["shape"], words["colour"], words["texture"]) == (main.shape, main.colour, main.texture)
        assert int(words["count"]) == 1 + len(others)
        assert sample.label == sample.attributes["shape"]
        for thing in (main, *others):
            assert f"{thing.colour} {thing.shape}" in sample.caption
        assert f"in {words['palette']} colours" in sample.caption
        assert sample.caption.endswith(words["light"])
        assert len(others) == len(re.findall(r"(left of|right of|above|below) an? (small|tiny) ", sample.caption))


def test_captions_say_more_from_form_to_form_and_are_read_without_images():
    found = source(count=300)
    told, samples = found.read_captions(range(40)), found.samples(range(40))
    for i, (forms, sample) in enumerate(zip(told, samples, strict=True)):
        main, *others = found.objects(i)
        assert tuple(forms) == ("class", "short", "objects", "long")
        assert forms["class"].endswith(main.shape)
        assert forms["short"].endswith(f"{main.colour} {main.shape}")
        assert forms["objects"].startswith(("a large ", "an large "))
        assert forms["objects"].endswith(" alone") == (not others)
        for other in others:
            across, down = other.x - main.x, other.y - main.y
            side = ("left of" if across > 0 else "right of", "above" if down > 0 else "below")
            which = side[0] if abs(across) >= abs(down) else side[1]
            assert re.search(rf"{which} an? (small|tiny) (\w+ )?{other.colour} {other.shape}", forms["objects"])
        assert forms["long"].startswith(forms["objects"])
        assert forms["long"] == sample.caption
    assert found.read_captions([3]) == told[3:4]


def test_captions_read_as_sentences():
    captions = [s.caption for s in source(complexity=0, count=9).samples(range(9))]
    assert all(caption.startswith(("a ", "an ")) and "lit from" not in caption for caption in captions)
    told = source(seed=3, complexity=4).samples(range(200))
    short = source(seed=3, complexity=4).read_captions(range(200))
    assert any(forms["short"].startswith("an orange") for forms in short)
    assert all("  " not in s.caption for s in told)


def test_the_main_object_is_the_largest_and_the_others_lie_in_the_picture():
    found = source(complexity=4)
    for i in range(50):
        main, *others = found.objects(i)
        assert main.radius > 1.5 * max(thing.radius for thing in others)
        for thing in (main, *others):
            assert thing.radius < min(thing.x, thing.y, 1 - thing.x, 1 - thing.y)


def test_the_main_object_shows_its_colour():
    """The truth is that of the pixels: before a plain ground, in flat light, the middle has the colour's hue."""
    found = source(complexity=0)
    for i, sample in enumerate(found.samples(range(80))):
        main = found.objects(i)[0]
        if main.shape in ("ring", "crescent"):
            continue
        pixel = sample.image[:, int(main.y * 64), int(main.x * 64)].numpy() / 255
        assert np.abs(HUES - pixel).sum(1).argmin() == sample.attributes["colour"]


def test_more_complexity_adds_to_the_same_scene():
    one, other = (source(complexity=c, objects=(n, n)) for c, n in ((1, 2), (4, 8)))
    for i in range(20):
        few, many = one.objects(i), other.objects(i)
        assert [(t.shape, t.colour, t.x, t.y) for t in few] == [(t.shape, t.colour, t.x, t.y) for t in many[:2]]


# --- the source --------------------------------------------------------------------------------------------------


def test_the_splits_have_no_scene_in_common():
    train, val = source(split="train"), source(split="val")
    assert {s.id for s in train.samples(range(50))}.isdisjoint(s.id for s in val.samples(range(50)))
    assert train.number(len(train) - 1) < val.number(0)
    assert not torch.equal(train[0].image, val[0].image)
    assert ScenesConfig(count=2**31).count == 2**31  # the most, and still none in common


def test_several_at_once_are_the_same_as_one_by_one():
    found = source()
    for index, sample in zip([9, 2, 2, 40], found.samples([9, 2, 2, 40]), strict=True):
        alone = found[index]
        assert torch.equal(sample.image, alone.image)
        assert (sample.label, sample.id, sample.caption) == (alone.label, alone.id, alone.caption)
        assert sample.attributes == alone.attributes


def test_an_index_out_of_range_is_refused():
    found = source(count=10)
    for index in (10, -1):
        with pytest.raises(IndexError, match="there are 10 scenes, 0 to 9"):
            found[index]


@pytest.mark.parametrize("workers", [0, 1])
def test_training_batches_hold_the_scenes_and_their_labels(workers):
    found = source((16, 16), count=40)
    run = RunConfig.read({"data": "scenes", "batch_size": 8, "steps": 6})
    for batch in batches(found, run, 0, torch.device("cpu"), workers=workers):
        for row, index in enumerate(batch.index.tolist()):
            assert torch.equal(batch.images[row], found[index].image / 255)
            assert batch.condition.labels[row] == found[index].label
        assert not batch.condition.null.any()


def test_the_loader_asks_for_a_batch_at_once(monkeypatch):
    found, asked = source((16, 16), count=12), []
    samples = Scenes.samples
    monkeypatch.setattr(Scenes, "samples", lambda self, indices: asked.append(len(indices)) or samples(self, indices))
    run = RunConfig.read({"data": "scenes", "batch_size": 6, "steps": 2})
    assert len(list(batches(found, run, 0, torch.device("cpu")))) == 2
    assert asked == [6, 6]


def test_the_protocol_names_the_renderer():
    assert source().protocol()["renderer"] == VERSION


# --- config ------------------------------------------------------------------------------------------------------


def test_complexity_sets_what_is_not_given():
    assert ScenesConfig(complexity=0).lighting == "flat"
    assert ScenesConfig(complexity=4, lighting="shaded").objects == (5, 8)
    assert ScenesConfig(complexity=4, lighting="shaded").lighting == "shaded"
    assert ScenesConfig() == ScenesConfig(complexity=2)
    again = ScenesConfig.model_validate_json(ScenesConfig(complexity=3).model_dump_json())
    assert again == ScenesConfig(complexity=3)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"complexity": 5}, "complexity"),
        ({"objects": [0, 3]}, "objects: is the fewest and the most of 1 to 8"),
        ({"objects": [4, 3]}, "objects"),
        ({"objects": [1, MOST + 1]}, "objects"),
        ({"textures": []}, "textures: names at least one"),
        ({"backgrounds": ["plain", "plain"]}, "backgrounds: names at least one, and each once"),
        ({"backgrounds": ["sea"]}, "backgrounds"),
        ({"lighting": "dark"}, "lighting"),
        ({"count": 0}, "count"),
    ],
    ids=str,
)
def test_what_cannot_be_drawn_is_refused(fields, told):
    with pytest.raises(ConfigError, match=told):
        ScenesConfig.read(fields)
