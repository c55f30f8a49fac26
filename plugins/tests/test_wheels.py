"""Every distribution of this repository, and one that `flexframe new-plugin` makes, built as wheels and installed.

They are installed into a virtual environment of their own, where no file of this repository can be imported.
"""

from __future__ import annotations

import shutil
import zipfile
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path

import pytest

from flexframe_registry import cards, catalogue
from flexframe_registry.suites import SUITES

from . import environments
from .conftest import MADE as MINE
from .distributions import DISTRIBUTIONS, Distribution
from .environments import Environment, Site
from .nursery import Nursery

pytestmark = pytest.mark.slow

NAMES = [each.name for each in DISTRIBUTIONS]
COMPONENTS = [component for component in catalogue() if not component.provider.startswith("flexframe-toy ")]
CARDS = [name for name in cards().names() if not name.startswith("toy/")]
"""Both without the toys of the core's tests, where both run together."""


@dataclass
class Installed:
    """All wheels, the environment that they are installed in, and the source of the plugin that was made."""

    wheels: dict[str, Path]
    environment: Environment
    plugin: Path
    nursery: Nursery

    @property
    def home(self) -> Path:
        return self.environment.home

    def run(self, program: str, *arguments: object) -> str:
        return self.environment.run(program, *arguments)

    def python(self, code: str) -> str:
        return self.run("python", "-W", "error", "-c", code)

    def fork(self, *words: object, strict: bool = False) -> str:
        """Runs a program that needs torch, which is imported already."""
        return Site(self.environment.site, self.home, self.nursery).run(*words, strict=strict)


@pytest.fixture(scope="module")
def installed(
    built: tuple[dict[str, Path], Path], nursery: Nursery, tmp_path_factory: pytest.TempPathFactory
) -> Installed:
    wheels, plugin = built
    root = tmp_path_factory.mktemp("wheels")
    return Installed(wheels, environments.create(root, wheels.values(), ["pytest"]), plugin, nursery)


# --- what is in them ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=NAMES)
def test_a_wheel_holds_all_that_its_packages_hold(installed: Installed, distribution: Distribution) -> None:
    expected = set()
    for package in distribution.packages:
        for path in package.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                expected.add((package.name / path.relative_to(package)).as_posix())
    with zipfile.ZipFile(installed.wheels[distribution.name]) as wheel:
        held = {path for path in wheel.namelist() if ".dist-info/" not in path}
        (points,) = [path for path in wheel.namelist() if path.endswith("/entry_points.txt")]
        written = ConfigParser()
        written.optionxform = str  # type: ignore[assignment]
        written.read_string(wheel.read(points).decode())
    assert held == expected
    assert any(path.endswith("/__init__.py") for path in held)
    assert dict(written["flexframe"]) == distribution.about["project"]["entry-points"]["flexframe"]


def test_data_files_of_each_sort_are_in_wheels(installed: Installed) -> None:
    held = {}
    for name, path in installed.wheels.items():
        with zipfile.ZipFile(path) as wheel:
            held[name] = set(wheel.namelist())
    assert "flexframe_registry/suites/digits.yaml" in held["flexframe"]
    assert "flexframe/templates/plugin/init.py.txt" in held["flexframe"]
    assert "flexframe/py.typed" in held["flexframe"]
    assert any(path.endswith((".j2", ".html")) for path in held["flexframe"])
    assert "flexframe_titok/cards/titok/digits-tiny.yaml" in held["flexframe-titok"]
    assert "flexframe_titok/cards/titok/digits-tiny.safetensors" in held["flexframe-titok"]
    assert "flexframe_wheel_made/cards/wheel-made/digits-tiny.yaml" in held[MINE]


# --- what they do, away from here --------------------------------------------------------------------------------


def test_all_is_listed_from_the_installed_wheels(installed: Installed) -> None:
    lines = installed.run("flexframe", "list").splitlines()
    pairs = {tuple(words[:2]) for words in map(str.split, lines) if len(words) > 1}
    assert {(c.kind, c.name) for c in COMPONENTS} <= pairs
    assert {name for kind, name in pairs if kind in ("card", "card*")} == {*CARDS, "wheel-made/digits-tiny"}
    assert {name for kind, name in pairs if kind == "suite"} == {path.stem for path in SUITES.glob("*.yaml")}
    assert ("quantizer", "wheel-made-grid") in pairs
    assert {line.split()[0] for line in installed.run("flexframe", "--version").splitlines()} == {*NAMES, MINE}


def test_the_registry_is_whole_without_torch(installed: Installed) -> None:
    told = installed.python(
        "import sys; sys.modules['torch'] = sys.modules['numpy'] = None\n"
        "import flexframe_registry as r\n"
        "print(len(list(r.catalogue())), len(r.cards().names()), r.cards().get('flextok/digits-tiny').model.length)\n"
        "print(r.catalogue().broken, r.__file__)"
    )
    first, second = told.splitlines()
    assert first == f"{len(COMPONENTS) + 3} {len(CARDS) + 1} 8"
    assert second.startswith(f"() {installed.environment.folder}")


def test_a_shipped_model_works_and_nothing_comes_from_the_repository(installed: Installed) -> None:
    told = installed.fork(
        "-c",
        "import sys, torch, flexframe\n"
        "tok = flexframe.load('flextok/digits-tiny')\n"
        "tokens = tok.encode(torch.rand(1, 3, 16, 16), lengths=4)\n"
        "print(tuple(tok.decode(tokens, rng=0, sampling={'steps': 2}).shape))\n"
        "files = {m.__file__ for n, m in list(sys.modules.items()) if n.split('_')[0].split('.')[0] == 'flexframe'}\n"
        "print(*sorted(files), sep='\\n')",
        strict=True,
    )
    shape, *files = told.splitlines()
    assert shape == "(1, 3, 16, 16)"
    assert len(files) > 10
    assert [path for path in files if not path.startswith(str(installed.environment.folder))] == []


# --- the plugin that was made ------------------------------------------------------------------------------------


def test_the_made_plugin_trains_from_its_wheel(installed: Installed) -> None:
    folder = installed.home / "run"
    settings = "run.steps=2", "run.batch_size=8", "run.log_every=1", "--device", "cpu"
    told = installed.fork("program", "flexframe", "train", "wheel-made/digits-tiny", *settings, "-o", folder)
    assert "trained 2 steps" in told
    assert (folder / "model.safetensors").is_file()
    assert f'"{MINE}": "0.1.0"' in (folder / "manifest.json").read_text()


def test_the_made_plugin_passes_its_tests_from_its_wheel(installed: Installed) -> None:
    aside = installed.home / "tests"
    shutil.copytree(installed.plugin / "tests", aside)  # away from its source, which would be found first
    quiet = "-q", "-p", "no:cacheprovider", "-W", "error", "--import-mode=importlib"
    said = installed.fork("-m", "pytest", *quiet, aside)
    assert "skipped" not in said
    kit = said.splitlines()[-1]
    assert int(kit.split(" passed")[0]) >= 16
