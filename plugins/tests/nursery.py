"""Processes that need not import torch again: one that has it forks for each program, which sees what it is told.

Where a program begins in an interpreter of its own is not the point of a test. A fork has modules of torch and of what
the core requires from the start, which every environment here holds; all else it finds on the path that it is given.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

SERVER = """
import importlib, json, os, runpy, sys, traceback, warnings
from importlib.metadata import entry_points

stdlib = list(sys.path)
sys.path += json.loads(sys.argv[1])
for name in json.loads(sys.argv[2]):
    importlib.import_module(name)


def work(job):
    for number, file in ((1, job["out"]), (2, job["err"])):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))
    os.environ.clear()
    os.environ |= job["env"]
    os.chdir(job["cwd"])
    sys.path[:] = [*job["path"], *stdlib] if job["first"] else [*stdlib, *job["path"]]
    sys.path_importer_cache.clear()
    importlib.invalidate_caches()
    sys.dont_write_bytecode = job["first"]
    warnings.resetwarnings()
    if job["strict"]:
        warnings.simplefilter("error")
    kind, what, *arguments = job["words"]
    sys.argv = [what if kind == "program" else kind, *arguments]
    if kind == "-c":
        exec(compile(what, "<code>", "exec"), {"__name__": "__main__"})
    elif kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        (point,) = entry_points(group="console_scripts", name=what)
        sys.exit(point.load()())


def forked(job):
    code = 1
    try:
        work(job)
        code = 0
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
        if isinstance(stopped.code, str):
            print(stopped.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


for line in sys.stdin:
    child = os.fork() or forked(json.loads(line))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
PRELOADED = (
    "torch", "torch._dynamo", "torch.distributed.fsdp", "torchvision.transforms.v2", "safetensors.torch", "pydantic",
    "pluggy", "rich.console", "typer", "ruamel.yaml", "sklearn.datasets",
)  # fmt: skip
"""The core's: their distributions are those that its `dependencies` name, and what these require."""


class Nursery:
    """The process that forks.

    Args:
        path: folders where what is preloaded is found, and nothing but the core's requirements.
        folder: where what the forks print is kept until it was read.
    """

    def __init__(self, path: Iterable[Path], folder: Path) -> None:
        given = json.dumps([*map(str, path)]), json.dumps(PRELOADED)
        # isolated, and without site-packages
        command = [sys.executable, "-I", "-S", "-c", SERVER, *given]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.folder = folder

    def run(
        self,
        words: Iterable[object],
        path: Iterable[object],
        cwd: Path,
        env: Mapping[str, str],
        *,
        first: bool = False,
        strict: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run `-c CODE ...`, `-m MODULE ...` or `program NAME ...` of the console scripts on that path.

        Args:
            first: whether the path comes before the standard library, as PYTHONPATH does; then no bytecode is written.
            strict: whether warnings are errors.
        """
        out, err = self.folder / "out", self.folder / "err"
        job: dict[str, Any] = {
            "words": [*map(str, words)], "path": [*map(str, path)], "cwd": str(cwd), "env": {**env}, "first": first,
            "strict": strict, "out": str(out), "err": str(err),
        }  # fmt: skip
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(job) + os.linesep)
        self.process.stdin.flush()
        code = int(self.process.stdout.readline())
        return subprocess.CompletedProcess(job["words"], code, out.read_text(), err.read_text())

    def end(self) -> None:
        """End the process."""
        self.process.communicate(timeout=10)
