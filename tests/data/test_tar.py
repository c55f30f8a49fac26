"""Tar shards: which, what is in them, and that reading them runs nothing, costs no memory and bears processes."""

import io
import json
import os
import pickle
import subprocess
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from flexframe.data import tarfiles
from flexframe.data.images import BrokenImage, to_tensor
from flexframe.data.loader import batches
from flexframe.data.tarfiles import braces, index, shards
from flexframe.use.inputs import entries
from flexframe_registry import ConfigError, RunConfig, catalogue


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FLEXFRAME_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def pixels(seed):
    return np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def png(seed):
    file = io.BytesIO()
    Image.fromarray(pixels(seed)).save(file, "PNG")
    return file.getvalue()


def pack(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    return path


def source(path, kind="tar", size=(16, 16), **fields):
    return catalogue().build(catalogue().get("source", kind).config.read({"path": str(path), **fields}), size)


@pytest.fixture
def two(tmp_path):
    """Two shards of three and two images."""
    for shard, seeds in (("0", (0, 1, 2)), ("1", (3, 4))):
        members = [(f"{n:04}.{suffix}", body) for n in seeds for suffix, body in (("png", png(n)), ("cls", b"%d" % n))]
        pack(tmp_path / "data" / f"s-{shard}.tar", members)
    return tmp_path / "data" / "s-{0..1}.tar"


# --- samples -------------------------------------------------------------------------------------------------------


def test_samples_come_in_the_order_of_the_shards_with_labels_and_ids(two):
    found = source(two)
    assert len(found) == 5
    assert [found[i].id for i in range(5)] == [f"s-{n // 3}/{n:04}.png" for n in range(5)]
    assert [found[i].label for i in range(5)] == [0, 1, 2, 3, 4]
    for i in range(5):
        assert torch.equal(found[i].image, to_tensor(Image.fromarray(pixels(i))))
    for wrong in (5, -1):
        with pytest.raises(IndexError, match="there are 5 images"):
            found[wrong]
    assert found.remarks() == ()


def test_labels_and_captions_of_all_forms(tmp_path):
    about = {"label": 7, "caption": "from json", "other": [1]}
    members = [
        ("a.png", png(0)), ("a.json", json.dumps(about).encode()),
        ("b.txt", "  größe\n".encode()), ("b.PNG", png(1)), ("b.cls", b" 12\n"),
        ("c.jpg", png(2)), ("c.json", json.dumps(about).encode()), ("c.txt", b"from txt"), ("c.cls", b"7"),
        ("d/e.f.png", png(3)), ("g.json", b"{}"), ("g.png", png(4)),
    ]  # fmt: skip
    found = source(pack(tmp_path / "s.tar", members))
    told = [(s.id, s.label, s.caption) for s in (found[i] for i in range(5))]
    assert told == [
        ("s/a.png", 7, "from json"),
        ("s/b.png", 12, "größe"),
        ("s/c.jpg", 7, "from txt"),
        ("s/d/e.f.png", None, None),
        ("s/g.png", None, None),
    ]
    for labels in (None, "none"):
        asked = source(tmp_path / "s.tar", labels=labels)
        for wanted in ("captions", "any", "none"):
            asked.want(wanted)
            captions = [each.get("caption") for each in asked.read_captions(range(5))]
            assert captions == ["from json", "größe", "from txt", None, None]


def test_members_that_belong_to_no_image_are_counted(tmp_path):
    members = [("read.me", b""), ("a.png", png(0)), ("a.npy", b"x"), ("b.cls", b"1"), ("._a.png", b"mac"), ("c", b"")]
    found = source(pack(tmp_path / "s.tar", members))
    assert len(found) == 1
    unused, hidden = found.remarks()
    assert unused == f"4 members of {tmp_path}/s.tar belong to no image, or are of no use here"
    assert hidden.startswith(f"1 images of {tmp_path}/s.tar are hidden")


def test_a_suffix_of_one_part_is_the_image(tmp_path):
    found = source(pack(tmp_path / "s.tar", [("a.seg.png", png(1)), ("a.png", png(0))]))
    assert torch.equal(found[0].image, to_tensor(Image.fromarray(pixels(0))))


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("a.png", b"x"), ("a.PNG", b"x")], r"s\.tar:a\.png: stands twice"),
        ([("a.png", b"x"), ("b.png", b"x"), ("a.png", b"x")], r"s\.tar:a\.png: stands twice in the shard"),
        ([("a.png", b"x"), ("a.cls", b"1"), ("b.png", b"x"), ("a.cls", b"2")], r"s\.tar:a\.cls: stands twice"),
        ([("../a.png", b"x")], r"s\.tar: holds '\.\./a\.png', which is no id"),
        ([("\udce9.png", b"x")], r"s\.tar: holds an image whose name is not UTF-8, '\\udce9\.png'; rename it"),
        ([("/etc/a.png", b"x")], r"s\.tar: holds '/etc/a\.png', which is no id"),
        ([("a" * 2000 + ".png", b"x")], "has a name of over 1024 bytes"),
        ([("a.txt", b"x")], "no images in "),
        ([], "no images in "),
    ],
)
def test_shards_that_cannot_be_numbered_are_refused(tmp_path, members, words):
    with pytest.raises(ConfigError, match=words):
        source(pack(tmp_path / "s.tar", members))


@pytest.mark.parametrize(
    ("part", "content", "words"),
    [
        ("cls", b"cat", r"s\.tar:a\.cls: 'cat' is no class number"),
        ("cls", b"-1", "is no class number"),
        ("cls", b"1.0", "is no class number"),
        ("cls", "\u0661".encode(), "is no class number"),
        ("cls", b"9" * 19, "is no class number"),
        ("json", b"{", r"s\.tar:a\.json: Expecting"),
        ("json", b"[" * 100_000, r"s\.tar:a\.json: "),
        ("json", b"[]", "holds list, not an object"),
        ("json", b'{"label": true}', "json: label: True is no class number"),
        ("json", b'{"caption": 3}', "json: caption: is 3, no text"),
        ("json", b'{"label": 3}', r"s\.tar:a: its \.cls says label 1 and its \.json 3"),
        ("txt", b"\xff\xfe", "s.tar:a.txt: .*decode"),
        ("txt", b"x" * (1 << 20) + b"x", "it has over 1,048,576 bytes"),
        ("png", b"no image", r"cannot read image \S*s\.tar:a\.png: cannot identify image file; repair"),
        ("png", png(0)[:100], r"cannot read image .*s\.tar:a\.png: "),
    ],
)
def test_a_broken_member_is_named_with_its_shard(tmp_path, part, content, words):
    members = {"png": png(0), part: content} | ({"cls": b"1"} if part == "json" else {})
    found = source(pack(tmp_path / "s.tar", [(f"a.{suffix}", body) for suffix, body in members.items()]))
    with pytest.raises(BrokenImage, match=words):
        found[0]


# --- one reading, whatever the order ------------------------------------------------------------------------------


def told(found):
    return [(found[i].id, found[i].label, found[i].caption) for i in range(len(found))]


def test_labels_apart_from_their_images_are_brought_together_and_told(tmp_path):
    members = [("a.cls", b"3"), ("0.png", png(0)), ("1.png", png(1)), ("0.txt", b"hi"), ("1.json", b'{"label": 4}')]
    found = source(pack(tmp_path / "s.tar", [*members, ("a.png", png(2)), ("0.cls", b"5")]))
    assert told(found) == [("s/0.png", 5, "hi"), ("s/1.png", 4, None), ("s/a.png", 3, None)]
    (remark,) = found.remarks()
    assert remark.startswith(f"2 images of {tmp_path}/s.tar stand apart from their labels or captions")


def test_joined_tar_files_are_read_to_the_end(tmp_path):
    one = pack(tmp_path / "a.tar", [("0.png", png(0)), ("0.cls", b"1")])
    two, three = pack(tmp_path / "b.tar", [("1.png", png(1))]), pack(tmp_path / "c.tar", [("0.txt", b"zero")])
    joined = tmp_path / "s.tar"
    joined.write_bytes(one.read_bytes() + two.read_bytes() + bytes(1 << 21) + three.read_bytes())
    found = source(joined)
    assert told(found) == [("s/0.png", 1, "zero"), ("s/1.png", None, None)]
    assert torch.equal(found[1].image, to_tensor(Image.fromarray(pixels(1))))
    assert sorted(each.id for each in entries([joined])) == ["0.png", "1.png"]
    joined.write_bytes(one.read_bytes() + b"what is no tar file" * 100)
    with pytest.raises(ConfigError, match=r"s\.tar: is not a whole, uncompressed tar file"):
        source(joined)


def test_a_name_ends_at_its_last_dot_for_every_command(tmp_path):
    members = [("photo.png", png(0)), ("photo.1.png", png(1)), ("photo.1.cls", b"7"), ("photo.2.png", png(2))]
    parts = [("x.seg.png", png(3)), ("x.jpg", png(4)), ("x.cls", b"1"), ("y.z.png", png(5)), ("y.cls", b"2")]
    path = pack(tmp_path / "s.tar", members + parts)
    found = source(path)
    names = ["photo.png", "photo.1.png", "photo.2.png", "x.jpg", "y.z.png"]
    assert told(found) == [(f"s/{n}", label, None) for n, label in zip(names, [None, 7, None, 1, 2], strict=True)]
    assert [each.id for each in entries([path])] == names


def test_links_stand_for_the_members_that_they_lead_to(tmp_path):
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind, target in (
            ("d/a.png", None, ""), ("a.cls", None, ""), ("hard.png", tarfile.LNKTYPE, "./d/a.png"),
            ("d/soft.png", tarfile.SYMTYPE, "../hard.png"), ("hard.cls", tarfile.LNKTYPE, "a.cls"),
            ("loop.png", tarfile.SYMTYPE, "loop.png"), ("out.png", tarfile.SYMTYPE, "../../etc/passwd"),
        ):  # fmt: skip
            about, content = tarfile.TarInfo(name), b"" if kind else (b"6" if name == "a.cls" else png(0))
            about.type, about.linkname, about.size = kind or tarfile.REGTYPE, target, len(content)
            tar.addfile(about, io.BytesIO(content))
    found = source(path, broken="skip")
    assert told(found) == [("s/d/a.png", None, None), ("s/hard.png", 6, None), ("s/d/soft.png", None, None)]
    assert all(torch.equal(found[i].image, found[0].image) for i in range(3))
    opened = {each.id: each.open().getvalue() for each in entries([path]) if not each.problem}
    assert opened == {name: png(0) for name in ("d/a.png", "hard.png", "d/soft.png")}


def test_hidden_images_of_a_shard_are_left_out_for_every_command(tmp_path):
    path = pack(tmp_path / "s.tar", [("a.png", png(0)), ("__MACOSX/._a.png", b"x"), (".thumbs/a.png", png(1))])
    assert told(source(path)) == [("s/a.png", None, None)]
    remarks = []
    assert [each.id for each in entries([path], remarks)] == ["a.png"]
    assert remarks == [f"2 images of {path} are hidden and were left out: __MACOSX (1), .thumbs (1)"]


def test_a_large_json_beside_an_image_stops_nothing_that_needs_no_label(tmp_path):
    path = pack(tmp_path / "s.tar", [("a.png", png(0)), ("a.json", b"x" * 1_200_000), ("b.png", png(1))])
    for facts in ("none", "any"):
        found = source(path)
        found.want(facts)
        assert told(found) == [("s/a.png", None, None), ("s/b.png", None, None)]
        assert len(found.remarks()) == (facts == "any")
    found = source(path)
    found.want("labels")
    with pytest.raises(BrokenImage, match=r"a\.json: it has over 1,048,576 bytes; .* set `labels: none`"):
        found[0]
    assert told(source(path, labels="none"))[0] == ("s/a.png", None, None)


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.pkl", "a.pyd", "b/a.pickle", "a.weights.PTH", "z.pt"])
def test_pickled_members_are_told_and_never_read(tmp_path, name, monkeypatch):
    class Bomb:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/exploded",)

    for module, function in ((pickle, "load"), (pickle, "loads"), (torch, "load")):
        monkeypatch.setattr(module, function, None)
    found = source(pack(tmp_path / "s.tar", [("a.png", png(0)), (name, pickle.dumps(Bomb()))]))
    assert [found[i].label for i in range(len(found))] == [None]
    assert found.remarks() == (f"1 members of {tmp_path}/s.tar belong to no image, or are of no use here",)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("pipe:touch exploded", "'pipe:touch exploded' is a command; images are read from this machine's disks only"),
        ("http://example.org/{0..9}.tar", "is an address; images are read"),
        ("s3://bucket/a.tar", "is an address"),
        ("file:a.tar", "is an address"),
        ("hf:owner/name", "is an address"),
    ],
)
@pytest.mark.parametrize("kind", ["tar", "folder", "images"])
def test_only_local_paths_are_read(tmp_path, monkeypatch, path, words, kind):
    if kind == "tar" and path.startswith(("http", "s3")):
        words = "which `hosts` does not name"  # tests/data/test_remote.py has those that are fetched
    monkeypatch.chdir(tmp_path)
    for function in ("system", "popen"):
        monkeypatch.setattr(os, function, None)
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(ConfigError, match=rf"path: .*{words}"):
        source(path, kind)
    assert not (tmp_path / "exploded").exists()


def test_links_and_devices_are_not_followed(tmp_path):
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind in (("a.png", tarfile.SYMTYPE), ("b.png", tarfile.LNKTYPE), ("c.png", tarfile.FIFOTYPE)):
            about = tarfile.TarInfo(name)
            about.type, about.linkname = kind, "/etc/passwd"
            tar.addfile(about)
    found = source(path)
    for i, name in enumerate("abc"):
        with pytest.raises(BrokenImage, match=rf"s\.tar:{name}\.png: it is a link out of the shard"):
            found[i]


@pytest.mark.parametrize("cut", [100, 700, 2048, 3000])
def test_a_shard_that_breaks_off_is_named(tmp_path, cut):
    path = pack(tmp_path / "s.tar", [("a.png", bytes(600)), ("b.png", bytes(600))])
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ConfigError, match=r"s\.tar: is not a whole, uncompressed tar file"):
        source(path)


def test_compressed_shards_folders_and_missing_ones_are_told(tmp_path, two):
    folder = two.parent
    for path, words in (
        (folder, r"is a folder; name its shards, as .*/\*\.tar"),
        (folder / "s-9.tar", r"there is no shard '.*s-9\.tar'"),
        (folder / "s-{0..2}.tar", r"there is no shard '.*s-2\.tar'"),
        (folder / "t-*.tar", r"no file matches '.*t-\*\.tar'"),
        (folder / "s-{0,0}.tar", r"names '.*s-0\.tar' twice"),
    ):
        with pytest.raises(ConfigError, match=words):
            source(path)
    (folder / "s.tar.gz").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"s\.tar\.gz' is no uncompressed \.tar"):
        source(folder / "s.tar.gz")
    with tarfile.open(folder / "z.tar", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.png"))
    with pytest.raises(ConfigError, match=r"z\.tar: is not a whole, uncompressed tar"):
        source(folder / "z.tar")


# --- patterns ------------------------------------------------------------------------------------------------------


def test_braces_are_written_out_in_order():
    assert braces("a.tar") == ["a.tar"]
    assert braces("{008..011}") == ["008", "009", "010", "011"]
    assert braces("{8..11}") == ["8", "9", "10", "11"]
    assert braces("{x,y}-{0..1}.tar") == ["x-0.tar", "x-1.tar", "y-0.tar", "y-1.tar"]
    assert braces("{b,a}") == ["b", "a"]
    for text, words in (("{a}", "no range and no list"), ("{3..1}", "no range"), ("{0..999999999}", "more than")):
        with pytest.raises(ConfigError, match=words):
            braces(text)
    with pytest.raises(ConfigError, match="more than 100,000"):
        braces("{0..999}-{0..999}")


def test_globs_are_sorted_and_ids_tell_shards_of_one_name_apart(tmp_path):
    for name in ("b/s.tar", "a/s.tar", "a/t.tar"):
        pack(tmp_path / name, [("x.png", png(0))])
    found = source(f"{tmp_path}/*/*.tar")
    assert [found[i].id for i in range(3)] == ["a/s/x.png", "a/t/x.png", "b/s/x.png"]
    assert [path.name for path in shards(f"{tmp_path}/{{b,a}}/*.tar")] == ["s.tar", "s.tar", "t.tar"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path):
    path = pack(tmp_path / "s-{0..1}[a].tar", [("x.png", png(0))])
    assert shards(str(path)) == [path]


# --- the index -----------------------------------------------------------------------------------------------------


def test_a_shard_is_indexed_once_and_again_when_it_changes(two, home, monkeypatch):
    source(two)
    kept = sorted((home / "shards").iterdir())
    assert len(kept) == 2

    def build(_):
        raise AssertionError("indexed again")

    with monkeypatch.context() as patch:
        patch.setattr(tarfiles, "_build", build)
        again = source(two)
        assert (len(again), again[4].label) == (5, 4)
    pack(two.parent / "s-1.tar", [("x.png", png(9))])
    assert len(source(two)) == 4
    assert len(list((home / "shards").iterdir())) == 3
    before = (two.parent / "s-1.tar").stat()
    pack(two.parent / "new.tar", [("y.png", png(9))])
    os.utime(two.parent / "new.tar", ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(two.parent / "new.tar", two.parent / "s-1.tar")
    assert (two.parent / "s-1.tar").stat().st_size == before.st_size
    assert source(two)[3].id == "s-1/y.png"


def test_a_damaged_index_is_made_anew(two, home):
    source(two)
    for path in (home / "shards").iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    assert source(two)[4].id == "s-1/0004.png"
    for path in (home / "shards").iterdir():
        path.write_bytes(b"something else")
    assert source(two)[4].id == "s-1/0004.png"
    (whole,) = {path.read_bytes() for path in (home / "shards").iterdir() if b"0004" in path.read_bytes()}
    (path,) = (path for path in (home / "shards").iterdir() if path.read_bytes() == whole)
    for at in range(len(whole)):  # any bit of it, that of a key or a label's place too
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        assert tarfiles._open(two.parent / "s-1.tar", (0, 0), path) is None


def test_where_the_cache_cannot_be_written_all_goes_on_without_and_that_is_told_once(two, monkeypatch, caplog):
    monkeypatch.setenv("FLEXFRAME_HOME", "/proc/nowhere")
    for _ in range(2):
        assert source(two)[4].id == "s-1/0004.png"
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith("FLEXFRAME_HOME, /proc/nowhere, cannot be written (No such file or directory): each command")
    assert told.endswith("; set FLEXFRAME_HOME to a folder that can be written")


def test_a_shard_that_changes_while_it_is_read_is_told(two):
    found = source(two)
    path = two.parent / "s-1.tar"
    path.write_bytes(path.read_bytes() + bytes(512))
    assert found[0].label == 0
    with pytest.raises(BrokenImage, match=r"s-1\.tar:0003\.png: the shard was changed meanwhile"):
        found[3]


def test_two_that_index_a_shard_at_once_do_not_meet(two, home, monkeypatch):
    """A second process begins and ends while a first one is reading the shard."""
    shard, build, counts = two.parent / "s-0.tar", tarfiles._build, []

    def slow(path):
        content = build(path)
        with monkeypatch.context() as other:
            other.setattr(tarfiles, "_build", build)
            other.setattr(os, "getpid", lambda: 1)
            counts.append(index(path).count)
        return content

    with monkeypatch.context() as first:
        first.setattr(tarfiles, "_build", slow)
        counts.append(index(shard).count)
    assert counts == [3, 3]
    assert [path.suffix for path in (home / "shards").iterdir()] == [".index"]


def test_an_index_holds_no_sample_in_memory(tmp_path):
    """What a source keeps does not grow with the samples of its shards."""
    sizes = []
    for count in (10, 2000):
        path = pack(tmp_path / f"s-{count}.tar", [(f"{i:06}.png", b"x") for i in range(count)])
        found = source(path)
        assert len(found) == count
        sizes.append(len(pickle.dumps(found)))
    assert abs(sizes[1] - sizes[0]) < 16
    assert index(path).row(1999).key == "001999"


# --- processes -----------------------------------------------------------------------------------------------------


def test_batches_are_the_same_with_worker_processes(two):
    found = source(two)
    run = {"data": {"type": "tar", "path": str(two)}, "batch_size": 4, "steps": 4}
    alone, shared = (
        list(batches(found, RunConfig.read(run), 0, torch.device("cpu"), workers=workers)) for workers in (0, 2)
    )
    for one, other in zip(alone, shared, strict=True):
        assert torch.equal(one.index, other.index)
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.condition.labels, one.index)


def test_a_source_can_be_sent_to_a_process_that_shares_nothing(two):
    found = source(two)
    assert found[0].label == 0
    sent = pickle.loads(pickle.dumps(found))
    assert (sent[4].id, sent[4].label) == ("s-1/0004.png", 4)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files in /proc")
def test_no_file_stays_open(two):
    found = source(two)
    before = len(os.listdir("/proc/self/fd"))
    for i in range(5):
        found[i]
    assert len(os.listdir("/proc/self/fd")) == before


# --- either --------------------------------------------------------------------------------------------------------


def test_images_is_a_folder_or_shards_as_the_path_is(two, tmp_path):
    for i in range(3):
        (tmp_path / "folder" / str(i)).mkdir(parents=True)
        Image.fromarray(pixels(i)).save(tmp_path / "folder" / str(i) / "x.png")
    folder, tar = source(tmp_path / "folder", "images"), source(two, "images", resize="adm")
    assert (len(folder), len(tar)) == (3, 5)
    assert [folder[i].id for i in range(3)] == ["0/x.png", "1/x.png", "2/x.png"]
    assert all(torch.equal(folder[i].image, tar[i].image) for i in range(3))
    assert (folder.protocol()["resize"], tar.protocol()["resize"]) == ("torchvision-bicubic", "adm")
