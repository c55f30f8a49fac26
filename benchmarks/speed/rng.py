"""Draws of the counter-based generator against torch's own, in CPU time, and whether they are the values they were.

    python benchmarks/speed/rng.py -o benchmarks/results/speed/rng.json

`operators` is the same Philox in torch's operators, as on a GPU and as it was on the CPU until 2026-11-30. All three
take turns in one process; what is drawn is compared to the bit.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path
from statistics import median, quantiles
from time import process_time
from typing import Any

import torch
from torch import Tensor

from flexframe.files import write_json
from flexframe.provenance import processor
from flexframe.rng import Rng

SHAPES = (32,), (32, 64), (64, 256, 8), (32, 3, 64, 64), (8, 3, 256, 256)


class Operators(Tensor):
    """A tensor whose draws go through torch's operators."""


def in_turns(sides: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each side, one round after the other; the first round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, call in sides.items():
            begun = process_time()
            call()
            if number:
                seconds[name].append(process_time() - begun)
    return seconds


def drawn(rng: Rng, kind: str, shape: Sequence[int]) -> Tensor:
    """One draw of a kind."""
    if kind == "integers":
        return rng.integers("a", 1000, shape)
    return rng.normal("a", shape) if kind == "normal" else rng.uniform("a", shape)


def row(kind: str, shape: Sequence[int], rounds: int) -> dict[str, Any]:
    """Measure one kind of draw at one shape.

    Raises:
        ValueError: both ways of drawing differ.
    """
    index = torch.arange(shape[0])
    here, plain = Rng(1, index, 7), Rng(1, index.as_subclass(Operators), 7)
    if not torch.equal(drawn(here, kind, shape[1:]), drawn(plain, kind, shape[1:]).as_subclass(Tensor)):
        raise ValueError(f"{kind} of {tuple(shape)}: other values than by torch's operators")
    own = {"normal": lambda: torch.randn(*shape), "uniform": lambda: torch.rand(*shape)}
    sides: dict[str, Callable[[], object]] = {
        "flexframe": lambda: drawn(here, kind, shape[1:]),
        "operators": lambda: drawn(plain, kind, shape[1:]),
        "torch": own.get(kind, lambda: torch.randint(1000, tuple(shape))),
    }
    seconds = in_turns(sides, rounds)
    of = {name: median(each) for name, each in seconds.items()}
    return {
        "draw": kind,
        "shape": list(shape),
        "ns_a_value": {name: round(1e9 * value / prod(shape), 2) for name, value in of.items()},
        "quartiles_ns": {n: [round(1e9 * q / prod(shape), 2) for q in quantiles(s)[::2]] for n, s in seconds.items()},
        "ratio": round(of["flexframe"] / of["torch"], 2),
        "ratio_operators": round(of["operators"] / of["torch"], 2),
        "equal": True,
    }


def main() -> None:
    """Measure, print and write the file, if one is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("-o", "--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row(kind, shape, args.rounds) for kind in ("normal", "uniform", "integers") for shape in SHAPES]
    for each in rows:
        times = ", ".join(f"{name} {value} ns" for name, value in each["ns_a_value"].items())
        print(f"{each['draw']:9}{each['shape']!s:20}{times}; {each['ratio']} of torch's, was {each['ratio_operators']}")
    if args.out:
        about = {"torch": torch.__version__, "processor": processor(torch.device("cpu")), "threads": 1}
        write_json(args.out, {**about, "rows": rows})


if __name__ == "__main__":
    main()
