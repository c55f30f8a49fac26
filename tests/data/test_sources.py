"""Image sources: which images, in what order, cut how."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, InterpolationMode, Resize

from flexframe.data.images import BrokenImage, fit, to_tensor
from flexframe_registry import ConfigError, catalogue

FILTERS = {"torchvision-bicubic": InterpolationMode.BICUBIC, "torchvision-bilinear": InterpolationMode.BILINEAR}


def source(kind, size=(16, 16), **fields):
    config = catalogue().get("source", kind).config.read(fields)
    return catalogue().build(config, size)


def picture(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture
def folder(tmp_path):
    """Two classes and an image of none."""
    for name, size in {"zebra/b.png": (20, 30), "ape/2.JPG": (30, 20), "ape/10.png": (16, 16), "z.png": (9, 9)}.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        picture(*size).save(path)
    (tmp_path / "ape" / "notes.txt").write_text("no image")
    return tmp_path


# --- digits ------------------------------------------------------------------------------------------------------


def test_the_digits_are_split_in_two_without_overlap():
    train, val = source("digits", split="train"), source("digits", split="val")
    assert (len(train), len(val)) == (1438, 359)
    ids = {s[i].id for s in (train, val) for i in range(len(s))}
    assert len(ids) == 1438 + 359
    assert [val[i].id for i in range(3)] == ["digit-0004", "digit-0009", "digit-0014"]


def test_a_digit_is_the_one_that_scikit_learn_ships():
    from sklearn.datasets import load_digits

    grey, labels = load_digits(return_X_y=True)
    val = source("digits", (8, 8), split="val")
    for i in (0, 100, 358):
        sample, number = val[i], 5 * i + 4
        assert sample.label == labels[number]
        expected = torch.from_numpy(np.rint(grey[number].reshape(8, 8) * (255 / 16))).expand(3, 8, 8)
        assert torch.equal(sample.image.double(), expected)


def test_digits_are_enlarged_to_the_models_size():
    assert source("digits", (16, 24))[0].image.shape == (3, 16, 24)


# --- folders -----------------------------------------------------------------------------------------------------


def test_a_folder_is_read_in_sorted_order_with_its_subfolders_as_classes(folder):
    found = source("folder", path=str(folder))
    samples = [found[i] for i in range(len(found))]
    assert [s.id for s in samples] == ["ape/10.png", "ape/2.JPG", "z.png", "zebra/b.png"]
    assert [s.label for s in samples] == [0, 0, None, 1]
    assert {s.image.shape for s in samples} == {(3, 16, 16)}


def test_classes_behind_links_are_read(folder, tmp_path_factory):
    linked = tmp_path_factory.mktemp("linked")
    for name in ("ape", "zebra"):
        (linked / name).symlink_to(folder / name)
    (linked / "ape" / "back").symlink_to(linked)  # leads to nothing new
    found = source("folder", path=str(linked))
    assert [found[i].id for i in range(len(found))] == ["ape/10.png", "ape/2.JPG", "zebra/b.png"]
    assert found.class_names() == ("ape", "zebra")


def test_labels_beside_images_are_not_of_the_folders_names(folder):
    (folder / "ape" / "10.cls").write_text("7")
    found = source("folder", path=str(folder))
    assert found[0].label == 7
    assert found.class_names() == ()
    (folder / "ape" / "10.cls").write_text("seven")
    with pytest.raises(BrokenImage, match=r"10\.cls"):
        source("folder", path=str(folder))[0]
    assert source("folder", path=str(folder), labels="folders").class_names() == ("ape", "zebra")


def test_a_link_to_nothing_is_not_passed_over(folder):
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    found = source("folder", path=str(folder))
    with pytest.raises(BrokenImage, match=r"gone\.png"):
        [found[i] for i in range(len(found))]
    assert len(source("folder", path=str(folder), broken="skip")) == 4


def test_a_file_that_is_no_image_is_named(folder):
    (folder / "ape" / "3.png").write_bytes(b"not an image")
    found = source("folder", path=str(folder))
    with pytest.raises(ValueError, match=r"cannot read image .*ape/3\.png: .*; repair or remove the file"):
        found[2]
    assert found[1].id == "ape/2.JPG"


def test_a_truncated_image_is_named(folder):
    path = folder / "zebra" / "b.png"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"cannot read image .*zebra/b\.png"):
        source("folder", path=str(folder))[3]


def test_a_folder_that_is_missing_or_empty_is_told(tmp_path):
    with pytest.raises(ConfigError, match=r"path: there is no folder '.*nowhere'"):
        source("folder", path=str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"path: no images under .*; looked for .*\.png"):
        source("folder", path=str(tmp_path))


def test_grey_palette_and_transparent_images_become_rgb(tmp_path):
    for mode in ("L", "P", "RGBA", "LA", "1", "CMYK"):
        suffix = "tif" if mode == "CMYK" else "png"
        picture(16, 16).convert(mode).save(tmp_path / f"{mode}.{suffix}")
    found = source("folder", path=str(tmp_path))
    assert [found[i].image.shape for i in range(6)] == [(3, 16, 16)] * 6


def test_an_image_is_turned_as_its_camera_says(tmp_path):
    upright = picture(16, 16)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show rotated by 90 degrees clockwise
    upright.save(tmp_path / "turned.png", exif=exif)
    found = source("folder", path=str(tmp_path))[0].image
    assert torch.equal(found, to_tensor(upright.rotate(-90)))


# --- resizing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resize", FILTERS)
@pytest.mark.parametrize(
    "size",
    [(16, 16), (17, 16), (16, 17), (101, 57), (57, 101), (640, 427), (9, 7), (7, 9), (5, 100), (33, 33), (16, 300)],
    ids=str,
)
@pytest.mark.parametrize("target", [16, 15])
def test_fitting_is_torchvisions_resize_and_centre_crop_to_the_pixel(size, target, resize):
    image = picture(*size)
    expected = CenterCrop(target)(Resize(target, FILTERS[resize])(image))
    found = fit(image, (target, target), resize)
    assert found.size == expected.size
    assert np.array_equal(np.array(found), np.array(expected))


@pytest.mark.parametrize("size", [(100, 40), (40, 100), (7, 5), (24, 16)])
def test_fitting_to_an_oblong_covers_it(size):
    image = Image.new("RGB", size, (255, 255, 255))
    found = fit(image, (16, 24), "torchvision-bicubic")
    assert found.size == (24, 16)
    assert np.array(found).min() == 255  # no black border


# --- arrays ------------------------------------------------------------------------------------------------------


def drawn(count=5, side=16):
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_images_of_an_npz_are_those_of_its_array(tmp_path, write, order):
    images, labels = np.array(drawn(), order=order), np.array([3, 1, 0, 2, 1])
    write(tmp_path / "a.npz", arr_0=images, arr_1=labels)
    for kind in ("arrays", "images"):
        found = source(kind, path=str(tmp_path / "a.npz"))
        samples = found.samples(range(5))
        assert np.array_equal(torch.stack([s.image for s in samples]).permute(0, 2, 3, 1).numpy(), images)
        assert [s.label for s in samples] == labels.tolist()
        assert samples[3].id == "000003"
    assert source("arrays", path=str(tmp_path / "a.npz"), labels="none")[0].label is None


def test_a_class_of_minus_one_is_none_and_other_classes_are_refused(tmp_path):
    path = str(tmp_path / "a.npz")
    np.savez(path, arr_0=drawn(), arr_1=np.array([3, -1, 0, 2, 1]))
    assert source("arrays", path=path).read_labels(range(5)) == [3, None, 0, 2, 1]
    for labels in (np.arange(4), np.arange(5.0), np.eye(5, dtype=int), np.array(list("abcde")), np.full(5, -2)):
        np.savez(path, arr_0=drawn(), arr_1=labels)
        found = source("arrays", path=path)
        with pytest.raises(BrokenImage, match=r"arr_1 of .*a\.npz is .*; classes are 5 whole .*labels=none"):
            found[0]
        found.want("any")  # as who measures pictures does
        assert found[0].label is None
        assert "count as without a label: arr_1 of" in found.remarks()[0]
        assert source("arrays", path=path, labels="none")[0].label is None


def test_an_array_of_another_size_is_resized_as_files_are(tmp_path):
    np.savez(tmp_path / "a.npz", drawn(side=24))
    for number, image in enumerate(drawn(side=24)):
        (tmp_path / "files").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "files" / f"{number}.png")
    of_array, of_files = source("arrays", path=str(tmp_path / "a.npz")), source("folder", path=str(tmp_path / "files"))
    assert torch.equal(of_array[2].image, of_files[2].image)
    assert of_array.own_size() == of_files.own_size() == (24, 24)
    assert of_array.protocol() == of_files.protocol()


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"mu": np.zeros(3), "sigma": np.eye(3)}, "holds mu, sigma; images are expected in arr_0"),
        ({"arr_0": np.zeros((2, 4, 4, 3))}, r"float64 of \(2, 4, 4, 3\); images are uint8"),
        ({"arr_0": np.zeros((2, 3, 4, 4), np.uint8)}, r"uint8 of \(2, 3, 4, 4\); images are uint8 of \(count, height"),
        ({"arr_0": np.zeros((0, 4, 4, 3), np.uint8)}, r"\(0, 4, 4, 3\)"),
        ({"arr_0": np.array([{}])}, "nothing is unpickled"),
        (None, "no whole .npz"),
    ],
)
def test_what_is_no_array_of_images_is_refused(tmp_path, arrays, words):
    path = tmp_path / "a.npz"
    if arrays is None:
        path.write_bytes(b"PK\x03\x04junk")
    else:
        np.savez(path, **arrays)
    with pytest.raises(ConfigError, match=words) as told:
        source("arrays", path=str(path))
    assert len(str(told.value).splitlines()) == 1


def test_a_compressed_array_leaves_no_copy_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "tmp").mkdir()
    np.savez_compressed(tmp_path / "a.npz", drawn())
    found = source("arrays", path=str(tmp_path / "a.npz"))
    assert len(list((tmp_path / "tmp").iterdir())) == 1
    del found
    assert not list((tmp_path / "tmp").iterdir())
