"""Seconds of the processor from a command's start to the end of its first step, beyond those of `import torch`.

    taskset -c 0 python benchmarks/speed/start.py -o benchmarks/results/speed/start.json

Each side is a process of its own, in turns; files are in the system's cache after the first round, which is not counted
where there are more. `python -X importtime -m flexframe train flextok/digits-tiny run.steps=1` says what is imported.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import torch

from flexframe.files import write_json
from flexframe.provenance import processor

TRAIN = "train", "flextok/digits-tiny", "run.steps=1"


def spent(words: list[str]) -> float:
    """Seconds of the processor that a command takes."""
    before = os.times()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    """Measure, print and write the file, if one is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("-o", "--out", type=Path)
    args = parser.parse_args()
    seconds: dict[str, list[float]] = {"import torch": [], "train": []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.rounds):
            seconds["import torch"].append(spent(["-c", "import torch"]))
            seconds["train"].append(spent(["-m", "flexframe", *TRAIN, "-o", f"{folder}/{number}"]))
    counted = {side: each[1:] or each for side, each in seconds.items()}
    beyond = median(counted["train"]) - median(counted["import torch"])
    facts: dict[str, Any] = {"command": " ".join(TRAIN), "cpu_s": counted, "cpu_s_beyond_torch": round(beyond, 2)}
    print(facts)
    if args.out:
        write_json(args.out, {"torch": torch.__version__, "processor": processor(torch.device("cpu")), **facts})


if __name__ == "__main__":
    main()
