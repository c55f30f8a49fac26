"""Seconds of a training step on one CPU core: precision, the way of attention, compiled blocks, one length a batch.

    OMP_NUM_THREADS=1 python benchmarks/scripts/cpu_step.py flextok/scenes-64 --batch 128 -o cpu-step.json

Variants take turns in one process, so that other work on the machine falls on all of them; seconds are those that the
processor spent, and of each variant the best of `--repeats` rounds of `--steps` steps counts. `bf16, torch's attention`
is bf16 without `flexframe.nn.attention`, which sends short sequences back through fp32.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import process_time
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from flexframe.files import write_json
from flexframe.models.tokenizer import Tokenizer
from flexframe.nn import attention
from flexframe.provenance import processor
from flexframe.rng import Rng
from flexframe.tokens import Batch
from flexframe.train.sharding import compiled as compile_blocks
from flexframe_registry.cards import card


@contextmanager
def plain_attention(on: bool) -> Iterator[None]:
    """Attention as torch does it, where `on`: no sequence counts as short."""
    short = attention.SHORT
    attention.SHORT = 0 if on else short
    try:
        yield
    finally:
        attention.SHORT = short


def stepper(config: Any, batch: int, bf16: bool, compiled: bool, plain: bool) -> Callable[[int], None]:
    """A function that trains a new model for the step of a number, on made-up latents."""
    torch.manual_seed(0)
    model = Tokenizer(config).train()
    if compiled:
        compile_blocks(model)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), 1e-4, fused=True)
    of = model.spec.latents
    latents, rows = torch.randn(batch, of.channels, of.height, of.width), torch.arange(batch)

    def step(number: int) -> None:
        with plain_attention(plain), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            out = model(Batch(rows, latents=latents), rng=Rng(0, rows, number))
            loss = torch.stack([value.float().mean() for value in out.losses.values()]).sum()
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    """Measure the variants, print them beside the first, and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("card")
    parser.add_argument("--batch", type=int, default=248)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("-o", "--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    whole, each = ([f"masker={{type: pow2, whole_batch: {on}}}"] for on in ("true", "false"))
    configs = {
        on: card(args.card).train([*masker, "run.data=digits"]).model for on, masker in ((True, whole), (False, each))
    }
    variants = {
        "fp32": stepper(configs[False], args.batch, False, False, False),
        "bf16, torch's attention": stepper(configs[False], args.batch, True, False, True),
        "bf16": stepper(configs[False], args.batch, True, False, False),
        "bf16, compiled": stepper(configs[False], args.batch, True, True, False),
        "bf16, compiled, one length a batch": stepper(configs[True], args.batch, True, True, False),
    }
    best = dict.fromkeys(variants, float("inf"))
    for number in range(24):  # every length has been met, and is compiled
        variants["bf16, compiled, one length a batch"](number)
    for step in variants.values():
        step(0)
    for _ in range(args.repeats):
        for name, step in variants.items():
            started = process_time()
            for number in range(args.steps):
                step(number)
            best[name] = min(best[name], (process_time() - started) / args.steps)
    table = Table("variant", "s a step", "images/s", "of fp32", box=None)
    for name, seconds in best.items():
        table.add_row(name, f"{seconds:.3f}", f"{args.batch / seconds:,.0f}", f"{seconds / best['fp32']:.2f}")
    name = processor(torch.device("cpu"))
    Console().print(table, f"{name}, torch {torch.__version__}, Python {platform.python_version()}")
    if args.out:
        about = {"card": args.card, "batch": args.batch, "torch": torch.__version__, "processor": name}
        write_json(args.out, {**about, "seconds_a_step": best})


if __name__ == "__main__":
    main()
