"""The table of all committed results is what `flexframe results` makes of them."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_table_of_committed_results_is_up_to_date(command, tmp_path):
    benchmarks = ROOT / "benchmarks"
    answer = command("results", benchmarks / "results")
    assert answer.code == 0, answer.err
    written = (benchmarks / "RESULTS.md").read_text(encoding="utf-8")
    fresh = tmp_path / "RESULTS.md"
    assert command("results", benchmarks / "results", "-o", fresh).code == 0
    made = fresh.read_text(encoding="utf-8").replace(f"`{benchmarks.as_posix()}/", "`")
    made = "".join(line for line in made.splitlines(keepends=True) if not line.startswith("| toy/"))  # of these tests
    told = "flexframe results benchmarks/results -o benchmarks/RESULTS.md"
    assert made == written, f"benchmarks/RESULTS.md is not of these results: run `{told}`"
    ours, theirs = written.split("## Published, not measured here")
    assert "rfid" not in ours
    assert "| titok/l-32 | 32 |" in theirs
