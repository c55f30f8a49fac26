"""Checks of importers."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file

from flexframe.importing import open_foreign
from flexframe_registry import Component

from .materials import Check, Fields, tiny


def check_importer_recognises_its_own_alone(component: Component, fields: Fields) -> None:
    """A checkpoint of nobody's format, with a config or without, is not taken for one of its own."""
    importer = component.load()(tiny(component, fields))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_file({"nobody.weight": torch.zeros(2), "nobody.bias": torch.zeros(3)}, path)
        assert not importer.recognises(open_foreign(path))
        path.with_name("config.json").write_text('{"nobody": {"width": 2}, "depth": 3}')
        assert not importer.recognises(open_foreign(path))


CHECKS: tuple[Check, ...] = (check_importer_recognises_its_own_alone,)
