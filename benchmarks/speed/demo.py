"""Seconds that `flexframe demo` takes by the clock, alone and beside a half-busy machine, in turns.

    python benchmarks/speed/demo.py -o benchmarks/results/speed/demo.json

Half-busy: beside as many processes that count for ever as half the processors. The command chooses its threads itself,
so `OMP_NUM_THREADS` is taken out of its environment.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from threads import busy

from flexframe.files import write_json
from flexframe.provenance import processor
from flexframe.threads import GIVEN, cores


def lap() -> float:
    """Seconds of one demo in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if name != GIVEN}
    with tempfile.TemporaryDirectory() as folder:
        begun = perf_counter()
        words = [sys.executable, "-c", "from flexframe.cli import main; main()", "demo"]
        subprocess.run(words, cwd=folder, env=environment, check=True, capture_output=True)
        return perf_counter() - begun


def main() -> None:
    """Measure, print and write the file, if one is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-o", "--out", type=Path)
    args = parser.parse_args()
    beside = max(1, cores() // 2)
    seconds: dict[int, list[float]] = {0: [], beside: []}
    for _ in range(args.rounds):
        for number, laps in seconds.items():
            with busy(number):
                laps.append(round(lap(), 1))
            print(f"beside {number}: {laps[-1]} s", flush=True)
    ratio = round(median(seconds[beside]) / median(seconds[0]), 2)
    print(f"half-busy by quiet: {ratio}")
    if args.out:
        about = {"processor": processor(torch.device("cpu")), "cores": cores(), "torch": torch.__version__}
        write_json(args.out, {**about, "seconds": {str(key): value for key, value in seconds.items()}, "ratio": ratio})


if __name__ == "__main__":
    main()
