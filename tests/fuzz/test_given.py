"""What others hand to flexframe, broken and odd by the hundred: images, folders, shards, lists, published models."""

from __future__ import annotations

import io
import json
import os
import random
import re
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from flexframe.data.images import BrokenImage, read_image
from flexframe.data.tokenfile import TokenFile
from flexframe.models.modelfile import read
from flexframe_registry import ConfigError, catalogue
from flexframe_registry.slots import resolve

from .conftest import MODEL, picture
from .frame import flipped, mutated

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.usefixtures("unchecked"),
    pytest.mark.filterwarnings("always"),
]
COUNTS = {"image": 300, "among": 40, "folder": 120, "tar": 120, "tar bytes": 80, "lengths": 30, "published": 120}
"""Cases of each kind."""
ENCODE = ("encode", "f", "-m", MODEL, "-o", "t.safetensors", "--device", "cpu")


# --- images --------------------------------------------------------------------------------------------------------


def written(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def images() -> dict[str, bytes]:
    """A small picture in each of the ways that one is usually stored."""
    rgb, grey = picture(0), picture(1).convert("L")
    turned = Image.Exif()
    turned[0x0112] = 6
    deep = Image.fromarray(np.asarray(grey, dtype=np.uint16) * 257)
    return {
        "png": written(rgb, "PNG"), "grey.png": written(grey, "PNG"), "16.png": written(deep, "PNG"),
        "palette.png": written(rgb.quantize(16), "PNG", transparency=3),
        "alpha.png": written(rgb.convert("RGBA"), "PNG"), "exif.png": written(rgb, "PNG", exif=turned),
        "jpg": written(rgb, "JPEG"), "exif.jpg": written(rgb, "JPEG", exif=turned),
        "progressive.jpg": written(rgb, "JPEG", progressive=True), "cmyk.jpg": written(rgb.convert("CMYK"), "JPEG"),
        "webp": written(rgb, "WEBP"), "lossless.webp": written(rgb, "WEBP", lossless=True),
        "tif": written(rgb, "TIFF"), "lzw.tif": written(rgb, "TIFF", compression="tiff_lzw"),
        "deflate.tif": written(rgb, "TIFF", compression="tiff_adobe_deflate"), "bmp": written(rgb, "BMP"),
        "gif": written(rgb, "GIF"), "ppm": written(rgb, "PPM"), "tga": written(rgb, "TGA"),
        "moving.gif": written(rgb, "GIF", save_all=True, append_images=[picture(2)]),
    }  # fmt: skip


def by_pillow(content: bytes) -> np.ndarray | None:
    """The pixels as Pillow has them, where nothing is to be done to them; else none."""
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        plain = image.mode in ("RGB", "L") and not image.has_transparency_data
        turned = image.getexif().get(0x0112, 1) != 1
        return np.asarray(image.convert("RGB")) if plain and not turned else None


@pytest.mark.filterwarnings("ignore")
def test_images(tmp_path, faults):
    every = images()
    for name, rng in faults.draws("image", COUNTS["image"]):
        kind = rng.choice(sorted(every))
        path = tmp_path / f"broken.{kind}"
        content = mutated(rng, every[kind], every[rng.choice(sorted(every))])
        path.write_bytes(content)
        with faults.of(f"{name}, {kind}"):
            try:
                image = read_image(path, str(path))
            except BrokenImage as error:
                told = str(error)
                assert told.startswith(f"cannot read image {path}: "), told
                assert len(told.splitlines()) == 1, told
                assert "object at 0x" not in told, told
            else:
                assert image.mode == "RGB"
                pixels = by_pillow(content)
                assert pixels is None or np.array_equal(np.asarray(image), pixels)
                if kind.endswith("png") and content != every[kind]:
                    assert np.array_equal(np.asarray(image), np.asarray(read_image(io.BytesIO(every[kind]), ""))), (
                        "a PNG has checksums, and another picture is read"
                    )
    faults.none()


def test_one_broken_image_among_others(whole, run, monkeypatch, faults):
    """It is named; or left out, and told, where the user says so: the others are encoded as they are without it."""
    monkeypatch.chdir(whole)
    assert run(*ENCODE).code == 0
    rows = dict(tokens(Path("t.safetensors")))
    contents = {path: path.read_bytes() for path in Path("f").rglob("*.png")}
    for name, rng in faults.draws("among", COUNTS["among"]):
        for path, content in contents.items():
            path.unlink(missing_ok=True)
            path.write_bytes(content)
        Path("t.safetensors").unlink(missing_ok=True)
        path = rng.choice(sorted(contents))
        with faults.of(name):
            path.write_bytes(mutated(rng, contents[path]))
            skip = rng.random() < 0.5
            ended = run(*ENCODE, *["--skip-broken"] * skip)
            ended.clean(str(path))
            if ended.code == 0:
                found = dict(tokens(Path("t.safetensors")))
                lost = rows.keys() - found.keys()
                assert lost <= ({path.relative_to("f").as_posix()} if skip else set())
                assert not lost or ended.told(str(path))
                assert found == {name: rows[name] for name in found}
        for part in Path().glob("*.part"):
            part.unlink()
    faults.none()


def tokens(path: Path) -> list[tuple[str, Any]]:
    file = TokenFile(path)
    rows = file.rows(0, len(file))
    return list(zip(rows.ids, rows.codes.tolist(), strict=True))


# --- folders and shards --------------------------------------------------------------------------------------------

STEMS = (
    "a", "b", "10", "2", "a b", " a", "a ", "caf\u00e9", "cafe\u0301", "[x]", "a=b", "%s", "{a,b}", "*", "-x", "~",
    "a.b", "a.1", "b.seg", "x" * 200, "\U0001f642", "\u202eabc", "con", "#", "a'b\"c", "$HOME", "a;b", "&",
)  # fmt: skip
UNFIT = ("a\nb", "a\\b", "\x1b[31m", os.fsdecode(b"\xff"))
HIDDEN = (".hidden", "__MACOSX", "@eaDir", "..thumbs")
SUFFIXES = (".png", ".PNG", ".jpg", ".webp", ".jfif", ".bmp")
OTHERS = (".txt", ".mp4", "", ".csv", ".png.bak")
NO_LABEL = (b"", b"x", b"-1", b"\xff", b"1.0", b"9" * 30, b"3\n4", b"[1]", b"true")


@dataclass
class Tree:
    """A folder as it should be read."""

    images: dict[str, int] = field(default_factory=dict)
    """Seeds of the pictures by their ids, -1 of those that cannot be read."""
    labels: dict[str, int] = field(default_factory=dict)
    """Labels beside images."""
    no_labels: set[str] = field(default_factory=set)
    """Images beside which a label lies that is none."""

    @property
    def unfit(self) -> bool:
        """Whether an id is none that a file may have."""
        return any(word in name for name in self.images for word in UNFIT)

    def classes(self) -> list[str]:
        return sorted({name.split("/")[0] for name in self.images if "/" in name})

    def label(self, name: str, beside: bool) -> int | None:
        """The label of an image: that of the file beside it, or its folder's number."""
        if beside:
            return self.labels.get(name)
        return self.classes().index(name.split("/")[0]) if "/" in name else None

    def is_part(self, name: str) -> bool:
        """Whether it is a part of another image in a shard, as a.seg.png is of a.png."""
        folder, _, base = name.rpartition("/")
        first, *further = base.rpartition(".")[0].split(".")
        whole = [each for each in self.images if each.rpartition("/")[0] == folder]
        return (
            bool(further)
            and not "".join(further).isdigit()
            and any(each.rpartition("/")[2].rpartition(".")[0] == first for each in whole)
        )


def grow(rng: random.Random, root: Path, links: bool = True) -> Tree:
    """A folder with images, and with what lies about in folders."""
    tree = Tree()
    folders = [""]
    root.mkdir()
    for _ in range(rng.randrange(4)):
        folders.append(f"{rng.choice(folders)}{rng.choice(STEMS)}/")
        (root / folders[-1]).mkdir(exist_ok=True)
    labelled, stems = rng.random() < 0.3, set[str]()
    for number in range(rng.randrange(1, 9)):
        stem = rng.choice(folders) + rng.choice(UNFIT if rng.random() < 0.02 else STEMS)
        if stem in stems:
            continue
        stems.add(stem)
        name = f"{stem}{rng.choice(SUFFIXES)}"
        tree.images[name] = lay(rng, root / name, number, links)
        if labelled and rng.random() < 0.7:
            tree.labels[name] = number
            (root / f"{stem}.cls").write_text(f"{number}\n")
            if rng.random() < 0.1:
                tree.no_labels.add(name)
                (root / f"{stem}.cls").write_bytes(rng.choice(NO_LABEL))
        elif rng.random() < 0.1:
            (root / f"{stem}.json").write_text('{"version": "5", "shapes": []}')
    for _ in range(rng.randrange(3)):
        (root / f"{rng.choice(folders)}rest of {rng.choice(STEMS)}{rng.choice(OTHERS)}").write_bytes(b"rest")
    if rng.random() < 0.3:
        hidden = root / rng.choice(folders) / rng.choice(HIDDEN)
        hidden.mkdir()
        picture(99).save(hidden / "1.png")
    if links and rng.random() < 0.2:
        elsewhere = root.with_name(f"{root.name}-elsewhere")
        elsewhere.mkdir()
        picture(50).save(elsewhere / "away.png")
        (root / "linked").symlink_to(elsewhere)
        (root / "again").symlink_to(root)
        tree.images["linked/away.png"] = 50
    return tree


def lay(rng: random.Random, path: Path, number: int, links: bool) -> int:
    """A picture, or what may stand in its place; gives its seed, or -1."""
    how = rng.random()
    if how < 0.85 or not links:
        picture(number).save(path, {".jfif": "JPEG", ".jpg": "JPEG"}.get(path.suffix, path.suffix[1:].upper()))
        return number
    if how < 0.9:
        path.write_bytes(rng.choice((b"", b"no image", b"version https://git-lfs.github.com/spec/v1\n")))
    elif how < 0.95:
        path.symlink_to("nowhere.png")
    else:
        os.mkfifo(path)
    return -1


def see_source(source: Any, tree: Tree, named: Mapping[str, str], beside: bool) -> None:
    """Read a source from end to end: each image of the tree once, as it is there, or an error that names it.

    Args:
        named: the tree's names by those of the source, in its order.
    """
    source.want("labels")
    assert [source.name(number) for number in range(len(source))] == list(named)
    for number, name in enumerate(named.values()):
        sample = tried(partial(source.__getitem__, number), name.rpartition(".")[0])
        assert (sample is None) == (tree.images[name] < 0 or name in tree.no_labels), name
        if sample is None:
            continue
        assert sample.label == tree.label(name, beside), name
        colours = np.asarray(picture(tree.images[name])).mean((0, 1)) - sample.image.float().mean((1, 2)).numpy()
        assert np.abs(colours).max() < 15, f"{name} is another picture"


def tried(ask: Callable[[], Any], name: str) -> Any:
    """What is asked for; None where an error of one line, with the name in it, says that it cannot be."""
    try:
        return ask()
    except (ConfigError, BrokenImage) as error:
        told = str(error)
    assert name in told, told
    assert len(told.replace(name, "").splitlines()) == 1, told
    return None


def all_of(shard: Path) -> list[Any]:
    found = source("tar", shard)
    return list(found.samples(range(len(found))))


def source(kind: str, path: Path) -> Any:
    return catalogue().build(resolve("source", {"type": kind, "path": str(path)}), (16, 16))


def test_folders(tmp_path, run, models, monkeypatch, faults):
    """All images that are there and no others, in an order that does not depend on the disk, with their labels."""
    monkeypatch.chdir(models)
    for name, rng in faults.draws("folder", COUNTS["folder"]):
        root, out = tmp_path / name, tmp_path / f"{name}.safetensors"
        with faults.of(name):
            tree = grow(rng, root)
            order = sorted(tree.images, key=lambda each: each.split("/"))
            see_source(source("folder", root), tree, dict(zip(order, order, strict=True)), bool(tree.labels))
            ended = run("encode", root, "-m", MODEL, "-o", out, "--skip-broken", "--device", "cpu")
            ended.clean()
            readable = sorted(each for each, seed in tree.images.items() if seed >= 0)
            assert (ended.code == 0) == (bool(readable) and not tree.unfit), ended
            if ended.code == 0:
                assert [each for each, _ in tokens(out)] == readable
                assert ended.told("cannot") or len(readable) == len(tree.images), ended
    faults.none()


def packed(rng: random.Random, root: Path, names: list[str]) -> bytes:
    """Files in a tar archive of one of the formats, with folders of odd names among them."""
    file, kind = io.BytesIO(), rng.choice((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    with tarfile.open(fileobj=file, mode="w", format=kind) as archive:
        for name in names:
            about, content = tarfile.TarInfo(name), (root / name).read_bytes()
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
            if rng.random() < 0.1:
                folder = tarfile.TarInfo(rng.choice(("empty", "a.png", "b.cls")))
                folder.type = tarfile.DIRTYPE
                archive.addfile(folder)
    return file.getvalue()


def test_shards(tmp_path, faults):
    """In any order, of any format, joined: the same images with the same labels. Cut: told."""
    for name, rng in faults.draws("tar", COUNTS["tar"]):
        root, shard = tmp_path / name, tmp_path / f"{name}.tar"
        with faults.of(name):
            tree = grow(rng, root, links=False)
            files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
            rng.shuffle(files)
            at = rng.choice((0, rng.randrange(len(files))))
            shard.write_bytes(packed(rng, root, files[:at]) * bool(at) + packed(rng, root, files[at:]))
            order = [each for each in files if each in tree.images and not tree.is_part(each)]
            named = {f"{name}/{stem}.{end.lower()}": f"{stem}.{end}"
                     for stem, _, end in (each.rpartition(".") for each in order)}  # fmt: skip
            if tree.unfit:
                with pytest.raises(ConfigError):
                    source("tar", shard)
                continue
            see_source(source("tar", shard), tree, named, True)
            whole = packed(rng, root, files).rstrip(b"\0")
            shard.write_bytes(whole[: rng.randrange(1, len(whole))])
            with pytest.raises(ConfigError, match=re.escape(str(shard))) as told:
                source("tar", shard)
            assert len(str(told.value).splitlines()) == 1
    faults.none()


def test_bytes_of_shards(tmp_path, faults):
    """With a flipped bit, or a part lost: the same pictures of the same names, or an error that names the shard."""
    root, shard = tmp_path / "f", tmp_path / "s.tar"
    root.mkdir()
    for number in range(4):
        picture(number).save(root / f"{number}.png")
    content = packed(random.Random(0), root, [f"{number}.png" for number in range(4)])
    shard.write_bytes(content)
    whole = all_of(shard)
    for name, rng in faults.draws("tar bytes", COUNTS["tar bytes"]):
        shard.write_bytes(flipped(rng, content.rstrip(b"\0")).ljust(len(content), b"\0"))
        with faults.of(name):
            samples = tried(partial(all_of, shard), str(shard))
            if samples is None:
                continue
            assert [each.id for each in samples] == [f"s/{number}.png" for number in range(4)]
            same = [torch.equal(one.image, other.image) for one, other in zip(samples, whole, strict=True)]
            assert all(same), "a PNG has checksums, and another picture is read"
    faults.none()


# --- lists and published models ------------------------------------------------------------------------------------


def test_lists_of_lengths(whole, run, fuzz):
    names = sorted(path.relative_to(whole / "f").as_posix() for path in (whole / "f").rglob("*.png"))
    (whole / "l.csv").write_text("id,length\n" + "".join(f"{name},{n + 1}\n" for n, name in enumerate(names)))
    words = ("encode", "f", "-m", MODEL, "-o", "t.safetensors", "--lengths", "@l.csv", "--device", "cpu")
    fuzz("lengths", COUNTS["lengths"], whole, "l.csv", lambda: run(*words), list, loose=("l.csv",))


def save_safetensors(state: Mapping[str, torch.Tensor], config: str, folder: Path) -> None:
    save_file(dict(state), folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(config)


def save_alone(state: Mapping[str, torch.Tensor], config: str, folder: Path) -> None:
    save_file(dict(state), folder / "model.safetensors", {"toy": json.dumps(json.loads(config)["toy"])})


def save_pickle(state: Mapping[str, torch.Tensor], config: str, folder: Path) -> None:
    torch.save({"state_dict": dict(state)}, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(config)


def save_shards(state: Mapping[str, torch.Tensor], config: str, folder: Path) -> None:
    where = {name: f"model-{number % 2}.safetensors" for number, name in enumerate(state)}
    for file in sorted(set(where.values())):
        save_file({name: state[name] for name in state if where[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    (folder / "config.json").write_text(config)


@pytest.mark.parametrize("save", [save_safetensors, save_alone, save_pickle, save_shards])
def test_published_models(whole, run, save, fuzz):
    """They carry no checksums, so that other numbers are other weights; all else is told."""
    state = {f"net.{name}": value for name, value in load_file(whole / MODEL).items()}
    config = read(whole / MODEL)[0]["config"]
    (whole / "m").mkdir()
    save(state, json.dumps({"toy": config}), whole / "m")
    words = ("encode", "f", "-m", "m", "-o", "t.safetensors", "--device", "cpu")
    names = tuple(path.name for path in (whole / "m").iterdir())
    fuzz(f"published {save.__name__}", COUNTS["published"] // 4, whole, "m/*", lambda: run(*words), list, loose=names)


def test_there_are_enough_of_them():
    assert sum(COUNTS.values()) >= 750
