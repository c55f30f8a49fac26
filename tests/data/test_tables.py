"""Sources of images in tables, and names of classes in a file."""

import io
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flexframe.data.images import BrokenImage
from flexframe_registry import ConfigError, catalogue
from flexframe_standard.sources import tables


def source(kind, size=(16, 16), **fields):
    config = catalogue().get("source", kind).config.read(fields)
    return catalogue().build(config, size)


def pixels(number):
    return np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def encoded(number):
    content = io.BytesIO()
    Image.fromarray(pixels(number)).save(content, "PNG")
    return content.getvalue()


def image(number):
    return torch.from_numpy(pixels(number)).permute(2, 0, 1)


# --- Parquet -----------------------------------------------------------------------------------------------------


@pytest.fixture
def parquet(tmp_path):
    """Two files of five rows, in groups of two, as the hub keeps them."""
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    features = {"image": {"_type": "Image"}, "label": {"names": ["ape", "zebra"], "_type": "ClassLabel"}}
    for file in range(2):
        numbers = range(5 * file, 5 * file + 5)
        columns = {
            "image": [{"bytes": encoded(i), "path": f"{i}.png"} for i in numbers],
            "label": [-1 if i == 4 else i % 2 for i in numbers],
            "caption": [f"no. {i}" for i in numbers],
            "raw": [encoded(i) for i in numbers],
            "word": ["ape" if i % 2 else "zebra" for i in numbers],
        }
        table = arrow.table(columns).replace_schema_metadata(
            {"huggingface": json.dumps({"info": {"features": features}})}
        )
        parquet.write_table(table, tmp_path / f"train-{file}.parquet", row_group_size=2)
    return tmp_path


def test_captions_that_are_lists_are_refused_where_they_are_wanted(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = {"image": [encoded(0), encoded(1)], "label": [0, 1], "caption": [["a", "b"], ["c"]]}
    parquet.write_table(arrow.table(rows), tmp_path / "a.parquet")
    found = source("parquet", path=str(tmp_path))
    with pytest.raises(BrokenImage, match=r"a\.parquet#000000: caption .* is list, and no text; name another column"):
        found[0]
    found.want("labels")
    assert [found[i].label for i in range(2)] == [0, 1]
    assert source("parquet", path=str(tmp_path), caption=None)[1].caption is None


@pytest.mark.parametrize("path", ["", "train-*.parquet", "train-{0..1}.parquet"])
def test_rows_of_parquet_files_are_images_in_order(parquet, path):
    found = source("parquet", path=str(parquet / path))
    assert (len(found), list(found.class_names())) == (10, ["ape", "zebra"])
    for i in (0, 9, 3, 4, 5):
        assert torch.equal(found[i].image, image(i))
        assert (found[i].label, found[i].caption) == (None if i == 4 else i % 2, f"no. {i}")
    assert found.read_labels([0, 1]) == [0, 1]
    found.want("captions")
    assert found.read_labels([0, 1]) == [None, None]  # not wanted, so not read
    for wanted in ("captions", "any", "none"):
        found.want(wanted)
        assert found.read_captions([3, 0]) == [{"caption": "no. 3"}, {"caption": "no. 0"}]
    assert found[6].id == "train-1.parquet#000001"
    assert len({sample.id for sample in found.samples(range(10))}) == 10
    assert found.inventory()["count"] == 10


def test_columns_are_named_and_labels_may_be_words(parquet):
    told = source("parquet", path=str(parquet), image="raw", label="word", classes=["zebra", "ape"], caption=None)
    assert [told[i].label for i in range(3)] == [0, 1, 0]
    assert told[0].caption is None
    assert torch.equal(told[2].image, image(2))
    unnumbered = source("parquet", path=str(parquet), label="word")
    with pytest.raises(BrokenImage, match="label 'zebra' is a name; number them by `classes`"):
        _ = unnumbered[0]
    other = source("parquet", path=str(parquet), label="word", classes=["horse"])
    with pytest.raises(BrokenImage, match="label 'zebra' is none of `classes`"):
        _ = other[0]
    assert source("parquet", path=str(parquet), labels="none")[1].label is None


def test_a_file_may_be_given_as_images(parquet):
    assert torch.equal(source("images", path=str(parquet / "train-1.parquet"))[0].image, image(5))


def test_a_group_is_decoded_once_while_it_is_held(parquet, monkeypatch):
    found, read = source("parquet", path=str(parquet)), []
    file = found._file(0)

    class Counted:
        schema_arrow, metadata = file.schema_arrow, file.metadata

        def read_row_group(self, group, **settings):
            read.append(group)
            return file.read_row_group(group, **settings)

    monkeypatch.setitem(found._open, 0, Counted())
    monkeypatch.setattr(tables, "GROUPS", 2)
    for i in (0, 1, 2, 3, 0, 4, 2):
        _ = found[i]
    assert read == [0, 1, 2, 1]


def test_another_process_opens_the_files_itself(parquet):
    found = source("parquet", path=str(parquet))
    found.want("labels")
    again = pickle.loads(pickle.dumps(found))
    assert torch.equal(again[7].image, image(7))
    assert again.facts == "labels"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"image": "picture"}, "image: .* has no column 'picture'; it has: image, label, caption, raw, word"),
        ({"label": "class"}, "label: .* has no column 'class'"),
        ({"labels": "folders"}, "labels: is 'folders'; rows of a table have theirs in a column"),
        ({"path": "nowhere.parquet"}, "path: there is no Parquet file"),
        ({"path": "empty"}, "path: there is no file .parquet under"),
        ({"path": "broken.parquet"}, "path: .* is no whole Parquet file"),
    ],
)
def test_what_is_wrong_with_a_table_is_told(parquet, fields, told):
    (parquet / "empty").mkdir()
    (parquet / "broken.parquet").write_bytes(b"PAR1 or so")
    path = parquet / fields.pop("path", "train-0.parquet")
    with pytest.raises(ConfigError, match=told):
        source("parquet", path=str(path), **fields)


def test_images_that_are_names_of_files_are_not_followed(parquet):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as files

    files.write_table(arrow.table({"image": ["/etc/passwd", "b.png"]}), parquet / "names.parquet")
    with pytest.raises(BrokenImage, match="column 'image' is str, not bytes"):
        _ = source("parquet", path=str(parquet / "names.parquet"))[0]


@pytest.mark.parametrize(("kind", "library"), [("parquet", "pyarrow"), ("datasets", "datasets")])
def test_a_missing_library_is_one_line(kind, library, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=rf"^source '{kind}' needs {library}, .* pip install 'flexframe\[{kind}\]'$"):
        source(kind, path=str(tmp_path))


# --- datasets ----------------------------------------------------------------------------------------------------

CODE = """
import io, pathlib, sys, warnings
import datasets, numpy as np
from PIL import Image
def encoded(i):
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(content, "PNG")
    return {"bytes": content.getvalue(), "path": None}
features = datasets.Features(
    image=datasets.Image(), label=datasets.ClassLabel(names=["ape", "zebra"]), caption=datasets.Value("string"))
rows = datasets.Dataset.from_dict(
    {"image": [encoded(i) for i in range(4)], "label": [0, 1, 0, 1], "caption": list("abcd")}, features=features)
datasets.DatasetDict({"train": rows, "val": rows.select([2])}).save_to_disk(sys.argv[1])
from flexframe_registry import catalogue
def source(**fields):
    return catalogue().build(catalogue().get("source", "datasets").config.read(fields), (16, 16))
found = source(path=sys.argv[1])
sample = found[3]
rows.to_parquet(sys.argv[2] + "/data.parquet")
fetched = source(path=sys.argv[2], split="train[1:]")
try:
    source(path=sys.argv[1], split="test")
except Exception as error:
    print(error)
print(len(found), list(found.class_names()), sample.label, sample.caption, sample.id, int(sample.image.sum()))
print(len(fetched), fetched[0].label, int(fetched[2].image.sum()), fetched.protocol()["data set"]["split"])
print(len(source(path=sys.argv[1], split="val")), found.inventory()["count"])
few = source(path=sys.argv[2], first=3)
(pathlib.Path(sys.argv[2]) / "data.parquet").unlink()
again = source(path=sys.argv[2], first=3)
print(len(few), len(again), again[1].label, int(again[2].image.sum()), list(again.class_names()))
try:
    source(path=sys.argv[1], first=3)
except Exception as error:
    print(str(error).split(",")[0])
"""


@pytest.mark.slow
def test_data_sets_of_the_library_are_sources(python, tmp_path):
    pytest.importorskip("pyarrow")
    if not Path(tmp_path).exists() or subprocess.run([sys.executable, "-c", "import datasets"]).returncode:
        pytest.skip("datasets is not installed")
    (tmp_path / "files").mkdir()
    quiet = {"HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
             "FLEXFRAME_HOME": str(tmp_path / "home")}  # fmt: skip
    answer = python(CODE, tmp_path / "kept", tmp_path / "files", **quiet)
    assert answer.returncode == 0, answer.stderr
    total = int(image(3).sum())
    wrong, *lines = [line for line in answer.stdout.splitlines() if line]
    assert wrong == "split: there is no 'test'; there are: train, val"
    assert lines[0] == f"4 ['ape', 'zebra'] 1 d train#000003 {total}"
    assert lines[1] == f"3 1 {total} train[1:]"
    assert lines[2] == "1 4"
    assert lines[3].startswith(f"3 3 1 {int(image(2).sum())} ['ape', 'zebra']")
    assert lines[4] == "first: is 3"


# --- names of classes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("names.txt", "zebra\nape\n\nhorse\n"),
        ("names.json", '["zebra", "ape", "horse"]'),
        ("index.json", '{"1": "ape", "0": "zebra", "2": "horse"}'),
        ("imagenet.json", '{"0": ["zebra", "Zebra"], "1": ["ape", "Ape"], "2": ["horse", "Horse"]}'),
    ],
)
def test_classes_keep_their_numbers_by_a_file(tmp_path, name, text):
    for kind in ("ape", "horse"):
        (tmp_path / "images" / kind).mkdir(parents=True)
        Image.fromarray(pixels(0)).save(tmp_path / "images" / kind / "a.png")
    (tmp_path / name).write_text(text)
    part = source("folder", path=str(tmp_path / "images"), classes=str(tmp_path / name))
    assert [part[0].label, part[1].label] == [1, 2]  # of the whole, of which a class is not here
    assert part.config.classes == ("zebra", "ape", "horse")  # so that a run's folder holds them


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"1": "ape"}', "names by number from 0 on"),
        ("[1, 2]", "no list of names"),
        ('["ape", "ape"]', "no list of names, each another"),
        ("nothing", "holds no list of names"),
        (None, "is no file of names"),
    ],
)
def test_a_file_that_names_no_classes_is_told(tmp_path, text, told):
    path = tmp_path / "names.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=told):
        source("folder", path=str(tmp_path), classes=str(path))
