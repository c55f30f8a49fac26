"""How resolution moves a tokenizer of any length: the same photographs at several sizes, through one model.

    OMP_NUM_THREADS=1 python benchmarks/scripts/resolution.py flextok/photos-64 kodak24.tar -o out/resolution

The model was trained at one size, and takes others where its parts do (their positions are not learned). Each image is
brought to each size as the model's card says, encoded once, and decoded from its first tokens; beside it stands what
the codec alone makes of it, the ceiling. A size has its own originals, so that numbers of two sizes are of different
tasks: what compares is the shape over tokens, and how far below its ceiling a size stays. Intervals are 95 %, over
images. `results.json` and `table.md` are written to the folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flexframe import load, provenance
from flexframe.bench.intervals import ends, resampled_means
from flexframe.files import write_json, write_text
from flexframe.models.fingerprint import weights
from flexframe.rng import Rng
from flexframe.store.places import preprocessing
from flexframe_registry import catalogue
from flexframe_registry.slots import resolve

BATCH = 8


def psnr(real: Tensor, fake: Tensor) -> np.ndarray:
    """PSNR of each pair, of 8-bit originals and unrounded reconstructions."""
    errors = (fake.double() * 255 - real.double()).square().mean((1, 2, 3))
    found: np.ndarray = (10 * torch.log10(255**2 / errors)).numpy()
    return found


def told(values: np.ndarray) -> dict[str, float]:
    """A mean and its interval."""
    span = ends(resampled_means(values[:, None])[:, 0])
    return {"value": round(float(values.mean()), 4), "low": round(span.low, 4), "high": round(span.high, 4)}


def measure(model: str, photographs: str, sizes: Sequence[int], budgets: Sequence[int]) -> dict[str, Any]:
    """PSNR by size and tokens, and of the codec alone."""
    tokenizer, by_size = load(model), dict[str, Any]()
    config = resolve("source", {"type": "images", "path": photographs}).resized(preprocessing(model).resize)
    for size in sizes:
        source = catalogue().build(config, (size, size))
        source.want("none")
        found: dict[str, list[np.ndarray]] = {}
        for start in range(0, len(source), BATCH):
            rows = range(start, min(start + BATCH, len(source)))
            real = torch.stack([sample.image for sample in source.samples(rows)])
            rng, images = Rng(0, torch.tensor(rows)), real.float() / 255
            tokens = tokenizer.encode(images, rng=rng)
            latents = tokenizer.codec.encode(images, rng=rng)
            found.setdefault("codec", []).append(psnr(real, tokenizer.codec.decode(latents).clamp(0, 1)))
            for k in budgets:
                found.setdefault(str(k), []).append(psnr(real, tokenizer.decode(tokens.truncate(k), rng=rng)))
            print(f"{size} pixels: {rows.stop} of {len(source)}", flush=True)
        each = {name: np.concatenate(values) for name, values in found.items()}
        first, last = str(min(budgets)), str(max(budgets))
        by_size[str(size)] = {
            "images": len(source),
            "psnr": {name: told(values) for name, values in each.items()},
            "gain": told(each[last] - each[first]),
            "below the codec": told(each["codec"] - each[last]),
            "bits a pixel": {str(k): round(k * tokenizer.config.bits_per_token / size**2, 4) for k in budgets},
        }
    return {"model": model, "weights": weights(tokenizer), "trained_at": tokenizer.config.image_size,
            "sampling": tokenizer.sampling.deciding(), "sizes": by_size}  # fmt: skip


def table(results: Mapping[str, Any]) -> str:
    """A row a size."""
    sizes = results["sizes"]
    budgets = [name for name in next(iter(sizes.values()))["psnr"] if name != "codec"]
    head = ["pixels", *(f"{k} tokens" for k in budgets), "codec alone", "most less fewest tokens", "below the codec"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for size, row in sizes.items():
        cells = [f"{row['psnr'][name]['value']:.2f}" for name in (*budgets, "codec")]
        cells += ["{value:.2f} ({low:.2f} to {high:.2f})".format(**row[name]) for name in ("gain", "below the codec")]
        lines.append(f"| {size} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("model")
    parser.add_argument("photographs", help="a folder or a tar file")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[48, 64, 96, 128])
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 4, 32])
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    results = measure(given.model, given.photographs, given.sizes, given.tokens)
    given.out.mkdir(parents=True, exist_ok=True)
    write_json(given.out / "results.json", {**results, "made": dict(provenance.manifest())})
    write_text(given.out / "table.md", table(results))
    print(table(results))
