"""Runs that go on: with the data and settings of before only, with more steps, and in the place of one that failed."""

import io
import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console as Terminal

from flexframe.data.inventory import LOOKED, changed
from flexframe.train.console import Console
from flexframe.train.loop import train
from flexframe.train.run import Run
from flexframe_registry import ConfigError, cards, catalogue
from flexframe_registry.slots import resolve
from flexframe_standard.feeds.codes import _check_labels

SETTINGS = ("run.batch_size=4", "run.steps=2", "run.log_every=1")
CPU = torch.device("cpu")
BAD_CARD = "base: toy/digits-tiny\nsummary: a test\nsampling: {stepz: 3}\n"


def picture(path, number):
    """A picture whose file is as large as any other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draws = np.random.default_rng(number)
    Image.fromarray(draws.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(path, "BMP")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of two steps on a folder, and the folder."""
    root = tmp_path_factory.mktemp("made")
    for number in range(6):
        picture(root / "photos" / f"{number}.bmp", number)
    config = cards().get("toy/digits-tiny").train([*SETTINGS, f"run.data={{type: folder, path: {root / 'photos'}}}"])
    run = Run.create(config, root / "run", CPU, {"steps": 2})
    train(run, Console(Terminal(file=io.StringIO())))
    return root


@pytest.fixture
def photos(made, tmp_path):
    """The pictures, as they were once the test is over."""
    kept = shutil.copytree(made / "photos", tmp_path / "kept")
    yield made / "photos"
    shutil.rmtree(made / "photos", ignore_errors=True)
    shutil.copytree(kept, made / "photos")


@pytest.fixture
def run(made, photos, tmp_path):
    """The folder of the run, a copy."""
    return shutil.copytree(made / "run", tmp_path / "run")


def on(run, *settings, **more):
    return Run.resume(run, CPU, settings=settings, **more)


# --- data ----------------------------------------------------------------------------------------------------------


def added(photos):
    picture(photos / "a.bmp", 9)


def deleted(photos):
    (photos / "3.bmp").unlink()


def renamed(photos):
    (photos / "3.bmp").rename(photos / "c.bmp")


def replaced(photos):
    picture(photos / "3.bmp", 9)


def replaced_at_once(photos):
    """With the time of writing of the one before, as some copies have it."""
    before = (photos / "3.bmp").stat()
    picture(photos / "3.bmp", 9)
    os.utime(photos / "3.bmp", ns=(before.st_atime_ns, before.st_mtime_ns))


def grown(photos):
    (photos / "3.bmp").write_bytes((photos / "3.bmp").read_bytes() + b"more")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (added, "they were 6, and are 7 now"),
        (deleted, "they were 6, and are 5 now"),
        (renamed, "of other names"),
        (replaced, "the same names and sizes, and some hold something else"),
        (replaced_at_once, "the same names and sizes, and some hold something else"),
        (grown, "the same names, and some have other sizes"),
    ],
)
def test_other_data_are_refused_or_accepted_by_name(run, photos, change, told):
    change(photos)
    with pytest.raises(ConfigError, match=rf"run: its data have changed: .*{told}.*--accept-changes goes on"):
        on(run, "run.steps=3")
    assert not (run / "lock").exists()
    assert json.loads((run / "config.json").read_text())["run"]["steps"] == 2
    again = on(run, "run.steps=3", accept=True)
    assert again.changes.others[0].startswith("its data have changed")
    again.save()
    again.close()
    on(run).close()  # they are the run's from now on
    (note,) = json.loads((run / "manifest.json").read_text())["resumed"]
    assert (note["step"], note["data"]["count"]) == (2, len(list(photos.iterdir())))


def test_a_copy_elsewhere_is_the_same_data(run, photos, tmp_path):
    for path in photos.iterdir():
        os.utime(path, (1, 1))
    photos.rename(tmp_path / "moved")
    with pytest.raises(ConfigError, match="there is no folder"):
        on(run)
    on(run, f"run.data.path={tmp_path / 'moved'}").close()
    on(run).close()  # the new place is in its config


def test_of_many_files_some_are_looked_into_and_a_copy_is_told(tmp_path):
    was = {"count": LOOKED + 1, "names": "a", "sizes": "b", "times": "c", "contents": "d", "whole": False}
    with pytest.warns(UserWarning, match=f"written anew, or copied.*; {LOOKED} were looked into, and are the same"):
        assert not changed(was, {**was, "times": "e"})
    assert "hold something else" in changed(was, {**was, "times": "e", "contents": "f"})
    assert "written since" in changed({**was, "contents": "d"}, {k: v for k, v in was.items() if k != "contents"} | {
        "times": "e"})  # fmt: skip
    assert not changed(None, was)  # a run of before
    assert not changed(was, was)


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_inventories_see_labels_and_members(photos, tmp_path, kind):
    (photos / "0.cls").write_text("1")

    def inventory():
        path = photos
        if kind == "tar":
            path = shutil.make_archive(str(tmp_path / "s"), "tar", photos)
        source = catalogue().build(resolve("source", {"type": kind, "path": str(path)}), (16, 16))
        source.want("labels")
        return source.inventory()

    was = inventory()
    assert not changed(was, inventory())
    (photos / "0.cls").write_text("2")
    assert "other labels" in changed(was, inventory())
    (photos / "0.cls").write_text("1")
    replaced(photos)
    assert "hold something else" in changed(was, inventory())


# --- settings ------------------------------------------------------------------------------------------------------


def test_a_finished_run_is_extended(run, command):
    answer = command("train", "--resume", run, "run.steps=3", "run.log_every=2", "--device", "cpu")
    assert answer.code == 0, answer.err
    assert "goes on with changes: run.steps was 2 and is 3; run.log_every was 1 and is 2" in answer.err
    assert "trained 3 steps" in answer.out
    assert json.loads((run / "config.json").read_text())["run"]["steps"] == 3
    answer = command("train", "--resume", run, "run.seed=3", "quantizer=toy-values", "--device", "cpu")
    assert answer.code == 2
    assert "--resume: a resumed run keeps its settings: model.quantizer.type was 'toy' and is" in answer.err
    assert "run.seed was 0 and is 3. It may be given run.steps," in answer.err
    assert "these weights by run.init" in answer.err
    answer = command("train", "--resume", run, "run.steps=2", "--device", "cpu")
    assert "run.steps: is 2, and 3 are done; give 3 or more" in answer.err


def test_a_config_that_was_edited_is_told_or_refused(run):
    path = run / "config.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps({**whole, "run": {**whole["run"], "steps": 5, "keep": 9}}))
    again = on(run)
    again.close()
    assert again.changes.told == ("run.steps was 2 and is 5", "run.keep was 2 and is 9")
    path.write_text(json.dumps({**whole, "run": {**whole["run"], "seed": 5}}))
    with pytest.raises(ConfigError, match=r"its config was changed: run\.seed was 0 and is 5"):
        on(run)
    on(run, accept=True).close()


# --- refused early, and nothing left that blocks -------------------------------------------------------------------


def test_settings_of_use_that_there_are_not_are_refused_before_a_folder_is_made(command, tmp_path):
    (tmp_path / "card.yaml").write_text(BAD_CARD)
    answer = command("train", tmp_path / "card.yaml", "run.steps=1", "-o", tmp_path / "run", "--device", "cpu")
    assert answer.code == 2
    assert "card.sampling.stepz: there is no such setting. Did you mean 'steps'?" in answer.err
    config = cards().get("toy/digits-tiny").train(["run.steps=1"])
    with pytest.raises(ConfigError, match=r"sampling\.stepz: there is no such setting"):
        Run.create(config, tmp_path / "run", CPU, {"stepz": 3})
    assert not (tmp_path / "run").exists()


def test_a_run_that_failed_before_its_first_checkpoint_blocks_nothing(create, go):
    run = create("run", "run.seed=1")
    with torch.no_grad():
        run.trainee.model.decoder.positions.fill_(float("nan"))
    with pytest.raises(FloatingPointError):
        go(run)
    assert {path.name for path in run.folder.iterdir()} >= {"config.json", "nonfinite-1.json", "end.json"}
    with pytest.warns(UserWarning, match="holds a run that ended before its first checkpoint; it is begun anew"):
        again = create("run")
    assert not list(run.folder.glob("nonfinite-*"))
    assert json.loads((run.folder / "config.json").read_text())["run"]["seed"] == 0
    go(again)
    with pytest.raises(ConfigError, match="holds a run already"):
        create("run")


@pytest.mark.parametrize(("text", "free"), [("", True), ('{"hidden_size": 768}', False), ("[1", False)])
def test_a_config_that_is_no_runs_is_left_alone(create, tmp_path, text, free):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(text)
    if free:  # what a full disk left
        with pytest.warns(UserWarning, match="is begun anew"):
            create("run").close()
        return
    with pytest.raises(ConfigError, match=r"config\.json: is no run's"):
        create("run")
    assert (tmp_path / "run" / "config.json").read_text() == text


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ([1, None, 3], r"run\.data: row 2 has label 3, and the prior's classes are 0\.\.2; set model\.classes=4"),
        ([None, None], "has no labels, and the prior is conditioned on classes"),
        ([0, None, 2], ""),
        (None, ""),
    ],
)
def test_labels_that_are_none_of_a_priors_classes_are_refused_at_once(labels, told):
    if not told:
        _check_labels(labels, range(3), 3, "run.data")
        return
    with pytest.raises(ConfigError, match=told):
        _check_labels(labels, range(3), 3, "run.data")
