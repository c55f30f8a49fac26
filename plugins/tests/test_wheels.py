"""Every distribution of this repository, and one that `flexframe new-plugin` makes, built as wheels and installed.

They are installed into a virtual environment of their own. What they depend on is taken from the environment that
runs the tests, without its editable installs: so nothing is fetched, and no file of this repository can be imported.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path

import pytest

from flexframe_registry import cards, catalogue
from flexframe_registry.suites import SUITES

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PROJECTS = [ROOT, *sorted(path.parent for path in (ROOT / "plugins").glob("*/pyproject.toml"))]
NAMES = ["flexframe", *(f"flexframe-{path.name}" for path in PROJECTS[1:])]
MINE = "flexframe-wheel-made"
"""The distribution that `flexframe new-plugin wheel-made` makes."""
DISTRIBUTIONS = {"PIL": "pillow", "ruamel": "ruamel.yaml", "sklearn": "scikit_learn"}
"""By import name, where it is another."""
COMPONENTS = [component for component in catalogue() if not component.provider.startswith("flexframe-toy ")]
CARDS = [name for name in cards().names() if not name.startswith("toy/")]
"""Both without the toys of the core's tests, where both run together."""
BUILD = """
import os, sys
from hatchling.build import build_wheel
to, *projects = sys.argv[1:]
for project in projects:
    os.chdir(project)
    build_wheel(to)
"""


@dataclass
class Installed:
    """A virtual environment with the wheels in it, and a folder far from this repository to work in."""

    wheels: dict[str, Path]
    folder: Path
    home: Path
    plugin: Path
    """Source of the plugin that was made; nothing of its package is imported from there."""

    def run(self, *command: object) -> str:
        """Runs one of the environment's programs."""
        program, *arguments = map(str, command)
        env = {**os.environ, "COLUMNS": "200", "PYTHONSAFEPATH": "1"}
        env.pop("PYTHONPATH", None)
        whole = [str(self.folder / "bin" / program), *arguments]
        done = subprocess.run(whole, capture_output=True, text=True, cwd=self.home, env=env, timeout=250)
        assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def python(self, code: str) -> str:
        return self.run("python", "-W", "error", "-c", code)


def run(*command: object) -> None:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    root = tmp_path_factory.mktemp("wheels")
    wheels, folder, home, plugin = (root / name for name in ("wheels", "venv", "home", MINE))
    for each in (wheels, home):
        each.mkdir()
    run(sys.executable, "-m", "flexframe.cli", "new-plugin", "wheel-made", "-o", plugin)
    run(sys.executable, "-c", BUILD, wheels, *PROJECTS, plugin)
    found = {path.name.split("-")[0].replace("_", "-"): path for path in wheels.glob("*.whl")}
    venv.create(folder, symlinks=True)
    pip = sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "--disable-pip-version-check"
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", "--no-compile", *found.values())
    (site,) = folder.glob("lib/python*/site-packages")
    ours = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    assert ours, sys.path
    (site / "dependencies.pth").write_text("\n".join(ours) + "\n")  # their own .pth files are not read
    return Installed(found, folder, home, plugin)


# --- what is in them ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "project"), [*zip(NAMES, PROJECTS, strict=True)], ids=NAMES)
def test_a_wheel_holds_all_that_its_packages_hold(installed: Installed, name: str, project: Path) -> None:
    about = tomllib.loads((project / "pyproject.toml").read_text())
    packages = about["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    expected = set()
    for package in map(Path, packages):
        for path in (project / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                expected.add((package.name / path.relative_to(project / package)).as_posix())
    with zipfile.ZipFile(installed.wheels[name]) as wheel:
        held = {path for path in wheel.namelist() if ".dist-info/" not in path}
        (points,) = [path for path in wheel.namelist() if path.endswith("/entry_points.txt")]
        written = ConfigParser()
        written.optionxform = str  # type: ignore[assignment]
        written.read_string(wheel.read(points).decode())
    assert held == expected
    assert any(path.endswith("/__init__.py") for path in held)
    assert dict(written["flexframe"]) == about["project"]["entry-points"]["flexframe"]


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


@pytest.mark.parametrize(("name", "project"), [*zip(NAMES, PROJECTS, strict=True)], ids=NAMES)
def test_what_is_imported_is_required(name: str, project: Path) -> None:
    """No package leans on what another happens to bring; a plugin has what flexframe requires."""
    about = tomllib.loads((project / "pyproject.toml").read_text())
    core = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for lines in about["project"].get("optional-dependencies", {}).values() for line in lines]
    lines = [*about["project"]["dependencies"], *core["dependencies"], *extras]
    required = {re.split(r"[^\w.-]", line)[0].lower().replace("-", "_") for line in lines}
    packages = about["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    there = {"flexframe", "flexframe_registry", *(Path(package).name for package in packages), *sys.stdlib_module_names}
    for path in (path for package in packages for path in (project / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            for module in {each.split(".")[0] for each in names} - there:
                told = f"{path.name}:{node.lineno} imports {module}, which {name} does not require"
                assert DISTRIBUTIONS.get(module, module) in required, told


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
    assert first == f"{len(COMPONENTS) + 2} {len(CARDS) + 1} 8"
    assert second.startswith(f"() {installed.folder}")


def test_a_shipped_model_works_and_nothing_comes_from_the_repository(installed: Installed) -> None:
    told = installed.python(
        "import sys, torch, flexframe\n"
        "tok = flexframe.load('flextok/digits-tiny')\n"
        "tokens = tok.encode(torch.rand(1, 3, 16, 16), lengths=4)\n"
        "print(tuple(tok.decode(tokens, rng=0, sampling={'steps': 2}).shape))\n"
        "files = {m.__file__ for n, m in list(sys.modules.items()) if n.split('_')[0].split('.')[0] == 'flexframe'}\n"
        "print(*sorted(files), sep='\\n')"
    )
    shape, *files = told.splitlines()
    assert shape == "(1, 3, 16, 16)"
    assert len(files) > 10
    assert [path for path in files if not path.startswith(str(installed.folder))] == []


# --- the plugin that was made ------------------------------------------------------------------------------------


def test_the_made_plugin_trains_from_its_wheel(installed: Installed) -> None:
    folder = installed.home / "run"
    settings = "run.steps=2", "run.batch_size=8", "run.log_every=1", "--device", "cpu"
    told = installed.run("flexframe", "train", "wheel-made/digits-tiny", *settings, "-o", folder)
    assert "trained 2 steps" in told
    assert (folder / "model.safetensors").is_file()
    assert f'"{MINE}": "0.1.0"' in (folder / "manifest.json").read_text()


def test_the_made_plugin_passes_its_tests_from_its_wheel(installed: Installed) -> None:
    aside = installed.home / "tests"
    (installed.plugin / "tests").rename(aside)  # away from its source, which would be found first
    quiet = "-q", "-p", "no:cacheprovider", "-W", "error", "--import-mode=importlib"
    said = installed.run("python", "-m", "pytest", *quiet, aside)
    assert "skipped" not in said
    kit = said.splitlines()[-1]
    assert int(kit.split(" passed")[0]) >= 16
