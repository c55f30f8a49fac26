"""Files whole or absent, their hashes, journals, and what was begun otherwise."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch as torch_file
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from flexframe import files
from flexframe.files import Journal
from flexframe.models import tensorfile
from flexframe_registry import ConfigError
from flexframe_registry.files import read_json


class Squares(Journal):
    TABLES = ("rows (number INTEGER PRIMARY KEY, square INTEGER)",)
    WORK = "a squaring"


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"b": 1, "a": "ä"})
    assert path.read_bytes().startswith('{\n "b": 1,\n "a": "ä",\n "checksum": "sha256:'.encode())
    files.write_json(path, {"b": 1, "a": 2}, sort_keys=True)
    assert list(json.loads(path.read_text())) == ["a", "b", "checksum"]
    files.write_text(path, "ß\r\n")
    assert path.read_bytes() == "ß\r\n".encode()
    files.write_bytes(path, b"\0")
    assert path.read_bytes() == b"\0"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_writer_that_raises_leaves_what_was_there_and_no_part(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    files.write_text(path, "before")

    def half() -> None:
        with files.replaced(path) as part:
            part.write_text("hal")
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        half()
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(
    ("failure", "number"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), errno.ENOSPC),
        (SafetensorError("Error while serializing: I/O error: File too large (os error 27)"), errno.EFBIG),
    ],
)
def test_what_a_disk_does_not_take_is_told_by_the_name_of_the_file(
    tmp_path: Path, failure: Exception, number: int
) -> None:
    with pytest.raises(OSError, match=r"'.*/a\.txt'$") as told, files.replaced(tmp_path / "a.txt"):
        raise failure
    assert (told.value.errno, told.value.filename) == (number, str(tmp_path / "a.txt"))


def test_a_disk_that_cannot_be_written_to_is_told_by_the_name_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(path: Path, *_: object, **__: object) -> None:  # a read-only mount does so of a file that is not there
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    for name in ("write_bytes", "unlink"):
        monkeypatch.setattr(Path, name, refuses)
    with pytest.raises(OSError, match=r"'.*/a\.txt'$"):
        files.write_text(tmp_path / "a.txt", "x")


def test_an_error_of_another_file_stays_its_own(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="elsewhere"), files.replaced(tmp_path / "a.txt"):
        (tmp_path / "elsewhere").read_text()


# --- checksums ---------------------------------------------------------------------------------------------------


def flipped(path: Path) -> Iterator[int]:
    """Each bit of a file in turn, while it is the other."""
    content = path.read_bytes()
    with path.open("r+b", buffering=0) as file:
        for bit in range(8 * len(content)):
            os.pwrite(file.fileno(), bytes([content[bit // 8] ^ 1 << bit % 8]), bit // 8)
            yield bit
            os.pwrite(file.fileno(), content[bit // 8 : bit // 8 + 1], bit // 8)


def test_no_flipped_bit_of_a_json_file_goes_unseen(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    value = {"step": 8, "interval": [0.1, None], "sha256": {"a": "00ff"}, "x": float("nan")}
    files.write_json(path, value)
    assert str(read_json(path)) == str(value)
    unseen = []
    for bit in flipped(path):
        with contextlib.suppress(ConfigError):
            if str(read_json(path)) != str(value):  # the same where an e of a number is an E
                unseen.append(bit)
    assert unseen == []


def test_json_without_a_checksum_was_written_before_and_another_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": 1}')
    assert read_json(path) == {"a": 1}
    files.write_json(path, {"a": 1})
    path.write_text(json.dumps(json.loads(path.read_text())))  # laid out anew by an editor
    assert read_json(path) == {"a": 1}
    path.write_text(path.read_text().replace("1", "2", 1))
    with pytest.raises(ConfigError, match=r"a\.json: was changed after .* its checksum is another's; do this"):
        read_json(path, "do this")
    assert read_json(path, edit=True) == {"a": 2}
    assert "a.json was changed after" in caplog.text
    for text in ("[]", "", "{" * 100_000):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"a\.json: (cannot be read|holds list)"):
            read_json(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_json(tmp_path / "none.json")


def sealed(path: Path, **metadata: str) -> Path:
    save_file({"x": np.arange(5.0), "y": np.zeros((0, 2))}, path, metadata={**metadata, **files.BLANK})
    files.seal(path)
    return path


def test_no_flipped_bit_of_a_sealed_file_goes_unseen(tmp_path: Path) -> None:
    path = sealed(tmp_path / "a.safetensors", note='ä "sha256:" "checksum":"')
    files.check_seal(path, "-")
    with safe_open(path, "np") as file:
        assert file.metadata()["note"] == 'ä "sha256:" "checksum":"'
        assert (file.get_tensor("x") == np.arange(5.0)).all()
    unseen = []
    for bit in flipped(path):
        with contextlib.suppress(ConfigError, SafetensorError):
            files.check_seal(path, "-")
            safe_open(path, "np")
            unseen.append(bit)
    assert unseen == []


@pytest.mark.parametrize("metadata", [None, {"b": 'ä "', "a": "1"}, {"b": 'ä "', "a": "1", **files.BLANK}])
def test_tensors_are_written_one_by_one_as_the_library_writes_them(tmp_path: Path, metadata: dict[str, str]) -> None:
    kinds = list(tensorfile.KINDS)
    tensors = {f"ü{i}": torch.arange(3).to(kind) for i, kind in enumerate(kinds)}
    tensors |= {"scalar": torch.tensor(2.5), "none": torch.zeros(0, 3), "turned": torch.arange(6.0).view(2, 3).mT}
    tensors["shared"] = tensors["turned"]  # which the library refuses
    one, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    digest = tensorfile.write(one, tensors, metadata)
    torch_file.save_file({name: value.clone().contiguous() for name, value in tensors.items()}, other, metadata)
    if metadata is None:
        assert one.read_bytes() == other.read_bytes()
        assert digest == files.sha256(one)
    elif files.BLANK.items() <= metadata.items():
        files.seal(other)
        files.check_seal(one, "-")
        assert one.read_bytes() == other.read_bytes()
    found = torch_file.load_file(one)
    assert all(torch.equal(found[name], value) for name, value in tensors.items())


def test_a_sealed_file_is_the_same_in_every_process(tmp_path: Path) -> None:
    one = [sealed(tmp_path / "a.safetensors", b="1", a="2", c="3").read_bytes() for _ in range(8)]
    assert len(set(one)) == 1


def test_a_file_without_a_seal_was_written_before(tmp_path: Path) -> None:
    save_file({"x": np.arange(5.0)}, tmp_path / "a.safetensors", metadata={"a": "b"})
    files.check_seal(tmp_path / "a.safetensors", "-")


def test_two_writers_of_one_file_have_parts_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with files.replaced(path) as one, files.replaced(path) as other:
        assert one != other
        assert one.parent == other.parent == tmp_path
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"  # the outer block ends last
    assert os.listdir(tmp_path) == ["a.txt"]


def test_what_is_renamed_was_flushed_before_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    replace, fsync = os.replace, os.fsync

    def told_replace(source: Path, target: Path) -> None:
        events.append("rename")
        replace(source, target)

    def told_fsync(descriptor: int) -> None:
        events.append("file" if os.path.isfile(f"/proc/self/fd/{descriptor}") else "folder")
        fsync(descriptor)

    monkeypatch.setattr(os, "replace", told_replace)
    monkeypatch.setattr(os, "fsync", told_fsync)
    files.write_text(tmp_path / "a", "text")
    assert events == ["file", "rename", "folder"]


@pytest.mark.parametrize("name", ["a" * 250, "ä" * 120, "[a]*?.png"])
def test_a_part_has_a_name_for_any_file(tmp_path: Path, name: str) -> None:
    files.write_text(tmp_path / name, "text")
    assert os.listdir(tmp_path) == [name]


def test_parts_of_killed_writers_are_dropped_and_no_others(tmp_path: Path) -> None:
    path, other = tmp_path / "a[1].png", tmp_path / "a1.png"
    code = (
        "import os, signal, sys; from pathlib import Path; from flexframe.files import replaced\n"
        "with replaced(Path(sys.argv[1])) as part:\n part.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    for each in (path, other):
        assert subprocess.run([sys.executable, "-c", code, str(each)], check=False).returncode == -signal.SIGKILL
    assert len(os.listdir(tmp_path)) == 2
    files.drop_parts(path)
    (left,) = os.listdir(tmp_path)
    assert left.startswith(".a1.png.")


def test_a_hash_is_of_the_content(tmp_path: Path) -> None:
    content = os.urandom(1 << 20)
    (tmp_path / "a").write_bytes(content)
    assert files.sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()
    with pytest.raises(FileNotFoundError):
        files.sha256(tmp_path / "b")


def test_settings_that_are_the_same_as_json_are_the_same() -> None:
    files.refuse_other(
        "place", "was begun otherwise", {"a": [1, 2], "b": {"c": None}}, {"a": (1, 2), "b": {"c": None}}, "-"
    )


def test_others_are_told_by_path_with_both_values_and_what_to_do() -> None:
    was, now = {"a": {"b": 1, "c": [1]}, "gone": "x"}, {"a": {"b": 2, "c": [1]}, "new": None, "d": True}
    with pytest.raises(ConfigError) as told:
        files.refuse_other(Path("some/file"), "was begun otherwise", was, now, "do")
    assert str(told.value) == (
        "some/file: was begun otherwise: a.b was 1 and is 2; gone was 'x' and is none; d was none and is True; do"
    )
    assert told.value.problems[0][0] == "some/file"


def test_many_differences_are_counted_and_long_values_cut() -> None:
    with pytest.raises(ConfigError) as told:
        files.refuse_other("p", "t", {str(i): 0 for i in range(9)}, {str(i): "x" * 500 for i in range(9)}, "r")
    assert "; and 5 more; r" in str(told.value)
    assert len(str(told.value)) < 500


def test_a_journal_keeps_what_was_done_until_all_is(tmp_path: Path) -> None:
    path = tmp_path / "a.part"
    with Squares(path) as journal:
        journal.add((i, i * i) for i in range(3))
    with Squares(path) as journal:
        assert journal.done() == 3
        journal.add([(3, 9)])
        assert journal.db.execute("SELECT square FROM rows ORDER BY number").fetchall() == [(0,), (1,), (4,), (9,)]
        journal.finish()
    assert not path.exists()


def test_a_journal_in_which_nothing_is_done_goes(tmp_path: Path) -> None:
    with Squares(tmp_path / "a.part"):
        pass
    assert not (tmp_path / "a.part").exists()


def test_a_journal_is_on_disk_in_time_and_held_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "COMMIT_EVERY", 0.0)
    path = tmp_path / "a.part"
    with Squares(path) as journal:
        journal.add([(0, 0)])
        assert not journal.db.in_transaction
        with pytest.raises(ConfigError, match=r"a\.part: another process is at work on it; wait for it, or end it"):
            Squares(path)


def test_what_is_no_journal_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.part"
    path.write_bytes(b"something else entirely" * 100)
    with pytest.raises(ConfigError, match=r"is not what a squaring left behind \(.*\); delete it to start over"):
        Squares(path)
    with pytest.raises(ConfigError, match="cannot be written"):
        Squares(tmp_path / "nowhere" / "a.part")


def test_no_flipped_bit_of_what_a_journal_holds_goes_unseen(tmp_path: Path) -> None:
    path = tmp_path / "a.part"
    with Squares(path) as journal:
        with journal.wholly():
            journal.db.execute("INSERT INTO rows VALUES (100, 71)")
        journal.add([(1000 + i, 5000 + i) for i in range(3)])
        rows = journal.db.execute("SELECT * FROM rows ORDER BY number").fetchall()
    whole = path.read_bytes()
    for value in (100, 71, 5001):
        path.write_bytes(whole)
        with contextlib.closing(sqlite3.connect(path)) as db, db:
            db.execute("UPDATE rows SET square = square + 1 WHERE square = ? OR number = ?", [value, value])
        with pytest.raises(ConfigError, match=r"a\.part: was changed after .*; delete it to start over"):
            Squares(path)
    for bit in random.Random(0).sample(range(8 * len(whole)), 60):
        other = bytearray(whole)
        other[bit // 8] ^= 1 << bit % 8
        path.write_bytes(other)
        with contextlib.suppress(ConfigError, OSError), Squares(path) as journal:
            assert journal.db.execute("SELECT * FROM rows ORDER BY number").fetchall() == rows
    path.write_bytes(whole)
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("DROP TABLE sums")  # of before there were any
    with Squares(path) as journal:
        assert journal.done() == 4
        journal.add([(7, 49)])
    with Squares(path) as journal:
        assert journal.done() == 5


@pytest.mark.parametrize("wholly", [False, True])
def test_a_disk_that_is_full_is_told_by_a_journals_name(tmp_path: Path, wholly: bool) -> None:
    def fill(path: Path) -> None:
        with Squares(path) as journal:
            journal.db.execute("PRAGMA max_page_count = 4")
            if wholly:
                with journal.wholly():
                    journal.db.executemany("INSERT INTO rows VALUES (?, ?)", ((i, i) for i in range(10_000)))
            journal.add((i, i) for i in range(10_000))

    with pytest.raises(OSError, match=r"No space left on device: '.*a\.part'"):
        fill(tmp_path / "a.part")


def test_a_block_is_taken_down_wholly_or_not_at_all(tmp_path: Path) -> None:
    def broken(journal: Squares) -> None:
        with journal.wholly():
            journal.db.execute("INSERT INTO rows VALUES (7, 49)")
            raise ValueError("no")

    with Squares(tmp_path / "a.part") as journal:
        with pytest.raises(ValueError, match="no"):
            broken(journal)
        assert journal.done() == 0
        with journal.wholly():
            journal.db.execute("INSERT INTO rows VALUES (7, 49)")
        assert journal.done() == 1
        with pytest.raises(sqlite3.IntegrityError):
            journal.add([(7, 49)])
