"""docs/quickstart.ipynb, cell by cell, as a kernel would run it, in one namespace.

Without Jupyter, so that it runs where nothing but the development requirements is installed.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
LARGEST = 350_000
"""Characters of the file; its pictures are small."""


def run_cell(source: str, namespace: dict[str, Any]) -> Any:
    """Run a cell: the value of its last expression."""
    body = ast.parse(source).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), "<cell>", "exec"), namespace)
    return None if last is None else eval(compile(ast.Expression(last.value), "<cell>", "eval"), namespace)


@pytest.mark.slow
@pytest.mark.timeout(900)  # half a minute of a core's time, which a busy machine may be long in giving
@pytest.mark.usefixtures("unchecked")
def test_every_cell_runs_and_shows_what_the_text_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    namespace: dict[str, Any] = {}
    values, printed = [], []
    for cell in CELLS:
        if cell["cell_type"] == "code":
            values.append(run_cell("".join(cell["source"]), namespace))
            printed.append(capsys.readouterr().out)
    assert "flextok/scenes-64" in values[0]
    lengths = namespace["tok"].config.budgets
    (picture,) = [value for value in values if isinstance(value, Image.Image)]
    assert picture.size == (5 * 68 + 4, (len(lengths) + 1) * 68 + 4)
    psnr = [float(number) for number in re.findall(r"(\S+) dB", "".join(printed))]
    assert len(psnr) == len(lengths)
    assert psnr == sorted(psnr), "more tokens are not closer to the original"
    assert "Did you mean 'residual-fsq'?" in "".join(printed)
    losses = [float(number) for number in re.findall(r"  loss (\S+)", "".join(printed))]
    assert losses[-1] < losses[0]
    assert re.search(r"^ +8 +run ", repr(values[-1]), flags=re.MULTILINE)
    assert values[-1]._repr_html_().startswith("<div>")
    assert values[-1].page == namespace["out"] / "bench" / "report.html"
    assert values[-1].page.is_file()


def test_the_file_is_a_whole_notebook_small_and_was_run_in_order():
    whole = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (whole["nbformat"], whole["metadata"]["kernelspec"]["name"]) == (4, "python3")
    assert len({cell["id"] for cell in CELLS}) == len(CELLS)
    assert len(NOTEBOOK.read_text(encoding="utf-8")) < LARGEST
    code = [cell for cell in CELLS if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    kinds = {output["output_type"] for cell in code for output in cell["outputs"]}
    assert kinds == {"stream", "execute_result"}, "an error or a warning is shown"


def test_what_it_links_to_is_there():
    text = "".join("".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "markdown")
    links = re.findall(r"\]\(([^)#]+)", text)
    assert len(links) > 3
    for link in links:
        assert (NOTEBOOK.parent / link).exists(), link
