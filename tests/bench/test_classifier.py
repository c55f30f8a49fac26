"""The `classifier` metric that trains a machine of its own: on which images, under which names."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flexframe.bench import extremes
from flexframe.bench.explain import Explanation, explain
from flexframe.bench.report import write
from flexframe.bench.report.numbers import Numbers
from flexframe.bench.report.verdicts import judge
from flexframe.bench.runner import Report, run
from flexframe_registry import ConfigError, SuiteConfig

SHADES = {"a": 40, "b": 200}
Write = Callable[..., str]


@pytest.fixture
def images(tmp_path: Path) -> Write:
    """Writes grey pictures into a folder a class, about as bright as said."""

    def write(folder: str, shades: Mapping[str, int], count: int = 10) -> str:
        rng = np.random.default_rng(len(folder))
        for name, shade in shades.items():
            (tmp_path / folder / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                pixels = np.clip(rng.normal(shade, 8, (16, 16, 1)), 0, 255).astype(np.uint8)
                Image.fromarray(np.repeat(pixels, 3, 2)).save(tmp_path / folder / name / f"{i:02d}.png")
        return str(tmp_path / folder)

    return write


@pytest.fixture
def measured(tokenizer: Any, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Results over the images in one folder, by a classifier trained on those in another."""

    def measured(train: str, suite: str, out: str, **fields: Any) -> dict[str, Any]:
        metrics = [{"type": "classifier", "data": {"type": "folder", "path": train}, **fields}]
        read = SuiteConfig.read({"data": {"type": "folder", "path": suite}, "metrics": metrics})
        return dict(run(read, [("a", tokenizer("full"))], tmp_path / out).results)

    return measured


def accuracy(explanation: Explanation) -> Any:
    return next(pair for pair in explanation.pairs if pair.measure == "accuracy")


def causes(explanation: Explanation) -> list[str]:
    return [difference.cause.name for difference in accuracy(explanation).differences]


def test_other_training_images_at_one_path_do_not_compare(images: Write, measured: Any) -> None:
    train, suite = images("train", SHADES), images("suite", SHADES)
    first = measured(train, suite, "first")
    images("train", {"a": 200, "b": 40})  # the classes change places
    found = explain(first, measured(train, suite, "second"))
    pair = accuracy(found)
    assert pair.first["value"] > 50 > pair.second["value"]
    assert not pair.comparable
    assert causes(found) == ["training images of the classifier"]


def test_training_images_that_moved_compare(images: Write, measured: Any, tmp_path: Path) -> None:
    train, suite = images("train", SHADES), images("suite", SHADES)
    first = measured(train, suite, "first")
    (tmp_path / "train").rename(tmp_path / "moved")
    second = measured(str(tmp_path / "moved"), suite, "second")
    assert second["protocols"] == first["protocols"]
    assert causes(explain(first, second)) == []


def test_labels_of_other_classes_are_refused(images: Write, measured: Any) -> None:
    suite = images("suite", SHADES)
    with pytest.raises(ConfigError, match=r"classifier.data: label 0 is 'b' in its images and 'a' in the suite's"):
        measured(images("train", {"b": 200, "c": 40}), suite, "out")
    with pytest.raises(ConfigError, match=r"its images are of 3 classes, the suite's of 2"):
        measured(images("more", {**SHADES, "c": 120}), suite, "out")


def test_training_images_without_labels_or_of_one_class_are_refused(
    images: Write, measured: Any, tmp_path: Path
) -> None:
    suite, bare = images("suite", SHADES), Path(images("bare", SHADES))
    (bare / "a" / "00.png").rename(bare / "00.png")
    with pytest.raises(ConfigError, match=r"classifier.data: its image '00.png' has no label"):
        measured(str(bare), suite, "out")
    train = Path(images("train", SHADES))
    measured(str(train), suite, "few", limit=2)  # spread over the folder, so of both classes
    for path in sorted((train / "b").iterdir())[1:]:
        path.unlink()
    with pytest.raises(ConfigError, match=r"2 of its images are all of one class; raise `limit`"):
        measured(str(train), suite, "out", limit=2)


def test_what_an_old_file_shows_by_the_originals_alone(images: Write, measured: Any) -> None:
    first = measured(images("train", SHADES), images("suite", SHADES), "first")
    (record,) = first["protocols"].values()
    record["measure"]["measured"]["trained_on"] = {"type": "folder", "path": "train"}  # as it was once written
    second = {**first, "protocols": {key: _misread(each) for key, each in first["protocols"].items()}}
    found = explain(first, second)
    assert causes(found) == ["what the classifier reads off the originals"]
    assert not accuracy(found).comparable


# --- by image ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judged(tokenizer: Any, suite: Any, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Two models, by a classifier of digits first. Not to be changed."""
    digits = {"type": "classifier", "data": "digits", "limit": 300}
    models = [("flex", tokenizer()), ("fixed", tokenizer(sampling={"noise": 0.6}))]
    return run(suite(digits, "psnr", budgets=[1, 8], show=4), models, tmp_path_factory.mktemp("out"))


def test_shares_have_values_by_image_intervals_and_verdicts(judged: Report) -> None:
    numbers = Numbers(judged.results)
    for name in ("agreement", "accuracy"):
        for model in ("flex", "fixed"):
            each = judged.results["per_image"][model]["1"][name]
            assert len(each) == 40
            assert set(each) == {0.0, 100.0}
            number = judged.results["models"][model]["budgets"]["1"]["metrics"][name]
            assert number["value"] == pytest.approx(sum(each) / 40)
        column = next(column for column in numbers.columns if column.name == name)
        span, value = numbers.interval(column, "flex", 1), numbers.value(column, "flex", 1)
        assert span is not None
        assert value is not None
        assert span.low < value < span.high
    rows = judge(numbers).rows
    assert {cell is not None for row in rows for cell in row.cells} == {True}
    assert next(row.cells[0].verdict for row in rows if row.expense == 8 and row.cells[0]) == "better"


def test_right_and_wrong_rank_no_images_and_stand_under_none(judged: Report) -> None:
    assert {ranking.measure for ranking in extremes.rank(judged.results)} == {"psnr"}
    only = {**judged.results, "measures": {"agreement": judged.results["measures"]["agreement"]}}
    assert extremes.rank(only) == []
    page = write(judged.results, judged.images, judged.out / "report.html").read_text()
    data = json.loads(page.split('<script type="application/json" id="data">')[1].split("</script>")[0])
    assert all(not lane["captions"] for model in data["models"] for lane in model["lanes"])


def test_images_that_are_all_right_give_no_interval(judged: Report) -> None:
    results = json.loads(json.dumps(judged.results))
    results["models"]["flex"]["budgets"]["8"]["metrics"]["accuracy"]["value"] = 100.0
    results["per_image"]["flex"]["8"]["accuracy"] = [100.0] * 40
    numbers = Numbers(results)
    column = next(column for column in numbers.columns if column.name == "accuracy")
    assert numbers.interval(column, "flex", 8) is None
    assert numbers.compare(column, ("flex", 8), ("fixed", 8)) is not None


def _misread(record: Mapping[str, Any]) -> dict[str, Any]:
    measured = {**record["measure"]["measured"], "accuracy_on_originals_percent": 0.0}
    return {**record, "measure": {**record["measure"], "measured": measured}}
