"""The page of all parts, made from the catalogue: `python docs/parts.py` writes docs/parts.md anew.

Only what this repository's distributions provide stands there, whatever else is installed; a test holds the page to it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib import import_module
from inspect import cleandoc
from pathlib import Path

from flexframe_registry import Component, ComponentConfig, catalogue
from flexframe_registry.kinds import KINDS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "parts.md"
HEAD = """\
# Parts

What this repository's packages provide, by kind. Written by `python docs/parts.py` from the docstrings of the configs; `flexframe list` prints what is installed in your environment, `flexframe show KIND/NAME` each setting with its default and meaning. Every encoder works with every quantizer, masker and decoder; what cannot make sense is refused when the config is read.
"""


def distributions() -> frozenset[str]:
    """Names of the distributions that this repository holds."""
    projects = [ROOT / "pyproject.toml", *ROOT.glob("plugins/*/pyproject.toml")]
    return frozenset(tomllib.loads(path.read_text(encoding="utf-8"))["project"]["name"] for path in projects)


def components() -> list[Component]:
    """Every component of these distributions, by kind in the registry's order and then by name."""
    own, kinds = distributions(), list(KINDS)
    listed = [each for each in catalogue() if distribution(each) in own]
    return sorted(listed, key=lambda each: (kinds.index(each.kind), each.name))


def distribution(component: Component) -> str:
    """The distribution's name, without its version."""
    return component.provider.rsplit(" ", 1)[0]


def contract(base: type[ComponentConfig]) -> type:
    """The abstract class that the parts of a kind fulfil."""
    module, _, name = base.contract.partition(":")
    fulfilled: type = getattr(import_module(module), name)
    return fulfilled


def first_sentence(config: type) -> str:
    """The first sentence of a class's own docstring; `LookupError` where there is none."""
    text = config.__dict__.get("__doc__")
    if not text:
        raise LookupError(f"{config.__module__}.{config.__qualname__} has no docstring; say in one sentence what it is")
    paragraph = " ".join(cleandoc(text).split("\n\n")[0].split())
    sentence = re.split(r"(?<!al)(?<!e\.g)(?<!i\.e)\.\s+(?=[A-Z`])", paragraph, maxsplit=1)[0]
    return sentence.rstrip(".")


def render() -> str:
    """The page as it should be."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield HEAD
    listed = components()
    for kind, base in KINDS.items():
        of_kind = [each for each in listed if each.kind == kind]
        if not of_kind:
            continue
        yield f"## {kind}\n"
        common = ", ".join(f"`{name}`" for name in base.model_fields if name != "type")
        yield f"{first_sentence(contract(base))}.{f' All of them have {common}.' if common else ''}\n"
        yield "| name | what it is | settings | from |"
        yield "|---|---|---|---|"
        for each in of_kind:
            # a bar would end the cell
            what = first_sentence(each.config).replace("|", "\\|")
            settings = ", ".join(f"`{name}`" for name in each.config.model_fields if name not in _common(base))
            yield f"| `{each.name}` | {what} | {settings} | {_plugin(each)} |"
        yield ""


def _common(base: type[ComponentConfig]) -> frozenset[str]:
    """Settings that every part of a kind has."""
    return frozenset(base.model_fields)


def _plugin(component: Component) -> str:
    """The plugin's name as its folder is called."""
    return component.target.split(":")[0].split(".")[0].removeprefix("flexframe_")


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)}: {len(components())} parts")
