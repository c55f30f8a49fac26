"""Probes: each against a computation of its own, and what a model's curve says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flexframe.bench import probe as module
from flexframe.bench.probe import Labelled, Settings, linear, nearest, probe
from flexframe.models.tokenizer import Tokenizer
from flexframe_registry import ConfigError, SuiteConfig

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def clouds() -> tuple[torch.Tensor, ...]:
    """Values of three classes, of which a third overlap, and other ones of them."""
    rng = np.random.default_rng(0)
    labels = torch.arange(150) % 3
    centres = rng.normal(0, 1.2, (3, 6))
    a, b = (torch.from_numpy(centres[labels] + rng.normal(size=(150, 6))).float() for _ in range(2))
    return a, labels, b


def test_neighbours_vote_as_those_counted_one_by_one(clouds: Any) -> None:
    known, labels, asked = clouds
    expected = []
    for each in asked.double().numpy():
        cosine = [float(each @ k / np.linalg.norm(each) / np.linalg.norm(k)) for k in known.double().numpy()]
        near = sorted(range(len(cosine)), key=lambda i: -cosine[i])[:7]
        votes = [sum(np.exp(cosine[i] / 0.07) for i in near if labels[i] == c) for c in range(3)]
        expected.append(int(np.argmax(votes)))
    assert nearest(known, labels, asked, 7).tolist() == expected
    assert len(set(expected)) == 3


def test_the_linear_probe_is_the_optimum_of_logistic_regression(clouds: Any) -> None:
    from sklearn.linear_model import LogisticRegression

    known, labels, asked = clouds
    x = (known - known.mean(0)) / known.std(0, correction=0)
    y = (asked - known.mean(0)) / known.std(0, correction=0)
    ours = module._logits(known, labels, asked, 1e-2).log_softmax(1)
    # theirs weighs the losses' sum against half of the norm
    theirs = LogisticRegression(C=1 / (2 * 1e-2 * 150), tol=1e-9, max_iter=5000).fit(x.numpy(), labels.numpy())
    assert ours.exp().numpy() == pytest.approx(theirs.predict_proba(y.numpy()), abs=1e-4)
    right = linear(known, labels, asked, Settings(penalties=(1e-2,))) == labels
    assert float(right.double().mean()) == theirs.score(y.numpy(), labels.numpy())


def test_the_protocol_of_mae_comes_near_the_optimum(clouds: Any) -> None:
    known, labels, asked = clouds
    share = [
        float((linear(known, labels, asked, settings) == labels).double().mean())
        for settings in (Settings(), Settings(solver="mae", lr=1.0))
    ]
    assert share[0] > 0.7
    assert abs(share[0] - share[1]) < 0.08


def labelled(toys: Any, split: str, count: int) -> Labelled:
    data = SuiteConfig.read({"data": {"type": "digits", "split": split}, "metrics": []}).data
    return Labelled.of(toys.build(data, (16, 16)), count, split)


def test_a_models_curve_rises_where_later_tokens_tell_more(
    toys: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, test = labelled(toys, "train", 400), labelled(toys, "val", 150)
    found = json.loads(json.dumps(probe([("pca", tokenizer())], train, test)))
    assert [row["tokens"] for row in found["rows"] if row["on"] == "tokens"] == [1, 2, 4, 8]
    assert [row["width"] for row in found["rows"] if row["on"] == "tokens"] == [2, 4, 8, 16]
    assert {row["width"] for row in found["rows"] if row["on"] != "tokens"} == {2}
    for row in found["rows"]:
        for by in ("linear", "neighbours"):
            assert row[by]["low"] <= row[by]["accuracy"] <= row[by]["high"]
    on_tokens = next(rise for rise in found["rises"] if rise["on"] == "tokens")
    assert on_tokens["verdict"] == "rises"
    assert on_tokens["low"] > 20
    assert found["chance"] == 10

    # kept by content: another probe of the same images encodes nothing, other images do
    calls = []
    whole = Tokenizer.described
    monkeypatch.setattr(Tokenizer, "described", lambda *args, **rest: calls.append(1) or whole(*args, **rest))
    again = probe([("pca", tokenizer())], train, test, ["tokens"], Settings(neighbours=3))
    assert not calls
    linear_rows = [row["linear"] for row in found["rows"] if row["on"] == "tokens"]
    assert [row["linear"] for row in again["rows"]] == linear_rows
    probe([("pca", tokenizer())], train, labelled(toys, "val", 60), ["average"])
    assert len(calls) == 1


def test_classes_that_no_training_image_has_are_refused(toys: Any, tokenizer: Any) -> None:
    train, test = labelled(toys, "train", 400), labelled(toys, "val", 30)
    few = Labelled(train.images[train.labels < 5], train.labels[train.labels < 5], "x")
    with pytest.raises(ConfigError, match="is of no training image"):
        probe([("a", tokenizer())], few, test)


def test_the_command(command: Any, tmp_path: Path) -> None:
    args = ["probe", "digits", "toy/digits-tiny", "--count", 60, "--on", "tokens", "--solver", "mae", "--epochs", 3]
    answer = command(*args, "--lr", 1, "-o", tmp_path / "p.json")
    assert answer.code == 0, answer.err
    assert "held-out images" in answer.out
    found = json.loads((tmp_path / "p.json").read_text())
    assert found["data"]["test"] == {"type": "digits", "split": "val"}
    assert found["settings"]["epochs"] == 3
    assert found["train"]["count"] == 60
    assert "there is no 'token'" in command("probe", "digits", "toy/digits-tiny", "--on", "token").err


@pytest.mark.parametrize("broken", [b"", b"flipped"])
def test_kept_features_that_are_damaged_are_told_and_made_anew(
    broken: bytes, toys: Any, tokenizer: Any, own_home: Path, caplog: Any
) -> None:
    images = labelled(toys, "val", 6)
    model = tokenizer()
    first = module._whole(model, "it", images, 0)
    (kept,) = (own_home / "probes").iterdir()
    content = kept.read_bytes()
    kept.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if broken else broken)
    again = module._whole(model, "it", images, 0)
    assert "is damaged" in caplog.text
    assert all(torch.equal(first[name], each) for name, each in again.items())
    caplog.clear()
    module._whole(model, "it", images, 0)
    assert not caplog.text
