"""Speed of FlexTok on few tokens where a few registers stand for all absent ones (docs/adr/0016).

    OMP_NUM_THREADS=1 python benchmarks/scripts/few_tokens.py

Decodes the same tokens with every absent register computed and with the stand-ins, in turns; random weights. Prints a
JSON line for each token count: seconds of each (best of `--repeats`; the processor's on a CPU), their ratio, and the
largest difference between the two latents relative to their standard deviation.
"""

from __future__ import annotations

import argparse
import json
from time import perf_counter, process_time

import torch
from torch import Tensor

from flexframe.models.tokenizer import Tokenizer
from flexframe.provenance import processor
from flexframe.rng import Rng
from flexframe.testing.checks import redraw_zeros
from flexframe.tokens import Tokens, prefix
from flexframe_registry import TokenizerConfig, cards


def decode(model: Tokenizer, tokens: Tokens, steps: int, device: torch.device) -> tuple[float, Tensor]:
    """Seconds and latents of one call."""
    latents = model.spec.latents
    rng = Rng(0, torch.arange(len(tokens), device=device))
    settings = model.config.decoder.sampling(steps=steps)
    cuda = device.type == "cuda"
    clock = perf_counter if cuda else process_time
    if cuda:
        torch.cuda.synchronize()
    started = clock()
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=cuda):
        latents_drawn = model.decoder.decode(
            tokens, condition=None, size=(latents.height, latents.width), rng=rng, sampling=settings
        )
    if cuda:
        torch.cuda.synchronize()
    return clock() - started, latents_drawn.float()


def main() -> None:
    """Time both ways of decoding at each token count and print a JSON line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--card", default="flextok/d12-d12")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 16, 64, 128])
    args = parser.parse_args()
    raw = cards().get(args.card).model.model_dump(mode="json")
    if args.card.startswith("flextok/d"):  # the decoder alone is timed: no codec is needed for it
        raw["codec"] = {"type": "identity", "channels": 16, "downsample": 8, "range": None}
    torch.manual_seed(0)
    device = torch.device(args.device)
    model = Tokenizer(TokenizerConfig.read(raw)).eval()
    redraw_zeros(model)
    model.to(device)
    spec = model.spec.tokens
    values = torch.randn(args.batch, spec.length, spec.dim, generator=torch.Generator().manual_seed(1)).to(device)
    for count in args.tokens:
        keep = prefix(torch.full((args.batch,), count, device=device), spec.length)
        whole = Tokens(values, keep, torch.zeros(args.batch, spec.length, 1, dtype=torch.long, device=device))
        ways = {"all": whole, "stand_ins": whole.truncate(count)}
        laps: dict[str, list[float]] = {name: [] for name in ways}
        latents = {}
        for _ in range(args.repeats):
            for name, tokens in ways.items():
                lap, latents[name] = decode(model, tokens, args.steps, device)
                laps[name].append(lap)
        best = {name: min(times) for name, times in laps.items()}
        off = (latents["all"] - latents["stand_ins"]).abs().max() / latents["all"].std()
        facts = {f"{name}_s": round(lap, 4) for name, lap in best.items()}
        facts |= {"ratio": round(best["all"] / best["stand_ins"], 2), "largest_difference": float(f"{off.item():.1e}")}
        machine = {"threads": torch.get_num_threads(), "torch": torch.__version__, "processor": processor(device)}
        own = {"card": args.card, "batch": args.batch, "steps": args.steps, "tokens": count}
        print(json.dumps({**own, **facts, **machine}), flush=True)


if __name__ == "__main__":
    main()
