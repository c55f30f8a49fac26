"""What a person sees of a run."""

import io

import pytest
from rich.console import Console as Terminal
from rich.text import Text

from flexframe.train.console import Console
from flexframe.train.loop import train


@pytest.mark.parametrize("terminal", [False, True], ids=["file", "terminal"])
def test_every_logged_step_is_shown_and_the_parts_are_counted(create, terminal):
    file = io.StringIO()
    console = Console(Terminal(file=file, force_terminal=terminal, width=160))
    run = create()
    train(run, console)
    text = Text.from_ansi(file.getvalue()).plain
    assert "1,438 images" in text
    assert f"encoder {run.parameters()['encoder']:,}" in text
    assert "grad_norm" in text or "grad norm" in text
    assert console.live is None
    assert len(console.rows) == 4


def test_a_resumed_run_says_so(create):
    file = io.StringIO()
    run = create()
    run.step = 3
    console = Console(Terminal(file=file, width=160))
    console.start(run)
    console.stop()
    assert "resumed at step 3" in file.getvalue()
