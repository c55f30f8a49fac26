"""Environments that hold certain wheels, what these require, and nothing else: virtual ones, and bare folders.

Third-party packages are links to those of the environment that runs the tests, so nothing is fetched; one that no
wheel requires, directly or through others, is not there.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement

from .distributions import canonical
from .nursery import Nursery

BUILD = """
import os, sys
from hatchling.build import build_wheel
to, *projects = sys.argv[1:]
for project in projects:
    os.chdir(project)
    build_wheel(to)
"""


@dataclass(frozen=True)
class Environment:
    """A virtual environment, and a folder far from this repository to work in."""

    folder: Path
    home: Path

    @property
    def site(self) -> Path:
        """The folder that packages are installed in."""
        (site,) = self.folder.glob("lib/python*/site-packages")
        return site

    def run(self, program: str, *arguments: object) -> str:
        """Runs one of the environment's programs; what it printed, or a failure with all that it said."""
        env = {**apart(self.home), "PYTHONSAFEPATH": "1"}
        command = [str(self.folder / "bin" / program), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.home, env=env, timeout=280)
        assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
        return done.stdout


@dataclass(frozen=True)
class Site:
    """A folder of packages that programs see and no others, and a folder far from this repository to work in."""

    folder: Path
    home: Path
    nursery: Nursery

    def run(self, *words: object, strict: bool = False) -> str:
        """Runs `-c CODE ...`, `-m MODULE ...` or `program NAME ...` in a fork; what it printed, or a failure."""
        done = self.nursery.run(words, [self.folder], self.home, apart(self.home), strict=strict)
        assert done.returncode == 0, f"{words}: {done.stdout}\n{done.stderr}"
        return done.stdout


def apart(home: Path) -> dict[str, str]:
    """The variables of a program that works in a folder of its own."""
    return {**bare(), "COLUMNS": "200", "FLEXFRAME_HOME": str(home / "flexframe")}


def bare() -> dict[str, str]:
    """The variables of this process, without those that would let it see more than it holds."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "FLEXFRAME_PLUGINS")}


def build_wheels(to: Path, projects: Iterable[Path]) -> dict[str, Path]:
    """The projects' wheels, by the distribution's name."""
    to.mkdir(parents=True, exist_ok=True)
    done = subprocess.run([sys.executable, "-c", BUILD, to, *projects], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return {canonical(path.name.split("-")[0]): path for path in to.glob("*.whl")}


def create(root: Path, wheels: Iterable[Path], beside: Iterable[str] = ()) -> Environment:
    """An environment of these wheels, installed without their dependencies, and of the third-party ones.

    Args:
        beside: requirements of what is to be there too.
    """
    folder, home = root / "venv", root / "home"
    home.mkdir(parents=True, exist_ok=True)
    venv.create(folder, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "--disable-pip-version-check"]
    install = [*pip, "install", "--quiet", "--no-deps", "--no-index", "--no-compile", *wheels]
    done = subprocess.run([*map(str, install)], capture_output=True, text=True, timeout=250, env=bare())
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    made = Environment(folder, home)
    fill(made.site, beside)
    return made


def unpacked(root: Path, wheels: Iterable[Path]) -> Path:
    """A folder of packages as `create` gives it, but of links to wheels that were unpacked once, beside them."""
    site = root / "site"
    site.mkdir(parents=True)
    for wheel in wheels:
        folder = wheel.with_suffix("")
        if not folder.is_dir():
            with zipfile.ZipFile(wheel) as packed:
                packed.extractall(folder)
        for top in folder.iterdir():
            (site / top.name).symlink_to(top)
    fill(site)
    return site


def fill(site: Path, beside: Iterable[str] = ()) -> None:
    """Link what the packages there require."""
    installed = list(distributions(path=[str(site)]))
    own = {canonical(each.name) for each in installed}
    for each in closure([*beside, *(line for one in installed for line in one.requires or ())]):
        if canonical(each.name) not in own:
            _link(each, site)


def closure(requirements: Iterable[str]) -> list[Distribution]:
    """The distributions that requirements name, and those that these require in turn, as far as they are here."""
    waiting = [Requirement(line) for line in requirements]
    seen: dict[tuple[str, str], Distribution] = {}
    while waiting:
        requirement = waiting.pop()
        for extra in ("", *requirement.extras):
            key = canonical(requirement.name), extra
            if key in seen or not _applies(requirement, ""):
                continue
            try:
                seen[key] = each = distribution(requirement.name)
            except PackageNotFoundError:
                continue  # of this repository, and not installed; or of another platform
            if not canonical(each.name).startswith("flexframe"):
                lines = [Requirement(line) for line in each.requires or ()]
                waiting += [line for line in lines if _applies(line, extra)]
    return [each for (name, _), each in seen.items() if not name.startswith("flexframe")]


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _link(each: Distribution, site: Path) -> None:
    """Links to all that a distribution installed beside other packages."""
    for top in {path.parts[0] for path in each.files or ()} - {"..", "__pycache__"}:
        if not top.endswith(".pth") and not (site / top).exists():
            (site / top).symlink_to(Path(str(each.locate_file(top))))
