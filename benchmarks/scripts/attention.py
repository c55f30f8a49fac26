"""The register encoder's attention, SDPA with a mask against FlexAttention, forward and backward, side by side.

    python benchmarks/scripts/attention.py --device cuda --batch 64 --heads 12

Prints the median milliseconds of each and their ratio. FlexAttention has no backward on the CPU; there it is left out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from flexframe_flextok.encoder import causal_registers


def milliseconds(run: Callable[[], Tensor], inputs: list[Tensor], repeats: int, device: torch.device) -> float:
    """Median time of a forward and a backward pass, after a fifth as many that warm up."""
    laps = []
    for i in range(repeats + max(3, repeats // 5)):
        started = perf_counter()
        torch.autograd.grad(run().sum(), inputs)
        if device.type == "cuda":
            torch.cuda.synchronize()
        laps.append((i, perf_counter() - started))
    return 1000 * median(lap for i, lap in laps if i >= len(laps) - repeats)


def main() -> None:
    """Time both forms of attention and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--patches", type=int, default=256)
    parser.add_argument("--registers", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=50)
    args = parser.parse_args()
    device = torch.device(args.device)
    length = args.patches + args.registers
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    make = lambda: torch.randn(args.batch, args.heads, length, 64, device=device, dtype=dtype, requires_grad=True)  # noqa: E731
    q, k, v = make(), make(), make()
    mask = causal_registers(args.patches, args.registers, device)
    timings = {
        "sdpa_ms": milliseconds(
            lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask), [q, k, v], args.repeats, device
        )
    }
    if device.type == "cuda":
        block = create_block_mask(
            lambda _b, _h, i, j: (j < args.patches) | (j <= i), None, None, length, length, device=args.device
        )
        compiled = torch.compile(flex_attention)
        difference = (compiled(q, k, v, block_mask=block) - F.scaled_dot_product_attention(q, k, v, mask)).abs().max()
        timings["flex_ms"] = milliseconds(lambda: compiled(q, k, v, block_mask=block), [q, k, v], args.repeats, device)
        timings["sdpa_over_flex"] = timings["sdpa_ms"] / timings["flex_ms"]
        timings["largest_difference"] = float(difference)
    print(json.dumps({**vars(args), "torch": torch.__version__, **timings}))


if __name__ == "__main__":
    main()
