"""The common ground of commands: where they print, how a device is named, and how an error is told."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from flexframe.bench.names import names_and_settings as names_and_settings
from flexframe.bench.names import names_of as names_of
from flexframe.terminal import Terminal

out = Terminal(width=None if sys.stdout.isatty() else 240)  # whole lines for pipes
say = Terminal(stderr=True, highlight=False)
complain = Terminal(stderr=True, highlight=False)
"""Where errors are told, which --quiet does not hush."""

DEVICES = "auto", "cpu", "cuda", "mps"
DEBUG = "FLEXFRAME_DEBUG"
"""Environment variable: 1 is as --debug on every command."""
QUIET = "FLEXFRAME_QUIET"
"""Environment variable: 1 is as --quiet on every command."""
LONGEST = 600
"""Characters of an unexpected error's own words; torch's may run over pages."""
UNEXPECTED = "This was not expected; the same command with --debug shows where it happened"
"""The advice where there is no better one, and no plugin to name."""


def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Print a warning as one line, in place of Python's own two with a place in the code."""
    say.print(f"warning: {message}", style="yellow", markup=False, soft_wrap=True)


def hush(wanted: bool) -> None:
    """Have progress, remarks and warnings left out, or told again: errors alone are on standard error then."""
    say.quiet = wanted
    logging.getLogger("flexframe").setLevel(logging.ERROR if wanted else logging.NOTSET)


def examples(lines: Sequence[str]) -> str:
    """The end of a command's help."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)]).replace("[", r"\[")


def print_json(value: object) -> None:
    """Print plain data, which paths and tuples are too, as JSON: one object or list, with letters as they are."""
    plain = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False, default=str)
    print(plain if "utf" in (sys.stdout.encoding or "").lower() else json.dumps(json.loads(plain), indent=1))


# --- devices -----------------------------------------------------------------------------------------------------


def pick_device(name: str) -> Any:
    """A torch device by name; `auto` takes CUDA, then MPS, then the CPU. A typo is told before torch is imported."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
        from flexframe_registry.errors import nearest

        known = f"Known: {', '.join(DEVICES)}, and cuda:N for one GPU of several"
        refuse("--device", f"there is no {name!r}.{nearest(name, DEVICES)} {known}")
    import torch

    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if cuda else "mps" if mps else "cpu"
    usable = ["cpu", *["cuda"] * cuda, *["mps"] * mps]
    kind, _, number = name.partition(":")
    if kind not in usable:
        refuse("--device", f"{name!r} cannot be used here: {_why_not(kind)}. {_instead(usable)}")
    if number and int(number) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        refuse("--device", f"there is no {name!r}: {count} found here, the last is cuda:{count - 1}")
    device = torch.device(name)
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        others = [each for each in usable if each != kind]
        refuse("--device", f"{name!r} cannot be used here: {first}. {_instead(others)}")
    return device


def _why_not(kind: str) -> str:
    import torch

    if kind == "mps":
        built = torch.backends.mps.is_built()
        return (
            "this Mac has no usable MPS" if built else f"torch {torch.__version__} is built without MPS (macOS alone)"
        )
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    return f"torch {torch.__version__} finds no GPU or no driver (does nvidia-smi list one?)"


def _instead(usable: list[str]) -> str:
    return f"Usable here: {', '.join(usable)}" if usable else "No other device is usable here"


# --- errors ------------------------------------------------------------------------------------------------------


def refuse(path: str, text: str) -> NoReturn:
    """Raise the `ConfigError` of one problem: the option or place, and a sentence that says what to do."""
    from flexframe_registry import ConfigError

    raise ConfigError.at(path, text) from None


def take(flag: str, variable: str, arguments: list[str]) -> bool:
    """Tell whether a flag of all commands is wanted, and take it out of the arguments, wherever before a `--` it is."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    given = flag in arguments[:end]
    arguments[:end] = [argument for argument in arguments[:end] if argument != flag]
    return given or os.environ.get(variable, "") not in ("", "0")


def tell(error: Exception) -> int:
    """Say an error in one line, and give the exit code: 2 where the caller can mend it, 1 where it is unexpected."""
    from flexframe_registry import ConfigError, UnknownName

    words = " ".join(_words(error).split())
    plain = ConfigError, UnknownName, ValueError, ImportError, OSError, FloatingPointError
    expected = isinstance(error, plain) and words != ""  # these say in their own words what is wrong and what to do
    advice = "" if expected else _advice(error)
    plugin = _plugin_at_fault(error) if advice == UNEXPECTED else None
    if plugin is not None:
        words = (
            f"plugin {plugin} failed: {type(error).__name__}: {words[:LONGEST]}; --debug shows where, for its author"
        )
    elif not expected:
        text = f"{type(error).__name__}{': ' if words else ''}{words[:LONGEST]}{' …' * (len(words) > LONGEST)}"
        words = f"{text.rstrip('.')}. {advice}"
    rank = os.environ.get("RANK", "0")  # torchrun's: with several processes, what all of them find is told once
    if rank == "0" or not isinstance(error, ConfigError):
        complain.print(
            f"flexframe: {f'rank {rank}: ' * (rank != '0')}{words}", style="red", markup=False, soft_wrap=True
        )
    return 2 if expected else 1


def ended_by(stop: SystemExit) -> str | None:
    """The place whose code ended the process, where that is neither this project's nor the command line's. Rich's does
    where who reads the output has enough (`flexframe list | head`)."""
    if isinstance(stop.__context__, BrokenPipeError):
        return None
    at, replaced = stop.__traceback__, getattr(sys.exit, "__code__", None)  # as W&B does, to see how a process ends
    while at is not None and at.tb_next is not None and at.tb_next.tb_frame.f_code is not replaced:
        at = at.tb_next
    if at is None:
        return None
    module = str(at.tb_frame.f_globals.get("__name__"))
    root = module.partition(".")[0]
    return None if root in ("flexframe", "click", "typer") else f"{module}, line {at.tb_lineno}"


REMEDIES: dict[int, str] = {
    errno.EEXIST: "is there already; name another place",
    errno.ENOTDIR: "lies below a file, not in a folder; name another place",
    errno.EISDIR: "is a folder, and a file is wanted",
    errno.EPERM: "may not be changed by this user; name another place, or ask for the right to",
    errno.EACCES: "may not be read or written by this user; name another place, or ask for the right to",
    errno.EROFS: "is on a disk that cannot be written to; name another place",
    errno.ENOSPC: "cannot be written: the disk is full; make room, and repeat the command",
    errno.EDQUOT: "cannot be written: this user's quota of the disk is used up; make room, and repeat the command",
    errno.EFBIG: "cannot be written: no file may be as large here (`ulimit -f` says how large); name another place",
    errno.EIO: "cannot be read or written: the disk reports a fault; see to it, and repeat the command",
}
"""Sentences about a file or folder that the system refuses, by its number of the error."""


def _words(error: Exception) -> str:
    """An error's own words; the system's about a file begin with the file, as all others do, where it names it."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    said = REMEDIES.get(error.errno or 0)
    if error.filename is None:
        return str(error) if said is None else f"a file {said}"
    return f"{error.filename}: {said or error.strerror}"


def _plugin_at_fault(error: Exception) -> str | None:
    """The plugin whose own code raised an error, with its provider: what libraries do that it calls is its, too."""
    from flexframe_registry import manager

    owners = {
        str(getattr(plugin, "__name__", type(plugin).__module__)).partition(".")[0]: f"{name!r} ({provider})"
        for name, provider in manager().providers.items()
        if (plugin := manager().get_plugin(name)) is not None
    }
    places = (
        str(frame.f_globals.get("__name__")).partition(".")[0] for frame, _ in traceback.walk_tb(error.__traceback__)
    )
    ours = [place for place in places if place in owners or place.startswith(("flexframe", "__main__"))]
    return owners.get(ours[-1]) if ours else None


def _advice(error: Exception) -> str:
    full = type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError)
    if full or "allocate memory" in str(error):  # torch's words on a CPU, and the system's
        return "The memory is full: use a smaller --batch-size (run.batch_size=N in training), or another --device"
    return UNEXPECTED


# --- versions ----------------------------------------------------------------------------------------------------


def versions() -> Iterator[str]:
    """flexframe's version and every plugin distribution's; no plugin is imported."""
    from importlib.metadata import entry_points, version  # it reads e-mail headers, which `--help` need not wait for

    own = "flexframe"
    yield f"{own} {version(own)}"
    distributions = [point.dist for point in entry_points(group=own) if point.dist is not None]
    named = {(each.name, each.version) for each in distributions}
    yield from (f"{name} {number}" for name, number in sorted(named) if name != own)
