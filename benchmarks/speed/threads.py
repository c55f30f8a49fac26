"""Milliseconds of a model's passes and training steps by the number of threads, alone and beside a busy processor.

    python benchmarks/speed/threads.py -o benchmarks/results/speed/threads.json

Random weights and made-up latents; codecs are left out. A pass is a forward without gradients: encoder, quantizer, one
evaluation of the decoder. Numbers of threads take turns in one process; it is the time by the clock that counts here,
and what else the machine does (`load`, of the last minute) falls on all of them. `beside`: as many processes that count
for ever as are named.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Any

import torch

from flexframe.files import write_json
from flexframe.models.tokenizer import Tokenizer
from flexframe.provenance import processor
from flexframe.rng import Rng
from flexframe.threads import cores
from flexframe.tokens import Batch
from flexframe_registry import TokenizerConfig, cards

MODELS = {"flextok/digits-tiny": 16, "titok/digits-tiny": 16, "flextok/scenes-64": 8, "flextok/d12-d12": 1}
"""Cards, and images a batch."""


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Beside so many processes that have no end of work."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for each in started:
            each.kill()
            each.wait()


def works(name: str, batch: int) -> tuple[int, Mapping[str, Callable[[], object]]]:
    """A card's model at random: its number of parameters, a pass, and a training step."""
    raw = cards().get(name).model.model_dump(mode="json")
    config = TokenizerConfig.read(raw)
    of = config.codec.latents(*config.image_size)
    smaller = config.image_size[0] // of.height
    raw["codec"] = {"type": "identity", "channels": of.channels, "downsample": smaller, "range": None}
    torch.manual_seed(0)
    model = Tokenizer(TokenizerConfig.read(raw)).train()
    rows = torch.arange(batch)
    data = Batch(rows, latents=torch.randn(batch, of.channels, of.height, of.width))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)

    def one_pass() -> None:
        with torch.no_grad():
            model(data, rng=Rng(0, rows, 0))

    def step() -> None:
        out = model(data, rng=Rng(0, rows, 0))
        torch.stack([value.mean() for value in out.losses.values()]).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return sum(each.numel() for each in model.parameters()), {"pass": one_pass, "step": step}


def laps(call: Callable[[], object], threads: list[int], rounds: int) -> dict[int, list[float]]:
    """Milliseconds of each round by number of threads; the first round is not counted."""
    found: dict[int, list[float]] = {number: [] for number in threads}
    for lap in range(rounds + 1):
        for number in threads:
            torch.set_num_threads(number)
            begun = perf_counter()
            call()
            if lap:
                found[number].append(1000 * (perf_counter() - begun))
    return found


def main() -> None:
    """Measure, print and write the file, if one is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cards", nargs="*", default=list(MODELS))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, cores()])
    parser.add_argument("--beside", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("-o", "--out", type=Path)
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    about = {"processor": processor(torch.device("cpu")), "cores": cores(), "torch": torch.__version__}
    for name in args.cards:
        parameters, calls = works(name, MODELS.get(name, 1))
        for beside in args.beside:
            with busy(beside):
                for what, call in calls.items():
                    found = laps(call, args.threads, args.rounds if parameters < 1e8 else max(2, args.rounds // 3))
                    times = {number: round(median(each), 2) for number, each in found.items()}
                    spread = {number: [round(q, 2) for q in quantiles(each)[::2]] for number, each in found.items()}
                    own = {"card": name, "parameters": parameters, "work": what, "beside": beside}
                    rows.append({**own, "load": round(os.getloadavg()[0], 1), "ms": times, "quartiles_ms": spread})
                    print(f"{name:22}{parameters / 1e6:8.2f} M  {what} beside {beside}: {times} {spread}", flush=True)
                    if args.out:  # after each: beside much else, the last may be long in coming
                        write_json(args.out, {**about, "rows": rows})


if __name__ == "__main__":
    main()
