"""Errors of solvers and step schedules of a flow decoder, at equal numbers of model evaluations.

    OMP_NUM_THREADS=1 python benchmarks/scripts/solvers.py flextok/scenes-64 --tokens 4 32 -o out/solvers

Encodes images of a suite, decodes the same tokens from the same noise with each way of integrating, and compares with
an integration in many midpoint steps: root mean square error of latents over their standard deviation, and PSNR of the
pixels against the originals. Guidance is the model's own. Writes `solvers.json` and `solvers.md`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flexframe import provenance
from flexframe.files import write_json, write_text
from flexframe.models.tokenizer import Tokenizer
from flexframe.rng import Rng
from flexframe.store.load import load
from flexframe.tokens import Tokens
from flexframe_flextok import FlowSampling
from flexframe_registry import catalogue, suite

WAYS: Mapping[str, Mapping[str, Any]] = {
    "euler": {},
    "euler, shift 2": {"schedule": "shift", "shift": 2},
    "euler, power 1.5": {"schedule": "power", "power": 1.5},
    "heun": {"solver": "heun"},
    "midpoint": {"solver": "midpoint"},
    "dpmpp-2m": {"solver": "dpmpp-2m"},
    "ab2": {"solver": "ab2"},
    "ab2, shift 2": {"solver": "ab2", "schedule": "shift", "shift": 2},
    "ab2, power 1.5": {"solver": "ab2", "schedule": "power", "power": 1.5},
}
"""Ways to integrate, as settings on top of the model's own."""
TWICE = {"heun", "midpoint"}
"""Solvers that evaluate the model twice a step."""


def latents(model: Tokenizer, tokens: Tokens, settings: Mapping[str, Any]) -> Tensor:
    """Latents of these tokens, always from the same noise."""
    spec = model.spec.latents
    sampling = model.sampling.laid({**settings})
    rng = Rng(0, torch.arange(len(tokens)))
    with torch.no_grad():
        return model.decoder.decode(
            tokens, condition=None, size=(spec.height, spec.width), rng=rng, sampling=sampling
        ).float()


def psnr(model: Tokenizer, decoded: Tensor, images: Tensor) -> float:
    """Mean PSNR in dB of decoded latents against the images."""
    with torch.no_grad():
        pixels = model.codec.decode(decoded).clamp(0, 1)
    errors = (pixels - images).square().mean((1, 2, 3))
    return float((-10 * errors.log10()).mean())


def rows(model: Tokenizer, images: Tensor, count: int, evaluations: list[int], exact: int) -> list[dict[str, Any]]:
    """Errors of each way at each number of evaluations, on the first `count` tokens of the images."""
    with torch.no_grad():
        tokens = model.encode(images, lengths=count)
    reference = latents(model, tokens, {"solver": "midpoint", "steps": exact})
    spread = reference.std()
    best = psnr(model, reference, images)
    print(f"{count} tokens: reference {best:.2f} dB", flush=True)
    found = [{"tokens": count, "way": "reference", "evaluations": 2 * exact, "error": 0.0, "psnr": best}]
    for way, settings in WAYS.items():
        for asked in evaluations:
            steps = (asked + 1) // 2 if settings.get("solver") in TWICE else asked
            sampling = {**settings, "steps": steps}
            decoded = latents(model, tokens, sampling)
            error = float((decoded - reference).square().mean().sqrt() / spread)
            laid = model.sampling.laid(sampling)
            assert isinstance(laid, FlowSampling)
            spent = len(laid.times())
            found.append({"tokens": count, "way": way, "evaluations": spent, "error": error,
                          "psnr": psnr(model, decoded, images)})  # fmt: skip
            print(json.dumps(found[-1]), flush=True)
    return found


def table(content: Mapping[str, Any]) -> str:
    """Errors in thousandths of the latents' deviation, and dB, a row a way, a column a number of evaluations."""
    lines = []
    for count in content["tokens"]:
        here = [row for row in content["rows"] if row["tokens"] == count]
        reference, *measured = here
        lines += [f"{count} tokens; the reference has {reference['psnr']:.2f} dB.", ""]
        heads = ["", *(f"{asked}" for asked in content["evaluations"])]
        lines += ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
        for way in WAYS:
            cells = [f"{1000 * row['error']:.1f} ({row['psnr']:.2f})" for row in measured if row["way"] == way]
            lines.append("| " + " | ".join([way, *cells]) + " |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Measure a model and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("overrides", nargs="*", help="settings of the model, as sampling.guidance=1")
    parser.add_argument("--out", "-o", type=Path, required=True)
    parser.add_argument("--suite", default="scenes-64")
    parser.add_argument("--set", action="append", default=[], help="settings of the suite, as data.seed=11")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--tokens", type=int, nargs="+", default=[4, 32])
    parser.add_argument("--evaluations", type=int, nargs="+", default=[4, 5, 6, 8, 10, 16, 25])
    parser.add_argument("--exact", type=int, default=100, help="midpoint steps of the reference")
    args = parser.parse_args()
    model, data = load(args.model, overrides=args.overrides), suite(args.suite, args.set).data
    source = catalogue().build(data, model.config.image_size)
    images = torch.stack([each.image for each in source.samples(range(args.images))]) / 255
    measured = [row for count in args.tokens for row in rows(model, images, count, args.evaluations, args.exact)]
    content = {"commit": provenance.commit(), "model": args.model, "settings": model.sampling.model_dump(mode="json"),
               "data": data.model_dump(mode="json"), "images": args.images, "tokens": args.tokens,
               "evaluations": args.evaluations, "reference": f"midpoint, {args.exact} steps",
               "rows": measured}  # fmt: skip
    args.out.mkdir(parents=True, exist_ok=True)
    write_json(args.out / "solvers.json", content)
    write_text(args.out / "solvers.md", table(content))
    print(table(content))


if __name__ == "__main__":
    main()
