"""`flexframe encode`, `decode` and `reconstruct`, as they are typed."""

import errno
import io
import json
import os
import re

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from flexframe import files, terminal
from flexframe.commands import progress
from flexframe.data.tokenfile import TokenFile
from flexframe.files import seal
from flexframe.train import checkpoint

from .conftest import IDS

CPU = ("--device", "cpu")


def only_line(answer):
    assert answer.code == 2
    assert answer.out == ""
    (line,) = answer.err.splitlines()
    return line


@pytest.fixture
def tokens(command, photos, model, tmp_path):
    path = tmp_path / "t.safetensors"
    answer = command("encode", photos, "-m", model, "-o", path, *CPU)
    assert answer.code == 0, answer.err
    assert answer.out.strip() == f"7 images, 8.0 tokens each on average, in {path}"
    return path


def test_there_and_back(command, tokens, model, tmp_path):
    file = TokenFile(tokens)
    assert list(file.ids()) == IDS
    assert file.about.model == f"path:{model}"
    answer = command("decode", tokens, "-o", tmp_path / "out", "--steps", 1, "--set", "sampling.guidance=2.0", *CPU)
    assert answer.code == 0, answer.err
    assert answer.out.strip() == f"7 images in {tmp_path / 'out'}"
    with Image.open(tmp_path / "out" / "d" / "e" / "1.png") as image:
        assert image.size == (16, 16)
    record = json.loads((tmp_path / "out" / "decode.json").read_text())
    assert (record["model"], record["sampling"]["steps"], record["sampling"]["guidance"]) == (f"path:{model}", 1, 2.0)
    again = command("decode", tokens, "-o", tmp_path / "out", "--steps", 1, "--guidance", "2.0", *CPU)
    assert again.out.strip().endswith("; 7 were there already")


SUITE = "data: {type: digits, split: val}\ncount: 4\nmetrics: [psnr]\n"
VAL = "{type: digits, split: val}"
RUN = ("run.steps=1", "run.batch_size=4", "run.log_every=1")
WRITERS = {
    "init": ("init", "toy/digits-tiny", "-o", "out/m.safetensors"),
    "encode": ("encode", "photos", "-m", "model.safetensors", "-o", "t.safetensors", *CPU),
    "decode": ("decode", "tokens.safetensors", "-m", "model.safetensors", "-o", "out", *CPU),
    "reconstruct": ("reconstruct", "photos", "-m", "model.safetensors", "-o", "out.png", "--count", 1, *CPU),
    "tokens": ("precompute", "tokens", "-m", "model.safetensors", "--data", VAL, "-o", "d.safetensors",
               *CPU),
    "latents": ("precompute", "latents", "-m", "model.safetensors", "--data", VAL, "-o", "out", *CPU),
    "bench": ("bench", "suite.yaml", "toy/plain", "-o", "out", *CPU),
    "train": ("train", "toy/digits-tiny", *RUN, "-o", "out", *CPU),
    "resume": ("train", "--resume", "run", *CPU),
    "new-plugin": ("new-plugin", "mine", "-o", "out"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_takes_nothing_is_told_in_one_line_by_the_name_of_what_is_not_written(
    command, photos, model, tokens, tmp_path, monkeypatch, name
):
    monkeypatch.chdir(tmp_path)
    tokens.rename("tokens.safetensors")
    (tmp_path / "suite.yaml").write_text(SUITE)
    if name == "resume":
        assert command("train", "toy/digits-tiny", *RUN, "run.steps=2", "run.checkpoint_every=1", "-o", "run").code == 0
        (tmp_path / "run" / "model.safetensors").unlink()

    def full(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "sync", full)
    monkeypatch.setattr(checkpoint, "sync", full)
    answer = command(*WRITERS[name])
    assert answer.code == 2, answer.err
    line = answer.err.splitlines()[-1]
    assert "the disk is full; make room" in line or (name == "resume" and "No space left on device" in line)
    assert re.match(r"flexframe: \S*(out|t\.|d\.|run)", line), line
    assert "not expected" not in answer.err
    assert not list(tmp_path.rglob("*.part")) or name in ("encode", "tokens")


def test_a_cards_model_is_found_again_by_its_id(command, photos, tmp_path):
    path = tmp_path / "t.safetensors"
    assert command("encode", photos / "b", "-m", "toy/plain", "-o", path, *CPU).code == 0
    assert TokenFile(path).about.model == "toy/plain"
    assert command("decode", path, "-o", tmp_path / "out", *CPU).code == 0
    assert len(list((tmp_path / "out").glob("*.png"))) == 2
    line = only_line(command("decode", path, "-o", tmp_path / "more", "--steps", 3, *CPU))
    assert "--steps: is no option of this command and no setting of decoder 'toy-plain'. Did you mean '--set'?" in line


def test_a_cards_file_is_a_model(command, photos, tmp_path):
    few, path, numbers = tmp_path / "few.yaml", tmp_path / "t.safetensors", tmp_path / "n.json"
    few.write_text("base: toy/digits-tiny\nsampling: {steps: 1}\n")
    assert command("encode", photos / "b", "-m", few, "-o", path, *CPU).code == 0
    assert TokenFile(path).about.model == f"path:{few}"
    assert command("decode", path, "-o", tmp_path / "out", *CPU).code == 0
    assert json.loads((tmp_path / "out" / "decode.json").read_text())["sampling"]["steps"] == 1
    given = ("-m", few, "-o", tmp_path / "g.png", "--json", numbers)
    assert command("reconstruct", photos / "b", *given, *CPU).code == 0
    assert json.loads(numbers.read_text())["sampling"]["steps"] == 1


def test_lengths_and_allocators_from_the_command_line(command, photos, model, tmp_path):
    path = tmp_path / "{}.safetensors"
    for name, options in {
        "fixed": ["--lengths", 2],
        "listed": ["--lengths", "1,2"],
        "chosen": ["--allocator", "toy", "--set", "allocator.gain=8"],
    }.items():
        to = str(path).format(name)
        answer = command("encode", photos / "b", "-m", model, "-o", to, *options, *CPU)
        assert answer.code == 0, answer.err
    found = [TokenFile(str(path).format(name)).rows(0, 2).lengths.tolist() for name in ("fixed", "listed", "chosen")]
    assert found == [[2, 2], [1, 2], [8, 8]]


def test_broken_images_are_listed(command, photos, model, tmp_path):
    (photos / "c.PNG").write_bytes(b"no image")
    arguments = ("encode", photos, "-m", model, "-o", tmp_path / "t.safetensors", *CPU)
    assert "flexframe: cannot read image" in only_line(command(*arguments))
    answer = command(*arguments, "--skip-broken")
    assert answer.code == 0
    assert "photos/c.PNG: " in answer.err
    assert answer.out.strip().endswith("; 1 could not be read")


def test_a_picture_and_its_numbers(command, photos, model, tmp_path):
    picture, numbers = tmp_path / "new" / "grid.png", tmp_path / "new" / "grid.json"
    answer = command(
        "reconstruct", photos, "-m", model, "-o", picture, "--lengths", "1,8", "--count", 3, "--steps", 1,
        "--json", numbers, *CPU,
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert f"3 of 7 images, in {picture}" in answer.out
    with Image.open(picture) as image:
        assert image.size == (12 + 3 * 140, 12 + 3 * 176)
        assert np.asarray(image).std() > 10
    found = json.loads(numbers.read_text())
    assert found["sampling"]["steps"] == 1
    assert [each["id"] for each in found["images"]] == IDS[:3]
    assert all(set(each["psnr"]) == {"1", "8"} for each in found["images"])
    assert f"{found['images'][0]['psnr']['8']:.2f}" in answer.out


def test_a_token_file_starts_no_download(command, tokens, tmp_path):
    content = tokens.read_bytes()
    name = TokenFile(tokens).about.model.encode()
    for said, words in (
        (b"hf:evil/repo", "was encoded by hf:evil/repo; give --model hf:evil/repo to fetch and use it"),
        (b"evil/repo", "no card named 'evil/repo'"),
    ):
        padded = said.ljust(len(name))  # the header keeps its length
        tokens.write_bytes(
            re.sub(rb'"sha256:[0-9a-f]{64}"', b'"sha256:' + b"0" * 64 + b'"', content).replace(name, padded)
        )
        seal(tokens)  # as whoever wrote it would have
        line = only_line(command("decode", tokens, "-o", tmp_path / "out", *CPU))
        assert words.split(";")[0].split("'evil")[0] in line
        assert not (tmp_path / "out").exists()


def test_progress_is_a_line_a_minute_where_there_is_no_terminal_and_much_is_left(
    command, photos, model, tmp_path, monkeypatch
):
    given = ("encode", photos, "-m", model, "--batch-size", 3, *CPU)
    assert command(*given, "-o", tmp_path / "quiet").err == ""
    monkeypatch.setattr(terminal, "LINE_EVERY", 0)
    assert command(*given, "-o", tmp_path / "short").err == ""  # minutes past, and seconds left
    monkeypatch.setattr(terminal, "WORTH", 0)
    told = command(*given, "-o", tmp_path / "t").err.splitlines()
    assert [line.partition(", ")[0] for line in told] == [f"encoding: {done} of 7" for done in (3, 6, 7)]
    assert told[1].endswith(" s left")
    assert command("--quiet", *given, "-o", tmp_path / "hushed").err == ""


def test_progress_is_a_bar_on_a_terminal(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(progress, "say", Console(file=screen, force_terminal=True, width=100))
    with progress.bar("encoding") as told:
        told(1.5, 1000)
    assert "listing images" in screen.getvalue()
    assert "1.5/1,000" in screen.getvalue()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--resize", "nearest"), "--resize: there is no 'nearest'; there are: torchvision-bicubic, "),
        (("--set", "sampling.steps=3"), "sampling.steps=3: is not of the form allocator.key=value"),
        (("--allocator", "toy", "--set", "allocator.gain"), "gain: is not of the form key.path=value"),
        (("--lengths", "9"), "--lengths: a length of 9; this model's are 1..8"),
        (("--lengths", "1,2,3"), "--lengths: lists 3 lengths for 7 images"),
        (("--allocator", "nothing"), "no allocator named 'nothing'"),
        (("--device", "abacus"), "--device: there is no 'abacus'"),
    ],
)
def test_what_encode_refuses(command, photos, model, tmp_path, arguments, words):
    given = ("encode", photos, "-m", model, "-o", tmp_path / "t.safetensors", *CPU, *arguments)
    assert words in only_line(command(*given))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.safetensors", "photos"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--steps", 2, "--set", "sampling.steps=3"), "sampling.steps: and --steps both say so; give one of the two"),
        (("--set", "guidance=3"), "guidance=3: is not of the form sampling.key=value"),
        (("--length", 9), "--length: 9 is not within 1..8"),
        (("-m", "toy/plain"), "this model's are of 1 x 64, so it cannot decode them"),
        (("-m", "toy/digits-tiny"), "was encoded by another model"),
    ],
)
def test_what_decode_refuses(command, tokens, tmp_path, arguments, words):
    assert words in only_line(command("decode", tokens, "-o", tmp_path / "out", *CPU, *arguments))
    assert not (tmp_path / "out").exists()


def test_a_truncated_file_and_a_wrong_picture_are_told(command, tokens, photos, model, tmp_path):
    tokens.write_bytes(tokens.read_bytes()[:-5])
    assert "is not a whole safetensors file" in only_line(command("decode", tokens, "-o", tmp_path / "out"))
    line = only_line(command("reconstruct", photos, "-m", model, "-o", tmp_path / "grid.txt", *CPU))
    assert "has no suffix of a picture that can be written; end it in .png" in line
