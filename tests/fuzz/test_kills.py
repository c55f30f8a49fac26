"""Commands killed at drawn moments, from their start to their last save: the same command ends with the same bytes.

A fork of this process, which has imported torch, runs each. It counts what Python calls, and is killed by SIGKILL at
one of these calls; half of the kills are within a save, some of them with what was being written cut short, as it is
when the disk has not taken all of it.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

from flexframe import cli, files, provenance
from flexframe.bench import partial, results, runner
from flexframe.data import shards, tokenfile
from flexframe.models import modelfile
from flexframe.train import checkpoint
from flexframe.use import decode

from .frame import inside
from .test_written import BENCH, DECODE, ENCODE, GENERATE, LATENTS, TOKENS, TRAIN, contents, settled

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.usefixtures("unchecked")]
KILLS = 20
"""Of each command, half of them within a save."""
SAVES = {
    inspect.unwrap(each).__code__
    for each in (
        files.write_bytes, files.seal, files.Journal.save, files.Journal.add, tokenfile.write, shards.Shards.write,
        checkpoint.write, modelfile.save, decode.save, partial.Partial.write, results.write,
    )
}  # fmt: skip


@dataclass
class Calls:
    """Counts calls, and those within a save; kills its process at one of them."""

    at: int = -1
    within: int = -1
    torn: random.Random | None = None
    """Draws to what length the files that are being written are cut before the kill; None for as they are."""
    all: int = 0
    saving: int = 0
    depth: int = 0

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        if frame.f_code in SAVES and not event.startswith("c_"):
            self.depth += {"call": 1, "return": -1}[event]
        self.all += 1
        self.saving += self.depth > 0
        if self.all == self.at or (self.saving == self.within and self.depth > 0):
            if self.torn is not None:
                for path in [*Path().rglob(".*.part"), *Path().rglob(".part-*/*")]:
                    os.truncate(path, self.torn.randint(0, path.stat().st_size))
            os.kill(os.getpid(), signal.SIGKILL)


class Fork:
    """Runs a command in a fork of this process, in the working directory."""

    def __init__(self, app: Callable[[], None], folder: Path, draws: Callable[..., Any]) -> None:
        self.app, self.told, self.draws = app, folder / "told", draws

    def __call__(self, words: Sequence[str], calls: Calls | None = None) -> int:
        """Its exit code; minus the signal's number where one ended it."""
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of forks beside threads
            child = os.fork()
        if child == 0:
            try:
                self._run(words, calls)
            finally:
                os._exit(99)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def _run(self, words: Sequence[str], calls: Calls | None) -> None:
        file = os.open(self.told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1), os.dup2(file, 2)
        sys.stdout = sys.stderr = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
        warnings.resetwarnings()
        torch.set_num_threads(1)
        cli._asked, sys.argv, code = (lambda words: self.app), ["flexframe", *words], 0
        sys.setprofile(calls)
        try:
            cli.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        sys.setprofile(None)
        if calls is not None and not code:
            self.told.write_text(f"{calls.all} {calls.saving}")
        os._exit(code)


@pytest.fixture
def fork(commands: Callable[[], None], tmp_path: Path, faults: Any) -> Fork:
    return Fork(commands, tmp_path, faults.draws)


def killed(name: str, words: Sequence[str], whole: Path, fork: Fork, outcome: Callable[[], Any]) -> None:
    """Kill a command at `KILLS` moments, each time in a copy of the folder, and give it again."""
    place, saves = whole.with_name("killed"), 0
    with inside(whole, place):
        assert fork(words, Calls()) == 0, fork.told.read_text()
        every, saving = map(int, fork.told.read_text().split())
        wanted = outcome()
    assert saving > 20
    for number, (case, rng) in enumerate(fork.draws(name, KILLS)):
        moment = {"within": rng.randint(1, saving)} if number % 2 else {"at": rng.randint(1, every)}
        with inside(whole, place):
            calls = Calls(**moment, torn=rng if number % 4 == 3 else None)
            code = fork(words, calls)
            assert code in (-signal.SIGKILL, 0), f"{case}: {fork.told.read_text()}"
            saves += number % 2 and code < 0
            if outcome_or_none(outcome) != wanted:
                assert fork(words) == 0, f"{case}, {moment}: {fork.told.read_text()}"
                assert outcome() == wanted, f"{case}, {moment}"
                left = [path for each in (".*.part", "*.part", ".part-*", "*.lock") for path in Path().rglob(each)]
                assert not left, f"{case}, {moment}: {left}"
    print(f"{KILLS} kills of {name}, {saves} of them within a save")
    assert saves >= KILLS // 2 - 2


def outcome_or_none(outcome: Callable[[], Any]) -> Any:
    try:
        return outcome()
    except (OSError, ValueError):
        return None


@pytest.fixture
def given(whole: Path, fork: Fork, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder to work in, with a token file."""
    monkeypatch.chdir(whole)
    assert fork(ENCODE) == 0
    return whole


def test_decode(given, fork):
    killed("decode", (*DECODE, "--batch-size", "2"), given, fork, contents("p/**/*"))


@pytest.mark.parametrize("words", [TOKENS, LATENTS], ids=["tokens", "latents"])
def test_precompute(words, whole, fork, monkeypatch):
    if words == LATENTS:
        monkeypatch.setattr("flexframe.use.shards.BYTES", 3000)  # of a shard
    outcome = contents("t.safetensors", "l/*.safetensors", "l/*.json")
    killed(f"precompute {words[1]}", (*words, "--batch-size", "2"), whole, fork, outcome)


def test_generate(whole, fork):
    killed("generate", (*GENERATE, "--batch-size", "2"), whole, fork, contents("g/**/*"))


def test_bench(whole, fork, monkeypatch):
    monkeypatch.setattr(runner, "run", functools.partial(runner.run, save_seconds=0.0))
    killed("bench", BENCH, whole, fork, settled("b/results.json"))


def test_train(whole, fork, monkeypatch):
    monkeypatch.setattr(provenance, "commit", lambda: None)  # a model says which wrote it: there may be one meanwhile
    words = (*TRAIN, "-o", "r")

    def outcome() -> object:
        lines = [json.loads(line) for line in Path("r/log.jsonl").read_text().splitlines()]
        kept = [{k: v for k, v in line.items() if k not in ("images_per_s", "data_wait")} for line in lines]
        return contents("r/model.safetensors", "r/checkpoints/*/*.safetensors")(), kept

    killed("train", words, whole, fork, outcome)
