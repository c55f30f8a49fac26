"""Checks of observers."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from flexframe_registry import Component, TrainConfig
from flexframe_registry.runfolder import RunFolder

from .materials import Check, Fields, small_model, tiny


def check_observer(component: Component, fields: Fields) -> None:
    """A run is told from its start to its end, and a second time where it is resumed; its own files stay as they are.

    One whose packages are not installed is asked for nothing.
    """
    config = tiny(component, fields)
    if not all(find_spec(package) for package in config.packages):
        return
    training = TrainConfig.read({"model": small_model(), "run": {"data": "digits"}})
    with TemporaryDirectory() as root:
        run = Path(root) / "run"
        run.mkdir()
        log, picture = RunFolder(run).log, run / "samples.png"
        log.write_text("{}")
        Image.new("RGB", (8, 8)).save(picture)
        before = picture.read_bytes()
        for start in (0, 2):
            observer = component.load()(config)
            observer.start(RunFolder(run), start, training)
            observer.picture(start + 1, picture)
            observer.line(start + 1, {"loss": 0.5})
            observer.end("stopped" if start == 0 else "finished", "")
        assert log.read_text() == "{}" and picture.read_bytes() == before, "it changed the run's own files"


CHECKS: tuple[Check, ...] = (check_observer,)
