"""Reading a folder of JPEGs against torchvision's ImageFolder, in CPU time, at equal pixels.

    taskset -c 0 python benchmarks/speed/folder.py [FOLDER:SIZE]... -o folder.json

Both sides decode the same files and bring them to size the same way (the shorter edge, bicubic with antialiasing, the
middle), a batch of each in turn in one process, and stack the batch as a training's loader does. A `FOLDER` holds
photographs in a folder for each class; `drawn`, which is measured at 256 without any, stands for files of 500 x 375
that are drawn. `decode and resize` is Pillow alone, which is what neither side can be faster than without other pixels.
A share is of ImageFolder's time.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from PIL import __version__ as pillow
from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from flexframe.data.source import Facts
from flexframe.files import write_json
from flexframe.provenance import processor
from flexframe_standard.sources.files import Folder
from flexframe_standard.sources.files_config import FolderConfig

Read = Callable[[Sequence[int]], Tensor]


def draw(folder: Path, count: int, size: tuple[int, int] = (500, 375)) -> None:
    """Write JPEGs of about the detail of a photograph into two folders."""
    rng = np.random.default_rng(0)
    for number in range(count):
        place = folder / f"{number % 2}" / f"{number:04}.jpg"
        place.parent.mkdir(exist_ok=True)
        layers = [
            Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).resize(
                size, Image.Resampling.BICUBIC
            )
            for side in (4, 16, 64, 200)
        ]
        shares = np.array([0.4, 0.3, 0.2, 0.1])
        mixed = sum(share * np.asarray(layer, float) for share, layer in zip(shares, layers, strict=True))
        Image.fromarray(np.uint8(mixed)).save(place, quality=90)


def torchvisions(folder: Path, size: int) -> tuple[Read, Sequence[str]]:
    """ImageFolder with the transforms of its documentation, and its files in order."""
    steps = v2.Resize(size, v2.InterpolationMode.BICUBIC), v2.CenterCrop(size), v2.PILToTensor()
    images = ImageFolder(folder, v2.Compose(steps))
    return lambda rows: torch.stack([images[i][0] for i in rows]), [path for path, _ in images.samples]


def flexframes(folder: Path, size: int, facts: Facts) -> Read:
    """The source `folder`, asked for as much of the facts beside images."""
    source = Folder(FolderConfig(path=str(folder), resize="torchvision-bicubic"), (size, size))
    source.want(facts)
    return lambda rows: torch.stack([sample.image for sample in source.samples(rows)])


def bare(files: Sequence[str], size: int) -> Read:
    """Pillow's decoding and resizing alone: no crop, no tensor."""

    def read(rows: Sequence[int]) -> Tensor:
        for i in rows:
            with Image.open(files[i], formats=["JPEG"]) as image:
                short = min(image.size)
                image.resize((int(size * image.width / short), int(size * image.height / short)))
        return torch.empty(0)

    return read


def in_turns(
    sides: Mapping[str, Read], batches: Sequence[Sequence[int]], rounds: int
) -> dict[str, dict[str, list[float]]]:
    """CPU and wall seconds of each round of each side; sides take turns batch by batch, and which begins, too."""
    names, spent = list(sides), {name: {"cpu": [], "wall": []} for name in sides}
    for number in range(rounds + 1):
        laps = {name: [0.0, 0.0] for name in names}
        for batch in batches:
            names = names[1:] + names[:1]
            for name in names:
                cpu, wall = process_time(), perf_counter()
                sides[name](batch)
                laps[name][0] += process_time() - cpu
                laps[name][1] += perf_counter() - wall
        if number:  # the first brings files into the system's cache
            for name, (cpu, wall) in laps.items():
                spent[name]["cpu"].append(cpu)
                spent[name]["wall"].append(wall)
    return spent


def row(folder: Path, size: int, batch: int, count: int, rounds: int) -> dict[str, Any]:
    """Measure one folder at one size.

    Raises:
        ValueError: both sides give other pixels.
    """
    theirs, files = torchvisions(folder, size)
    sides = {"ImageFolder": theirs}
    sides |= {f"folder, facts {facts}": flexframes(folder, size, facts) for facts in ("none", "labels", "all")}
    rows = range(min(count, len(files)))
    batches = [rows[start : start + batch] for start in range(0, len(rows), batch)]
    for each in batches:
        wanted = theirs(each)
        if not all(torch.equal(wanted, read(each)) for read in sides.values()):
            raise ValueError(f"{folder}: images {each[0]} to {each[-1]} have other pixels than ImageFolder's")
    spent = in_turns({**sides, "decode and resize": bare(files, size)}, batches, rounds)
    base = spent["ImageFolder"]["cpu"]
    told = {}
    for name, laps in spent.items():
        ratios = [own / other for own, other in zip(laps["cpu"], base, strict=True)]
        told[name] = {
            "cpu_ms": round(1000 * median(laps["cpu"]) / len(rows), 4),
            "wall_ms": round(1000 * median(laps["wall"]) / len(rows), 4),
            "ratio": round(median(ratios), 3),
            "quartiles": [round(each, 3) for each in quantiles(ratios)[::2]],
        }
    with Image.open(files[0]) as first:
        stored = first.size
    return {
        "of": folder.name,
        "images": len(rows),
        "stored": stored,
        "size": size,
        "batch": batch,
        "equal": True,
        "sides": told,
    }


def main() -> None:
    """Measure, print and write the file, if one is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", metavar="FOLDER:SIZE", nargs="*")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--count", type=int, default=96, help="the first images of each folder")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("-o", "--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        drawn = Path(temporary) / "drawn"
        drawn.mkdir()
        draw(drawn, args.count)
        rows = []
        for each in args.folders or ["drawn:256"]:
            folder, _, size = each.rpartition(":")
            place = drawn if folder == "drawn" else Path(folder)
            rows.append(row(place, int(size), args.batch, args.count, args.rounds))
            print(f"{folder}: {rows[-1]['images']} images to {size} pixels")
            for name, told in rows[-1]["sides"].items():
                times = f"{told['cpu_ms']:8.3f} ms CPU {told['wall_ms']:8.3f} ms"
                print(f"  {name:22}{times}, share {told['ratio']:.3f} {told['quartiles']}", flush=True)
    if args.out:
        about = {"pillow": pillow, "torchvision": torchvision.__version__, "processor": processor(torch.device("cpu"))}
        write_json(args.out, {**about, "rows": rows})


if __name__ == "__main__":
    main()
