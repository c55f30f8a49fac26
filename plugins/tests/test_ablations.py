"""The script of ablations: its plan holds, it sums up what runs gave, and a small ablation goes from end to end."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from flexframe_registry import ConfigError
from flexframe_registry.cards import card
from flexframe_registry.doubts import obstacles, of_card
from flexframe_registry.runfolder import RunFolder

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "scripts" / "ablations.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ablations", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "ablations", module)  # dataclasses look there
        spec.loader.exec_module(module)
        return module


def test_every_variant_reads_and_nothing_is_doubted_about_it(script: ModuleType) -> None:
    plan, base = script.Plan.read(script.RECIPES / "ablations.yaml", [], [0, 1]), card(str(script.BASE))
    assert {name for name, _ in plan.runs()} == set(plan.variants)
    models = set()
    for variant in plan.variants.values():
        config = base.train(variant.train)
        assert [*obstacles(config), *of_card(base, config)] == []
        models.add((variant.after, config.model_dump_json()))
    assert len(models) == len(plan.variants)


def test_seeds_are_innermost_and_ablations_get_whole_one_by_one(script: ModuleType) -> None:
    plan = script.Plan.read(script.RECIPES / "ablations.yaml", ["decoder", "quantizer"], [3, 4])
    names = ["base", "regression", "flow", "vq", "vq-means"]  # what two of them begin with is first
    assert plan.runs() == [(name, seed) for name in names for seed in (3, 4)]
    with pytest.raises(ConfigError, match="laws"):
        script.Plan.read(script.RECIPES / "ablations.yaml", ["law"], [0])


def test_means_and_standard_errors_are_over_seeds(script: ModuleType) -> None:
    seeds = {seed: {"psnr": {"1": psnr, "32": 20.0}} for seed, psnr in enumerate((14.0, 15.0, 16.0))}
    summary = script.over_seeds(seeds)
    assert summary["psnr"]["1"] == {"mean": 15.0, "error": pytest.approx(1 / 3**0.5)}
    assert summary["psnr"]["32"] == {"mean": 20.0, "error": 0.0}
    content = {
        "variants": {"vit": {"seeds": seeds, "summary": summary}},
        "ablations": {"decoder": {"title": "decoder", "claim": "It blurs.", "variants": {"vit": "regression"}}},
    }
    heads, _, row, *_ = script.table(content).splitlines()
    cells = dict(zip(heads.split(" | "), row.split(" | "), strict=True))
    assert cells["PSNR, dB: 1"] == "15.0 ± 0.6"
    assert cells["PSNR, dB: 4"] == ""  # not measured
    assert "LPIPS: 1" not in cells


@pytest.mark.slow
def test_a_small_ablation_goes_from_end_to_end(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    suite = tmp_path / "few.yaml"
    suite.write_text(
        "{data: {type: scenes, split: val, complexity: 1, seed: 12, count: 2}, budgets: [1, 32], show: 0, "
        "metrics: [psnr, classifier, codebook]}"
    )

    def run(*options: str, steps: str = "2") -> int:
        asked = ["--seeds", "0", "--steps", steps, "--images", "128", "--suite", str(suite), *options]
        monkeypatch.setattr("sys.argv", ["ablations.py", "-o", str(tmp_path / "out"), "--only", "decoder", *asked])
        status: int = script.main()
        return status

    assert run() == 0
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(content["variants"]) == ["base", "regression", "flow"]
    base = content["variants"]["base"]
    assert base["images"] == 256
    assert list(base["summary"]["attributes"]) == ["1", "32"]
    assert base["summary"]["psnr"]["1"]["mean"] > 5
    assert (tmp_path / "out" / "plot.png").stat().st_size > 5000
    trained = RunFolder(tmp_path / "out" / "runs" / "base-0").model
    before = trained.stat().st_mtime_ns
    (tmp_path / "out" / "table.md").unlink()
    assert run() == 0  # skips what is finished
    assert run("--report") == 0
    assert trained.stat().st_mtime_ns == before
    begun = json.loads(RunFolder(tmp_path / "out" / "runs" / "flow-0").config.read_text())["run"]["init"]
    assert [each["from"] for each in begun] == [str(tmp_path / "out" / "runs" / "base-0")]
    assert "deterministic" in (tmp_path / "out" / "table.md").read_text()
    assert run(steps="3") == 1
    assert "holds a run of 2 steps, not 3" in caplog.text
