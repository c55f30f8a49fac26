"""Many results as one table: what shares a column, what is shown, and how it is written."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest

from flexframe.bench import board as board_module
from flexframe.bench import board_text
from flexframe.bench.board import Board, Published, Wanted, as_json, boards, find
from flexframe.bench.explain import explain
from flexframe.bench.runner import run
from flexframe.bench.seeds import over_seeds
from flexframe_registry import ConfigError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tokenizer: Any, suite: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two results of one suite, of which one rounds, and one of fewer images. Not to be changed."""
    out = tmp_path_factory.mktemp("results")
    run(suite("psnr", "bits", count=12, show=0), [("flex", tokenizer())], out / "a")
    run(suite("psnr", count=12, show=0), [("fixed", tokenizer("full"))], out / "b")
    rounded = suite({"type": "psnr", "rounded": True}, count=12, show=0)
    run(rounded, [("fixed", tokenizer("full"))], out / "c")
    run(suite("psnr", count=9, show=0), [("fixed", tokenizer("full"))], out / "d")
    (out / "e").mkdir()
    (out / "e" / "results.json").write_text('{"of another": "form"}')
    return out


def read(path: Path) -> Any:
    return json.loads((path / "results.json").read_text())


def test_what_was_measured_alike_shares_a_column(folder: Path) -> None:
    first, second = boards(find([folder]))
    assert first.title == "a, b, c: 12 images, 16 x 16"
    assert second.title == "d: 9 images, 16 x 16"
    assert [(column.name, column.alone) for column in first.columns] == [
        ("psnr", False), ("bits", True), ("length", True), ("psnr", False),
    ]  # fmt: skip
    assert first.columns[0].label == f"PSNR, dB [{first.columns[0].ids[0]}]"
    value = read(folder / "b")["models"]["fixed"]["budgets"]["8"]["metrics"]["psnr"]["value"]
    rounded = read(folder / "c")["models"]["fixed"]["budgets"]["8"]["metrics"]["psnr"]["value"]
    (row,) = [row for row in first.rows if row.model == "fixed"]  # of both files: the same model, used alike
    assert row.numbers == {0: value, 3: rounded}
    assert row.parameters == read(folder / "b")["models"]["fixed"]["parameters"]["total"]


def test_versions_part_no_columns_and_older_forms_neither(folder: Path) -> None:
    results = [read(folder / name) for name in ("a", "b")]
    for record in results[1]["protocols"].values():
        record["measure"]["versions"]["torch"] = "1.0"
    results[1]["protocols"] = {f"0000{key[4:]}": value for key, value in results[1]["protocols"].items()}
    for number in results[1]["models"]["fixed"]["budgets"]["8"]["metrics"].values():
        number["protocol"] = f"0000{number['protocol'][4:]}"
    pairs = [(Path(str(i)), each) for i, each in enumerate(results)]
    (found,) = boards(pairs)
    assert [column.name for column in found.columns] == ["psnr", "bits", "length"]
    assert len(found.columns[0].ids) == 2
    results[1]["schema"] = 1
    del results[1]["protocol"]["task"]
    for record in results[1]["protocols"].values():
        del record["measure"]["task"]
    (found,) = boards(pairs)
    assert [column.name for column in found.columns] == ["psnr", "bits", "length"]


@pytest.mark.parametrize("schema", [1, 2])
def test_ssim_of_before_its_borders_were_said_shares_no_column_with_todays(
    tokenizer: Any, suite: Any, tmp_path: Path, schema: int
) -> None:
    run(suite("ssim", "psnr", count=12, show=0, budgets=[8]), [("a", tokenizer())], tmp_path, name="digits")
    now, before = read(tmp_path), read(tmp_path)
    assert (now["suite"]["name"], now["suite"]["version"]) == ("digits", 2)
    before["schema"] = schema
    del before["suite"]["version"]
    for record in before["protocols"].values():
        record["measure"]["measured"].pop("borders", None)
        record["measure"]["metric"].pop("borders", None)
    before["protocols"] = {f"0000{key[4:]}": value for key, value in before["protocols"].items()}
    for number in before["models"]["a"]["budgets"]["8"]["metrics"].values():
        number["protocol"] = f"0000{number['protocol'][4:]}"
    ((difference, measures),) = explain(before, now).differences
    assert (difference.cause.name, measures) == ("borders of SSIM", ["ssim"])
    assert difference.details == [("measured.borders", "reflected and counted", "left out")]
    (found,) = boards([(tmp_path / "before" / "x", before), (tmp_path / "now" / "x", now)])
    assert [(column.name, column.alone) for column in found.columns] == [
        ("ssim", False), ("psnr", True), ("ssim", False),
    ]  # fmt: skip
    assert found.title == "digits, digits@2: 12 images, 16 x 16"


@pytest.mark.parametrize(
    ("wanted", "rows"),
    [
        (Wanted(), 5),
        (Wanted(tokens=(2, 4)), 2),
        (Wanted(bits=(0, 17)), 2),
        (Wanted(parameters=(0, 1)), 0),
        (Wanted(models=("f[il]ex",)), 4),
        (Wanted(suites=("b", "c")), 1),
        (Wanted(measures=("length",)), 4),
        (Wanted(measures=("fid",)), 0),
    ],
)
def test_rows_are_filtered(folder: Path, wanted: Wanted, rows: int) -> None:
    places = [folder / name for name in "abc"]
    if not rows:
        with pytest.raises(ConfigError, match="no result is left"):
            boards(find(places), wanted)
        return
    assert sum(len(each.rows) for each in boards(find(places), wanted)) == rows


def test_a_protocol_is_filtered_by_the_beginning_of_its_id(folder: Path) -> None:
    key = boards(find([folder]))[0].columns[3].ids[0]
    (found,) = boards(find([folder]), Wanted(protocols=(key[:5],)))
    assert [(row.model, list(row.numbers)) for row in found.rows] == [("fixed", [0])]


def test_runs_of_one_recipe_are_a_row_with_what_another_seed_changes(
    folder: Path, command: Any, tmp_path: Path
) -> None:
    found = read(folder / "b")
    model = found["models"].pop("fixed")
    psnr = (20.0, 21.0, 23.0)
    for seed, value in enumerate((*psnr, 30.0)):
        one = json.loads(json.dumps(model))
        one["trained"] = {"step": 5, "run": {"seed": seed, "steps": 5 if seed < 3 else 6}}
        one["budgets"]["8"]["metrics"]["psnr"]["value"], one["fingerprint"] = value, str(seed)
        found["models"][f"runs/seed{seed}"] = one
    (tmp_path / "results.json").write_text(json.dumps(found))
    (made,) = boards(find([tmp_path]))
    over_seeds([made])
    joined, other = sorted(made.rows, key=lambda row: row.numbers[0])
    assert (joined.model, other.model) == ("runs/seed (3 seeds)", "runs/seed3")
    assert joined.numbers[0] == pytest.approx(64 / 3)
    deviation = (sum((each - 64 / 3) ** 2 for each in psnr) / 2) ** 0.5
    assert joined.spans[0] == pytest.approx(4.302653 * deviation / 3**0.5, rel=1e-5)  # Student's t of 2
    assert made.texts(joined)[4] == "21.33 ± 3.79"
    assert other.spans == {}
    answer = command("results", tmp_path, "--over-seeds", "--no-published")
    assert "| runs/seed (3 seeds) | 8 |" in answer.out
    assert "21.33 ± 3.79" in answer.out
    assert json.loads(as_json([made], []))["measured"][0]["rows"][0]["over_seeds"][0] is not None
    assert "no two models are of one recipe" in command("results", folder / "b", "--over-seeds").err


@pytest.mark.parametrize("by", ["tokens", "bits", "parameters", "psnr"])
def test_rows_are_sorted(folder: Path, by: str) -> None:
    (found,) = boards(find([folder / "a", folder / "b"]), Wanted(sort=by))
    values = [row.numbers[0] if by == "psnr" else getattr(row, by) for row in found.rows]
    assert values == sorted(values, reverse=by == "psnr")
    with pytest.raises(ConfigError, match=r"has no 'psrn'; there are: bits, model, parameters, tokens, psnr"):
        boards(find([folder / "a"]), Wanted(sort="psrn"))


def test_places_without_results_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no results\.json that `flexframe bench` wrote"):
        list(find([tmp_path]))
    with pytest.raises(ConfigError, match="is not of the form"):
        list(find([folder / "e" / "results.json"]))


QUOTED = [Published("them/m_1", None, 256.0, "rfid", 1.5, "a paper & its table, 50k | at 256", (16, 16))]


def test_forms_hold_every_number_and_published_ones_apart(folder: Path) -> None:
    made = boards(find([folder]))
    value = made[0].rows[0].numbers[0]
    text = board_text.markdown(made, QUOTED)
    assert f"| {value:.2f} |" in text
    ours, theirs = text.split("## Published, not measured here")
    assert "| them/m_1 | – | 256 | rfid | 1.5 | a paper & its table, 50k \\| at 256 |" in theirs
    assert "rfid" not in ours
    rows = list(csv.DictReader(io.StringIO(board_text.comma(made, QUOTED))))
    assert len(rows) == sum(len(each.rows) for each in made) + 1
    assert float(rows[0][f"psnr [{made[0].columns[0].ids[0]}]"]) == value
    published = {name: cell for name, cell in rows[-1].items() if cell}
    assert published["published rfid"] == "1.5"
    assert not {name for name in published if "[" in name}
    assert all(not row["published rfid"] for row in rows[:-1])
    tex = board_text.latex(made, QUOTED)
    assert r"them/m\_1 & -- & 256 & rfid & 1.5 & a paper \& its table" in tex
    held = json.loads(as_json(made, QUOTED))
    assert held["measured"][0]["rows"][0]["numbers"][0] == value
    assert held["published"][0]["origin"] == QUOTED[0].origin
    page = board_text.page(made, QUOTED)
    assert "a paper &amp; its table" in page
    assert page.count("<table") == len(made) + 1


def test_what_a_card_quotes_is_told_from_what_we_measured() -> None:
    metrics = {
        "rfid": {"value": 0.5, "origin": "published: a paper, table 1"},
        "psnr_by_tokens": {4: 21.8},
        "psnr": {"value": 20.0, "origin": "measured here"},
        "at_32_tokens": {"rfid": 1.4, "gfid": 2, "origin": "published by others: a protocol unknown"},
        "images_seen": 1000,
    }
    assert list(board_module._quoted(metrics)) == [
        ("rfid", None, 0.5, "a paper, table 1"),
        ("rfid", 32, 1.4, "by others: a protocol unknown"),
        ("gfid", 32, 2.0, "by others: a protocol unknown"),
    ]


def test_models_of_one_name_that_are_others_are_told_apart() -> None:
    made = Board((), ["s"], {"image_size": [2, 2], "count": 1})
    for mark in ("aaaaaaa", "bbbbbbb"):
        row = board_module.Row("m", 4, None, None, mark, "1234567", "f", {0: 1.0})
        board_module._put(made, row)
    board_module._finish(made, Wanted())
    assert [row.model for row in made.rows] == ["m (aaaaaa, 1234)", "m (bbbbbb, 1234)"]


def test_the_command(command: Any, folder: Path, tmp_path: Path) -> None:
    answer = command("results", folder, "--tokens", "8", "--measure", "psnr")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith("# Results")
    assert answer.out.count("| fixed | 8 |") == 2
    for suffix in ("md", "csv", "tex", "json", "html"):
        done = command("results", folder, "-o", tmp_path / f"t.{suffix}", "--bits", "..1k", "--parameters", "0.001..2M")
        assert "6 rows in" in done.out, done.err
        assert (tmp_path / f"t.{suffix}").stat().st_size > 300
    assert "is of no form that is known" in command("results", folder, "-o", tmp_path / "t.docx").err
    assert "--tokens: is '4-8'; give a number" in command("results", folder, "--tokens", "4-8").err
    assert math.isinf(__import__("flexframe.commands.results", fromlist=["_span"])._span("bits", "8..")[1])
