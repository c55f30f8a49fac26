"""Shape checks in all of flexframe's packages; what tests of the core and of plugins share; parity's table."""

from __future__ import annotations

import io
import logging
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jaxtyping
import pytest
from rich.console import Console as Terminal

ONLY = "FLEXFRAME_PLUGINS"
SEED = "FLEXFRAME_FUZZ_SEED"
"""Environment variable: other cases of the fuzzers than those that are run always."""
LONGEST = 60
"""Seconds that a case of a fuzzer may take."""
ROOT = Path(__file__).parent
PACKAGES = (path.parent.name for path in ROOT.glob("*/*/flexframe_*/__init__.py"))  # of plugins/ and tests/toy
# The hook's marker is in the names of all bytecode that is looked for while an instrumented module runs, also of what
# it imports of torch, so that these too are compiled anew: once where it can be kept, else in each of many processes.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
jaxtyping.install_import_hook(["flexframe", *PACKAGES], "beartype.beartype")
if TYPE_CHECKING:
    from flexframe.train.run import Run


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Tell the largest error of each golden case at the end of a session that compared any."""
    parity = sys.modules.get("flexframe.testing.parity")
    if parity is not None:
        terminalreporter.section("parity with the reference implementations")
        parity.report(terminalreporter.write_line)


CHECKED = ("test_contracts", "test_golden", "test_known_answers", "test_matrix")
"""Tests of plugins that run every part; shapes are checked in these, and in tests of the core but a few."""
AGAIN = ("test_cli", "test_inspect", "test_profile", "test_run", "test_safety")
"""Of the core: what they run, its tests of each part and of commands, runs and benchmarks run with shapes checked."""


@contextmanager
def _shapes(seen: bool) -> Iterator[None]:
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", not seen)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture(scope="module", autouse=True)
def _checked_where_it_tells(request: pytest.FixtureRequest) -> Iterator[None]:
    """Shape checks take a quarter of the time, and tell nothing new where other tests run a part again. What a file's
    tests share is made with or without them too."""
    stem = request.path.stem
    with _shapes(stem not in AGAIN and (stem in CHECKED or not request.path.is_relative_to(ROOT / "plugins"))):
        yield


@pytest.fixture
def checked() -> Iterator[None]:
    """With the tests' type checks, in a file whose other tests go without: of what nothing else runs."""
    with _shapes(True):
        yield


@pytest.fixture
def unchecked() -> Iterator[None]:
    """As a user runs it: without the tests' type checks, so that the code's own words are heard."""
    with _shapes(False):
        yield


@pytest.fixture
def go() -> Callable[[Run], Run]:
    """Trains a run to its end, in silence."""
    from flexframe.train.console import Console
    from flexframe.train.loop import train

    def quietly(run: Run) -> Run:
        train(run, Console(Terminal(file=io.StringIO())))
        return run

    return quietly


@dataclass
class Answer:
    """The outcome of a command."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def commands() -> Callable[[], None]:
    """The command line, put together once for all tests."""
    import typer

    from flexframe import cli

    return typer.main.get_command(cli.app)


@pytest.fixture
def command(
    commands: Callable[[], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Answer]:
    """Runs the command line in this process."""
    from flexframe import cli

    monkeypatch.setattr(cli, "_asked", lambda words: commands)

    def call(*args: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["flexframe", *map(str, args)])
        monkeypatch.setenv("COLUMNS", "200")
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        said = capsys.readouterr()
        return Answer(int(stopped.value.code or 0), said.out, said.err)

    return call


@pytest.fixture
def python(tmp_path: Path) -> Callable[..., Any]:
    """Runs code in a process of its own, with `tmp_path` on its path."""

    def call(code: str, *args: object, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, *map(str, args)]
        path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
        env = {**os.environ, "PYTHONPATH": path, "COLUMNS": "200", **environment}
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env, timeout=200)

    return call


def _forked(code: str, arguments: list[str], folder: Path, environment: dict[str, str], out: Path, err: Path) -> None:
    """What a forked process does: as an interpreter that was just started, but for what is imported."""
    from flexframe_registry import cards
    from flexframe_registry.manager import catalogue, manager

    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
    os.environ |= environment
    os.chdir(folder)
    sys.argv = ["-c", *arguments]
    logging.getLogger().handlers.clear()
    warnings.resetwarnings()
    for known in (cards, catalogue, manager):  # plugins are looked for anew
        getattr(known, "cache_clear", lambda: None)()  # a test may have put its own in one's place
    code_of = 1
    try:
        exec(compile(code, "<code>", "exec"), {"__name__": "__main__"})
        code_of = 0
    except SystemExit as stopped:
        code_of = int(stopped.code or 0)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code_of)


@pytest.fixture
def forked(tmp_path: Path) -> Callable[..., Any]:
    """As `python`, where a fresh interpreter is not the point: forked from this one, it need not import torch again."""

    def call(code: str, *args: object, **environment: str) -> subprocess.CompletedProcess[str]:
        out, err = (tmp_path / f"forked.{name}" for name in ("out", "err"))
        out.write_text(""), err.write_text("")
        given = (code, [*map(str, args)], tmp_path, {"COLUMNS": "200", **environment}, out, err)
        process = multiprocessing.get_context("fork").Process(target=_forked, args=given)
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of forks beside threads
            process.start()
        process.join(timeout=200)
        if process.exitcode is None:
            process.kill()
            process.join()
        said = out.read_text(), err.read_text()
        out.unlink(), err.unlink()
        return subprocess.CompletedProcess([*map(str, args)], process.exitcode, *said)

    return call


class Faults(list[str]):
    """Faults of a fuzzer, case by case: all of them are told."""

    @staticmethod
    def draws(kind: str, count: int) -> Iterator[tuple[str, random.Random]]:
        """Cases by their name, each with draws of its own: one that fails fails again by itself."""
        seed = os.environ.get(SEED, "0")
        for number in range(count):
            name = f"{kind} {number}" if seed == "0" else f"{kind} {number} of seed {seed}"
            yield name, random.Random(name)

    @contextmanager
    def of(self, case: str) -> Iterator[None]:
        def late(*_: object) -> None:
            raise AssertionError(f"takes more than {LONGEST} s")

        before = signal.signal(signal.SIGALRM, late)
        signal.alarm(LONGEST)
        try:
            yield
        except Exception as error:
            self.append(f"{case}: {type(error).__name__}: {str(error)[:1500]}")
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)

    def none(self) -> None:
        assert not self, f"{len(self)} faults:\n" + "\n".join(self)


@pytest.fixture
def faults() -> Faults:
    """A fuzzer's cases, and what went wrong with them."""
    return Faults()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts a plugin's module, or package with further modules, and its entry point where this process and its children
    find them."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(name: str, source: str, **modules: str) -> None:
        folder = tmp_path / name if modules else tmp_path
        folder.mkdir(exist_ok=True)
        (folder / ("__init__.py" if modules else f"{name}.py")).write_text(source)
        for module, text in modules.items():
            (folder / f"{module}.py").write_text(text)
        about = tmp_path / f"{name}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[flexframe]\n{name} = {name}\n")
        monkeypatch.delitem(sys.modules, name, raising=False)
        if ONLY in os.environ:
            monkeypatch.setenv(ONLY, f"{os.environ[ONLY]},{name}")

    return make
