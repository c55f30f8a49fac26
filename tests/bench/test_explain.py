"""`flexframe explain`: what it prints, and what it refuses."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flexframe.bench.explain import explain
from flexframe.bench.runner import run
from flexframe.cli import app
from flexframe_registry import ConfigError
from flexframe_registry.files import read_json


@pytest.fixture(scope="module")
def first(tokenizer: Any, suite: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a benchmark. Not to be changed."""
    models, out = [("flex", tokenizer()), ("fixed", tokenizer("full"))], tmp_path_factory.mktemp("out")
    run(suite("psnr", "codebook", "frechet", budgets=[4, 8], count=20), models, out)
    return out


@pytest.fixture
def results(first: Path) -> dict[str, Any]:
    return json.loads((first / "results.json").read_text())


@pytest.fixture
def shown(first: Path, results: dict[str, Any], tmp_path: Path) -> Callable[..., str]:
    """What the command prints of the results, and of others made of them."""

    def shown(change: Callable[[dict[str, Any]], None]) -> str:
        other = json.loads(json.dumps(results))
        change(other)
        (tmp_path / "second.json").write_text(json.dumps(other))
        found = CliRunner().invoke(app, ["explain", str(first), str(tmp_path / "second.json")])
        assert found.exit_code == 0, found.output
        return found.output

    return shown


def measures(other: dict[str, Any]) -> list[dict[str, Any]]:
    return [record["measure"] for record in other["protocols"].values()]


def test_equal_results_compare(shown: Any) -> None:
    text = shown(lambda other: None)
    assert "The protocols are equal" in text
    assert text.count(" yes") == 6
    assert "needs more than 2,048 images" in text


def test_what_forbids_stands_first_and_versions_forbid_nothing(shown: Any) -> None:
    def later(other: dict[str, Any]) -> None:
        for measure in measures(other):
            measure["versions"] = {**measure["versions"], "torch": "3.0"}

    text = shown(later)
    assert "Measured alike: numbers compare." in text
    assert "· versions" in text
    assert "3.0" in text

    def fewer(other: dict[str, Any]) -> None:
        later(other)
        for measure in measures(other):
            measure["count"] = 7
            measure["data_sha256"] = "0" * 64

    text = shown(fewer)
    assert "These results do not compare." in text
    assert text.index("✗ number of images") < text.index("· versions")
    assert "count: 20 → 7" in text
    assert "usual size: FID falls" in text
    assert "content of the images" not in text  # a consequence


def test_only_some_numbers_may_compare(shown: Any) -> None:
    def capped(other: dict[str, Any]) -> None:
        for measure in measures(other):
            if measure["metric"]["type"] == "psnr":
                measure["metric"]["cap"] = 50.0

    text = shown(capped)
    assert "Not all of these numbers compare." in text
    assert "✗ settings of the metric (psnr)" in text


def test_a_setting_that_is_not_known_forbids(shown: Any) -> None:
    def strange(other: dict[str, Any]) -> None:
        for measure in measures(other):
            measure["phase of the moon"] = "full"

    text = shown(strange)
    assert "✗ another setting" in text
    assert "phase of the moon: (not said) → full" in text


def test_a_new_setting_that_is_not_used_is_no_difference(shown: Any) -> None:
    def newer(other: dict[str, Any]) -> None:
        for measure in measures(other):
            measure["phase of the moon"] = None

    assert "The protocols are equal: numbers compare" in shown(newer)


def test_numbers_that_differ_for_no_reason_are_told(shown: Any) -> None:
    def moved(other: dict[str, Any]) -> None:
        other["models"]["flex"]["budgets"]["8"]["metrics"]["psnr"]["value"] += 1

    assert "psnr of flex at 8 tokens differs, and nothing in the protocols does: please report it" in shown(moved)


def test_rounding_is_no_difference_to_report(shown: Any) -> None:
    def nudged(other: dict[str, Any]) -> None:
        other["models"]["flex"]["budgets"]["8"]["metrics"]["psnr"]["value"] *= 1 + 3e-7

    text = shown(nudged)
    assert "numbers differ by rounding, by 3e-07 of their value at most" in text
    assert "please report it" not in text


def test_models_of_other_names(results: dict[str, Any], shown: Any) -> None:
    def renamed(other: dict[str, Any]) -> None:
        other["models"] = {"mine": other["models"]["flex"]}
        other["schema"] = 1
        for measure in (*measures(other), other["protocol"]):
            del measure["classes"]

    text = shown(renamed)
    assert "no model stands in both (flex, fixed and mine)" in text
    assert "one does not say: classes" in text
    assert "The protocols are equal" in text
    one = {**results, "models": {"flex": results["models"]["flex"]}}
    other = {**results, "models": {"fixed": results["models"]["fixed"]}}
    (pair,) = [pair for pair in explain(one, other).pairs if pair.measure == "psnr"]
    assert pair.models == ("flex", "fixed")
    assert pair.comparable
    # that their maskers are of two distributions follows from it
    assert [difference.cause.name for difference in pair.differences] == ["architecture"]


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "is not there"), ("{", "is no JSON"), ("[]", "not of the form"), ('{"models": {}}', "not of the form")],
)
def test_files_that_are_no_results_are_refused(first: Path, tmp_path: Path, content: str | None, words: str) -> None:
    path = tmp_path / "bad.json"
    if content is not None:
        path.write_text(content)
    found = CliRunner().invoke(app, ["explain", str(first), str(path)])
    assert found.exit_code != 0
    assert words in str(found.exception)
    assert "bad.json" in str(found.exception)


@pytest.mark.parametrize("value", [None, "odd", []])
def test_a_file_that_lost_its_form_is_refused_with_the_place(first: Path, tmp_path: Path, value: Any) -> None:
    """Of whatever the comparison reads."""
    results = read_json(first / "results.json" if first.is_dir() else first)
    name = next(iter(results["models"]))
    (budget, *_), number = results["models"][name]["budgets"], "psnr"
    key = results["models"][name]["budgets"][budget]["metrics"][number]["protocol"]
    places = (
        ("measures",), ("protocol",), ("protocols", key), ("protocols", key, "measure"), ("models", name),
        ("models", name, "budgets", budget), ("models", name, "budgets", budget, "metrics", number),
    )  # fmt: skip
    for place in places:
        odd = copy.deepcopy(results)
        above: Any = odd
        for word in place[:-1]:
            above = above[word]
        above[place[-1]] = value
        (tmp_path / "odd.json").write_text(json.dumps(odd))
        found = CliRunner().invoke(app, ["explain", str(first), str(tmp_path / "odd.json")])
        assert isinstance(found.exception, ConfigError), place
        assert f"odd.json: is not of the form that `flexframe bench` writes: {'.'.join(place)}" in str(found.exception)
