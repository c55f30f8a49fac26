"""What each distribution declares is what it needs: packages that it imports, and plugins whose parts its cards use.

That they work with no more than that: test_whole_by_itself.py.
"""

import re
import tomllib
from pathlib import Path

import pytest

from flexframe_registry import GeneratorConfig, TokenizerConfig, cards, catalogue

from .distributions import CORE, DISTRIBUTIONS, PLUGINS, ROOT, Distribution, canonical

READ = {"flexframe": {"torchmetrics"}}
"""Packages that are declared for the files that come with them, and not imported: LPIPS' weights by channel."""
IDS = [distribution.name for distribution in DISTRIBUTIONS]


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=IDS)
def test_what_is_imported_is_declared(distribution):
    """No package leans on what another happens to bring; a plugin has what flexframe requires."""
    declared = distribution.dependencies | distribution.extras | CORE.dependencies | {"flexframe"}
    told = [f"{place} imports {name}" for name, place in distribution.imports.items() if name not in declared]
    assert not told, f"add these to the dependencies of {distribution.name}"


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=IDS)
def test_what_is_declared_is_imported_or_used_by_cards(distribution):
    needed = distribution.imports.keys() | used_by_cards(distribution) | READ.get(distribution.name, set())
    unneeded = distribution.dependencies - needed
    assert not unneeded, f"{distribution.name} declares what it neither imports nor uses in a card"


@pytest.mark.parametrize("distribution", PLUGINS, ids=IDS[1:])
def test_what_cards_use_is_declared(distribution):
    lacking = used_by_cards(distribution) - distribution.dependencies
    assert not lacking, f"cards of {distribution.name} use parts or models of these; add them to its dependencies"


def used_by_cards(distribution: Distribution) -> set[str]:
    """Distributions of the parts, objectives, tokenizers and bases that a distribution's cards name."""
    own = [name for name in cards().names() if owner(name) == distribution.name]
    providers: set[str] = set()
    for name in own:
        card = cards().get(name)
        described = card.described
        parts = list(described.parts.values())
        if isinstance(described, TokenizerConfig) and card.file.run is not None:
            parts += card.train().objectives
        providers |= {canonical(catalogue().of(part).provider.rsplit(" ", 1)[0]) for part in parts}
        models = [card.base.id] if card.base else []
        if isinstance(described, GeneratorConfig) and described.tokenizer is not None:
            models.append(described.tokenizer.removeprefix("card:"))
        providers |= {owner(model) for model in models if model in cards().files}
    return providers - {distribution.name}


def owner(card: str) -> str:
    """The distribution that a card comes with; empty for one from elsewhere, as the toys of the core's tests."""
    path = cards().files[card]
    return next((d.name for d in DISTRIBUTIONS if any(path.is_relative_to(package) for package in d.packages)), "")


# --- the places in this repository that list the plugins ---------------------------------------------------------


def folders() -> set[str]:
    """The packages of all plugins of this repository."""
    return {path.parent.name for path in ROOT.glob("plugins/*/flexframe_*/__init__.py")}


def test_every_plugin_is_installed_for_use():
    lines = Path(ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    expected = {f"-e {distribution.folder.relative_to(ROOT)}" for distribution in PLUGINS}
    assert expected <= set(lines), "add the plugin's line to requirements.txt"


def test_every_plugin_keeps_to_the_layers():
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    assert folders() <= set(linter["root_packages"]), "add its package to tool.importlinter.root_packages"
    layers, front_doors = linter["contracts"][0]["layers"][0], linter["contracts"][-1]["source_modules"]
    assert folders() == set(re.split(r"\s*\|\s*", layers)), "add its package to the first import-linter contract"
    assert folders() == set(front_doors), "add its package to the last import-linter contract"
