"""How the command line fails, names devices and versions."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib.metadata import version

import pytest
import torch

from flexframe import cli
from flexframe.commands import common, options
from flexframe_registry import ConfigError

CARD = "toy/digits-tiny"
WITHOUT_DEVICE = {
    "list", "results", "show", "diff", "doctor", "explain", "new-plugin",  # no more than sizes, on meta tensors
    "import", "init", "tokens", "model",  # write files that are the same everywhere
    "verify",  # compares with what the reference computed on a CPU
    "runs", "plot",  # read logs
}  # fmt: skip


class OutOfMemoryError(RuntimeError):
    """As torch names its own."""


@pytest.fixture
def failing(monkeypatch, command):
    """Runs `flexframe list`, in which something raises an error."""

    def run(error, *words):
        def fail():
            raise error

        monkeypatch.setattr("flexframe_registry.catalogue", fail)
        return command("list", *words)

    return run


# --- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ConfigError.at("a.b", "is wrong"), 2, "flexframe: a.b: is wrong"),
        (ValueError("of two\nlines"), 2, "flexframe: of two lines"),
        (FileNotFoundError(2, "No such file or directory", "x.png"), 2, "flexframe: x.png: No such file or directory"),
        (FileExistsError(17, "File exists", "x"), 2, "flexframe: x: is there already; name another place"),
        (NotADirectoryError(20, "Not a directory", "x/y"), 2, "flexframe: x/y: lies below a file, not in a folder"),
        (
            OSError(28, "No space left on device", "x.png"),
            2,
            "x.png: cannot be written: the disk is full; make room",
        ),
        (OSError(28, "No space left on device"), 2, "flexframe: a file cannot be written: the disk is full; make room"),
        (OSError(30, "Read-only file system"), 2, "flexframe: a file is on a disk that cannot be written to; name"),
        (OSError(122, "Disk quota exceeded", "x"), 2, "flexframe: x: cannot be written: this user's quota of the disk"),
        (OSError("the disk is full"), 2, "flexframe: the disk is full"),
        (RuntimeError("a shape\n  is wrong."), 1, "flexframe: RuntimeError: a shape is wrong. This was not expected"),
        (KeyError("weight"), 1, "flexframe: KeyError: 'weight'. This was not expected"),
        (ValueError(), 1, "flexframe: ValueError. This was not expected"),
        (AssertionError(), 1, "flexframe: AssertionError. This was not expected; the same command with --debug shows"),
        (OutOfMemoryError("CUDA out of memory."), 1, "CUDA out of memory. The memory is full: use a smaller --batch"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"),
            1,
            "The memory is full: use a smaller",
        ),
        (MemoryError(), 1, "flexframe: MemoryError. The memory is full"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_any_error_is_one_line(failing, error, code, words):
    answer = failing(error)
    assert (answer.code, answer.out) == (code, "")
    (line,) = answer.err.splitlines()
    assert words in line


def test_full_memory_is_told_as_that_in_a_plugins_code_too(monkeypatch, capsys):
    monkeypatch.setattr(common, "_plugin_at_fault", lambda error: "'mine' (mine 1.0)")
    assert common.tell(MemoryError("64 GiB")) == 1
    assert "The memory is full" in capsys.readouterr().err
    assert common.tell(KeyError("lost")) == 1
    assert "plugin 'mine' (mine 1.0) failed: KeyError: 'lost'; --debug shows" in capsys.readouterr().err


def test_an_endless_error_is_cut(failing):
    answer = failing(RuntimeError("missing key, " * 1000))
    assert len(answer.err) < common.LONGEST + 200
    assert "missing key, mi …. This was not expected" in answer.err


def test_tracebacks_are_shown_when_asked_for(forked):
    code = "import flexframe.cli as c, flexframe_registry as r; r.catalogue = lambda: {}['lost']; c.main()"
    quiet = forked(code, "list")
    assert (quiet.returncode, len(quiet.stderr.splitlines())) == (1, 1)
    for loud in (forked(code, "--debug", "list"), forked(code, "list", FLEXFRAME_DEBUG="1")):
        assert loud.returncode == 1
        assert loud.stderr.startswith("Traceback")
        assert "KeyError: 'lost'" in loud.stderr


@pytest.mark.parametrize(
    ("words", "debug", "left"),
    [
        (["train", "--debug", "x"], True, ["train", "x"]),
        (["train", "x"], False, ["train", "x"]),
        (["train", "--", "--debug"], False, ["train", "--", "--debug"]),
    ],
)
def test_debug_may_stand_anywhere(words, debug, left):
    assert common.take("--debug", common.DEBUG, words) is debug
    assert words == left


@pytest.mark.parametrize(("value", "debug"), [("1", True), ("yes", True), ("0", False), ("", False)])
def test_debug_by_environment(monkeypatch, value, debug):
    monkeypatch.setenv(common.DEBUG, value)
    assert common.take("--debug", common.DEBUG, []) is debug


def test_a_reader_that_has_enough_is_no_error():
    code = "import flexframe.cli as c, flexframe_registry as r\n"
    code += "r.catalogue = lambda: print('x' * 1_000_000, flush=True)\nc.main()"
    run = subprocess.Popen([sys.executable, "-c", code, "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    run.stdout.close()
    with run:
        assert run.stderr.read() == b""
    assert run.returncode == 1


# --- devices -----------------------------------------------------------------------------------------------------


@pytest.fixture
def cpu_only(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def test_every_command_that_computes_takes_a_device():
    takes = {}
    groups = [group.typer_instance for group in cli.app.registered_groups]
    for found in [command for app in (cli.app, *groups) for command in app.registered_commands]:
        name = found.name or found.callback.__name__.strip("_").replace("_", "-")
        takes[name] = inspect.signature(found.callback).parameters.get("device")
    assert {name for name, device in takes.items() if device is None} <= WITHOUT_DEVICE
    for name, device in takes.items():
        if device is not None:
            assert device.annotation in ("Device", options.Device), name
            assert device.default == "auto", name


@pytest.mark.parametrize(
    "words",
    [
        ("train", CARD, "-o", "run"),
        ("bench", "digits-smoke", CARD, "-o", "out"),
        ("encode", ".", "-m", CARD, "-o", "tokens.safetensors"),
        ("reconstruct", ".", "-m", CARD, "-o", "grid.png"),
    ],
    ids=lambda words: words[0],
)
def test_a_gpu_that_is_not_there_is_one_clear_error(command, cpu_only, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    answer = command(*words, "--device", "cuda")
    assert answer.code == 2
    (line,) = answer.err.splitlines()
    assert "--device: 'cuda' cannot be used here: torch" in line
    assert line.endswith("Usable here: cpu")
    assert list(tmp_path.iterdir()) == []


def test_devices_by_name(cpu_only, monkeypatch):
    assert common.pick_device("auto") == common.pick_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match=r"'mps' cannot be used here: torch .* without MPS"):
        common.pick_device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match=r"there is no 'cuda:2': 2 found here, the last is cuda:1"):
        common.pick_device("cuda:2")


@pytest.mark.parametrize("name", ["", "gpu", "meta", "cuda:", "cuda:one", "cpu:0", "CUDA"])
def test_a_word_that_is_no_device_is_refused(name):
    with pytest.raises(ConfigError, match=r"there is no .* Known: auto, cpu, cuda, mps, and cuda:N"):
        common.pick_device(name)


def test_a_typo_is_told_without_torch(python):
    code = "import sys\nfrom flexframe.commands.common import pick_device\ntry: pick_device('cudda')\nexcept ValueError"
    done = python(code + " as e: print(e)\nprint('torch' in sys.modules)")
    assert done.stdout.splitlines()[0].startswith("--device: there is no 'cudda'. Did you mean 'cuda'?")
    assert done.stdout.splitlines()[1] == "False"


# --- versions ----------------------------------------------------------------------------------------------------


def test_versions_of_flexframe_and_of_plugins(command):
    answer = command("--version")
    assert answer.code == 0
    first, *plugins = answer.out.splitlines()
    assert first == f"flexframe {version('flexframe')}"
    assert f"flexframe-toy {version('flexframe-toy')}" in plugins
    assert plugins == sorted(plugins)


def test_the_version_in_python_is_the_distributions():
    import flexframe

    assert flexframe.__version__ == version("flexframe")


def test_a_library_that_stands_in_for_exit_has_not_ended_the_process(monkeypatch):
    """W&B puts a function of its own in its place, by which every command ends then."""
    hook: dict[str, object] = {"end": sys.exit, "__name__": "wandb.sdk"}
    exec("def exit(code=0):\n    end(code)", hook)
    monkeypatch.setattr(sys, "exit", hook["exit"])
    ours: dict[str, object] = {"sys": sys, "__name__": "typer.core"}
    exec("def main():\n    sys.exit(0)", ours)
    for call, place in ((ours["main"], None), (lambda: sys.exit(0), f"{__name__}, line ")):
        with pytest.raises(SystemExit) as stop:
            call()
        stop.value.__traceback__ = stop.value.__traceback__.tb_next  # this function is none of the process's
        told = common.ended_by(stop.value)
        assert told is None if place is None else str(told).startswith(place)
