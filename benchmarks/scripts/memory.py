"""Peak memory of a benchmark by its number of images, each count in a process of its own.

    python benchmarks/scripts/memory.py [--counts 1000 5000] [--model titok/scenes-64-16] [--inception FILE] [-o FILE]
    python benchmarks/scripts/memory.py --counts 10000 --kill-at 4000 [-o FILE]

All metrics that need no weights; with `--inception` a Fréchet distance, a kernel distance, precision and recall too.
Beside the peak, the resident memory at every tenth of the images. With `--kill-at` each count is run a second time,
killed (SIGKILL) at that image and started again, and its numbers are compared with those of the run that was not.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

from flexframe.files import write_json


def measure(model: str, count: int, inception: str | None, place: Path, kill_at: int | None) -> dict[str, Any]:
    """Benchmark so many scenes in this process, which kills itself at an image if it is asked to."""
    import torch

    import flexframe
    from flexframe.bench.passes import Pass
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
    before, along, whole = peak(), list[tuple[int, float]](), Pass.measure

    def watched(walk: Pass, index: range, bar: Any = None) -> None:
        whole(walk, index, bar)
        if len(along) < 10 * walk.done // count:
            along.append((walk.done, resident()))
        if kill_at is not None and walk.done >= kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    Pass.measure = watched  # type: ignore[method-assign]
    start = perf_counter()
    os.environ["FLEXFRAME_HOME"] = str(place / "home")  # no features of earlier runs
    results = run(suite, [(model, loaded)], place / "out", batch_size=64, save_seconds=5.0).results
    seconds = perf_counter() - start
    budget = max(results["models"][model]["budgets"], key=int)
    numbers = results["models"][model]["budgets"][budget]["metrics"]
    values = {name: number["value"] for name, number in numbers.items() if number["value"] is not None}
    return {"images": count, "peak_mib": peak(), "before_mib": before, "seconds": round(seconds, 1),
            "resident_mib": along, "numbers": values, "codes": results["codes_sha256"][model][budget]}  # fmt: skip


def resident() -> float:
    """The resident memory of this process now, in MiB; its peak where the system does not tell it."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return peak()
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


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
    parser.add_argument("--kill-at", type=int, help="run once more, killed at this image and started again")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        print(json.dumps(measure(args.model, args.one, args.inception, args.place, args.kill_at)))
        return
    rows = []
    for count in args.counts:
        rows.append(_in_a_process(args, count))
        row = rows[-1]
        print(f"{row['images']:>6,} images: peak {row['peak_mib']:,.0f} MiB in {row['seconds']:.0f} s", flush=True)
        if args.kill_at is not None:
            rows.append({**_in_a_process(args, count, args.kill_at), "killed_at": args.kill_at})
            equal = all(rows[-1][name] == row[name] for name in ("numbers", "codes"))
            rows[-1]["equal"] = equal
            told = "equal numbers and codes" if equal else "OTHER numbers or codes"
            print(f"  killed at {args.kill_at:,} and started again: {told}", flush=True)
    if args.out is not None:
        from flexframe import provenance
        from flexframe_registry import cards

        versions = {name: provenance.versions()[name] for name in ("torch", "python")}
        size = cards().get(args.model).model.image_size[0]
        about = {"model": args.model, "image_size": size, "versions": versions, "platform": platform.platform()}
        write_json(args.out, {**about, "commit": provenance.commit(), "runs": rows})


def _in_a_process(args: argparse.Namespace, count: int, kill_at: int | None = None) -> dict[str, Any]:
    """Measure in a process of its own; with `kill_at` in two, of which the first is killed there."""
    with tempfile.TemporaryDirectory() as place:
        again = [sys.executable, __file__, "--one", str(count), "--model", args.model, "--place", place]
        again += ["--inception", args.inception] if args.inception else []
        if kill_at is not None:
            killed = subprocess.run([*again, "--kill-at", str(kill_at)], stdout=subprocess.PIPE)
            assert killed.returncode == -signal.SIGKILL, killed.returncode
        found: dict[str, Any] = json.loads(subprocess.run(again, check=True, stdout=subprocess.PIPE, text=True).stdout)
        return found


if __name__ == "__main__":
    main()
