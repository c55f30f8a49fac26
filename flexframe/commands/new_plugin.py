"""`new-plugin`: a package that works as it is, to be changed into one's own."""

from __future__ import annotations

import re
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from flexframe.commands.common import out, refuse
from flexframe.lock import writes

EXAMPLES = ("flexframe new-plugin my-method && pip install -e flexframe-my-method && flexframe list quantizer",)

PROJECT = "flexframe"
"""The entry-point group of plugins, and what their distributions' names begin with."""
LONGEST = 30
"""Characters of a name; it stands in file names and table columns."""
FILES = {
    "pyproject.toml": "pyproject.toml.txt",
    "README.md": "README.md.txt",
    ".gitignore": "gitignore.txt",
    "$package/__init__.py": "init.py.txt",
    "$package/parts.py": "parts.py.txt",
    "$package/cards/$name/digits-tiny.yaml": "card.yaml.txt",
    "tests/test_contracts.py": "test_contracts.py.txt",
    "tests/test_parts.py": "test_parts.py.txt",
}
"""What is made, and of which template beside `flexframe/templates/plugin`. `$` names stand in both."""


@writes("folder")
def new_plugin(
    name: Annotated[str, typer.Argument(help="As my-method: lower-case letters, digits, single hyphens.")],
    folder: Annotated[
        Path | None, typer.Option("--out", "-o", help="The folder to make; flexframe-NAME if not given.")
    ] = None,
) -> None:
    """Make a plugin that installs, trains and passes its tests as it is: an encoder, a quantizer, a decoder, a card."""
    name = name.removeprefix(f"{PROJECT}-")
    _check(name)
    target = folder or Path(f"{PROJECT}-{name}")
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        refuse(str(target), "is there already and is not empty; choose another folder with -o")
    from flexframe.files import write_text

    for path, text in render(name).items():
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        write_text(target / path, text)
    made = f"encoder {name}-linear, quantizer {name}-grid, decoder {name}-linear, card {name}/digits-tiny"
    out.print(f"{target}: {made}", soft_wrap=True)
    out.print("\nnext:", style="bold")
    steps = f"cd {target}", 'pip install -e ".[dev]"', "pytest", f"flexframe train {name}/digits-tiny run.steps=200"
    out.print("".join(f"  {step}\n" for step in steps), markup=False, highlight=False, soft_wrap=True, end="")


def render(name: str) -> dict[str, str]:
    """The files of a plugin, by path."""
    words = {"name": name, "distribution": f"{PROJECT}-{name}", "package": f"{PROJECT}_{name.replace('-', '_')}"}
    templates = files("flexframe") / "templates" / "plugin"
    return {
        Template(path).substitute(words): Template((templates / file).read_text(encoding="utf-8")).substitute(words)
        for path, file in FILES.items()
    }


def _check(name: str) -> None:
    """Refuse a name that is no good one, or that something installed has."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        better = re.sub(r"[^a-z0-9]+", "-", name.lower())[:LONGEST].strip("-")
        hint = f"; try {better!r}" if better[:1].isalpha() else ""
        text = f"a plugin's name is of lower-case letters, digits and single hyphens, and begins with a letter{hint}"
        refuse(repr(name), text)
    if len(name) > LONGEST:
        refuse(repr(name), f"is {len(name)} characters long; at most {LONGEST} are shown well")
    taken = _taken(name)
    if taken is not None:
        refuse(repr(name), f"{taken}; choose another name")


def _taken(name: str) -> str | None:
    """A sentence on who has the name, or one of the names that follow from it; None if it is free."""
    from importlib.metadata import distributions, entry_points

    from flexframe_registry import cards, catalogue

    for point in entry_points(group=PROJECT):
        if point.name == name:
            return f"is the plugin of {point.dist.name if point.dist else point.value}"
    distribution, package = f"{PROJECT}-{name}", f"{PROJECT}_{name.replace('-', '_')}"
    if any(each.name and re.sub(r"[-_.]+", "-", each.name).lower() == distribution for each in distributions()):
        return f"{distribution} is installed already"
    if find_spec(package) is not None:
        return f"the package {package} is there already"
    for kind, part in (("encoder", f"{name}-linear"), ("quantizer", f"{name}-grid"), ("decoder", f"{name}-linear")):
        if part in catalogue().names(kind):
            return f"there is a {kind} {part!r} already, of {catalogue().get(kind, part).provider}"
    if f"{name}/digits-tiny" in cards().files:
        return f"there is a card '{name}/digits-tiny' already"
    return None
