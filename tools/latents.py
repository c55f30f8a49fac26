"""Measure a codec's latents: `python tools/latents.py grid/scenes-64 scenes`.

Prints mean and deviation by channel, and the `scaling_factor` that gives all latents together a deviation of 1. MODEL
is a tokenizer on a grid, whose tokens are the latents, or one with a codec. DATA is a source by name or as YAML.
"""

from __future__ import annotations

import argparse

import torch
import yaml
from torch import Tensor
from torch.utils.data import DataLoader, Subset

import flexframe
from flexframe.models.tokenizer import Tokenizer
from flexframe.rng import Rng
from flexframe_registry import catalogue
from flexframe_registry.slots import resolve


def latents_of(model: Tokenizer, images: Tensor, index: Tensor) -> Tensor:
    """The codec's latents divided by its own factor; without a codec, the tokens. `b n c`."""
    if model.config.codec.type == "identity":
        return model.encode(images, rng=Rng(0, index)).values
    factor = getattr(model.config.codec, "scaling_factor", 1.0)
    return model.codec.encode(images, rng=Rng(0, index)).flatten(2).mT / factor


def measure(name: str, data: str, count: int) -> None:
    """Print mean and deviation of the latents of up to `count` images."""
    model = flexframe.load(name)
    source = catalogue().build(resolve("source", yaml.safe_load(data)), model.config.image_size)
    chosen = Subset(source, range(min(count, len(source))))
    batches, start = [], 0
    for images in DataLoader(chosen, 64, collate_fn=lambda rows: torch.stack([row.image for row in rows])):
        index = torch.arange(start, start + len(images))
        with torch.no_grad():
            batches.append(latents_of(model, images.float() / 255, index).flatten(0, 1).double())
        start += len(images)
    values = torch.cat(batches)
    print(f"{start} images, {values.shape[1]} channels")
    print("mean     ", " ".join(f"{v:.3f}" for v in values.mean(0).tolist()))
    print("deviation", " ".join(f"{v:.3f}" for v in values.std(0).tolist()))
    print(f"scaling_factor: {1 / float(values.std()):.4g}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data", help="a source: a name, or {type: ..., ...}")
    parser.add_argument("--count", type=int, default=2000, help="images (default 2000)")
    given = parser.parse_args()
    measure(given.model, given.data, given.count)
