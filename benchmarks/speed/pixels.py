"""TiTok's pixel decoder, and what is left of it to win: the folded doubling against the plain one, and a profile.

    taskset -c 0 python benchmarks/speed/pixels.py -o pixels.json

Both sides are one network of random weights (30.5 M parameters, 16 x 16 codes to 256 pixels) in one process with one
thread, in turns, in CPU time; the error is against float64, as a share of the largest value. The profile is of the
folded side. `product` is the rate of a plain float32 matrix product of the network's most frequent size: no convolution
in float32 gets beyond it by much on the same units. The last row is the plain side in `channels_last`, which is quicker
and not taken: its group norm loses digits (findings/torch-group-norm-channels-last-on-cpu.sh).
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from flexframe.files import write_json
from flexframe.nn import convolutional
from flexframe.nn.convolutional import ConvDecoder
from flexframe.provenance import processor

NEVER = 1 << 62


def took(run: Callable[[], Any]) -> float:
    """CPU seconds."""
    started = process_time()
    run()
    return process_time() - started


def at(cells: int, net: ConvDecoder, codes: Tensor) -> Tensor:
    """The network's pixels with doubling folded from so many cells on."""
    before, convolutional.FOLDED = convolutional.FOLDED, cells
    pixels: Tensor = net(codes)
    convolutional.FOLDED = before
    return pixels


@torch.no_grad()
def measured(batch: int, rounds: int) -> dict[str, Any]:
    """Times and errors of a batch."""
    torch.manual_seed(0)
    net, codes = ConvDecoder(256, 128, (1, 1, 2, 2, 4), 2, 3).eval(), torch.randn(batch, 256, 16, 16)
    last = codes.contiguous(memory_format=torch.channels_last)
    sides = {
        "plain": lambda: at(NEVER, net, codes),
        "folded": lambda: at(convolutional.FOLDED, net, codes),
        "channels_last": lambda: at(NEVER, net, last),
    }
    truth = copy.deepcopy(net).double()(codes.double())
    spent: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, run in sides.items():
            seconds = took(run)
            if number:
                spent[name].append(seconds)
    told: dict[str, Any] = {"batch": batch}
    for name, run in sides.items():
        ratios = [own / base for own, base in zip(spent[name], spent["plain"], strict=True)]
        error = float((run().double() - truth).abs().max() / truth.abs().max())
        told[name] = {"s": round(median(spent[name]), 3), "share": round(median(ratios), 3),
                      "least": round(min(ratios), 3), "most": round(max(ratios), 3), "error": error}  # fmt: skip
        print(f"batch {batch}, {name:14}{told[name]}", flush=True)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        sides["folded"]()
    events = [(event.key, event.self_cpu_time_total) for event in seen.key_averages()]
    whole = sum(time for _, time in events)
    told["profile"] = {name: round(time / whole, 3) for name, time in sorted(events, key=lambda e: -e[1])[:6]}
    print(f"batch {batch}, profile {told['profile']}")
    return told


def rates() -> dict[str, float]:
    """GFLOP/s of a 3x3 convolution of 128 channels at 256 pixels, and of the matrix product of its size."""
    conv, x = torch.nn.Conv2d(128, 128, 3, padding=1, bias=False), torch.randn(1, 128, 256, 256)
    a, b = torch.randn(256 * 256, 9 * 128), torch.randn(9 * 128, 128)
    work = 2 * 256 * 256 * 9 * 128 * 128 / 1e9
    with torch.no_grad():
        return {"convolution": work / min(took(lambda: conv(x)) for _ in range(5)),
                "product": work / min(took(lambda: a @ b) for _ in range(5))}  # fmt: skip


def main() -> None:
    """Measure, print and write the file, if one is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("-o", "--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = {"processor": processor(torch.device("cpu")), "torch": torch.__version__,
             "GFLOP/s": {name: round(rate, 1) for name, rate in rates().items()},
             "rows": [measured(batch, args.rounds) for batch in args.batch]}  # fmt: skip
    print(found["GFLOP/s"])
    if args.out:
        write_json(args.out, found)


if __name__ == "__main__":
    main()
