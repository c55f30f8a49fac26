"""A benchmark's folder that grows: what is measured anew, what stays, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from flexframe.bench import protocol
from flexframe.bench.report import write
from flexframe.bench.runner import run
from flexframe.models.tokenizer import Tokenizer
from flexframe_registry import ConfigError

pytestmark = pytest.mark.slow


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts of images in each call of a decoder."""
    calls, whole = list[int](), Tokenizer.decode

    def decode(self: Tokenizer, tokens: Any, **rest: Any) -> torch.Tensor:
        calls.append(len(tokens.keep))
        return whole(self, tokens, **rest)

    monkeypatch.setattr(Tokenizer, "decode", decode)
    return calls


def numbers(results: Mapping[str, Any], name: str) -> Any:
    """All of a model but what no two runs have in common."""
    model = results["models"][name]
    budgets = {k: {key: each for key, each in b.items() if key != "speed"} for k, b in model["budgets"].items()}
    return {**{key: each for key, each in model.items() if key != "speed"}, "budgets": budgets}


@pytest.mark.parametrize("named", [("new",), ("old", "new")])
def test_a_model_is_added_in_the_time_of_that_model_alone(
    named: tuple[str, ...], tokenizer: Any, suite: Any, decoded: list[int], tmp_path: Path
) -> None:
    asked = suite("psnr", "codebook", show=3, count=20)
    models = {"old": tokenizer("full"), "new": tokenizer(sampling={"noise": 0.1})}
    at_once = run(asked, list(models.items()), tmp_path / "at-once").results
    run(asked, [("old", models["old"])], tmp_path / "out")
    decoded.clear()
    report = run(asked, [(name, models[name]) for name in named], tmp_path / "out")
    budgets = len(models["new"].config.budgets)
    # the old one is decoded for pictures alone: the first three, and its best and worst
    assert sum(decoded) <= 20 * budgets + (3 + 12) * (budgets + 1)
    assert sum(count for count in decoded if count == 20) == 20 * budgets
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(found["models"]) == ["old", "new"]
    assert found["measures"] == at_once["measures"]
    for name in models:
        assert numbers(found, name) == numbers(json.loads(json.dumps(at_once)), name)
    for part in ("per_image", "codes_sha256", "protocols", "budgets", "protocol"):
        assert found[part] == json.loads(json.dumps(at_once[part])), part
    assert found["manifest"]["models"] == ["new"]
    assert [each["models"] for each in found["manifest"]["earlier"]] == [["old"]]
    assert list(report.images.fake) == [name for name in models if name in named]
    page = write(report.results, report.images, tmp_path / "page.html").read_text()
    assert "old" in page


def test_what_stands_there_is_not_measured_again(
    tokenizer: Any, suite: Any, decoded: list[int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = run(suite("psnr", count=20, show=0), [("a", tokenizer())], tmp_path).results
    decoded.clear()
    caplog.clear()
    again = run(suite("psnr", count=20, show=0), [("a", tokenizer())], tmp_path).results
    assert not decoded
    assert json.loads(json.dumps(first)) == {key: each for key, each in again.items() if key != "checksum"}
    (told,) = [record.message for record in caplog.records if "not again" in record.message]
    assert told.startswith("a: measured on 20")
    assert told.endswith(f"delete {tmp_path / 'results.json'} to measure anew")


def test_settings_that_came_since_are_at_their_defaults_in_results_of_before(
    tokenizer: Any, suite: Any, decoded: list[int], tmp_path: Path
) -> None:
    asked, path = suite("psnr", count=20, show=0), tmp_path / "results.json"
    run(asked, [("a", tokenizer())], tmp_path)
    held = json.loads(path.read_text())
    del held["checksum"], held["suite"]["rounding"], held["suite"]["data"]["split"]
    decoded.clear()
    path.write_text(json.dumps(held))
    with pytest.raises(ConfigError, match=r"holds another benchmark.*split was .train. and is .val."):
        run(asked, [("a", tokenizer())], tmp_path)
    held["suite"]["data"]["split"] = "val"
    path.write_text(json.dumps(held))
    run(asked, [("a", tokenizer())], tmp_path)
    assert not decoded


def test_a_number_that_can_be_had_now_is_measured(
    tokenizer: Any, suite: Any, inception: Any, tmp_path: Path, decoded: list[int]
) -> None:
    metrics = "psnr", {"type": "frechet", "layer": "64", "weights": str(tmp_path / "inception-0.pth"), "few": True}
    lacking = run(suite(*metrics, budgets=[8], show=0), [("a", tokenizer()), ("b", tokenizer("full"))], tmp_path / "o")
    assert lacking.results["models"]["a"]["budgets"]["8"]["metrics"]["fid@64"]["value"] is None
    inception()
    decoded.clear()
    run(suite(*metrics, budgets=[8], show=0), [("a", tokenizer())], tmp_path / "o")
    found = json.loads((tmp_path / "o" / "results.json").read_text())["models"]
    values = {name: model["budgets"]["8"]["metrics"]["fid@64"]["value"] for name, model in found.items()}
    assert values["a"] > 0
    assert values["b"] is None  # it was not named
    assert sum(decoded) == 40


def change(results: dict[str, Any], *path: str, to: Any) -> None:
    *above, last = path
    for key in above:
        results = results[key]
    results[last] = to


@pytest.mark.parametrize(
    ("doctor", "words"),
    [
        (("protocol", "versions", "torch"), "under another protocol: versions.torch .*; name old too, to measure all"),
        (("protocol", "data_sha256"), "on other images than the suite has now"),
        (("models",), "is no results.json of this version"),
    ],
)
def test_what_was_measured_otherwise_is_not_added_to(
    doctor: tuple[str, ...], words: str, tokenizer: Any, suite: Any, tmp_path: Path
) -> None:
    run(suite("psnr", count=8), [("old", tokenizer("full"))], tmp_path)
    path = tmp_path / "results.json"
    held = json.loads(path.read_text())
    change(held, *doctor, to="another")
    path.write_text(json.dumps(held))
    with pytest.raises(ConfigError, match=words):
        run(suite("psnr", count=8), [("new", tokenizer())], tmp_path)
    assert json.loads(path.read_text()) == held


def test_all_are_measured_anew_where_versions_have_changed(
    tokenizer: Any, suite: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[int]
) -> None:
    versions: Callable[[], dict[str, str]] = protocol.versions
    with monkeypatch.context() as patch:
        patch.setattr(protocol, "versions", lambda: {**versions(), "torch": "1.0"})
        run(suite("psnr", count=8, show=0), [("old", tokenizer("full"))], tmp_path)
    decoded.clear()
    both = [("old", tokenizer("full")), ("new", tokenizer())]
    found = run(suite("psnr", count=8, show=0), both, tmp_path).results
    assert sum(decoded) == 8 * (1 + len(tokenizer().config.budgets))
    assert {record["measure"]["versions"]["torch"] for record in found["protocols"].values()} == {torch.__version__}
