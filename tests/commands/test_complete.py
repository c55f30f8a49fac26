"""Completion in the shell, as a shell asks for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flexframe.commands import complete
from flexframe_registry import cards, catalogue
from flexframe_registry.kinds import KINDS

bash = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")

ASK = """
import os, sys, time
sys.argv[:] = ["flexframe"]
os.environ |= {"_FLEXFRAME_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "flexframe " + os.environ["LINE"]}
from flexframe import cli
try:
    cli.main()
finally:
    sys.stderr.write(" ".join(sorted({"torch", "numpy", "PIL"} & sys.modules.keys())))
"""


def shell(script: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Runs bash with this environment's `flexframe` on its path."""
    env = {**os.environ, "HOME": str(home), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = ["bash", "--norc", "-c", script + "\ntrue"]  # more than one command: else bash is replaced by it
    return subprocess.run(command, capture_output=True, text=True, cwd=home, env=env, timeout=100, check=True)


@pytest.mark.slow
@bash
def test_bash_completes_with_the_script_that_is_shown(tmp_path):
    asked = ["train toy/dig", "bench digits-s", "bench digits toy/pl"]
    lines = ['eval "$(flexframe --show-completion)"']
    for words in asked:
        count = len(words.split())
        lines.append(f"COMP_WORDS=(flexframe {words}); COMP_CWORD={count}; _flexframe_completion flexframe")
        lines.append('echo "${COMPREPLY[@]}"')
    found = shell("\n".join(lines), tmp_path).stdout.splitlines()
    assert found == ["toy/digits-tiny", "digits-smoke", "toy/plain"]


@bash
def test_completion_is_installed_for_bash(tmp_path):
    told = shell("flexframe --install-completion", tmp_path).stdout
    assert "bash completion installed in" in told
    script = tmp_path / ".bash_completions" / "flexframe.sh"
    assert "complete -o default -F _flexframe_completion flexframe" in script.read_text()
    assert str(script) in (tmp_path / ".bashrc").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("show quantizer/", {"quantizer/toy", "quantizer/toy-values"}),
        ("encode x --model toy/p", {"toy/plain"}),
    ],
)
def test_nothing_heavy_is_imported_for_it(python, line, words):
    done = python(ASK, LINE=line)
    assert (done.returncode, done.stderr) == (0, "")
    for word in words:
        assert f'"{word}"' in done.stdout


def test_an_error_says_nothing_between_the_words(python):
    broken = ASK.replace("try:", "import flexframe_registry as c; c.cards = lambda: 1 / 0\ntry:")
    done = python(broken, LINE="train flex")
    assert (done.returncode, done.stderr) == (1, "")


def test_all_names_are_offered():
    assert complete.models("") == cards().names()
    assert complete.kinds("") == [*KINDS, "card", "suite"]
    others = {*cards().names(), *complete.suites(""), *KINDS, "run", "card", "suite"}
    assert set(complete.parts_and_models("")) == {f"{c.kind}/{c.name}" for c in catalogue()} | others
    assert complete.suites("digits") == ["digits", "digits-smoke"]
    assert complete.names_of("decoder")("toy") == ["toy", "toy-plain"]
    assert complete.devices("x") == []
