"""Curves of runs, and the commands that list and draw runs."""

import json
import math

import pytest
from PIL import Image

from flexframe.train import expected
from flexframe.train.curves import choose, names, series, smoothed
from flexframe_registry import ConfigError
from flexframe_registry.cards import Cards


def lines(offset=0.0, **more):
    return [
        {"step": s, "a/x": 1 / s + offset, "b/y": 2.0, "loss": 2 + 1 / s, "grad_norm": 1.0, "grad_norm/encoder": 0.5,
         "grad_norm/decoder": 0.8, "lr": 0.1, "codes_used": 3, "codes_dead": 5, "data_wait": 0.1, "none": None, **more}
        for s in range(10, 60, 10)
    ]  # fmt: skip


def test_losses_codes_and_norms_are_drawn_of_themselves_and_anything_else_when_asked_for():
    one = {"r": lines()}
    assert choose(one, []) == [["loss"], ["a/x"], ["b/y"], ["codes_used"], ["grad_norm"],
                               ["grad_norm/encoder", "grad_norm/decoder"]]  # fmt: skip
    two = {**one, "s": lines(held_out=1.0)}
    assert choose(two, [])[-2:] == [["grad_norm/encoder"], ["grad_norm/decoder"]]
    assert ["held_out"] in choose(two, [])
    assert choose(one, ["lr", "grad_norm/"]) == [["lr"], ["grad_norm/encoder", "grad_norm/decoder"]]
    assert "none" not in names(one)
    with pytest.raises(ConfigError, match=r"'los'.*'loss'"):
        choose(one, ["los"])


def test_a_loss_that_is_the_only_one_is_drawn_once():
    single = [{"step": s, "mse/mse": 1 / s, "loss": 1 / s} for s in (1, 2)]
    assert choose({"r": single}, []) == [["loss"]]


def test_smoothing_is_over_what_came_before_and_is_finite():
    assert smoothed([1.0, 3.0, 5.0, 7.0], 2) == [1.0, 2.0, 4.0, 6.0]
    assert smoothed([1.0, math.nan, 5.0], 2) == [1.0, 1.0, 5.0]
    assert math.isnan(smoothed([math.nan], 3)[0])
    assert series([{"step": 1, "x": 2}, {"step": 2}, {"step": 3, "x": None}], "x") == ([1], [2.0])


@pytest.fixture
def folder(tmp_path):
    parts = {part: {"type": part[:3]} for part in ("encoder", "quantizer", "decoder")}
    for name, steps in (("a", 50), ("deep/b", 99)):
        run = tmp_path / name
        run.mkdir(parents=True)
        config = {"model": {**parts, "length": 8}, "run": {"steps": steps, "batch_size": 4}}
        (run / "config.json").write_text(json.dumps(config))
        (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines(images_per_s=123.0)))
    (tmp_path / "deep/b/end.json").write_text('{"state": "failed", "why": "ValueError: too bad"}')
    return tmp_path


def test_runs_are_listed_with_their_last_numbers_and_state_and_fit_a_terminal(command, folder):
    found = command("runs", str(folder))
    rows = found.out.splitlines()
    assert found.code == 0
    first = next(row for row in rows if row.startswith("a "))
    for told in ("enc qua dec 8", "50/50", "2.02", "codes used 38%", "data wait 10%", "finished", "123"):
        assert told in first
    assert "50/99" in next(row for row in rows if row.startswith("deep/b"))
    assert "failed" in found.out
    assert "deep/b: ValueError: too bad" in found.err
    (folder / "a/config.json").write_text('{"model": 3, "run": {}}')
    found = command("runs", str(folder))
    assert (found.code, "a/config.json" in found.err) == (0, True)


def test_a_folder_without_runs_is_an_error(command, tmp_path):
    found = command("runs", str(tmp_path))
    assert (found.code, "holds no runs" in found.err) == (2, True)


@pytest.mark.slow
def test_curves_are_drawn_to_a_picture_with_a_panel_a_metric(command, folder):
    pictures = {}
    for name, options in {"all": [], "loss": ["--metric", "loss,b/y", "--smooth", "3", "--log-y", "--images"]}.items():
        to = folder / f"{name}.png"
        found = command("plot", str(folder / "a"), str(folder / "deep/b"), "-o", str(to), *options)
        assert found.code == 0, found.err
        pictures[name] = Image.open(to).convert("RGB")
    assert "loss, b/y of 2 runs" in found.out
    assert pictures["all"].height > 1.5 * pictures["loss"].height
    colours = {colour for _, colour in pictures["loss"].getcolors(1 << 20)}
    assert {(66, 105, 208), (239, 177, 24)} <= colours  # a line of each run
    assert sorted(path.name for path in folder.glob("*.png")) == ["all.png", "loss.png"]
    assert "ends in none of" in command("plot", str(folder / "a"), "-o", "x.gif").err


# --- expected curves ---------------------------------------------------------------------------------------------

CARD = """
summary: a model
model: {size: tiny, image_size: 16, length: 8, encoder: toy, quantizer: toy, masker: toy, decoder: toy}
run: {data: {type: digits, split: train}, batch_size: 8}
expected: {loss: {10: 2.5, 50: 2.2}}
"""


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """Cards with a curve (`toy/curve`), and on it one without (`toy/own`), as a user's for his own images is."""
    own = "base: toy/curve\nrun: {data: {type: digits, split: val}}\n"
    for name, text in {"curve": CARD, "own": own}.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    shelf = Cards({f"toy/{name}": tmp_path / f"{name}.yaml" for name in ("curve", "own")})
    monkeypatch.setattr(expected, "cards", lambda: shelf)
    return shelf


def test_a_curve_is_expected_of_the_cards_model_and_of_no_other(shelf):
    card, own = shelf.get("toy/curve"), shelf.get("toy/own")
    assert not own.file.expected
    assert [expected.to_expect(each, each.described) for each in (card, own)] == ["toy/curve"] * 2
    assert expected.to_expect(card, card.train(["length=4"]).model) is None
    assert expected.to_expect(card, card.train(["run.batch_size=4"]).model) == "toy/curve"


def test_the_expected_curve_is_drawn_dashed_at_as_many_images_seen(command, folder, shelf):
    run = folder / "a"
    assert expected.expected(run) is None  # it names no card
    (run / "manifest.json").write_text('{"expected": "toy/curve"}')
    assert expected.expected(run).lines == [{"step": 20, "loss": 2.5}, {"step": 100, "loss": 2.2}]  # of 4, not of 8
    pictures = {}
    for name, options in {"steps": [], "images": ["--images"]}.items():
        found = command("plot", str(run), "--metric", "loss", "-o", str(folder / f"{name}.svg"), *options)
        assert found.code == 0, found.err
        pictures[name] = (folder / f"{name}.svg").read_text()
    assert all("stroke: #8a8a8a" in picture and "stroke-dasharray" in picture for picture in pictures.values())
    (run / "manifest.json").write_text("{")
    assert "manifest.json: cannot be read" in command("plot", str(run), "-o", str(folder / "x.png")).err
