"""The `classifier` metric that trains a machine of its own: on which images, under which names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flexframe.bench.explain import Explanation, explain
from flexframe.bench.runner import run
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
    with pytest.raises(ConfigError, match=r"its first 10 images are all of one class; raise `limit`"):
        measured(images("train", SHADES), suite, "out", limit=10)


def test_what_an_old_file_shows_by_the_originals_alone(images: Write, measured: Any) -> None:
    first = measured(images("train", SHADES), images("suite", SHADES), "first")
    (record,) = first["protocols"].values()
    record["measure"]["measured"]["trained_on"] = {"type": "folder", "path": "train"}  # as it was once written
    second = {**first, "protocols": {key: _misread(each) for key, each in first["protocols"].items()}}
    found = explain(first, second)
    assert causes(found) == ["what the classifier reads off the originals"]
    assert not accuracy(found).comparable


def _misread(record: Mapping[str, Any]) -> dict[str, Any]:
    measured = {**record["measure"]["measured"], "accuracy_on_originals_percent": 0.0}
    return {**record, "measure": {**record["measure"], "measured": measured}}
