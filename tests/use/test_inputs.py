"""Which images a command finds, and what it calls them."""

import io
import os
import tarfile

import numpy as np
import pytest
from PIL import Image

from flexframe.data.images import BrokenImage, read_image
from flexframe.use.inputs import check_id, entries
from flexframe_registry import ConfigError

from .conftest import IDS, picture, png, tar


def ids(*inputs):
    return [e.id for e in sorted(entries(inputs), key=lambda e: (e.argument, e.id))]


def pixels(entry):
    return np.asarray(read_image(entry.open(), entry.shown))


def test_a_folder_is_searched_in_depth(photos):
    assert ids(photos) == IDS
    assert {e.stamp > 0 and e.size > 0 for e in entries([photos])} == {True}


def test_files_go_by_their_name_and_globs_by_their_path_below_what_is_fixed(photos):
    assert ids(photos / "b" / "2.png", photos / "a.png") == ["2.png", "a.png"]
    assert ids(f"{photos}/*/*.png") == ["b/2.png"]
    assert ids(f"{photos}/b/*") == ["10.jpg", "2.png"]
    assert ids(f"{photos}/**/*.*") == IDS


def test_a_shards_images_are_its_regular_members_with_an_images_name(tmp_path):
    path = tar(tmp_path / "s.tar", {"./0/a.png": png(1), "0/a.cls": b"7", "b.jpg": b"later", "c.json": b"{}"})
    assert ids(path) == ["0/a.png", "b.jpg"]
    (first, _) = sorted(entries([path]), key=lambda e: e.id)
    assert first.shown == f"{path}:0/a.png"
    assert np.array_equal(pixels(first), np.asarray(picture(1)))
    assert ids(f"{tmp_path}/*.tar") == ["0/a.png", "b.jpg"]


def test_members_with_long_names_are_found(tmp_path):
    name = "/".join(["long" * 20] * 3) + "/é.png"
    (found,) = entries([tar(tmp_path / "s.tar", {name: png(3), "x.txt": b""})])
    assert found.id == name
    assert np.array_equal(pixels(found), np.asarray(picture(3)))


def test_links_within_a_shard_are_not_followed(tmp_path):
    path, about = tmp_path / "s.tar", tarfile.TarInfo("passwd.png")
    about.type, about.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(path, "w") as shard:
        shard.addfile(about)
        hard = tarfile.TarInfo("hard.png")
        hard.type, hard.linkname = tarfile.LNKTYPE, "passwd.png"
        shard.addfile(hard)
    for entry in entries([path]):
        with pytest.raises(BrokenImage, match=rf"cannot read image .*s\.tar:{entry.id}: it is a link"):
            entry.open()
    assert ids(path) == ["hard.png", "passwd.png"]


def test_a_link_to_nothing_is_not_passed_over(tmp_path):
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (found,) = entries([tmp_path])
    with pytest.raises(BrokenImage, match=r"gone\.png: it is a link to a file that is not there"):
        found.open()


def test_folders_behind_links_are_entered_once(photos, tmp_path):
    (photos / "loop").symlink_to(photos)
    assert ids(photos) == IDS
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "all").symlink_to(photos)
    assert ids(tmp_path / "linked") == [f"all/{name}" for name in IDS]


@pytest.mark.parametrize("cut", [100, 700, 1024, 1600, -1024, -10240 + 512])
def test_a_shard_that_breaks_off_is_told(tmp_path, cut):
    whole = tar(tmp_path / "whole.tar", {"a.png": b"x" * 600, "b.png": b"y" * 600}).read_bytes()
    ends = 2 * (512 + 1024)  # headers and padded members; zeros after
    content = whole[:cut] if cut > 0 else whole[:ends] + (b"" if cut == -1024 else b"\1" * 512)
    path = tmp_path / "cut.tar"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"cut\.tar: is not a whole, uncompressed tar file"):
        list(entries([path]))


def test_a_compressed_or_foreign_tar_is_told(tmp_path):
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w:gz") as shard:
        shard.addfile(tarfile.TarInfo("a.png"), io.BytesIO())
    with pytest.raises(ConfigError, match=r"s\.tar: is not a whole, uncompressed tar"):
        list(entries([path]))
    path.rename(tmp_path / "s.tar.gz")
    with pytest.raises(ConfigError, match=r"s\.tar\.gz: is no image by its name .* and no uncompressed \.tar"):
        list(entries([tmp_path / "s.tar.gz"]))


@pytest.mark.parametrize("name", ["../a.png", "/etc/a.png", "a/../../b.png", "a//b.png", "a\\b.png", "a\n.png"])
def test_a_members_name_that_leads_elsewhere_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match=r"s\.tar: holds .*, which is no id: ids are relative paths"):
        list(entries([tar(tmp_path / "s.tar", {name: png(0)})]))


def test_ids_are_relative_paths_that_stay():
    for good in ("a.png", "a/b.png", "über/日本.png", "...png", "a b.png", ".a.png"):
        assert check_id(good, "t") == good
    for bad in ("", ".", "..", "a/..", "/a", "a/", "C:a.png", "a\x00", "a\\b", "a\udcff"):
        with pytest.raises(ConfigError, match=r"^t: holds .*(is no id|not UTF-8)"):
            check_id(bad, "t")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pipe:cat x.tar", "is a command; images are read from this machine's disks only"),
        ("http://example.org/a.tar", "is an address"),
        ("s3://bucket/{0..9}.tar", "is an address"),
        ("nowhere.png", "there is no such file or folder"),
        ("nowhere-{0..9}.tar", "braces are the shell's"),
        ("nowhere/*.png", "holds no images"),
    ],
)
def test_what_is_no_input_is_told(text, words):
    with pytest.raises(ConfigError, match=words):
        list(entries([text]))


def test_inputs_without_images_are_told(tmp_path):
    with pytest.raises(ConfigError, match="name at least one image"):
        list(entries([]))
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ConfigError, match=r"holds no images; looked for \.png"):
        list(entries([tmp_path]))
    with pytest.raises(ConfigError, match=r"s\.tar: holds no images"):
        list(entries([tar(tmp_path / "s.tar", {"a.txt": b""})]))
    with pytest.raises(ConfigError, match=r"notes\.txt: is no image by its name"):
        list(entries([tmp_path / "notes.txt"]))


def test_nothing_of_a_shard_is_run_or_unpacked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tar(tmp_path / "s.tar", {"a.png": png(0), "a.pyd": b"import os", "b.pickle": b"cos\nsystem\n(S'x'\ntR."})
    monkeypatch.setattr(tarfile.TarFile, "extract", None)
    monkeypatch.setattr(tarfile.TarFile, "extractall", None)
    monkeypatch.setattr(os, "system", None)
    assert [pixels(e).shape for e in entries([path])] == [(20, 24, 3)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.tar"]


def test_an_image_of_a_shard_is_held_one_at_a_time(tmp_path):
    """Listing opens none, and opening one reads only its bytes."""
    path = tar(tmp_path / "s.tar", {f"{i}.png": png(i) for i in range(5)})
    found = sorted(entries([path]), key=lambda e: e.id)
    stream = found[3].open()
    assert len(stream.getvalue()) == found[3].size == len(png(3))
    with Image.open(stream) as image:
        assert image.size == (24, 20)


@pytest.mark.parametrize("asked", ["", "pipe.png", "*.png"])
def test_a_pipe_is_told_and_not_waited_for(photos, asked):
    os.mkfifo(photos / "pipe.png")
    found = {entry.id: entry for entry in entries([photos / asked])}["pipe.png"]
    with pytest.raises(BrokenImage, match=r"pipe\.png: it is a pipe, a socket or a device, and no file"):
        found.open()
