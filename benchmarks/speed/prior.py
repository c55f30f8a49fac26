"""Milliseconds a token of the prior `gpt` and of transformers' Llama with the same weights, in turns in one process.

    taskset -c 1 python benchmarks/speed/prior.py --compile -o benchmarks/results/speed/prior.json

Both draw the likeliest codes, and these must be equal: the class comes first, positions are rotated, weights are the
same. Llama goes by `generate`, with its static and its dynamic cache. It is the time that the processor spent; a draw
is timed as a whole, with all that it prepares. `matrices` are the bare products of one step's vectors with all weights
of the blocks and of the head, as they lie in the model and as the prior lays them for a draw: below the latter no step
can be. On a GPU (`--device cuda`) it is the time by the clock.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter, process_time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM
from transformers import __version__ as transformers_version

from flexframe.files import write_json
from flexframe.models.generator import Generator
from flexframe.provenance import processor
from flexframe_priors.steps import WORTH, laid
from flexframe_registry import GeneratorConfig

CLASSES = 10


def ours(args: argparse.Namespace) -> Generator:
    """A prior with random weights, large enough ones for codes that differ."""
    torch.manual_seed(0)
    prior = {"type": "gpt", "width": args.width, "depth": args.depth, "heads": args.width // 64, "positions": "rope"}
    raw = {"length": max(args.tokens), "codebook_size": args.codes, "classes": CLASSES, "prior": prior}
    model = Generator(GeneratorConfig.read(raw)).eval()
    for p in model.parameters():
        if p.ndim == 2:
            nn.init.normal_(p, std=p.shape[1] ** -0.5)
    return model.to(args.device, getattr(torch, args.dtype))


def llama(generator: Generator, args: argparse.Namespace) -> LlamaForCausalLM:
    """The same model by transformers: classes are ids behind the codes, of which no logits are made."""
    prior = generator.prior
    config = LlamaConfig(
        vocab_size=args.codes + CLASSES + 1, hidden_size=args.width, intermediate_size=8 * args.width // 3,
        num_hidden_layers=args.depth, num_attention_heads=args.width // 64, rms_norm_eps=1e-5,
        max_position_embeddings=1 + max(args.tokens), tie_word_embeddings=False, eos_token_id=None, bos_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    model.lm_head = nn.Linear(args.width, args.codes, bias=False)
    weights = {
        "model.embed_tokens.weight": torch.cat([prior.embeddings[0].weight, prior.classes.weight]),
        "model.norm.weight": prior.norm.weight,
        "lm_head.weight": prior.heads[0].weight,
    }
    for i, block in enumerate(prior.blocks):
        parts = {
            "input_layernorm": block.norm1.weight,
            "post_attention_layernorm": block.norm2.weight,
            **{f"self_attn.{n}_proj": each for n, each in zip("qkv", block.attn.qkv.weight.chunk(3), strict=True)},
            "self_attn.o_proj": block.attn.proj.weight,
            **{f"mlp.{n}_proj": each for n, each in zip(("gate", "up"), block.fc1.weight.chunk(2), strict=True)},
            "mlp.down_proj": block.fc2.weight,
        }
        weights |= {f"model.layers.{i}.{name}.weight": each for name, each in parts.items()}
    model.load_state_dict(weights)
    return model.to(args.device, getattr(torch, args.dtype))


def matrices(modules: nn.Module, batch: int, device: torch.device) -> Callable[[], None]:
    """Bare products of vectors with all matrices."""
    weights = [p for p in modules.parameters() if p.ndim == 2]
    vectors = {w.shape[1]: torch.randn(batch, w.shape[1], device=device, dtype=w.dtype) for w in weights}

    @torch.inference_mode()
    def products() -> None:
        for weight in weights:
            F.linear(vectors[weight.shape[1]], weight)

    return products


def sides(args: argparse.Namespace, batch: int, tokens: int) -> Mapping[str, tuple[Callable[[], Any], int]]:
    """Calls that take turns, and how many steps each is."""
    prior = ours(args)
    other = llama(prior, args)
    labels = torch.arange(batch, device=args.device) % CLASSES
    ids = (args.codes + labels)[:, None]

    def by_llama(cache: str) -> Tensor:
        found = other.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False,
            cache_implementation=cache, pad_token_id=0,
        )  # fmt: skip
        return found[:, 1:]

    def by_prior(compiled: bool) -> Tensor:
        return prior.sample(labels, lengths=tokens, sampling={"temperature": 0, "compile": compiled}).codes[..., 0]

    expected = by_prior(False)
    if args.compile and not torch.equal(by_prior(True), expected):
        raise SystemExit(f"batch {batch}, {tokens} tokens: the compiled step draws other codes")
    for cache in args.caches:
        if not torch.equal(by_llama(cache), expected):
            raise SystemExit(f"batch {batch}, {tokens} tokens: Llama with its {cache} cache draws other codes")
    blocks = nn.ModuleList([prior.prior.blocks, prior.prior.heads])
    return {
        "flexframe": (partial(by_prior, False), tokens),
        **({"compiled": (partial(by_prior, True), tokens)} if args.compile else {}),
        **{cache: (partial(by_llama, cache), tokens) for cache in args.caches},
        "matrices": (matrices(blocks, batch, labels.device), 1),
        "matrices_laid": (matrices(laid(blocks, batch, WORTH), batch, labels.device), 1),
    }


def clock(device: str) -> float:
    """Seconds: of the processor, or by the clock once a GPU has done its work."""
    if device == "cpu":
        return process_time()
    torch.cuda.synchronize()
    return perf_counter()


def row(args: argparse.Namespace, batch: int, tokens: int) -> dict[str, Any]:
    """Measure one batch and length."""
    calls = sides(args, batch, tokens)
    laps: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(args.rounds):
        for name, (call, steps) in calls.items():
            for _ in range(10 if steps == 1 else 1):
                begun = clock(args.device)
                call()
                laps[name].append(1000 * (clock(args.device) - begun) / steps)
    of = {name: median(each) for name, each in laps.items()}
    ways = [way for way in ("flexframe", "compiled") if way in of]
    return {
        "batch": batch,
        "tokens": tokens,
        "ms_a_token": {name: round(value, 3) for name, value in of.items()},
        "quartiles_ms": {name: [round(q, 3) for q in quantiles(each)[::2]] for name, each in laps.items()},
        **{f"{cache}_by_{way}": round(of[cache] / of[way], 2) for way in ways for cache in args.caches},
        **{f"{way}_by_matrices_laid": round(of[way] / of["matrices_laid"], 2) for way in ways},
        "load": round(os.getloadavg()[0], 1),
        "codes_equal": True,
    }


def main() -> None:
    """Measure, print and write the file, if one is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[256, 32])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    for name, value in (("width", 512), ("depth", 8), ("codes", 1024), ("rounds", 7)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--caches", nargs="+", default=["static", "dynamic"])
    parser.add_argument("--compile", action="store_true", help="ours with its step compiled, too")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("-o", "--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    about = {"processor": processor(torch.device(args.device)), "torch": torch.__version__, "threads": 1,
             "transformers": transformers_version, "width": args.width, "depth": args.depth, "codes": args.codes,
             "dtype": args.dtype}  # fmt: skip
    rows: list[dict[str, Any]] = []
    for tokens in args.tokens:
        for batch in args.batch:
            rows.append(row(args, batch, tokens))
            print(rows[-1], flush=True)
            if args.out:
                write_json(args.out, {**about, "rows": rows})


if __name__ == "__main__":
    main()
