"""Token files: what is written is read, in slices, and each way in which one can be broken is told."""

import itertools
import json
import struct

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from flexframe.data import tokenfile
from flexframe.data.tokenfile import About, Row, TokenFile, write
from flexframe_registry import ConfigError


def about(**changes):
    facts = {
        "model": "some/model", "fingerprint": "0" * 64, "length": 8, "dim": 6, "codebooks": 1, "codebook_size": 1000,
        "image_size": (16, 16), "preprocessing": {}, "seed": 0, "lengths": {"rule": "fixed"}, "flexframe": "1",
    }  # fmt: skip
    return About.read(facts | changes)


def rows(lengths=(3, 1, 5), width=1, size=1000, dtype="<u2"):
    draws = np.random.default_rng(0)
    return [Row(10 * i, f"ä/{i}.png", draws.integers(0, size, (k, width)).astype(dtype)) for i, k in enumerate(lengths)]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "t.safetensors"
    assert write(path, about(), lambda: iter(rows())) == (3, 9)
    return path


def rewrite(path, change, metadata=None):
    """The file again, through safetensors itself, after `change` has been at its tensors."""
    with safe_open(path, "np") as file:
        kept = file.metadata()
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata=metadata if metadata is not None else kept)


# --- there and back ----------------------------------------------------------------------------------------------


def test_what_is_written_is_read(path):
    file, expected = TokenFile(path), rows()
    assert (len(file), file.longest, file.about) == (3, 5, about())
    found = file.rows(0, 3)
    assert found.codes.shape == (3, 5, 1)
    assert found.codes.dtype == torch.long
    assert found.lengths.tolist() == [3, 1, 5]
    assert found.index.tolist() == [0, 10, 20]
    assert found.ids == [row.id for row in expected] == list(file.ids())
    for i, row in enumerate(expected):
        assert found.codes[i, : len(row.codes)].tolist() == row.codes.tolist()
        assert not found.codes[i, len(row.codes) :].any()


def test_any_slice_is_that_part_of_the_whole(path):
    file = TokenFile(path)
    whole = file.rows(0, 3)
    for start, stop in itertools.combinations(range(4), 2):
        part = file.rows(start, stop)
        assert torch.equal(part.codes, whole.codes[start:stop])
        assert part.ids == whole.ids[start:stop]
        assert torch.equal(part.index, whole.index[start:stop])
    assert [len(part.ids) for part in file.batches(2)] == [2, 1]


@pytest.mark.parametrize(
    ("size", "name", "kind"),
    [(2, "U8", "u1"), (256, "U8", "u1"), (257, "U16", "u2"), (65536, "U16", "u2"), (65537, "I32", "i4")],
)
def test_codes_take_the_smallest_type_that_holds_the_codebook(tmp_path, size, name, kind):
    path, known = tmp_path / "t.safetensors", about(codebook_size=size, codebooks=2)
    codes = np.array([[0, size - 1], [size - 1, 1]], f"<{kind}")
    write(path, known, lambda: [Row(0, "a", codes)])
    with safe_open(path, "np") as file:
        assert file.get_slice("codes").get_dtype() == name
    assert TokenFile(path).rows(0, 1).codes.tolist() == [codes.tolist()]


def test_continuous_tokens_are_floats_of_their_own_width(tmp_path):
    path, values = tmp_path / "t.safetensors", np.random.default_rng(0).normal(size=(4, 6)).astype("<f4")
    write(path, about(codebook_size=None), lambda: [Row(0, "a", values)])
    found = TokenFile(path).rows(0, 1)
    assert found.codes.dtype == torch.float32
    assert np.array_equal(found.codes[0].numpy(), values)


def test_a_file_of_integer_codes_does_not_speak_of_a_scale(path):
    with safe_open(path, "np") as file:
        assert not {"mean", "deviation"} & json.loads(file.metadata()["flexframe"]).keys()


def test_the_file_is_one_that_safetensors_reads_by_itself(path):
    tensors = load_file(path)
    assert {name: (value.dtype.str, value.shape) for name, value in tensors.items()} == {
        "codes": ("<u2", (3, 5, 1)),
        "lengths": ("<i4", (3,)),
        "index": ("<i8", (3,)),
        "id_ends": ("<i8", (3,)),
        "ids": ("|u1", (24,)),
    }
    assert tensors["ids"].tobytes().decode() == "ä/0.pngä/1.pngä/2.png"
    assert tensors["id_ends"].tolist() == [8, 16, 24]


def test_equal_rows_make_equal_bytes_and_a_failed_writing_leaves_nothing(path, tmp_path):
    again = tmp_path / "again.safetensors"
    write(again, about(), lambda: iter(rows()))
    assert again.read_bytes() == path.read_bytes()
    passes = itertools.count()

    def shrinking():
        return rows((3, 1, 5)[: 3 - (next(passes) > 2)])

    with pytest.raises(ValueError, match="the rows changed while"):
        write(tmp_path / "new.safetensors", about(), shrinking)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.safetensors", "t.safetensors"]


# --- broken files ------------------------------------------------------------------------------------------------


def error(path):
    with pytest.raises(ConfigError) as caught:
        TokenFile(path).check()
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")


def test_a_missing_file_is_told(tmp_path):
    assert error(tmp_path / "nowhere.safetensors") == "there is no such file"


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, -1])
def test_a_truncated_file_is_told(path, keep):
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep) if isinstance(keep, float) else keep])
    assert error(path).startswith("is not a whole safetensors file")


def test_a_file_with_more_than_it_should_hold_is_told(path):
    path.write_bytes(path.read_bytes() + b"\0")
    assert error(path).startswith("is not a whole safetensors file")


def test_a_header_that_lies_is_told(path):
    whole = path.read_bytes()
    (size,) = struct.unpack("<Q", whole[:8])
    for old, new in ((b'"shape":[3,5,1]', b'"shape":[9,5,1]'), (b'"dtype":"U16"', b'"dtype":"F64"')):
        assert whole.count(old) == 1
        path.write_bytes(whole.replace(old, new))
        assert error(path).startswith("is not a whole safetensors file")
    path.write_bytes(struct.pack("<Q", 1 << 62) + whole[8:])
    assert error(path).startswith("is not a whole safetensors file")
    assert size < 4096


def test_another_kind_of_file_is_told(path, tmp_path, model):
    path.write_bytes(b"GIF89a and so on")
    assert error(path).startswith("is not a whole safetensors file")
    assert error(model).startswith("is no token file of this version: its metadata names format 'flexframe/1'")


def test_a_token_file_of_another_version_is_told(path):
    rewrite(path, lambda tensors: None, {"format": "flexframe-tokens/9"})
    assert error(path) == (
        "is no token file of this version: its metadata names format 'flexframe-tokens/9', not 'flexframe-tokens/1'"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "its metadata cannot be read"),
        ("[1, 2", "its metadata cannot be read"),
        ("[1, 2]", "valid dictionary"),
        (json.dumps({"model": "x"}), "fingerprint: is required"),
        ("x" * (tokenfile.MAX_ABOUT + 1), "its metadata has 1048577 characters; at most 1048576 are read"),
    ],
)
def test_metadata_that_says_too_little_is_told(path, text, words):
    rewrite(path, lambda tensors: None, {"format": tokenfile.FORMAT, "flexframe": text})
    with pytest.raises(ConfigError, match=words):
        TokenFile(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("ids"), "holds codes 3 x 5 x 1, id_ends 3, index 3, lengths 3; a token file holds"),
        (lambda t: t.update(more=np.zeros(1)), "holds codes .* more 1; a token file holds"),
        (lambda t: t.update(codes=t["codes"][..., 0]), "holds codes 3 x 5, "),
        (lambda t: t.update(lengths=t["lengths"][:2]), "do not fit each other or its metadata: lengths$"),
        (lambda t: t.update(codes=t["codes"].repeat(2, 2)), r"codes of shape \(3, 5, 2\)"),
        (lambda t: t.update(codes=t["codes"][:, :0]), r"codes of shape \(3, 0, 1\)"),
        (lambda t: t.update(codes=t["codes"].astype("f4")), "codes of type F32"),
        (lambda t: t.update(index=t["index"].astype("f8")), "index of type F64"),
        (lambda t: t.update(codes=t["codes"].repeat(2, 1)), "has sequences of 10 tokens; its model's have at most 8"),
        (lambda t: t["codes"].__setitem__((1, 0, 0), 1000), r"rows 0\.\.2 hold token ids .*\.\.1000; its .* 0\.\.999"),
        (lambda t: t["lengths"].__setitem__(1, 0), r"rows 0\.\.2 have lengths 0\.\.5, not within 1\.\.5"),
        (lambda t: t["lengths"].__setitem__(1, 6), r"rows 0\.\.2 have lengths 3\.\.6, not within 1\.\.5"),
        (lambda t: t["lengths"].__setitem__(1, -7), r"rows 0\.\.2 have lengths -7\.\.5"),
        (lambda t: t["id_ends"].__setitem__(1, 40), "end out of order or out of place"),
        (lambda t: t["id_ends"].__setitem__(1, 2), "end out of order or out of place"),
        (lambda t: t["id_ends"].__setitem__(0, -1), "end out of order or out of place"),
        (lambda t: t["id_ends"].__setitem__(2, 23), "end out of order or out of place"),
        (lambda t: t["ids"].__setitem__(0, 0xFF), "an id of rows 0..2 is no UTF-8"),
    ],
)
def test_tensors_that_do_not_fit_are_told(path, change, words):
    rewrite(path, change)
    with pytest.raises(ConfigError, match=words):
        TokenFile(path).check()


def test_a_code_that_became_another_is_told(path):
    content = bytearray(path.read_bytes())
    content[content.index(rows()[2].codes.tobytes())] ^= 1
    path.write_bytes(content)
    assert TokenFile(path).rows(2, 3).codes[0, 0].item() == rows()[2].codes.item(0) ^ 1  # as good a code as any
    for read in (TokenFile(path).check, TokenFile(path).table):
        with pytest.raises(ConfigError, match=r"t\.safetensors: was changed after .*; encode the images again"):
            read()


def test_a_file_of_before_there_were_seals_is_read(path):
    rewrite(path, lambda tensors: None, {"format": tokenfile.FORMAT, "flexframe": about().model_dump_json()})
    TokenFile(path).check()


def test_what_stands_in_absent_slots_does_not_matter(path):
    before = TokenFile(path).rows(0, 3).codes
    rewrite(path, lambda t: t["codes"].__setitem__((1, 3, 0), 5000))
    assert torch.equal(TokenFile(path).rows(0, 3).codes, before)


def test_values_that_are_not_finite_are_told(tmp_path):
    path = tmp_path / "t.safetensors"
    write(path, about(codebook_size=None), lambda: [Row(0, "a", np.full((1, 6), np.nan, "<f4"))])
    assert error(path).startswith("rows 0..0 hold values that are not finite")


def test_only_the_rows_that_are_asked_for_are_looked_at(path):
    rewrite(path, lambda t: t["codes"].__setitem__((2, 0, 0), 5000))
    file = TokenFile(path)
    assert file.rows(0, 2).lengths.tolist() == [3, 1]
    with pytest.raises(ConfigError, match=r"rows 2\.\.2 hold token ids"):
        file.rows(2, 3)
