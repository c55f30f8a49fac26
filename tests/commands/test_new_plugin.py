"""`flexframe new-plugin`. That what it makes installs, trains and passes the kit: plugins/tests/test_wheels.py."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from flexframe.commands import new_plugin
from flexframe_registry import cards
from flexframe_registry.cardfile import CardFile
from flexframe_registry.files import read_yaml

ROOT = Path(__file__).resolve().parents[2]
LONG = "abcdefghij-klmnopqrst-uvwxyz-2"


def test_all_files_are_made_and_what_to_do_next_is_told(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = command("new-plugin", "my-method")
    assert (answer.code, answer.err) == (0, "")
    folder = tmp_path / "flexframe-my-method"
    made = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert made == set(new_plugin.render("my-method"))
    assert "flexframe_my_method/cards/my-method/digits-tiny.yaml" in made
    about = tomllib.loads((folder / "pyproject.toml").read_text())
    assert about["project"]["name"] == "flexframe-my-method"
    assert about["project"]["entry-points"] == {"flexframe": {"my-method": "flexframe_my_method"}}
    CardFile.read(read_yaml(folder / "flexframe_my_method/cards/my-method/digits-tiny.yaml"))
    for words in ("cd flexframe-my-method", 'pip install -e ".[dev]"', "flexframe train my-method/digits-tiny"):
        assert words in answer.out


def test_the_folder_may_be_named_and_the_prefix_given(command, tmp_path):
    assert command("new-plugin", "flexframe-mine", "-o", tmp_path / "x").code == 0
    assert (tmp_path / "x" / "flexframe_mine" / "parts.py").is_file()
    assert 'name = "flexframe-mine"' in (tmp_path / "x" / "pyproject.toml").read_text()


@pytest.mark.parametrize("name", ["a", "my-method", LONG])
def test_nothing_is_left_to_fill_in_and_it_is_python(name):
    assert len(LONG) == new_plugin.LONGEST
    for path, text in new_plugin.render(name).items():
        assert "$" not in path
        assert "$" not in text
        if path.endswith(".py"):
            ast.parse(text)


@pytest.mark.parametrize("name", ["a", LONG])
def test_what_is_made_is_clean_to_ruff(command, tmp_path, name):
    folder = tmp_path / "made"
    command("new-plugin", name, "-o", folder)
    for words in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *words, "--no-cache", folder], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Plain", "'Plain': a plugin's name is of lower-case letters, digits and single hyphens"),
        ("my_method", "try 'my-method'"),
        ("a--b", "try 'a-b'"),
        ("3d", "begins with a letter"),
        ("", "'': a plugin's name is"),
        ("a/../b", "try 'a-b'"),
        (LONG + "x", "is 31 characters long; at most 30"),
        ("toy", "'toy': is the plugin of flexframe-toy; choose another name"),
        ("flexframe-toy", "'toy': is the plugin of flexframe-toy"),
        ("registry", "the package flexframe_registry is there already"),
    ],
)
def test_a_bad_or_taken_name_is_one_error_and_writes_nothing(command, tmp_path, monkeypatch, name, words):
    monkeypatch.chdir(tmp_path)
    answer = command("new-plugin", name)
    assert (answer.code, answer.out) == (2, "")
    (line,) = answer.err.splitlines()
    assert words in line
    assert list(tmp_path.iterdir()) == []


def test_a_card_of_the_name_is_told(command, tmp_path, monkeypatch):
    assert "toy/digits-tiny" in cards().files  # found before plugins are hidden from the command
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [])
    monkeypatch.setattr("importlib.metadata.distributions", list)
    monkeypatch.setattr(new_plugin, "find_spec", lambda package: None)
    answer = command("new-plugin", "toy", "-o", tmp_path / "x")
    assert "there is a card 'toy/digits-tiny' already" in answer.err


def test_a_folder_that_holds_something_is_left_alone(command, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    answer = command("new-plugin", "plain", "-o", tmp_path)
    assert answer.code == 2
    assert "is there already and is not empty; choose another folder with -o" in answer.err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_the_page_on_plugins_shows_what_is_made():
    """docs/writing-a-plugin.md walks through the files of `flexframe new-plugin plain`, and shows them as they are."""
    page = (ROOT / "docs" / "writing-a-plugin.md").read_text(encoding="utf-8")
    shown = dict(re.findall(r"^## `([^`]+)`\n.*?^```\w+\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL))
    made = new_plugin.render("plain")
    assert set(shown) == {path for path in made if path not in ("README.md", ".gitignore", "tests/test_parts.py")}
    for path, text in shown.items():
        assert text == made[path], f"{path} on the page is not what is made"
