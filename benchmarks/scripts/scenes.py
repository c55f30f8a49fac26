"""Speed of drawing scenes on one core: images a second by size and complexity, in batches and one by one.

    OMP_NUM_THREADS=1 python benchmarks/scripts/scenes.py

Seconds are those that the processor spent, so that other work on the machine does not count; the best of `--repeats`.
"""

from __future__ import annotations

import argparse
import platform
from time import process_time

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from flexframe_standard.sources.scenes import Scenes
from flexframe_standard.sources.scenes_config import ScenesConfig

SIZES = (32, 64, 128)


def rate(complexity: int, side: int, batch: int, pixels: int, repeats: int) -> float:
    """Images a second in batches of so many, over as many images as make up `pixels`."""
    number = max(batch, pixels // side**2)
    scenes = Scenes(ScenesConfig(complexity=complexity, count=2**31), (side, side))
    best = float("inf")
    for repeat in range(repeats):
        started = process_time()
        for start in range(repeat * number, (repeat + 1) * number, batch):
            scenes.samples(range(start, start + batch))
        best = min(best, (process_time() - started) / number)
    return 1 / best


def main() -> None:
    """Measure every size and complexity and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    batches = [(side, batch) for side in SIZES for batch in (64, 1)]
    table = Table("complexity", *(f"{side} px, {'64 at once' if n > 1 else 'single'}" for side, n in batches), box=None)
    for complexity in range(5):
        rates = [rate(complexity, side, n, 1 << 21 if n > 1 else 1 << 18, args.repeats) for side, n in batches]
        table.add_row(str(complexity), *(f"{images_per_s:,.0f}" for images_per_s in rates))
    Console().print(table, f"images a second; {platform.processor() or platform.machine()}, numpy {np.__version__}")


if __name__ == "__main__":
    main()
