"""The command line: registers the commands, a file each in `flexframe.commands`, and tells errors in one line.

Nothing here imports the registry or torch: `flexframe --help` is instant.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from copy import copy
from typing import Annotated, Any

import typer

from flexframe.commands import app as window
from flexframe.commands import (
    bench,
    bench_samples,
    decode,
    demo,
    diff,
    doctor,
    encode,
    explain,
    export,
    generate,
    import_,
    init,
    list_,
    new_plugin,
    pack,
    plot,
    precompute,
    probe,
    reconstruct,
    results,
    runs,
    show,
    stats,
    train,
    unpack,
    verify,
)
from flexframe.commands.common import (
    DEBUG,
    QUIET,
    complain,
    ended_by,
    examples,
    hush,
    out,
    show_warning,
    take,
    tell,
    versions,
)
from flexframe.commands.sampling import Sampled
from flexframe.terminal import take_any_letter

app = typer.Typer(
    name="flexframe",
    help="A modular framework for 1D image tokenizers: published ones and yours, trained and measured alike.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _add(command: Callable[..., None], **settings: Any) -> None:
    """Register a command, with the `EXAMPLES` of its module at the end of its help."""
    settings = {"name": command.__name__.replace("_", "-")} | settings
    app.command(epilog=examples(sys.modules[command.__module__].EXAMPLES), **settings)(command)


_add(list_.list_, name="list")
_add(train.train)
_add(bench.bench)
_add(demo.demo)
_add(show.show)
_add(diff.diff)
_add(doctor.doctor)
_add(init.init)
_add(import_.import_, name="import")
_add(verify.verify)
_add(explain.explain)
_add(results.results)
_add(probe.probe)
_add(encode.encode)
_add(decode.decode, cls=Sampled)
_add(pack.pack)
_add(unpack.unpack)
_add(reconstruct.reconstruct, cls=Sampled)
_add(generate.generate, cls=Sampled)
_add(bench_samples.bench_samples, cls=Sampled)
_add(stats.stats)
_add(runs.runs)
_add(window.app)
_add(plot.plot)
app.add_typer(precompute.app, name="precompute")
app.add_typer(export.app, name="export")
_add(new_plugin.new_plugin)


def main() -> None:
    """Entry point: an error is one line, and a traceback only with --debug or FLEXFRAME_DEBUG=1."""
    take_any_letter()
    atexit.register(gc.freeze)  # the last of all: at its end Python looks through all objects for circles, three times
    debug = take("--debug", DEBUG, sys.argv)
    hush(take("--quiet", QUIET, sys.argv))
    warnings.showwarning = show_warning
    warnings.filterwarnings("once", r"flexframe|FLEXFRAME", DeprecationWarning)  # which Python keeps to itself
    try:
        _asked(sys.argv[1:])()
    except BrokenPipeError:  # as in `flexframe list | head`: who reads has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if debug:
            _abandon(1, traceback.print_exc)
            raise
        if "_FLEXFRAME_COMPLETE" in os.environ:
            sys.exit(1)  # nobody wants an error between the words being typed
        code = tell(error)
        _abandon(code)
        sys.exit(code)
    except SystemExit as stop:
        place = ended_by(stop)
        if place is None:
            raise
        text = f"flexframe: {place} called sys.exit({stop.code!r}), so that the work is not done"
        complain.print(f"{text}; it is of a plugin, or of what it uses", style="red", markup=False, soft_wrap=True)
        _abandon(1)
        sys.exit(1)
    except KeyboardInterrupt:
        complain.print("interrupted", style="red")
        _abandon(130)
        sys.exit(130)


def _asked(words: Sequence[str]) -> typer.Typer:
    """Give the app with the command alone that `words` name: typer builds each that it has, whichever is called."""
    name = next((word for word in words if not word.startswith("-")), None)
    found = [command for command in app.registered_commands if command.name == name]
    if not found:
        return app
    alone = copy(app)
    alone.registered_commands, alone.registered_groups = found, []
    return alone


def _abandon(code: int, say_why: Callable[[], object] = lambda: None) -> None:
    """End here, if this is one of several processes that train: the usual end would wait for the others."""
    if "flexframe.train.distributed" in sys.modules:
        from flexframe.train import distributed

        if distributed.joined():
            say_why()
            distributed.abandon(code)


def _print_versions(wanted: bool) -> bool:
    if wanted:
        out.print("\n".join(versions()), highlight=False)
        raise typer.Exit
    return wanted


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_versions, is_eager=True, help="Versions of flexframe and plugins."),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help=f"Show tracebacks of errors; anywhere on the line, or {DEBUG}=1.")
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option("--quiet", help=f"No progress, no remarks: results and errors; anywhere too, or {QUIET}=1."),
    ] = False,
) -> None:
    """The options of all commands; `main` has taken --debug and --quiet out before this is asked."""


if __name__ == "__main__":
    main()
