"""What a person sees of a run."""

import io
import re

import pytest
from rich.console import Console as Terminal
from rich.text import Text

from flexframe.train.console import Console, duration
from flexframe.train.loop import train


@pytest.mark.parametrize("terminal", [False, True], ids=["file", "terminal"])
def test_every_logged_step_is_shown_and_the_parts_are_counted(create, terminal):
    file = io.StringIO()
    console = Console(Terminal(file=file, force_terminal=terminal, width=160))
    run = create()
    train(run, console)
    text = Text.from_ansi(file.getvalue()).plain
    assert "1,438 rows of data" in text
    assert f"encoder {run.parameters()['encoder']:,}" in text
    assert "grad_norm" in text or "grad norm" in text
    assert terminal or re.search(r"\d s left", text)  # the last frame has nothing left
    assert re.search(r"\d\.\d%", text)  # of the time, waiting for data
    assert "codes_used" in text or "codes" in text
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


def test_durations_are_told_as_a_person_does():
    assert [duration(s) for s in (3.2, 99.0, 101.0, 5990.0, 11_100.0, 200_000.0)] == [
        "3 s", "99 s", "2 min", "1 h 40 min", "3 h 05 min", "2 d 7 h"
    ]  # fmt: skip
