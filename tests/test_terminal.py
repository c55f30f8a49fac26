"""What is printed is what is there: names, paths and docstrings are no markup, and any console takes any letter."""

import io
import sys

import pytest
from rich.table import Table
from rich.text import Text

from flexframe.commands import common
from flexframe.commands.common import show_warning
from flexframe.terminal import Bars, Terminal, take_any_letter, visible

ODD = ("[/x]", "m[lr=1]", "[red]", ":car:", "\x1b[31mred", "a\rb", "\x9b2J", "\u202egnp.exe", "caf\u00e9", "\udcff.png")


@pytest.fixture
def seen():
    file = io.StringIO()
    return file, Terminal(file=file, width=200)


@pytest.mark.parametrize("word", ODD, ids=ascii)
def test_a_word_prints_as_that_word_wherever_it_stands(seen, word):
    file, terminal = seen
    table = Table(box=None)
    table.add_column(word)
    table.add_row(word), table.add_row(Text(visible(word), "cyan"))
    terminal.print(word, style="red")
    terminal.print(table)
    terminal.print(Text.assemble((word, "bold")))
    with terminal.status(word) as status:
        status.update(word)
        terminal.print(status.renderable)
    lines = [line for line in file.getvalue().splitlines() if line.strip()]
    plain = word.replace("\r", "") if "\r" in word else word  # a `Text` has lost it before it is ours
    assert lines[0] == visible(word)
    assert all(visible(word) in line or visible(plain) in line for line in lines)
    table.add_row(Text(word)), terminal.print(table)
    with Bars(console=terminal) as bars:
        bars.add_task(word)
    assert file.getvalue().replace("\n", "").replace("\udcff", "").isprintable()


def test_what_is_readable_stays_as_it_is():
    for text in ("plain\n\ttext", "caf\u00e9 \u2192 \u65e5\u672c", ""):
        assert visible(text) == text
    assert visible("\x1b[2J\u2066") == "\\x1b[2J\\u2066"


PLUGIN = '''
from pathlib import Path
from typing import Literal
from flexframe_registry import Component, QuantizerConfig, hookimpl

class OddConfig(QuantizerConfig):
    """Levels [a, b], and no [/x] of markup: :car: {esc}[31m."""

    type: Literal["odd"] = "odd"
    edges: str = "[/y]"
    """Edges [/z] of it."""

@hookimpl
def flexframe_components():
    return [Component(OddConfig, "nowhere:Nothing")]

@hookimpl
def flexframe_cards():
    return [Path(__file__).parent / "cards"]
'''


@pytest.mark.slow
def test_listing_and_showing_take_any_docstring_and_summary(install, python, forked, tmp_path):
    install("oddplug", PLUGIN.replace("{esc}", "\\x1b"))
    (tmp_path / "cards" / "odd").mkdir(parents=True)
    (tmp_path / "cards" / "odd" / "one.yaml").write_text(
        "base: toy/digits-tiny\nsummary: 'a [/x] of caf\u00e9s :car:'\n", "utf-8"
    )
    code = "from flexframe.cli import main; main()"
    for encoding in ("cp932", "utf-8"):
        listed = python(code, "list", PYTHONIOENCODING=encoding, PYTHONUTF8="0")
        assert listed.returncode == 0, listed.stderr
        assert "Levels [a, b], and no [/x] of markup: :car: \\x1b[31m." in listed.stdout
        cafes = "caf\u00e9s" if encoding == "utf-8" else "caf\\xe9s"
        assert f"a [/x] of {cafes} :car:" in listed.stdout
    shown = python(code, "show", "quantizer/odd")
    assert "no [/x] of markup" in shown.stdout
    assert "[/y]" in shown.stdout
    assert "Edges [/z] of it." in shown.stdout
    assert "a [/x] of caf" in forked(code, "show", "odd/one").stdout


def test_paths_are_printed_as_they_are(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("m[lr=1]:car:" + "x" * 200,):
        answer = command("train", "toy/digits-tiny", "run.steps=1", "run.batch_size=2", "-o", name, "--device", "cpu")
        assert answer.code == 0, answer.err
        assert f"flexframe.load({name!r})" in answer.out
        assert f"in {name}\n" in answer.out
        assert "m[lr=1]:car:xxx" in command("runs", name).out


def test_a_stream_without_a_letter_writes_it_out(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    take_any_letter()
    common.out.print("caf\u00e9 \udcff")
    sys.stdout.flush()
    assert raw.getvalue() == b"caf\\xe9 \\udcff\n"


def test_warnings_are_one_line_of_what_they_say(capsys):
    show_warning("[/x] \x1b[2J")
    assert capsys.readouterr().err == "warning: [/x] \\x1b[2J\n"


def test_in_a_notebook_what_is_meant_for_a_file_goes_there(monkeypatch):
    """Rich would show it as a cell's output, and the file would stay empty; and kernels ask for colours."""
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    page = io.StringIO()
    Terminal(file=page, width=40).print("a table", style="bold")
    assert page.getvalue() == "a table\n"
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    assert not Terminal(stderr=True).is_terminal
