"""A Fréchet distance between two folders of images: `flexframe bench-samples` against torch-fidelity's own command.

    taskset -c 0 python benchmarks/speed/fid.py --weights inception.pth --layer 768 -o fid.json

Both are whole commands over the same PNG files with one thread, in turns, in CPU time of their processes: imports,
files, features, the distance. The first run of flexframe finds nothing kept (`first`); later ones find the originals'
features in `FLEXFRAME_HOME` (`again`), as whoever measures a second model does. torch-fidelity keeps none by default.
The distances must agree to 1e-6. Without weights of the last layer, a lower one may be named; it is no FID.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image

from flexframe.files import write_json
from flexframe.provenance import processor
from flexframe_registry import catalogue, suite


def drawn(folder: Path, count: int) -> tuple[Path, Path]:
    """Scenes as PNG files, and the same with noise, each in a folder."""
    source = catalogue().build(suite("scenes-64", [f"data.count={count}"]).data, (64, 64), place="data")
    rng, folders = np.random.default_rng(0), (folder / "originals", folder / "samples")
    for each in folders:
        each.mkdir()
    for number, sample in enumerate(source.samples(range(count))):
        pixels = sample.image.permute(1, 2, 0).numpy()
        noisy = np.clip(pixels + rng.normal(0, 12, pixels.shape), 0, 255).astype(np.uint8)
        for each, image in zip(folders, (pixels, noisy), strict=True):
            Image.fromarray(image).save(each / f"{number:05}.png")
    return folders


def run(command: list[str], home: Path) -> tuple[float, str]:
    """CPU seconds of a command, and what it printed.

    Raises:
        subprocess.CalledProcessError: it failed; what it said has been printed.
    """
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "FLEXFRAME_HOME": str(home)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        print(done.stdout, done.stderr, file=sys.stderr)
        done.check_returncode()
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def main() -> None:
    """Measure, print and write the file, if one is named.

    Raises:
        ValueError: the distances differ by more than 1e-6 of them.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="torch-fidelity's Inception weights")
    parser.add_argument("--layer", default="2048")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("-o", "--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        originals, samples = drawn(folder, args.count)
        weights, number = str(args.weights.resolve()), 0
        theirs = [str(Path(sys.executable).with_name("fidelity")), "--cpu", "--fid", "--json", "--silent"]
        theirs += ["--feature-layer-fid", args.layer, "--feature-extractor-weights-path", weights]
        theirs += ["--input1", str(originals), "--input2", str(samples)]
        metric = {"type": "frechet", "layer": args.layer, "weights": weights, "few": True}
        asked = {
            "data": {"type": "folder", "path": str(originals)},
            "count": args.count,
            "metrics": [metric],
            "show": 0,
        }
        (folder / "suite.yaml").write_text(json.dumps(asked))
        spent: dict[str, list[float]] = {"torch-fidelity": [], "first": [], "again": []}
        found: dict[str, float] = {}
        for _ in range(args.rounds):
            home = folder / f"home-{number}"
            seconds, printed = run(theirs, home)
            spent["torch-fidelity"].append(seconds)
            found["torch-fidelity"] = float(next(iter(json.loads(printed[printed.index("{") :]).values())))
            for which in ("first", "again"):
                number += 1
                out = folder / f"out-{number}"
                command = [sys.executable, "-m", "flexframe", "bench-samples", str(folder / "suite.yaml")]
                seconds, _ = run([*command, f"path:{samples}", "-o", str(out), "--device", "cpu"], home)
                spent[which].append(seconds)
                (model,) = json.loads((out / "results.json").read_text())["models"].values()
                (measured,) = model["budgets"].values()
                found[which] = float(next(v["value"] for k, v in measured["metrics"].items() if "fid" in k))
        told: dict[str, Any] = {"images": args.count, "layer": args.layer, "distance": found}
        for which, laps in spent.items():
            shares = [own / base for own, base in zip(laps, spent["torch-fidelity"], strict=True)]
            told[which] = {"cpu_s": [round(lap, 2) for lap in laps], "share": round(median(shares), 3)}
            print(f"{which:16}{median(laps):8.1f} s CPU, share {median(shares):.3f}, distance {found[which]:.9g}")
        if any(abs(each - found["torch-fidelity"]) > 1e-6 * found["torch-fidelity"] for each in found.values()):
            raise ValueError(f"the distances differ: {found}")
    if args.out:
        write_json(args.out, {"processor": processor(torch.device("cpu")), "torch": torch.__version__, **told})


if __name__ == "__main__":
    main()
