"""What `flexframe encode` and `flexframe bench` cost around the model, as a share of a bare loop of its calls.

    taskset -c 0 python benchmarks/speed/harness.py [MODEL]... --count 2000 -o harness.json

The images are drawn scenes. `encode` reads them as PNG files, brings them to size, keeps its journal and writes the
token file; the bare loop gives the model the same batches out of memory. `bench` measures them by PSNR alone, whose
cost is the harness's own, and by all measures of the suite; its bare loop encodes once and decodes at each token count.
Both sides take turns, in CPU time of one process with one thread; loading and imports are outside. A share is of the
bare loop's time; the token ids of both sides must be equal.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import flexframe
from flexframe.bench import runner
from flexframe.data.tokenfile import TokenFile
from flexframe.files import write_json
from flexframe.models.tokenizer import Tokenizer
from flexframe.provenance import processor
from flexframe.rng import Rng
from flexframe.use.encode import encode
from flexframe.use.lengths import Fixed
from flexframe_registry import catalogue, suite

Work = Callable[[], Any]


def drawn(folder: Path, count: int) -> Tensor:
    """Write the suite's scenes into a folder, as many as there are and again from the first; they are given, too."""
    source = catalogue().build(suite("scenes-64", [f"data.count={count}"]).data, (64, 64), place="data")
    images = torch.stack([source[i].image for i in range(count)])
    for number, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number:05}.png")
    return images


def sides_of_encode(model: Tokenizer, name: str, images: Tensor, folder: Path, size: int) -> dict[str, Work]:
    """The command's work, and the bare loop; both give token ids, `b k q`."""

    def harness() -> Tensor:
        with tempfile.TemporaryDirectory() as place:
            out = Path(place) / "tokens.safetensors"
            encode(model, [folder], out, model=name, rule=Fixed(model.config.length), batch_size=size)
            return torch.cat([rows.codes for rows in TokenFile(out).batches(size)])

    @torch.no_grad()
    def bare() -> Tensor:
        codes = []
        for start in range(0, len(images), size):
            batch = images[start : start + size].float() / 255
            codes.append(model.encode(batch, rng=Rng(0, torch.arange(start, start + len(batch)))).codes)
        return torch.cat(codes)

    return {"bare": bare, "encode": harness}


def sides_of_bench(model: Tokenizer, name: str, images: Tensor, size: int) -> dict[str, Work]:
    """The pass over the images with one measure and with all, and the bare loop, all over the same budgets."""
    budgets = list(model.config.budgets)
    one = [f"count={len(images)}", f"data.count={len(images)}", "show=0", "metrics=[psnr]"]
    every = one[:-1]

    def harness(settings: Sequence[str]) -> None:
        with tempfile.TemporaryDirectory() as place:
            asked = suite("scenes-64", [*settings, f"budgets={budgets}"])
            runner.run(asked, [(name, model)], Path(place) / "out", name="scenes-64", batch_size=size)

    @torch.no_grad()
    def bare() -> None:
        for start in range(0, len(images), size):
            batch = images[start : start + size].float() / 255
            rng = Rng(0, torch.arange(start, start + len(batch)))
            tokens = model.encode(batch, rng=rng)
            for budget in budgets:
                model.decode(model.shortened(tokens, batch, budget, rng=rng), rng=rng)

    return {"bare": bare, "bench, psnr": lambda: harness(one), "bench, all measures": lambda: harness(every)}


def in_turns(sides: Mapping[str, Work], rounds: int) -> dict[str, Any]:
    """CPU seconds of each side, which take turns, and shares of the first's."""
    spent: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, work in sides.items():
            started = process_time()
            work()
            if number:  # the first round imports and warms up
                spent[name].append(process_time() - started)
    base = spent[next(iter(sides))]
    told = {}
    for name, laps in spent.items():
        shares = sorted(own / other for own, other in zip(laps, base, strict=True))
        told[name] = {"cpu_s": [round(lap, 3) for lap in laps], "share": round(median(shares), 3),
                      "least": round(shares[0], 3), "most": round(shares[-1], 3)}  # fmt: skip
    return told


def main() -> None:
    """Measure, print and write the file, if one is named.

    Raises:
        ValueError: both sides of `encode` give other token ids.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", metavar="MODEL", nargs="*")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", nargs="+", choices=("encode", "bench"), default=["encode", "bench"])
    parser.add_argument("-o", "--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        images = drawn(folder, args.count)
        for name in args.models or ["flextok/scenes-64", "titok/scenes-64-16"]:
            model = flexframe.load(name)
            assert isinstance(model, Tokenizer)
            encoding = sides_of_encode(model, name, images, folder, args.batch)
            if not torch.equal(encoding["bare"](), encoding["encode"]()):
                raise ValueError(f"{name}: the command's token ids are not those of the bare loop")
            sides = {"encode": encoding, "bench": sides_of_bench(model, name, images, args.batch)}
            measured = {work: in_turns(sides[work], args.rounds) for work in args.work}
            rows.append({"model": name, "images": len(images), "batch": args.batch, **measured})
            print(f"{name}, {len(images):,} images")
            for told in measured.values():
                for side, each in told.items():
                    print(f"  {side:22}{median(each['cpu_s']):8.2f} s CPU, share {each['share']:.3f} "
                          f"({each['least']:.3f} to {each['most']:.3f})", flush=True)  # fmt: skip
    if args.out:
        write_json(args.out, {"processor": processor(torch.device("cpu")), "torch": torch.__version__, "rows": rows})


if __name__ == "__main__":
    main()
