"""The distributions of this repository, as their `pyproject.toml` files and their sources tell of them."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def canonical(requirement: str) -> str:
    """The distribution's name in a requirement, as `einops>=0.8`: lower case, hyphens."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement.strip())[0]).lower()


@dataclass(frozen=True)
class Distribution:
    """A folder with a `pyproject.toml`."""

    folder: Path

    @cached_property
    def about(self) -> dict[str, Any]:
        return tomllib.loads((self.folder / "pyproject.toml").read_text(encoding="utf-8"))

    @property
    def name(self) -> str:
        return self.about["project"]["name"]

    @property
    def packages(self) -> list[Path]:
        return [self.folder / path for path in self.about["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]]

    @property
    def dependencies(self) -> set[str]:
        """Distributions that `dependencies` names."""
        return {canonical(line) for line in self.about["project"]["dependencies"]}

    @property
    def extras(self) -> set[str]:
        """Distributions that any extra names."""
        extras = self.about["project"].get("optional-dependencies", {})
        return {canonical(line) for lines in extras.values() for line in lines}

    @cached_property
    def imports(self) -> dict[str, str]:
        """Distributions whose packages are imported anywhere in the sources, and where; this one's left out."""
        own = {path.name for path in self.packages}
        provided = {**_installed(), **{path.name: [d.name] for d in DISTRIBUTIONS for path in d.packages}}
        places: dict[str, str] = {}
        for file in (file for package in self.packages for file in sorted(package.rglob("*.py"))):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                for module in _modules(node) - own - sys.stdlib_module_names:
                    for name in provided.get(module, [module]):
                        places.setdefault(canonical(name), f"{file.relative_to(self.folder)}:{node.lineno}")
        return places


@cache
def _installed() -> dict[str, list[str]]:
    """Distributions by the packages they bring; every installed file's name is read for it, so once."""
    return dict(packages_distributions())


def _modules(node: ast.AST) -> set[str]:
    """Top-level names that a node imports."""
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        names = [node.module]
    return {name.split(".")[0] for name in names}


CORE = Distribution(ROOT)
PLUGINS = [Distribution(path.parent) for path in sorted(ROOT.glob("plugins/*/pyproject.toml"))]
DISTRIBUTIONS = [CORE, *PLUGINS]
