"""References as files: what `stats` writes fits its images, and `explain` names what differs between two of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from flexframe.bench.explain import explain
from flexframe.bench.passes import Head
from flexframe.bench.runner import run
from flexframe.bench.statistics import write_statistics
from flexframe_registry import ConfigError, LatentSpec, Spec, SuiteConfig, TokenSpec

pytestmark = pytest.mark.slow

SPEC = Spec(LatentSpec(3, 16, 16), 4, TokenSpec(4, 2, 1, 8))


def test_statistics_of_a_source_are_a_reference_that_its_own_images_are_no_distance_from(
    inception: Any, over: Any, feed: Any, photographs: Any, tmp_path: Path
) -> None:
    source, path = photographs(40), tmp_path / "own.npz"
    own = {"type": "frechet", "layer": "64", "weights": inception(), "few": True}
    write_statistics([over(own, source)], path, torch.device("cpu"))
    (features,) = inception.net(Path(inception()).read_bytes(), ["64"])(source.images)
    with np.load(path, allow_pickle=False) as held:
        assert np.allclose(held["mu"], features.double().mean(0), atol=1e-12)
        assert np.allclose(held["sigma"], np.cov(features.double().numpy(), rowvar=False), atol=1e-12)
    tally = feed(over({**own, "reference": str(path)}, source), source.images)
    direct = feed(over(own, source), source.images)
    assert tally.compute()["fid@64"] == pytest.approx(direct.compute()["fid@64"], abs=1e-9)
    told = tally.protocol()["reference"]["statistics"]
    assert told["count"] == 40
    assert told["images"] == {"made": "at random"}
    assert told["image_size"] == [16, 16]
    assert told["weights_sha256"] == tally.protocol()["weights_sha256"]
    other = over({**own, "weights": inception(1), "reference": str(path)}, source)
    assert "other weights" in str(other.start(SPEC).unavailable())
    with pytest.raises(ConfigError, match=r"this layer's are \(192,\)"):
        over({**own, "layer": "192", "reference": str(path)}, source)


def test_statistics_that_a_metric_has_not_are_refused(over: Any, photographs: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"psnr: compares with no statistics"):
        write_statistics([over("psnr", photographs(4))], tmp_path / "a.npz", torch.device("cpu"))
    with pytest.raises(ConfigError, match=r"no name of a \.npz"):
        write_statistics([], tmp_path / "a.pt", torch.device("cpu"))


def test_the_command_writes_a_file_that_a_suite_takes(command: Any, inception: Any, tmp_path: Path) -> None:
    metric = f"{{type: frechet, layer: '64', weights: {inception()}, few: true}}"
    answer = command("stats", "digits", "-o", tmp_path / "d.npz", "--size", 16, "--metric", metric, "--count", 70)
    assert (answer.code, answer.err) == (0, "")
    assert "70 images, mu 64, sigma 64 x 64" in answer.out
    wrong = command("stats", "digits", "-o", tmp_path / "d.npz", "--size", 16, "--resize", "admm")
    assert "there is no 'admm'" in wrong.err


# --- traps of the literature, each by a file of statistics -----------------------------------------------------------


@pytest.fixture
def statistics(toys: Any, inception: Any, tmp_path: Path) -> Any:
    """Writes statistics of a source, and gives the file's place."""
    made: list[Path] = []

    def statistics(data: Any, count: int | None = None) -> str:
        suite = SuiteConfig.read({"data": data, "metrics": [distance(inception)]})
        source = Head(toys.build(suite.data, (16, 16)), count)
        made.append(tmp_path / f"{len(made)}.npz")
        write_statistics([toys.build(suite.metrics[0], source)], made[-1], torch.device("cpu"))
        return str(made[-1])

    return statistics


def distance(inception: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "frechet", "layer": "64", "weights": inception(), "few": True, **fields}


@pytest.fixture
def files(tmp_path: Path, photographs: Any) -> Any:
    """Writes photographs of 24 x 32 pixels into a folder, in a format."""

    def write(suffix: str = ".png", seed: int = 0, **options: Any) -> dict[str, Any]:
        folder = tmp_path / f"files-{suffix}-{seed}"
        folder.mkdir(exist_ok=True)
        for i, image in enumerate(photographs(60, (24, 32), seed).images):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i:02d}{suffix}", **options)
        return {"type": "folder", "path": str(folder)}

    return write


@pytest.mark.parametrize(
    ("trap", "names"),
    [
        # SEED-Voken #13: a wrong split, here the digits' other one
        ("split", ["number of reference images", "data set or split of the reference"]),
        ("crop", ["resize and crop of the reference"]),  # D-AR #3, RAE #11
        ("jpeg", ["file format of the reference"]),  # references that were saved as JPEG
        ("fewer", ["number of reference images"]),
        ("train", ["reference images"]),  # an rFID against a training set's statistics: 1d-tokenizer #46
        ("others", ["content of the reference"]),  # files without a word: their hash is all that is known
        ("same", []),
    ],
)
def test_what_differs_between_two_references_is_named(
    trap: str, names: list[str], statistics: Any, files: Any, inception: Any, tokenizer: Any, tmp_path: Path
) -> None:
    data: Any = files() if trap in ("crop", "jpeg", "others") else {"type": "digits", "split": "val"}
    val, train = ({"type": "digits", "split": split} for split in ("val", "train"))
    pairs = {
        "split": lambda: (statistics(val), statistics(train)),
        "crop": lambda: (statistics(data), statistics({**data, "resize": "torchvision-bilinear"})),
        "jpeg": lambda: (statistics(data), statistics(files(".jpg", quality=40))),
        "fewer": lambda: (statistics(val, 200), statistics(val, 100)),
        "train": lambda: (None, statistics(train)),
        "others": lambda: tuple(bare(statistics(files(seed=seed))) for seed in (0, 1)),
        "same": lambda: (statistics(val), statistics(val)),
    }
    results = []
    for number, reference in enumerate(pairs[trap]()):
        metric = distance(inception, **({} if reference is None else {"reference": reference}))
        suite = SuiteConfig.read({"data": data, "metrics": [metric], "budgets": [8], "count": 40})
        results.append(run(suite, [("a", tokenizer())], tmp_path / f"out-{number}").results)
    first, second = (json.loads(json.dumps(each)) for each in results)
    told = explain(first, second)
    assert {difference.cause.name for difference, _ in told.differences} == set(names)
    (pair,) = told.pairs
    assert pair.comparable == (not names)
    if names:
        assert abs(pair.first["value"] - pair.second["value"]) > 1e-3 * pair.first["value"]


def bare(place: str) -> str:
    """Statistics as others write them, which tell nothing of themselves."""
    path = Path(place)
    with np.load(path) as held:
        mu, sigma = held["mu"], held["sigma"]
    np.savez(path, mu=mu, sigma=sigma)
    return place
