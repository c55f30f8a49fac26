"""Kill a run at random moments, go on with it, and compare with a run that was let alone: equal to the last bit?

    python benchmarks/scripts/resume.py [--kills 20] [--seed 0] [--card titok/digits-tiny]

Kills are SIGKILL. Every other one is aimed at a save: it comes up to 20 ms after a checkpoint is begun. Of the others
one in four comes while the run starts or resumes, the rest at any moment of training. One checkpoint is cut short as
well. Each run is the command line in a process of its own, forked from this one, so that torch is imported once.
Written: benchmarks/results/trainings/resume/CARD.json.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from flexframe import cli, provenance
from flexframe.files import sha256, write_json
from flexframe.train import loop  # noqa: F401 (imported before a process is forked)
from flexframe_registry.runfolder import LOG, MODEL, STEPS, TRAINEE, RunFolder

TIMES = {"images_per_s", "data_wait"}
"""Fields of a log line that are the machine's and not the run's."""
AIMS = "training", "a save", "training", "a save", "training", "a save", "the start", "a save"
RESULTS = Path(__file__).parents[1] / "results" / "trainings" / "resume"


class Command:
    """`flexframe train ...` in a forked process. Its first word comes when training begins."""

    def __init__(self, words: Sequence[object], stderr: Path) -> None:
        self.arguments, self.stderr = ["flexframe", "train", *map(str, words), "--device", "cpu"], stderr
        self.reads, self.writes = os.pipe()
        self.process = multiprocessing.get_context("fork").Process(target=self._run)
        self.process.start()
        os.close(self.writes)

    def _run(self) -> None:
        errors = os.open(self.stderr, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(self.writes, 1)
        os.dup2(errors, 2)
        sys.argv = self.arguments
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        cli.main()

    def begins(self) -> None:
        """Wait until it trains, or has ended."""
        os.read(self.reads, 1)

    def ended(self, seconds: float | None) -> bool:
        """Tell whether it ends by itself within so many seconds; None waits for the end."""
        with open(self.reads, "rb", closefd=False) as said:  # else the pipe fills
            os.set_blocking(self.reads, False)
            until = math.inf if seconds is None else time.perf_counter() + seconds
            while self.process.is_alive() and time.perf_counter() < until:
                said.read()
                self.process.join(min(0.02, max(0.0, until - time.perf_counter())))
        return not self.process.is_alive()

    def kill(self) -> None:
        """Send SIGKILL and wait for the end."""
        self.process.kill()
        self.process.join()

    def close(self) -> None:
        """Wait for the end and close the pipe.

        Raises:
            SystemExit: it failed by itself; with what it said.
        """
        self.process.join()
        os.close(self.reads)
        if self.process.exitcode not in (0, -signal.SIGKILL):
            raise SystemExit(f"{' '.join(self.arguments)} failed:\n{self.stderr.read_text()}")


def settings(steps: int, every: int) -> list[str]:
    """Settings of the run, as `KEY=VALUE` words of the command line."""
    # draws of both kinds: a shift, by sample; and revived codes, from the global state
    own = {"steps": steps, "batch_size": 16, "log_every": 5, "checkpoint_every": every, "shift": 1, "warmup": 10}
    return [f"run.{name}={value}" for name, value in {**own, "keep": 3}.items()]


def begun(folder: Path) -> set[str]:
    """Saves that are under way, or were when a kill came."""
    return {path.name for path in RunFolder(folder).checkpoints.glob(".part-*")}


def kill_within_a_save(run: Command, folder: Path, draw: random.Random) -> bool:
    """Wait for a save to begin, and kill a moment later; returns whether it came to that."""
    before = begun(folder)
    while run.process.is_alive():
        if begun(folder) - before:
            time.sleep(draw.uniform(0, 0.02))
            run.kill()
            return True
        time.sleep(0.0005)
    return False


def kill_at_any_moment(run: Command, started: bool, seconds: float, draw: random.Random) -> bool:
    """Kill within so many seconds of its start, or of the first word of training; returns whether it came to that."""
    if started:
        run.begins()
    if run.ended(draw.uniform(0, seconds)):
        return False
    run.kill()
    return True


def steps_of(folder: Path) -> list[int]:
    """Steps of a run's checkpoints, rising."""
    return sorted(int(path.name[5:]) for path in RunFolder(folder).checkpoints.glob(STEPS))


def lines(folder: Path) -> list[dict[str, Any]]:
    """Records of a run's log, without the machine's times."""
    records = [json.loads(line) for line in RunFolder(folder).log.read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in records]


def differences(one: Path, other: Path) -> list[str]:
    """List the differences of two finished runs: log lines, and every tensor of the last checkpoint and the model."""
    differing = [] if lines(one) == lines(other) else [LOG]
    last = RunFolder(Path()).checkpoint(steps_of(one)[-1])
    names = [f"{last}/{path.name}" for path in sorted((one / last).glob("*.safetensors"))]
    for name in [*names, MODEL]:
        a, b = load_file(one / name), load_file(other / name)
        wrong = [key for key in a.keys() | b.keys() if key not in a or key not in b or not torch.equal(a[key], b[key])]
        differing += [f"{name}: {key}" for key in wrong]
    return differing


def main() -> None:
    """Run the experiment and write its result; exits with 1 where the runs differ."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--card", default="titok/digits-tiny")
    arguments.add_argument("--kills", type=int, default=20)
    arguments.add_argument("--steps", type=int, default=240)
    arguments.add_argument("--every", type=int, default=7, help="steps between checkpoints; not a divisor of log lines")
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    draw, base = random.Random(given.seed), Path(tempfile.mkdtemp(prefix="flexframe-resume-"))
    whole, killed = base / "whole", base / "killed"
    own = settings(given.steps, given.every)
    start = time.perf_counter()
    run = Command([given.card, *own, "-o", whole], base / "stderr")
    run.begins()
    starting = time.perf_counter() - start
    run.ended(None)
    run.close()
    training = time.perf_counter() - start - starting

    events: list[dict[str, Any]] = []
    while len(events) < given.kills:
        words = ["--resume", killed] if RunFolder(killed).config.is_file() else [given.card, *own, "-o", killed]
        left = begun(killed)
        run = Command(words, base / "stderr")
        aim = AIMS[len(events) % len(AIMS)]
        event: dict[str, Any] = {"aimed_at": aim}
        if aim == "a save":
            came = kill_within_a_save(run, killed, draw)
        else:
            started = aim == "training"
            came = kill_at_any_moment(run, started, 1.2 * training / given.kills if started else starting, draw)
        run.close()
        if not came:
            break  # it came to its end before
        # a save that was begun and is not done; what an earlier kill left does not count
        event |= {"within_a_save": bool(begun(killed) - left), "checkpoints": steps_of(killed)}
        if len(events) == given.kills // 2 and event["checkpoints"]:
            path = RunFolder(killed).checkpoint(event["checkpoints"][-1]) / TRAINEE
            path.write_bytes(path.read_bytes()[:-1000])
            event["cut_short"] = event["checkpoints"][-1]
        events.append(event)
        print(f"{len(events)}/{given.kills} killed: {event}", file=sys.stderr, flush=True)
    run = Command(["--resume", killed], base / "stderr")
    run.ended(None)
    run.close()
    wrong = differences(whole, killed)
    result = {
        "card": given.card,
        "settings": own,
        "seed": given.seed,
        "kills": len(events),
        "kills_within_a_save": sum(event["within_a_save"] for event in events),
        "cut_short": [event["cut_short"] for event in events if "cut_short" in event],
        "seconds_uninterrupted": round(training, 1),
        "model_sha256": [sha256(RunFolder(run).model) for run in (whole, killed)],
        "log_lines": len(lines(whole)),
        "final_loss": lines(whole)[-1]["loss"],
        "differences": wrong,
        "equal": not wrong,
        "events": events,
        "manifest": provenance.manifest(omp_num_threads=os.environ.get("OMP_NUM_THREADS")),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    write_json(RESULTS / f"{given.card.replace('/', '-')}.json", result)
    print(f"{len(events)} kills ({result['kills_within_a_save']} within a save): {wrong if wrong else 'equal'}")
    shutil.rmtree(base)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
