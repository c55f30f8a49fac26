"""Time of FlexTok's guided decoding against 25 Euler steps of a conditional and a null pass over all registers.

    OMP_NUM_THREADS=1 python benchmarks/scripts/decode.py flextok/d12-d12 --tokens 256 8 --batch 1 4 --steps 10

That is what the reference implementation does. It is not run here: our own decoder stands for it, with every absent
register computed and null rows in one batch with the others, as it was when it was measured beside the reference
(`AS_THEN`). All evaluations of an integration cost the same, so one of each side is timed, in turns, and multiplied by
the number of evaluations. Random weights: no error is measured here; `solvers.py` does that on trained ones. Prints a
JSON line for each token count and batch: processor seconds of an evaluation (median and spread), the ratio of whole
integrations, and the largest difference of one evaluation's velocities, relative to their deviation.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from time import perf_counter, process_time
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from flexframe.models.tokenizer import Tokenizer
from flexframe.provenance import processor
from flexframe.testing.checks import redraw_zeros
from flexframe.tokens import Tokens, prefix
from flexframe_flextok import FlowSampling
from flexframe_flextok import decoder as module
from flexframe_registry import TokenizerConfig, cards

REFERENCE_STEPS = 25
AS_THEN = {1: 0.96, 4: 0.71}
"""Share of the reference's time that our decoder of 2026-11-23 took, by batch (d12-d12, a CPU core)."""


@contextmanager
def as_then() -> Iterator[None]:
    """Every register is computed, in one batch."""
    with patch.object(module, "STAND_INS", 10**9):  # so none stands for others, and null rows spare nothing
        yield


def lap(decoder: module.FlowDecoder, tokens: Tokens, noise: Tensor) -> tuple[float, Tensor]:
    """Seconds of one guided evaluation, of the processor on a CPU, and its velocity."""
    cuda = noise.is_cuda
    clock = perf_counter if cuda else process_time
    if cuda:
        torch.cuda.synchronize()
    started = clock()
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, enabled=cuda):
        data = decoder.integrate(tokens, noise, FlowSampling(steps=1, guidance=7.5))
    if cuda:
        torch.cuda.synchronize()
    return clock() - started, noise - data  # one step from noise to data is the velocity at t = 1


def compare(decoder: module.FlowDecoder, whole: Tokens, count: int, noise: Tensor, repeats: int) -> dict[str, Any]:
    """Seconds of both sides on the first `count` of the tokens, in turns, and how far their velocities are apart."""
    given = Tokens(whole.values, prefix(torch.full_like(whole.keep[:, 0], count, dtype=torch.long),
                                        whole.keep.shape[1]), whole.codes)  # fmt: skip
    laps: dict[str, list[float]] = {"reference": [], "ours": []}
    for _ in range(repeats):
        with as_then():
            seconds, expected = lap(decoder, given, noise)
        laps["reference"].append(seconds)
        seconds, found = lap(decoder, given.truncate(count), noise)
        laps["ours"].append(seconds)
    facts = {f"{side}_s": [round(each(seconds), 4) for each in (median, min, max)] for side, seconds in laps.items()}
    off = ((found - expected).abs().max() / expected.std()).item()
    return {**facts, "ratio": median(laps["reference"]) / median(laps["ours"]), "difference": float(f"{off:.1e}")}


def main() -> None:
    """Time both sides for each batch and token count, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("card", nargs="?", default="flextok/d12-d12")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--tokens", type=int, nargs="+", default=[256, 8])
    parser.add_argument("--steps", type=int, default=10, help="evaluations of ours, enough by solvers.py")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    raw = cards().get(args.card).model.model_dump(mode="json")
    raw["codec"] = {"type": "identity", "channels": 16, "downsample": 8, "range": None}  # the decoder alone is timed
    torch.manual_seed(0)
    device = torch.device(args.device)
    model = Tokenizer(TokenizerConfig.read(raw)).eval()
    redraw_zeros(model)
    decoder = model.to(device).decoder
    assert isinstance(decoder, module.FlowDecoder)
    spec = model.spec
    machine = {"threads": torch.get_num_threads(), "torch": torch.__version__, "processor": processor(device)}
    for batch in args.batch:
        drawn = torch.Generator().manual_seed(batch)
        values = torch.randn(batch, spec.tokens.length, spec.tokens.dim, generator=drawn).to(device)
        noise = torch.randn(batch, spec.latents.channels, spec.latents.height, spec.latents.width, generator=drawn)
        ids = torch.zeros(batch, spec.tokens.length, 1, dtype=torch.long, device=device)
        whole = Tokens(values, torch.ones_like(ids[..., 0], dtype=torch.bool), ids)
        for count in args.tokens:
            facts = compare(decoder, whole, count, noise.to(device), args.repeats)
            facts["ratio"] = round(facts["ratio"] * REFERENCE_STEPS / args.steps, 2)
            if args.card == "flextok/d12-d12" and device.type == "cpu" and batch in AS_THEN:
                facts["ratio_to_the_reference"] = round(facts["ratio"] / AS_THEN[batch], 2)
            own = {"card": args.card, "batch": batch, "tokens": count, "evaluations": [REFERENCE_STEPS, args.steps]}
            print(json.dumps({**own, **facts, **machine}), flush=True)


if __name__ == "__main__":
    main()
