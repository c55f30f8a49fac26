"""A metric that counts in copies of itself, as metrics were written before tallies: it works, and is told."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from flexframe.bench import protocol, runner
from flexframe.bench.metric import LegacyMetric, Measure, Metric
from flexframe_registry import Component, MetricConfig
from flexframe_registry.catalogue import Catalogue
from flexframe_standard import DigitsConfig
from flexframe_standard.sources.digits import Digits


class InkConfig(MetricConfig):
    """How dark reconstructions are."""

    type: Literal["ink"] = "ink"


def ink() -> type[Metric]:
    with pytest.warns(DeprecationWarning, match=r"Ink counts in copies of itself.* flexframe\.bench\.metric\.Tally"):

        class Ink(LegacyMetric):
            tallied = ("total", "count")

            def measures(self) -> Any:
                return [Measure("ink", "Ink")]

            def of_samples(self) -> Any:
                return self

            def reset(self, spec: Any) -> None:
                self.total, self.count = 0.0, 0

            def update(self, batch: Any) -> Any:
                values = 1 - batch.exact.mean((1, 2, 3))
                self.total += float(values.double().sum())
                self.count += len(values)
                return {"ink": values}

            def compute(self) -> Any:
                return {"ink": self.total / self.count}

            def protocol(self) -> Any:
                return {"counted": self.count}

    return Ink


@pytest.mark.slow
def test_it_measures_and_goes_on(
    toys: Catalogue, tokenizer: Any, suite: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "Ink", ink(), raising=False)
    both = Catalogue([*toys, Component(InkConfig, f"{__name__}:Ink")])
    registry = [sys.modules[f"flexframe_registry.{name}"] for name in ("manager", "slots")]
    for module in (*registry, runner, protocol):
        monkeypatch.setattr(module, "catalogue", lambda: both)
    models = [("a", tokenizer()), ("b", tokenizer("full"))]
    whole = runner.run(suite("ink", "psnr"), models, tmp_path / "whole", batch_size=7).results
    images = torch.stack([Digits(DigitsConfig(split="val"), (16, 16))[i].image for i in range(40)])
    made = models[1][1].decode(models[1][1].encode(images / 255, rng=0), rng=0)
    number = whole["models"]["b"]["budgets"]["8"]["metrics"]["ink"]
    assert number["value"] == pytest.approx(float(1 - made.double().mean()), rel=1e-6)
    assert whole["protocols"][number["protocol"]]["measure"]["measured"] == {"counted": 40}

    read = runner.Head.samples

    def stop(self: Any, indices: Any) -> Any:
        if 21 in indices:
            raise InterruptedError
        return read(self, indices)

    with monkeypatch.context() as patch:
        patch.setattr(runner.Head, "samples", stop)
        with pytest.raises(InterruptedError):
            runner.run(suite("ink", "psnr"), models, tmp_path / "cut", batch_size=7, save_seconds=0.0)
    again = runner.run(suite("ink", "psnr"), models, tmp_path / "cut", batch_size=7).results
    assert again["per_image"] == whole["per_image"]
    assert again["protocols"] == whole["protocols"]
