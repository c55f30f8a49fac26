"""An interrupted benchmark goes on, with the numbers of one that was not; what is not its own it refuses."""

from __future__ import annotations

import io
import json
import re
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from rich.progress import Progress

import flexframe
from flexframe.bench import runner
from flexframe.bench.lanes import Lane
from flexframe.bench.partial import FILE, FOLDER, freeze, thaw
from flexframe.bench.protocol import Chain
from flexframe.bench.runner import Report, run

pytestmark = pytest.mark.slow


class Break(Exception):
    """The power cut."""


def settled(results: Mapping[str, Any]) -> Any:
    """Results without what no two runs have in common: times, and where from."""

    def strip(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: strip(each) for key, each in value.items() if key not in ("speed", "manifest")}
        return [strip(each) for each in value] if isinstance(value, list) else value

    return strip(json.loads(json.dumps(results)))


def pictures(report: Report) -> list[torch.Tensor]:
    galleries = [report.images, *([report.images.further] if report.images.further else [])]
    return [g.real for g in galleries] + [p for g in galleries for rows in g.fake.values() for p in rows.values()]


@pytest.fixture
def interrupted(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a suite until its images from a position on are asked for."""

    def interrupted(suite: Any, models: Any, out: Path, at: int, **options: Any) -> None:
        whole = runner.Pass._read

        def read(self: Any, index: Any) -> Any:
            if at in index:
                raise Break
            return whole(self, index)

        with monkeypatch.context() as patch:
            patch.setattr(runner.Pass, "_read", read)
            with pytest.raises(Break):
                run(suite, models, out, **{"batch_size": 7, "save_seconds": 0.0, **options})

    return interrupted


def test_an_interrupted_run_gives_the_numbers_of_a_whole_one(
    tokenizer: Any, suite: Any, inception: Any, interrupted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {"weights": inception(), "few": True}
    all_of_them = suite(
        "psnr", {"type": "ssim", "rounded": True}, "codebook", "bits", {"type": "classifier", "data": "digits"},
        {"type": "frechet", "layer": "64", **few}, {"type": "precision-recall", "layer": "64", **few},
        {"type": "kid", "layer": "64", "weights": inception(), "subsets": 3, "subset_size": 12},
        {"type": "inception-score", "splits": 3, **few},
        budgets=[1, 4, 8], show=12,
    )  # fmt: skip

    def models() -> Any:
        smooth = tokenizer({"type": "toy", "every": True}, quantizer={"type": "toy-round", "continuous": True})
        return [("flex", tokenizer(sampling={"noise": 0.1})), ("smooth", smooth)]

    monkeypatch.setenv("FLEXFRAME_HOME", str(tmp_path / "home-1"))  # features of originals are no help
    whole = run(all_of_them, models(), tmp_path / "whole", batch_size=7)
    monkeypatch.setenv("FLEXFRAME_HOME", str(tmp_path / "home-2"))
    interrupted(all_of_them, models(), tmp_path / "cut", at=30)
    interrupted(all_of_them, models(), tmp_path / "cut", at=37)  # and once more
    assert (tmp_path / "cut" / FOLDER / FILE).is_file()
    encoded = []
    encode = type(tokenizer()).encode
    monkeypatch.setattr(
        type(tokenizer()),
        "encode",
        lambda self, images, **rest: encoded.append(len(images)) or encode(self, images, **rest),
    )
    with Progress(console=Console(record=True, file=io.StringIO())) as progress:
        again = run(all_of_them, models(), tmp_path / "cut", batch_size=7, progress=progress)
    assert encoded[:2] == [5, 5]  # the last five images by both models, and then only those that are shown
    assert sum(encoded) < 2 * 20
    assert "going on with an interrupted run at image 36 of 40" in progress.console.export_text()
    assert progress.finished
    assert settled(again.results) == settled(whole.results)
    numbers = whole.results["models"]["flex"]["budgets"]["8"]["metrics"]
    assert {"fid@64", "kid@64", "precision@64", "is", "psnr", "usage", "bits"} <= set(numbers)
    assert all(number["value"] is not None for number in numbers.values())
    assert all(torch.equal(a, b) for a, b in zip(pictures(again), pictures(whole), strict=True))
    assert not (tmp_path / "cut" / FOLDER).exists()


CHILD = """
import os, signal, sys
from pathlib import Path
import torch
import flexframe
from flexframe.bench import partial, runner
from flexframe_registry import SuiteConfig
torch.set_num_threads(1)
saves, save = [], partial.save_file
def cut(tensors, path, metadata):
    saves.append(path)
    save(tensors, path, metadata)
    if len(saves) == 3:
        os.truncate(path, 100)
        os.kill(os.getpid(), signal.SIGKILL)
partial.save_file = cut
suite = SuiteConfig.read({"data": {"type": "digits", "split": "val"}, "count": 64, "metrics": ["psnr", "codebook"]})
runner.run(suite, [("a", flexframe.load("toy/plain"))], Path(sys.argv[1]), batch_size=12, save_seconds=0.0)
"""


def test_a_process_killed_while_it_saves_leaves_a_whole_state(tmp_path: Path, suite: Any, forked: Any) -> None:
    out, threads = tmp_path / "out", torch.get_num_threads()
    found = forked(CHILD, out)
    assert found.returncode == -signal.SIGKILL, found.stderr
    assert [part.stat().st_size for part in (out / FOLDER).glob(f".{FILE}.*.part")] == [100]
    assert not (out / "results.json").exists()
    wanted, model = suite("psnr", "codebook", count=64), flexframe.load("toy/plain")
    try:
        torch.set_num_threads(1)
        again = run(wanted, [("a", model)], out, batch_size=12)
        whole = run(wanted, [("a", model)], tmp_path / "whole", batch_size=12)
    finally:
        torch.set_num_threads(threads)
    assert settled(again.results) == settled(whole.results)


def test_the_state_of_another_protocol_is_refused(tokenizer: Any, suite: Any, interrupted: Any, tmp_path: Path) -> None:
    interrupted(suite("psnr"), [("a", tokenizer())], tmp_path, at=20)
    with pytest.raises(ValueError, match=r"another protocol: models.a.seed was 0 and is 1; run its command again .*-o"):
        run(suite("psnr", seed=1), [("a", tokenizer())], tmp_path)
    with pytest.raises(ValueError, match=r"models.a.sampling.noise was 0.0 and is 0.5"):
        run(suite("psnr"), [("a", tokenizer(sampling={"noise": 0.5}))], tmp_path)
    other = tokenizer()
    with torch.no_grad():
        other.encoder.basis[0, 0] += 1
    with pytest.raises(ValueError, match=r"models.a.weights"):
        run(suite("psnr"), [("a", other)], tmp_path)
    note = run(suite("psnr", note="Only words."), [("a", tokenizer())], tmp_path, batch_size=16)  # moves no number
    assert (
        note.results["per_image"]["a"]["8"]["psnr"][:14]
        == run(suite("psnr"), [("a", tokenizer())], tmp_path / "whole", batch_size=7).results["per_image"]["a"]["8"][
            "psnr"
        ][:14]
    )


def test_other_images_are_refused(
    tokenizer: Any, suite: Any, interrupted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(suite("psnr"), [("a", tokenizer())], tmp_path, at=20)
    whole = runner.Head.samples

    def relabelled(self: Any, indices: Any) -> Any:
        return [replace(sample, label=9) for sample in whole(self, indices)]

    with monkeypatch.context() as patch:
        patch.setattr(runner.Head, "samples", relabelled)
        with pytest.raises(ValueError, match="names or labels of the suite's first 14 images are others than"):
            run(suite("psnr"), [("a", tokenizer())], tmp_path)
    monkeypatch.setattr(runner.Head, "samples", lambda self, indices: whole(self, [i + 1 for i in indices]))
    with pytest.raises(ValueError, match="first 14 images are others than when the run was interrupted"):
        run(suite("psnr"), [("a", tokenizer())], tmp_path)


def test_a_damaged_state_is_refused(tokenizer: Any, suite: Any, interrupted: Any, tmp_path: Path) -> None:
    interrupted(suite("psnr"), [("a", tokenizer())], tmp_path, at=20)
    path = tmp_path / FOLDER / FILE
    whole = path.read_bytes()
    for damaged in (whole[:-9], whole[:-1] + bytes([whole[-1] ^ 1]), whole.replace(b'done\\": 14', b'done\\": 15')):
        assert damaged != whole
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"is damaged \(.*delete .*partial"):
            run(suite("psnr"), [("a", tokenizer())], tmp_path)


def test_state_is_plain_data_and_tensors() -> None:
    state = {"a": [1, 2.5, None, True, "x"], "b": {"c": torch.arange(3), "d": (torch.zeros(0), 0.1 + 0.2)}, "e": {}}
    tensors: dict[str, torch.Tensor] = {}
    found = thaw(json.loads(json.dumps(freeze(state, tensors))), tensors)
    assert found["a"] == state["a"]
    assert found["e"] == {}
    assert found["b"]["d"][1] == 0.1 + 0.2
    assert torch.equal(found["b"]["c"], torch.arange(3))
    for bad in ({1: 2}, {"__tensor__": "a"}, {"x": object()}):
        with pytest.raises(TypeError, match="state"):
            freeze(bad, {})


def test_a_chain_can_be_taken_up_again() -> None:
    rows = torch.arange(24).reshape(6, 4)
    whole = Chain()
    whole.add(rows)
    first = Chain()
    first.add(rows[:2])
    rest = Chain(first.link)
    rest.add(rows[2:])
    assert rest.link == whole.link
    other = Chain()
    other.add(rows.reshape(6, 2, 2))
    assert other.link != whole.link


# --- finished ones -------------------------------------------------------------------------------------------------


def test_a_finished_benchmark_is_overwritten_by_the_same_one_only(tokenizer: Any, suite: Any, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    run(suite("psnr", count=8), [("a", tokenizer())], tmp_path, name="toy")
    whole = path.read_bytes()
    date = json.loads(whole)["manifest"]["date"][:10]
    told = re.escape(f"{path}: holds another benchmark, of suite toy with a ({date}): ")
    other = tokenizer()
    torch.nn.init.zeros_(other.decoder.basis)
    for wanted, models, what in (
        (suite("psnr", count=9), [("a", tokenizer())], "count was 8 and is 9"),
        (
            suite("ssim", count=8, seed=1),
            [("a", tokenizer())],
            r"metrics was .*psnr.* and is .*ssim.*; seed was 0 and is 1",
        ),
        (suite("psnr", count=8), [("a", other)], r"models\.a\.fingerprint was .*"),
        (
            suite("psnr", count=8),
            [("a", tokenizer(sampling={"noise": 0.5}))],
            r"models\.a\.sampling\.noise was 0.0 and is 0.5",
        ),
    ):
        with pytest.raises(ValueError, match=f"^{told}{what}; choose another folder by -o, or delete it$"):
            run(wanted, models, tmp_path)
    assert path.read_bytes() == whole
    assert not (tmp_path / FOLDER).exists()
    again = run(suite("psnr", count=8, show=2, note="Words."), [("a", tokenizer())], tmp_path, name="other")
    assert json.loads(path.read_bytes())["suite"]["note"] == "Words."
    assert again.results["protocols"] == json.loads(whole)["protocols"]


def test_an_interrupted_run_over_a_finished_one_goes_on(
    tokenizer: Any, suite: Any, interrupted: Any, tmp_path: Path
) -> None:
    whole = run(suite("psnr"), [("b", tokenizer())], tmp_path / "alone", batch_size=7).results
    run(suite("psnr"), [("a", tokenizer("full"))], tmp_path, batch_size=7)
    interrupted(suite("psnr"), [("b", tokenizer())], tmp_path, at=20)
    assert (tmp_path / FOLDER / FILE).is_file()
    both = run(suite("psnr"), [("b", tokenizer())], tmp_path, batch_size=7).results["per_image"]
    assert both["b"] == whole["per_image"]["b"]
    assert set(both) == {"a", "b"}
    assert not (tmp_path / FOLDER).exists()


@pytest.mark.parametrize("text", ["[]", "{", '{"suite": 3}'])
def test_a_results_file_of_no_known_form_is_kept(text: str, tokenizer: Any, suite: Any, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ValueError, match=r"is no results\.json of this version; choose another folder by -o"):
        run(suite("psnr", count=8), [("a", tokenizer())], tmp_path)
    assert (tmp_path / "results.json").read_text() == text


def test_a_state_of_other_metrics_is_refused(
    tokenizer: Any, suite: Any, inception: Any, interrupted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(suite("psnr"), [("a", tokenizer())], tmp_path, at=20)
    whole = Lane.restore
    monkeypatch.setattr(Lane, "restore", lambda self, state: whole(self, {**state, "tallies": {}}))
    told = r"is not what is counted now \(other metrics take part\); give another folder by -o, or delete its `partial`"
    with pytest.raises(ValueError, match=told):
        run(suite("psnr"), [("a", tokenizer())], tmp_path)
