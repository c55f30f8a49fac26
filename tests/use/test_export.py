"""Tokens and models in the forms of other programs."""

import io
import json
import tarfile

import numpy as np
import pytest

from flexframe.data.tokenfile import About, Row, TokenFile, write

CODES = ([[3], [1], [4]], [[1]], [[5], [9], [2]])


def about(**fields):
    given = {
        "model": "card:toy/digits-tiny", "fingerprint": "0" * 64, "length": 4, "dim": 2, "codebooks": 1,
        "codebook_size": 10, "image_size": (16, 16), "preprocessing": {}, "seed": 0, "lengths": {}, "flexframe": "0",
    }  # fmt: skip
    return About(**{**given, **fields})


@pytest.fixture
def tokens(tmp_path):
    path = tmp_path / "tokens.safetensors"
    rows = [Row(i, f"photo {i}.png", np.array(codes), i + 3) for i, codes in enumerate(CODES)]
    write(path, about(), lambda: rows)
    return path


def exported(command, tokens, name, *given):
    answer = command("export", "tokens", tokens, "-o", tokens.with_name(name), *given)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith("3 images' tokens in ")
    return tokens.with_name(name)


def test_numpy_reads_the_whole_file_without_pickles(command, tokens):
    with np.load(exported(command, tokens, "t.npz"), allow_pickle=False) as held:
        assert np.array_equal(held["codes"], TokenFile(tokens).table().codes)
        assert held["lengths"].tolist() == [3, 1, 3]
        assert held["labels"].tolist() == [3, 4, 5]
        assert held["ids"].tolist() == [f"photo {i}.png" for i in range(3)]
        assert json.loads(str(held["about"]))["model"] == "card:toy/digits-tiny"


def test_lines_are_an_image_each(command, tokens):
    lines = [json.loads(line) for line in exported(command, tokens, "t.jsonl").read_text().splitlines()]
    assert lines[1] == {"id": "photo 1.png", "label": 4, "tokens": [1]}
    lines = exported(command, tokens, "c.jsonl", "--form", "class-jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines][2] == {"class_id": 5, "tokens": [5, 9, 2]}


def test_parquet_keeps_lists_of_their_own_lengths(command, tokens):
    pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = parquet.read_table(exported(command, tokens, "t.parquet"))
    assert table.to_pylist()[0] == {"id": "photo 0.png", "label": 3, "tokens": [3, 1, 4]}
    assert b"flexframe" in table.schema.metadata


def test_a_tar_is_of_webdatasets_form_and_the_same_each_time(command, tokens):
    first, second = exported(command, tokens, "a.tar"), exported(command, tokens, "b.tar")
    assert first.read_bytes() == second.read_bytes()
    with tarfile.open(first) as out:
        assert out.getnames()[:3] == ["000000000.npy", "000000000.json", "000000000.cls"]
        assert np.load(io.BytesIO(out.extractfile("000000002.npy").read())).tolist() == [[5], [9], [2]]
        assert out.extractfile("000000001.cls").read() == b"4"


def test_a_file_an_image_in_a_folder(command, tokens):
    folder = exported(command, tokens, "npy", "--form", "npy")
    assert np.load(folder / "codes" / "2.npy").tolist() == [[[5, 9, 2]]]
    assert np.load(folder / "labels" / "2.npy").tolist() == [5]


def test_values_and_several_codes_are_lists_in_lists(command, tmp_path):
    path = tmp_path / "values.safetensors"
    rows = [Row(0, "a", np.array([[0.5, 1.5]], np.float32))]
    write(path, about(codebook_size=None), lambda: rows)
    assert command("export", "tokens", path, "-o", tmp_path / "v.jsonl").code == 0
    assert json.loads((tmp_path / "v.jsonl").read_text()) == {"id": "a", "label": None, "tokens": [[0.5, 1.5]]}
    told = command("export", "tokens", path, "-o", tmp_path / "c.jsonl", "--form", "class-jsonl").err
    assert "wants a class of each image, and a has none" in told
    assert not (tmp_path / "c.jsonl").exists()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("-o", "t.zip"), "--out: 't.zip' ends in none of .npz, .parquet, .jsonl, .tar; forms are npz,"),
        (("-o", "t.npz", "--form", "pt"), "--form: there is no form 'pt'; forms are npz,"),
    ],
)
def test_an_unknown_form_is_told(command, tokens, given, told):
    assert told in command("export", "tokens", tokens, *given).err


# --- models ------------------------------------------------------------------------------------------------------


def test_what_cannot_be_exported_is_told(command, tiny, tmp_path):
    tiny.save(tmp_path / "model.safetensors")
    given = ("export", "model", tmp_path / "model.safetensors", "-o", tmp_path / "out", "--to")
    assert "--to: there is no 'torch'; there are: onnx, reference" in command(*given, "torch").err
    assert "and " in command(*given, "reference").err
    assert "is no import; name a checkpoint" in command(*given, "reference").err
