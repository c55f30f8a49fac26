"""A suite that several processes share comes to the numbers of one, and goes on after an interruption."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import flexframe
from flexframe.bench import split
from flexframe.bench.partial import FOLDER
from flexframe.bench.passes import Pass
from flexframe.bench.runner import Report, run
from flexframe_registry import ConfigError

pytestmark = pytest.mark.slow


class Break(Exception):
    """The power cut."""


def told() -> Any:
    """What a process says that came to its end."""
    ours, theirs = Pipe(duplex=False)
    theirs.send("")
    return ours


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets the other processes' work be done in this one, where the toys are, before the first process begins."""

    @contextmanager
    def others(share: split.Share, parts: Sequence[range]) -> Iterator[list[split.Other]]:
        for number in range(1, len(parts)):
            split._measure(share, number, parts)
        yield [split.Other(SimpleNamespace(), told(), i, span) for i, span in enumerate(parts[1:], 1)]

    monkeypatch.setattr(split, "others", others)
    return others


def close(first: Any, second: Any, place: str = "") -> None:
    """Numbers equal to 1e-12, all else equal but times and where from."""
    if isinstance(first, Mapping):
        assert first.keys() == second.keys(), place
        for key in first.keys() - {"speed", "manifest"}:
            close(first[key], second[key], f"{place}/{key}")
    elif isinstance(first, list):
        assert len(first) == len(second), place
        for i, pair in enumerate(zip(first, second, strict=True)):
            close(*pair, f"{place}/{i}")
    elif isinstance(first, float):
        assert math.isclose(first, second, rel_tol=1e-12, abs_tol=1e-12), (place, first, second)
    else:
        assert first == second, place


def settled(report: Report) -> Any:
    return json.loads(json.dumps(report.results))


def all_of_them(suite: Any, inception: Any) -> Any:
    few = {"weights": inception(), "few": True}
    return suite(
        "psnr", "ssim", "codebook", "bits", {"type": "classifier", "data": "digits"}, "seed-spread",
        {"type": "re-encoding", "rounds": 2},
        {"type": "frechet", "layer": "64", **few}, {"type": "precision-recall", "layer": "64", **few},
        {"type": "kid", "layer": "64", "weights": inception(), "subsets": 3, "subset_size": 12},
        {"type": "inception-score", "splits": 3, **few},
        budgets=[1, 8], show=12,
    )  # fmt: skip


def test_processes_that_share_a_suite_come_to_the_numbers_of_one(
    tokenizer: Any, suite: Any, inception: Any, here: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    asked = all_of_them(suite, inception)
    models = [
        ("flex", tokenizer(sampling={"noise": 0.1})),
        ("smooth", tokenizer(quantizer={"type": "toy-round", "continuous": True})),
    ]
    monkeypatch.setenv("FLEXFRAME_HOME", str(tmp_path / "home-1"))  # features of originals are no help
    one = run(asked, models, tmp_path / "one", batch_size=7)
    monkeypatch.setenv("FLEXFRAME_HOME", str(tmp_path / "home-2"))
    several = run(asked, models, tmp_path / "several", batch_size=7, processes=3)
    close(settled(several), settled(one))
    assert all(n["value"] is not None for n in one.results["models"]["flex"]["budgets"]["8"]["metrics"].values())
    pairs = [(several.images.fake[name][k], rows) for name, by in one.images.fake.items() for k, rows in by.items()]
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not (tmp_path / "several" / FOLDER).exists()


def test_an_interrupted_one_goes_on_where_each_process_stopped(
    tokenizer: Any, suite: Any, inception: Any, here: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    few = {"layer": "64", "weights": inception()}
    asked = suite("psnr", "codebook", {"type": "kid", "subsets": 3, "subset_size": 12, **few}, budgets=[8])
    models = [("a", tokenizer())]
    one = run(asked, models, tmp_path / "one", batch_size=5)
    measure, seen = Pass.measure, list[range]()

    def cut(at: int) -> None:
        def measured(self: Pass, index: range, bar: Any = None) -> None:
            if index.start == at:
                raise Break
            seen.append(index)
            measure(self, index, bar)

        with monkeypatch.context() as patch:
            patch.setattr(Pass, "measure", measured)
            with pytest.raises(Break):
                run(asked, models, tmp_path / "cut", batch_size=5, processes=2, save_seconds=0.0)

    cut(30)  # of the second process, which is at work alone here
    cut(10)
    assert [index.start for index in seen] == [20, 25, 30, 35, 0, 5]
    with pytest.raises(ValueError, match="another number of processes"):
        run(asked, models, tmp_path / "cut", batch_size=5)
    with pytest.raises(ConfigError, match="images of this process"):
        run(asked, models, tmp_path / "cut", batch_size=6, processes=2)
    seen.clear()
    monkeypatch.setattr(Pass, "measure", lambda self, index, bar=None: seen.append(index) or measure(self, index, bar))
    close(settled(run(asked, models, tmp_path / "cut", batch_size=5, processes=2)), settled(one))
    assert [index.start for index in seen] == [10, 15]


def test_real_processes_and_the_failure_of_one(command: Any, suite: Any, tmp_path: Path) -> None:
    words = (
        "bench",
        "digits",
        "toy/plain",
        "count=40",
        "metrics=[psnr, codebook]",
        "--batch-size",
        8,
        "--device",
        "cpu",
    )
    for processes in (1, 2):
        answer = command(*words, "--processes", processes, "-o", tmp_path / str(processes))
        assert answer.code == 0, answer.err
    one, two = (json.loads((tmp_path / str(n) / "results.json").read_text()) for n in (1, 2))
    for each in (one, two):
        del each["checksum"]
    close(two, one)


def test_a_process_that_fails_is_told(tokenizer: Any, suite: Any, tmp_path: Path) -> None:
    # the toys of this file are not there in a process of its own
    with pytest.raises(ValueError, match=r"process 2, of images 20 to 39: .*the same command goes on"):
        run(suite("psnr"), [("a", tokenizer())], tmp_path, batch_size=20, processes=2)


def test_shares_are_of_whole_batches() -> None:
    assert split.spans(100, 8, 3) == [range(32), range(32, 64), range(64, 100)]
    assert split.spans(100, 64, 4) == [range(64), range(64, 100)]
    assert split.spans(5, 64, 2) == [range(5)]
    with pytest.raises(ConfigError, match="1 at least, not 0"):
        split.spans(5, 64, 0)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 1, reason="needs a GPU")
def test_on_gpus_several_processes_agree_with_one(suite: Any, tmp_path: Path) -> None:
    models = [("a", flexframe.load("toy/digits-tiny"))]
    one, two = (
        run(suite("psnr", "ssim"), models, tmp_path / str(n), batch_size=8, processes=n, device="cuda").results
        for n in (1, 2)
    )
    for name in ("psnr", "ssim"):
        a, b = (each["models"]["a"]["budgets"]["8"]["metrics"][name]["value"] for each in (one, two))
        assert a == pytest.approx(b, rel=1e-3)
