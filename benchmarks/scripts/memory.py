"""Peak memory of a benchmark by its number of images, each count in a process of its own.

    python benchmarks/scripts/memory.py [--counts 1000 5000] [--model titok/scenes-64-16] [--inception FILE] [-o FILE]

All metrics that need no weights; with `--inception` a Fréchet distance, a kernel distance, precision and recall too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

from flexframe.files import write_json


def measure(model: str, count: int, inception: str | None) -> dict[str, Any]:
    """Benchmark so many scenes in this process."""
    import torch

    import flexframe
    from flexframe.bench.runner import run
    from flexframe_registry import SuiteConfig

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    metrics: list[Any] = ["psnr", "ssim", "codebook", "bits", "classifier"]
    if inception is not None:
        few = {"layer": "64", "weights": inception}
        metrics += [{"type": "frechet", **few}, {"type": "precision-recall", "few": True, **few}]
        metrics += [{"type": "kid", "subset_size": 100, **few}]
    suite = SuiteConfig.read({"data": {"type": "scenes", "split": "val"}, "count": count, "metrics": metrics})
    loaded = flexframe.load(model)
    before = peak()
    start = perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FLEXFRAME_HOME"] = folder  # no features of earlier runs
        results = run(suite, [(model, loaded)], Path(folder) / "out", batch_size=64, save_seconds=5.0).results
        seconds = perf_counter() - start
    budget = max(results["models"][model]["budgets"], key=int)
    numbers = results["models"][model]["budgets"][budget]["metrics"]
    values = {name: number["value"] for name, number in numbers.items() if number["value"] is not None}
    return {"images": count, "peak_mib": peak(), "before_mib": before, "seconds": round(seconds, 1), "numbers": values}


def peak() -> float:
    """The most resident memory of this process so far, in MiB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(most / (2**20 if sys.platform == "darwin" else 2**10), 1)


def main() -> None:
    """Measure each count in a process of its own and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 5000])
    parser.add_argument("--model", default="titok/scenes-64-16")
    parser.add_argument("--inception")
    parser.add_argument("-o", "--out", type=Path)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        print(json.dumps(measure(args.model, args.one, args.inception)))
        return
    rows = []
    for count in args.counts:
        again = [sys.executable, __file__, "--one", str(count), "--model", args.model]
        again += ["--inception", args.inception] if args.inception else []
        rows.append(json.loads(subprocess.run(again, check=True, stdout=subprocess.PIPE, text=True).stdout))
        row = rows[-1]
        print(f"{row['images']:>6,} images: peak {row['peak_mib']:,.0f} MiB in {row['seconds']:.0f} s", flush=True)
    if args.out is not None:
        from flexframe import provenance

        versions = {name: provenance.versions()[name] for name in ("torch", "python")}
        about = {"model": args.model, "image_size": 64, "versions": versions, "platform": platform.platform()}
        write_json(args.out, {**about, "commit": provenance.commit(), "runs": rows})


if __name__ == "__main__":
    main()
