"""Kill a run at random moments, go on with it, and compare with a run that was let alone: equal to the last bit?

    python benchmarks/resume.py [--kills 20] [--seed 0] [--card titok/digits-tiny]

Kills are SIGKILL. Every other one is aimed at a save: it comes up to 20 ms after a checkpoint is begun. Of the others
one in four comes while the run starts or resumes, the rest at any moment of training. One checkpoint is cut short as
well. Written: benchmarks/results/resume/CARD.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from safetensors.torch import load_file

from flexframe import provenance
from flexframe.train.checkpoint import digest

TIMES = {"images_per_s", "data_wait"}
"""What of a log line is the machine's and not the run's."""
AIMS = "training", "a save", "training", "a save", "training", "a save", "the start", "a save"
RESULTS = Path(__file__).parent / "results" / "resume"


os.environ["PYTHONUNBUFFERED"] = "1"  # the first word of training is waited for


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "flexframe", "train", *map(str, words), "--device", "cpu"]


def settings(steps: int, every: int) -> list[str]:
    # draws of both kinds: a shift, by sample; and revived codes, from the global state
    own = {"steps": steps, "batch_size": 16, "log_every": 5, "checkpoint_every": every, "shift": 1, "warmup": 10}
    return [f"run.{name}={value}" for name, value in {**own, "keep": 3}.items()]


def begun(folder: Path) -> set[str]:
    """Saves that are under way, or were when a kill came."""
    return {path.name for path in (folder / "checkpoints").glob(".part-*")}


def kill_within_a_save(process: subprocess.Popen[bytes], folder: Path, draw: random.Random) -> bool:
    """Wait for a save to begin, and kill a moment later; whether it came to that."""
    before = begun(folder)
    while process.poll() is None:
        if begun(folder) - before:
            time.sleep(draw.uniform(0, 0.02))
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.0005)
    return False


def kill_at_any_moment(process: subprocess.Popen[bytes], started: bool, seconds: float, draw: random.Random) -> bool:
    """Kill within so many seconds of its start, or of the first word of training; whether it came to that."""
    if started and process.stdout is not None:
        process.stdout.readline()
    try:
        process.wait(draw.uniform(0, seconds))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return True
    return False


def steps_of(folder: Path) -> list[int]:
    return sorted(int(path.name[5:]) for path in (folder / "checkpoints").glob("step-*"))


def lines(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in found]


def differences(one: Path, other: Path) -> list[str]:
    """What is not the same in two finished runs: log lines, and every tensor of the last checkpoint and the model."""
    found = [] if lines(one) == lines(other) else ["log.jsonl"]
    last = f"checkpoints/step-{steps_of(one)[-1]:08d}"
    names = [f"{last}/{path.name}" for path in sorted((one / last).glob("*.safetensors"))]
    for name in [*names, "model.safetensors"]:
        a, b = load_file(one / name), load_file(other / name)
        wrong = [key for key in a.keys() | b.keys() if key not in a or key not in b or not torch.equal(a[key], b[key])]
        found += [f"{name}: {key}" for key in wrong]
    return found


def main() -> None:
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
    with subprocess.Popen(command(given.card, *own, "-o", whole), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        starting = time.perf_counter() - start
        process.stdout.read()
    if process.returncode:
        raise SystemExit("the run that is let alone failed")
    training = time.perf_counter() - start - starting

    events: list[dict[str, Any]] = []
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("kills", total=given.kills)
        while len(events) < given.kills:
            words = ["--resume", killed] if (killed / "config.json").is_file() else [given.card, *own, "-o", killed]
            said_to = base / "stderr"
            with said_to.open("wb") as stderr:
                process = subprocess.Popen(command(*words), stdout=subprocess.PIPE, stderr=stderr)
            aim = AIMS[len(events) % len(AIMS)]
            event: dict[str, Any] = {"aimed_at": aim}
            if aim == "a save":
                came = kill_within_a_save(process, killed, draw)
            else:
                started = aim == "training"
                came = kill_at_any_moment(process, started, 1.2 * training / given.kills if started else starting, draw)
            assert process.stdout is not None
            process.stdout.close()
            said = said_to.read_text()
            if not came:
                if process.returncode:
                    raise SystemExit(f"a resumed run failed by itself:\n{said}")
                break  # it came to its end before
            event |= {"saving": sorted(begun(killed)), "checkpoints": steps_of(killed)}
            if len(events) == given.kills // 2 and event["checkpoints"]:
                path = killed / "checkpoints" / f"step-{event['checkpoints'][-1]:08d}" / "trainee.safetensors"
                path.write_bytes(path.read_bytes()[:-1000])
                event["cut_short"] = event["checkpoints"][-1]
            events.append(event)
            progress.advance(task)
    last = subprocess.run(command("--resume", killed), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if last.returncode:
        raise SystemExit(f"the last resume failed:\n{last.stderr}")
    wrong = differences(whole, killed)
    result = {
        "card": given.card,
        "settings": own,
        "seed": given.seed,
        "kills": len(events),
        "kills_within_a_save": sum(bool(event["saving"]) for event in events),
        "cut_short": [event["cut_short"] for event in events if "cut_short" in event],
        "seconds_uninterrupted": round(training, 1),
        "model_sha256": [digest(run / "model.safetensors") for run in (whole, killed)],
        "log_lines": len(lines(whole)),
        "final_loss": lines(whole)[-1]["loss"],
        "differences": wrong,
        "equal": not wrong,
        "events": events,
        "manifest": provenance.manifest(omp_num_threads=os.environ.get("OMP_NUM_THREADS")),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{given.card.replace('/', '-')}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"{len(events)} kills ({result['kills_within_a_save']} within a save): {wrong if wrong else 'equal'}")
    shutil.rmtree(base)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
