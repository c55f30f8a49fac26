"""A run folder's file names stand in one place."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from flexframe_registry import runfolder
from flexframe_registry.runfolder import EMA, RunFolder, step_name

ROOT = Path(__file__).parents[2]


def test_steps_are_in_the_order_of_their_names() -> None:
    steps = [0, 9, 10, 99_999, 100_000, 12_345_678]
    assert sorted(map(step_name, steps)) == [step_name(step) for step in steps]
    assert all(Path(step_name(step)).match(runfolder.STEPS) for step in steps)


def test_the_finished_model_comes_first_then_the_newest_average(tmp_path: Path) -> None:
    paths = RunFolder(tmp_path)
    assert paths.weights() == [paths.model]
    for step in (5, 200, 30):
        paths.checkpoint(step).mkdir(parents=True)
        (paths.checkpoint(step) / EMA).touch()
    assert paths.weights() == [paths.model, *(paths.checkpoint(step) / EMA for step in (200, 30, 5))]
    assert paths.sample(5) == tmp_path / "samples" / "step-00000005.png"


@pytest.mark.slow
def test_no_other_module_spells_a_name_that_is_a_runs_alone() -> None:
    own = RunFolder(Path())
    names = {own.manifest.name, own.log.name, own.end.name, runfolder.TRAINEE, runfolder.EMA, runfolder.OPTIMIZER,
             runfolder.RANDOM, runfolder.INTERVAL, runfolder.STEPS}  # fmt: skip
    spelt = {
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for folder in ("flexframe", "registry", "plugins/standard/flexframe_standard", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in names and path != Path(runfolder.__file__)
    }
    assert spelt == set()
