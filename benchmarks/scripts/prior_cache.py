"""Speed of the prior `gpt` with its key-value cache and without, side by side.

    OMP_NUM_THREADS=1 python benchmarks/scripts/prior_cache.py

Prints one JSON line: seconds that the processor spent on each, their ratio, and whether the codes are equal. The two
take turns, `--repeats` times; the best of each counts.
"""

from __future__ import annotations

import argparse
import json
from time import process_time

import torch

from flexframe.models.generator import Generator
from flexframe.provenance import processor
from flexframe_registry import GeneratorConfig


def seconds(generator: Generator, labels: torch.Tensor, cache: bool) -> tuple[float, torch.Tensor]:
    """Measure processor seconds of drawing codes for these labels; also returns the codes, `b k q`."""
    started = process_time()
    sampled = generator.sample(labels, sampling={"cache": cache})
    return process_time() - started, sampled.codes


def main() -> None:
    """Time the prior with its cache and without, in turns, and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("width", 512), ("depth", 8), ("tokens", 256), ("batch", 4), ("codes", 1024), ("repeats", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    torch.manual_seed(0)
    prior = {"type": "gpt", "width": args.width, "depth": args.depth, "heads": args.width // 64}
    raw = {"length": args.tokens, "codebook_size": args.codes, "classes": 10, "prior": prior}
    generator = Generator(GeneratorConfig.read(raw)).eval()
    for head in generator.prior.heads:
        torch.nn.init.normal_(head.weight, std=0.1)
    labels = torch.arange(args.batch) % 10
    laps: dict[bool, list[float]] = {True: [], False: []}
    codes = {}
    for _ in range(args.repeats):
        for cache in (True, False):
            lap, codes[cache] = seconds(generator, labels, cache)
            laps[cache].append(lap)
    best = {cache: min(times) for cache, times in laps.items()}
    results = {"cached_s": best[True], "uncached_s": best[False], "ratio": best[False] / best[True]}
    equal = bool(torch.equal(codes[True], codes[False]))
    machine = {"threads": torch.get_num_threads(), "torch": torch.__version__, "processor": processor(labels.device)}
    print(json.dumps({**vars(args), **{k: round(v, 2) for k, v in results.items()}, "codes_equal": equal, **machine}))


if __name__ == "__main__":
    main()
