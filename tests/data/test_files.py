"""What sources of files have in common: broken files, what lies beside an image, how images are brought to size."""

import io
import json
import os
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from flexframe.data import images
from flexframe.data.images import RESIZES, BrokenImage, fit
from flexframe.use.inputs import entries
from flexframe_registry import ConfigError, catalogue
from flexframe_registry.kinds import SourceConfig
from flexframe_registry.suites import settle
from flexframe_standard.sources import files as reader
from flexframe_standard.sources import reading as files

BROKEN = {"b.png": b"no image", "d.png": b"", "e.png": None}  # None: a picture, of which the end is missing
NAMES = [f"{name}.png" for name in "abcdefgh"]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FLEXFRAME_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def picture(number):
    file = io.BytesIO()
    Image.fromarray(np.full((16, 16, 3), number, dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def content(name):
    found = BROKEN.get(name, picture(NAMES.index(name)))
    return picture(NAMES.index(name))[:60] if found is None else found


@pytest.fixture(params=["folder", "tar", "images"])
def path(request, tmp_path):
    """Eight images, three of them broken, as a folder or as a shard; and the kind of source that reads it."""
    if request.param == "tar":
        with tarfile.open(tmp_path / "s.tar", "w") as tar:
            for name in NAMES:
                about = tarfile.TarInfo(name)
                about.size = len(content(name))
                tar.addfile(about, io.BytesIO(content(name)))
        return "tar", tmp_path / "s.tar"
    (tmp_path / "photos").mkdir()
    for name in NAMES:
        (tmp_path / "photos" / name).write_bytes(content(name))
    return request.param, tmp_path / "photos"


def config(kind, path, **fields):
    return catalogue().get("source", kind).config.read({"path": str(path), **fields})


def source(kind, path, **fields):
    return catalogue().build(config(kind, path, **fields), (16, 16))


# --- broken files --------------------------------------------------------------------------------------------------


def test_a_broken_file_is_an_error_that_names_it(path):
    found = source(*path)
    assert len(found) == 8
    for i, name in enumerate(NAMES):
        if name in BROKEN:
            with pytest.raises(BrokenImage, match=rf"cannot read image .*{name}: "):
                found[i]
        else:
            assert found[i].image.unique().tolist() == [i]
    assert found.remarks() == ()
    assert "left out as broken" not in found.protocol()


def test_broken_files_are_left_out_and_counted_where_that_is_asked_for(path):
    found = source(*path, broken="skip")
    assert len(found) == 5
    assert [found[i].image[0, 0, 0].item() for i in range(5)] == [0, 2, 5, 6, 7]
    assert [found[i].id.removeprefix("s/").removesuffix(".png") for i in range(5)] == list("acfgh")
    for wrong in (5, -1):
        with pytest.raises(IndexError, match="there are 5 images"):
            found[wrong]
    (remark,) = found.remarks()
    assert remark.startswith(f"3 of 8 images of {path[1]} cannot be read and were left out: cannot read image ")
    for name in BROKEN:
        assert name in remark
    told = found.protocol()["left out as broken"]
    assert (told["count"], told["of"]) == (3, 8)
    assert [name.removeprefix("s/").removesuffix(".png") for name in told["first"]] == ["b", "d", "e"]
    json.dumps(found.protocol())


def test_several_at_once_are_the_same_as_one_by_one(path):
    found = source(*path, broken="skip")
    for indices in ([4, 0, 2, 1, 3, 0], [3], []):
        several = found.samples(indices)
        assert [sample.id for sample in several] == [found[i].id for i in indices]
        assert all(torch.equal(sample.image, found[i].image) for sample, i in zip(several, indices, strict=True))
    with pytest.raises(BrokenImage, match=r"b\.png"):
        source(*path).samples(range(8))


def test_files_are_looked_through_once_and_again_when_one_changes(path, monkeypatch):
    kind, place = path
    source(kind, place, broken="skip")
    looks = []
    look = files.Files._look_for_broken
    monkeypatch.setattr(files.Files, "_look_for_broken", lambda self: looks.append(1) or look(self))
    assert len(source(kind, place, broken="skip")) == 5
    assert looks == []
    if place.is_dir():
        (place / "b.png").write_bytes(picture(1))
    else:
        place.write_bytes(place.read_bytes() + bytes(512))
    assert len(source(kind, place, broken="skip")) == (6 if place.is_dir() else 5)
    assert looks == [1]


def test_the_limit_of_pixels_makes_an_image_broken(path):
    with pytest.raises(BrokenImage, match=r"a\.png: it has 16 x 16, 256 pixels; at most 255 are read \(max_pixels\)"):
        source(*path, max_pixels=255)[0]
    with pytest.raises(ConfigError, match=r"none of the 8 images of .* can be read; cannot read image .*a\.png"):
        source(*path, max_pixels=255, broken="skip")
    with pytest.raises(ConfigError, match=r"max_pixels: .*less than or equal to 178956970"):
        source(*path, max_pixels=10**9)


def test_more_broken_files_than_a_remark_names(tmp_path):
    for i in range(9):
        (tmp_path / f"{i}.png").write_bytes(picture(0) if i == 4 else b"")
    (remark,) = source("folder", tmp_path, broken="skip").remarks()
    assert remark.startswith("8 of 9 images")
    assert remark.endswith("; ... and 3 more")


def test_sets_that_differ_in_what_was_left_out_have_other_protocols(tmp_path):
    protocols = []
    for broken in (2, 3):
        for i in range(5):
            (tmp_path / f"{i}.png").write_bytes(b"" if i == broken else picture(i))
        protocols.append(source("folder", tmp_path, broken="skip").protocol())
    assert protocols[0] != protocols[1]


# --- beside an image -----------------------------------------------------------------------------------------------


def test_captions_and_labels_beside_an_image_in_a_folder(tmp_path):
    for name in ("ape/1.png", "ape/2.jpg", "zebra/3.png", "4.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(picture(0))
    (tmp_path / "ape" / "1.txt").write_text(" an ape \n")
    (tmp_path / "ape" / "2.json").write_text('{"label": 77, "caption": "not an ape", "width": 16}')
    (tmp_path / "4.cls").write_text("5")
    found = source("folder", tmp_path)
    told = [(s.id, s.label, s.caption) for s in (found[i] for i in range(4))]
    assert told == [
        ("4.png", 5, None),
        ("ape/1.png", None, "an ape"),
        ("ape/2.jpg", 77, "not an ape"),
        ("zebra/3.png", None, None),
    ]
    assert found.class_names() == ()
    (remark,) = found.remarks()
    assert "files beside images, which 2 images have not" in remark
    assert [source("folder", tmp_path, labels="folders")[i].label for i in range(4)] == [None, 0, 0, 1]
    assert source("folder", tmp_path, labels="folders").remarks() == ()
    (tmp_path / "ape" / "2.json").write_text("{")
    with pytest.raises(BrokenImage, match=r"cannot read .*ape/2\.json: Expecting"):
        source("folder", tmp_path)[2]
    skipping = source("folder", tmp_path, broken="skip")
    assert [skipping[i].label for i in range(4)] == [5, None, None, None]
    assert any("1 images" in each and "count as without a label" in each for each in skipping.remarks())


def source_of(kind, path):
    found = source(kind, path)
    found.want("captions")
    return found


@pytest.mark.parametrize("kind", ["folder", "images"])
def test_captions_are_read_without_images_and_without_labels(tmp_path, kind):
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.png").write_bytes(b"no image")
    (tmp_path / "a.txt").write_text(" an ape \n")
    (tmp_path / "a.cls").write_text("no number")
    (tmp_path / "b.json").write_text('{"label": "no number", "caption": "a bee"}')
    found = source_of(kind, tmp_path)
    assert found.read_captions([0, 1, 2, 1]) == [
        {"caption": "an ape"}, {"caption": "a bee"}, {}, {"caption": "a bee"},
    ]  # fmt: skip
    for wanted in ("any", "labels", "none"):  # of samples; captions that are asked for are read all the same
        other = source(kind, tmp_path)
        other.want(wanted)
        assert other.read_captions([0, 1, 2]) == found.read_captions([0, 1, 2])
        assert other.facts == wanted
    before = found.inventory()
    (tmp_path / "a.txt").write_text(" an emu \n")
    assert {name for name, told in source_of(kind, tmp_path).inventory().items() if told != before[name]} >= {
        "captions"
    }
    (tmp_path / "b.json").write_text('{"caption": 3}')
    with pytest.raises(BrokenImage, match=r"b\.json: caption: is 3, no text"):
        found.read_captions([1])


def test_nothing_is_looked_for_beside_images_where_there_are_images_alone(tmp_path, monkeypatch):
    (tmp_path / "ape").mkdir()
    (tmp_path / "ape" / "a.png").write_bytes(picture(8))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reader, "_beside", lambda *_: pytest.fail("looked for a file that is not there"))
    for path in (".", "./", str(tmp_path), f"{tmp_path}/"):
        sample = source("folder", path=path)[0]
        assert (sample.id, sample.label, sample.caption) == ("ape/a.png", 0, None)


def test_a_label_that_comes_late_is_not_mixed_with_folders(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "TRIED", 1)
    for name, about in (("a", "{}"), ("b", '{"label": 3}')):
        (tmp_path / "x").mkdir(exist_ok=True)
        (tmp_path / "x" / f"{name}.png").write_bytes(picture(0))
        (tmp_path / "x" / f"{name}.json").write_text(about)
    found = source("folder", tmp_path)
    assert found[0].label == 0
    with pytest.raises(BrokenImage, match="set `labels: files` or `labels: folders`"):
        found[1]
    assert [source("folder", tmp_path, labels="files")[i].label for i in range(2)] == [None, 3]


@pytest.mark.parametrize("about", [b"[]", b"{", b'{"label": "cat"}', b'{"shapes": []}', b"x" * 1_200_000, b"\xff"])
def test_other_jsons_beside_images_stop_nothing_that_needs_no_label(tmp_path, about):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.png").write_bytes(picture(0))
    (tmp_path / "cat" / "a.json").write_bytes(about)
    (tmp_path / "cat" / "a.txt").write_bytes(b"\xff\xfe")
    for facts in ("none", "any", "labels"):
        found = source("images", tmp_path)
        found.want(facts)
        assert (found[0].label, found[0].caption) == (0, None)


# --- which files ---------------------------------------------------------------------------------------------------


def test_formats_of_pillow_are_read_by_folders_and_commands_alike(tmp_path):
    image, names = Image.fromarray(np.full((16, 16, 3), 9, dtype=np.uint8)), []
    for suffix in ("jfif", "jpe", "ppm", "tga", "apng", "dib", "TIFF", "pcx", "sgi"):
        names.append(f"a.{suffix}")
        image.save(tmp_path / names[-1], format=Image.registered_extensions()[f".{suffix.lower()}"])
    (tmp_path / "b.heic").write_bytes(b"")
    (tmp_path / "README").write_bytes(b"")
    found, remarks = source("folder", tmp_path), []
    assert [found[i].id for i in range(len(found))] == sorted(names)
    assert sorted(each.id for each in entries([tmp_path], remarks)) == sorted(names)
    (remark,) = remarks
    assert remark.startswith(f"2 files of {tmp_path} are no images by their suffix and were left out")
    assert ".heic (1)" in remark
    assert found.remarks() == (remark,)


def test_no_file_is_read_as_a_format_that_runs_a_program(tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    with pytest.raises(BrokenImage, match=r"a\.png: cannot identify image file; repair"):
        source("folder", tmp_path)[0]


@pytest.mark.parametrize("name", [".ipynb_checkpoints/1.png", "@eaDir/1.png", "__MACOSX/cat/._1.png", "cat/.1.png"])
def test_hidden_images_are_no_classes_and_are_told(tmp_path, name):
    for each in (name, "cat/1.png", "dog/1.png"):
        (tmp_path / each).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / each).write_bytes(picture(0))
    found, remarks = source("folder", tmp_path), []
    assert (found.class_names(), len(found)) == (("cat", "dog"), 2)
    for given in (tmp_path, f"{tmp_path}/**/*"):
        assert sorted(each.id for each in entries([given], remarks)) == ["cat/1.png", "dog/1.png"]
    (remark,) = found.remarks()
    assert remark.startswith(f"1 images of {tmp_path} are hidden and were left out")
    assert remarks[0] == remark


def test_folders_that_match_a_pattern_are_told(tmp_path):
    (tmp_path / "cat").mkdir()
    for name in ("a.png", "cat/b.png"):
        (tmp_path / name).write_bytes(picture(0))
    remarks = []
    assert [each.id for each in entries([f"{tmp_path}/*"], remarks)] == ["a.png"]
    assert remarks == [f"1 folders match {tmp_path}/* and were not entered; end it in /**/* to read them"]


# --- classes -------------------------------------------------------------------------------------------------------


def test_a_class_without_a_readable_image_does_not_count_unless_it_is_named(tmp_path):
    for name, content in (("a/1.png", b"no image"), ("b/1.png", picture(0)), ("c/1.png", picture(0))):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(content)
    found = source("folder", tmp_path, broken="skip")
    assert found.class_names() == ("b", "c")
    assert [found[i].label for i in range(2)] == [0, 1]
    assert any("of which no image can be read do not count: a" in each for each in found.remarks())
    named = source("images", tmp_path, broken="skip", classes=["a", "b", "c"])
    assert [named[i].label for i in range(2)] == [1, 2]


def test_a_part_of_the_data_keeps_the_numbers_of_named_classes(tmp_path):
    for name in ("dog/1.png", "x/1.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(picture(0))
    found = source("folder", tmp_path, classes=["cat", "dog", "x"])
    assert (found.class_names(), [found[i].label for i in range(2)]) == (("cat", "dog", "x"), [1, 2])
    with pytest.raises(ConfigError, match=r"classes: 'x' is a folder of .* and none of them"):
        source("folder", tmp_path, classes=["cat", "dog"])


# --- crops -------------------------------------------------------------------------------------------------------


def test_an_image_counts_as_its_crops_each_at_a_place_of_its_own(tmp_path):
    rows, columns = np.meshgrid(np.arange(40), np.arange(60), indexing="ij")
    for name in "abc":
        Image.fromarray(np.stack([rows, columns, rows * 0], -1).astype(np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    size = (40, 40)
    build = catalogue().build
    found = build(config("images", tmp_path, crops=50, broken="skip"), size)
    middle = build(config("folder", tmp_path, broken="skip"), size)
    assert (len(found), len(middle)) == (100, 2)
    samples = found.samples(range(100))
    assert [s.id for s in samples[48:52]] == ["a.png#48", "a.png#49", "c.png#0", "c.png#1"]
    lefts = [int(s.image[1, 0, 0]) for s in samples]
    assert {min(lefts), max(lefts)} <= set(range(21))  # of 60 columns 40
    assert max(lefts) - min(lefts) > 15
    assert lefts[:50] != lefts[50:]
    assert all(int(s.image[1, 0, -1]) == left + 39 for s, left in zip(samples, lefts, strict=True))
    assert int(middle[0].image[1, 0, 0]) == 10
    for i in (73, 7):  # whatever else is read with it
        assert torch.equal(found[i].image, samples[i].image)
        assert torch.equal(found.samples([i, 3, 90, 55, 4])[0].image, samples[i].image)
    assert found.protocol()["crop"] == "50 at random places of each image"
    assert middle.protocol()["crop"] == "centre"
    with pytest.raises(IndexError, match="100 is none"):
        found[100]


def test_crops_reach_every_place_and_none_beyond():
    image = Image.new("RGB", (18, 16))
    places = [(0.0, 0.0), (0.0, 0.999999), (0.5, 0.5)]
    for way in RESIZES:
        assert {fit(image, (16, 16), way, place).size for place in places} == {(16, 16)}


# --- to size -------------------------------------------------------------------------------------------------------


def test_each_protocol_reaches_the_images(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (90, 110, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    found = {
        way: source("folder", tmp_path, resize=way) for way in ("torchvision-bicubic", "torchvision-bilinear", "adm")
    }
    assert {way: each.protocol()["resize"] for way, each in found.items()} == {way: way for way in found}
    images = [each[0].image for each in found.values()]
    assert not any(torch.equal(images[i], images[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_a_source_takes_its_models_way_unless_it_says_one(tmp_path):
    silent, said = config("folder", tmp_path), config("tar", "x.tar", resize="torchvision-bicubic")
    assert settle(silent, {"a": "adm", "b": "adm"}).way() == "adm"
    assert settle(said, {"a": "adm", "b": "torchvision-bilinear"}).way() == "torchvision-bicubic"
    with pytest.raises(ConfigError, match=r"data\.resize: is not given, and the models' cards differ: a adm, b torch"):
        settle(silent, {"a": "adm", "b": "torchvision-bilinear"})


def test_other_images_are_brought_to_size_like_the_suites(tmp_path):
    silent, adm = config("folder", tmp_path), config("tar", "x.tar", resize="adm")
    digits = catalogue().get("source", "digits").config()
    assert silent.like(adm).way() == "adm"
    assert adm.like(silent).way() == "adm"
    assert silent.like(digits) == silent
    assert digits.like(adm) == digits


def test_a_source_without_files_has_no_way():
    digits = catalogue().get("source", "digits").config()
    assert isinstance(digits, SourceConfig)
    assert digits.way() is None
    assert settle(digits, {"a": "adm", "b": "torchvision-bilinear"}) == digits


@pytest.mark.parametrize("way", list(RESIZES))
@pytest.mark.parametrize("shape", [(40, 4000), (3000, 37), (64, 64)])
@pytest.mark.parametrize("place", [None, (0.0, 0.0), (0.3, 0.99)])
def test_a_crop_that_is_computed_alone_is_the_crop_of_the_whole(way, shape, place, monkeypatch):
    # values that no filter overshoots: where Pillow cuts them off depends on which edge it scales first
    image = Image.fromarray(np.random.default_rng(0).integers(96, 160, (*shape, 3), dtype=np.uint8))
    whole = np.asarray(fit(image, (64, 48), way, place)).astype(int)
    monkeypatch.setattr(images, "MOST_SCALED", 0)
    alone = np.asarray(fit(image, (64, 48), way, place)).astype(int)
    assert np.abs(alone - whole).max() <= 2


@pytest.mark.slow
@pytest.mark.parametrize("way", list(RESIZES))
@pytest.mark.parametrize("shape", [(40_000_000, 2), (1, 80_000_000)])
def test_a_thin_image_is_never_enlarged_in_whole(way, shape):
    thin = Image.new("L", shape, 7)
    assert fit(thin, (256, 256), way).getextrema() == (7, 7)


@pytest.mark.parametrize("name", ["a.png", "a.json"])
def test_a_pipe_is_told_and_not_waited_for(tmp_path, name):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.png").write_bytes(picture(0))
    (photos / name).unlink(missing_ok=True)
    os.mkfifo(photos / name)
    found = catalogue().build(config("folder", photos, labels="files"), (16, 16))
    with pytest.raises(BrokenImage, match=rf"cannot read .*{name}: it is a pipe, a socket or a device, and no file"):
        found[0]
