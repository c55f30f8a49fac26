"""Numbers that cards expect of their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flexframe.bench.expect import checks
from flexframe_registry.cardfile import CardFile

pytestmark = pytest.mark.slow


def test_numbers_are_held_to_what_a_card_says() -> None:
    wanted = [
        {"suite": "digits@1", "measure": "psnr", "tokens": 8, "value": 20.0, "tolerance": 0.1, "origin": "a paper"},
        {"suite": "digits@1", "measure": "psnr", "tokens": 4, "value": 18.0, "tolerance": 0.1},
        {"suite": "digits@1", "measure": "fid", "tokens": 8, "value": 1.0, "tolerance": 0.1},
        {"suite": "digits@1", "measure": "lpips", "tokens": 8, "value": 1.0, "tolerance": 0.1},
        {"suite": "digits@2", "measure": "psnr", "tokens": 8, "value": 1.0, "tolerance": 0.1},
    ]
    card = CardFile.read({"summary": "s", "model": {}, "expect": wanted})
    metrics = {"psnr": {"value": 20.05}, "fid": {"value": None, "why": "no weights"}}
    results = {"models": {"a": {"budgets": {"8": {"metrics": metrics}, "4": {"metrics": {"psnr": {"value": 18.2}}}}}}}
    made = list(checks(results, {"a": card}, "digits@1"))
    assert [each.holds for each in made] == [True, False, False, False]
    assert [each.line().rpartition(": ")[2] for each in made[:3]] == [
        "reproduced", "NOT reproduced", "not measured. no weights",
    ]  # fmt: skip
    assert "20 ± 0.1 (a paper), found 20.05" in made[0].line()
    assert "was not of that" in made[3].why


def test_the_command_refuses_what_is_no_suite_as_it_is(command: Any, tmp_path: Path) -> None:
    args = ["bench", "digits-smoke", "toy/digits-tiny", "--expect", "-o", tmp_path / "o"]
    assert "no card of toy/digits-tiny says what to expect of digits-smoke@2" in command(*args).err
    assert "is of a suite as it is, and count=4 changes it" in command(*args, "count=4").err
    assert "and --limit 4 changes it" in command(*args, "--limit", 4).err
