"""A checkpoint's memory beyond what is there, and the seconds that training waits for it.

    taskset -c 0 python benchmarks/scripts/save.py --gigabytes 0.5 -o benchmarks/results/speed/save.json

Saves a FlexTok whose weights, average and moments come to so many gigabytes. `copies` is how checkpoints were written
until 2026-11-30: copies of all, written, read again and hashed. Both take turns in one process; memory is Linux's own
mark of the most that was resident.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from flexframe.files import BLANK, seal, sha256, sync, write_json
from flexframe.provenance import processor
from flexframe.train import checkpoint
from flexframe.train.run import Run
from flexframe_registry.cards import card
from flexframe_registry.runfolder import EMA, OPTIMIZER, TRAINEE

BLOCK = 18 * 512**2 * 16
"""Bytes of a checkpoint that a block of the decoder takes."""


def most(reset: bool = False) -> float:
    """The most mebibytes that were resident since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    line = next(each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def by_copies(run: Run, folder: Path) -> None:
    """Write what a checkpoint holds as it was written before."""
    folder.mkdir(exist_ok=True)
    looked_at = [*run.trainee.state_dict().values(), *checkpoint.optimizer_tensors(run.optimizer).values()]
    for value in [*looked_at, *run.exported().values(), *run.exported().values()]:
        value.isfinite().all()
    moments = {name: value.clone() for name, value in checkpoint.optimizer_tensors(run.optimizer).items()}
    save_file(dict(run.trainee.state_dict()), folder / TRAINEE)
    save_file(moments, folder / OPTIMIZER)
    averaged = {name: value.contiguous().clone() for name, value in run.exported().items()}
    save_file(averaged, folder / EMA, metadata={"flexframe": json.dumps({}), **BLANK})
    seal(folder / EMA)
    for path in folder.iterdir():
        sha256(path)
        sync(path)


def measured(call: Callable[[], Any]) -> dict[str, float]:
    """Seconds and memory of one save."""
    before, cpu, wall = most(reset=True), process_time(), perf_counter()
    call()
    return {"cpu_s": process_time() - cpu, "wall_s": perf_counter() - wall, "mib_beyond": most() - before}


def main() -> None:
    """Measure, compare what was written, print and write the file, if one is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=0.3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-o", "--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    depth = max(1, round(args.gigabytes * 1e9 / BLOCK))
    settings = [f"decoder={{type: flow, width: 512, depth: {depth}}}", "run.steps=2"]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        run = Run.create(card("flextok/digits-tiny").train(settings), folder / "run", torch.device("cpu"), {})
        for p in run.trainee.parameters():
            p.grad = torch.ones_like(p)
        run.optimizer.step()
        run.optimizer.zero_grad()
        ways = {"copies": lambda: by_copies(run, folder / "copies"), "flexframe": run.save}
        laps: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
        for _ in range(args.rounds):
            for name, save in ways.items():
                laps[name].append(measured(save))
        saved = run.paths.checkpoint(run.step)
        size = sum(path.stat().st_size for path in saved.iterdir())
        for file in (TRAINEE, OPTIMIZER, EMA):
            one, other = load_file(folder / "copies" / file), load_file(saved / file)
            if one.keys() != other.keys() or not all(torch.equal(value, other[name]) for name, value in one.items()):
                raise ValueError(f"both ways of saving wrote other tensors in {file}")
        largest = max(value.numel() * value.element_size() for value in run.average.state.values())
        run.close()
    rows = {
        name: {key: [round(value, 3) for value in sorted(each[key] for each in some)] for key in some[0]}
        for name, some in laps.items()
    }
    facts = {"bytes": size, "largest_tensor_mib": round(largest / 2**20, 2), "rounds": rows, "equal": True}
    for name, row in rows.items():
        print(f"{name}: {', '.join(f'{key} {median(values):.2f} {values}' for key, values in row.items())}")
    print(f"{size / 1e9:.2f} GB, largest tensor {largest / 2**20:.1f} MiB")
    if args.out:
        about = {"torch": torch.__version__, "processor": processor(torch.device("cpu")), "threads": 1}
        write_json(args.out, {**about, **facts})


if __name__ == "__main__":
    main()
