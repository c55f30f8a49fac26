"""Train the head of allocator `learned`: `python -m flexframe_lengths MODEL SOURCE -o head.safetensors --target 22`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

import flexframe
from flexframe.commands.common import out, say
from flexframe.commands.models import source_of
from flexframe.store.places import preprocessing
from flexframe_lengths import PsnrConfig
from flexframe_lengths.learned import BATCH, save_head, train
from flexframe_registry import catalogue


def main() -> None:
    """Train a head and write its file."""
    parser = argparse.ArgumentParser(prog="python -m flexframe_lengths", description=__doc__)
    parser.add_argument("model", help="a tokenizer of several lengths")
    parser.add_argument(
        "source", help="images to learn from, as '{type: scenes, complexity: 1}'; never those of a test"
    )
    parser.add_argument("-o", "--out", type=Path, required=True, help="the file to write, .safetensors")
    parser.add_argument("--target", type=float, default=22.0, help="PSNR to reach, dB; of allocator psnr")
    parser.add_argument("--count", type=int, default=1000, help="images, the first ones")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.out.exists():
        sys.exit(f"{given.out}: is there already; delete it or choose another -o")
    try:
        _train(given)
    except (ValueError, LookupError, OSError) as error:
        sys.exit(str(error))


def _train(given: argparse.Namespace) -> None:
    tokenizer = flexframe.load(given.model)
    config = source_of(given.source, "SOURCE").resized(preprocessing(given.model).resize)
    source = catalogue().build(config, tokenizer.config.image_size, place="SOURCE")
    source.want("none")
    count = min(given.count, len(source))

    def batches() -> Iterator[Tensor]:
        for start in range(0, count, BATCH):
            samples = source.samples(range(start, min(start + BATCH, count)))
            yield torch.stack([sample.image for sample in samples])

    head, about = train(
        tokenizer, batches(), PsnrConfig(target=given.target), source=config.model_dump(mode="json"), seed=given.seed,
        progress=lambda done: say.print(f"{done} of {count} images"),
    )  # fmt: skip
    save_head(head, about, given.out)
    told = f"{100 * about.right:.0f} % of those held out get the length that psnr gives them"
    out.print(f"{given.out}: {count} images; {told}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
