"""Images beside their reconstructions at several lengths, as one picture and as numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import nsmallest
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from flexframe.models.generator import needs_texts
from flexframe.models.tokenizer import Tokenizer
from flexframe.pictures import Strip, psnr_of, to_uint8
from flexframe.rng import Rng
from flexframe.use.encode import load
from flexframe.use.inputs import Entry, entries

COLUMNS, FEW = 8, 3
"""Reconstructions of an image, at most, where no lengths are given; few where each takes seconds."""
LARGE = 100_000_000
"""Parameters from which a CPU takes seconds."""

T = TypeVar("T")


def reconstruct(
    tokenizer: Tokenizer,
    inputs: Sequence[str | Path],
    *,
    lengths: Sequence[int] | None = None,
    count: int = 8,
    resize: str = "torchvision-bicubic",
    seed: int = 0,
    sampling: Mapping[str, Any] | None = None,
    batch_size: int = 1,
    progress: Callable[[float, int], None] = lambda done, of: None,
    remarks: list[str] | None = None,
) -> tuple[list[Strip], int]:
    """Encode the first `count` images once each, and decode prefixes of their tokens; an encoder whose tokens hang on
    how many are kept encodes them for each length.

    Args:
        lengths: the prefixes; if None, `usual_lengths`.
        progress: told how many reconstructions are done, with fractions for steps, and of how many.
        remarks: is given sentences on what was met among the images and left out.

    Returns:
        A strip for each image, and the number of images that there are.
    """
    needs_texts(tokenizer, (), "`flexframe bench` takes the captions of its images, `decode(..., texts=[...])` yours")
    lengths = tuple(dict.fromkeys(lengths or usual_lengths(tokenizer)))
    seen = 0

    def counted() -> Iterator[Entry]:
        nonlocal seen
        for entry in entries(inputs, remarks):
            seen += 1
            yield entry

    shown = nsmallest(count, counted(), key=lambda entry: (entry.argument, entry.id))
    total, done, strips = len(shown) * len(lengths), 0, []
    progress(0, total)
    for batch in _parts(list(enumerate(shown)), batch_size):
        original = torch.stack([load(entry, tokenizer.config.image_size, resize) for _, entry in batch])
        rng = Rng(seed, torch.tensor([number for number, _ in batch], device=tokenizer.device))
        given = original.to(tokenizer.device).float() / 255
        tokens = tokenizer.encode(given, rng=rng)
        pictures: dict[int, Tensor] = {}
        for length in lengths:

            def on_step(step: int, of: int, start: int = done, share: int = len(batch)) -> None:
                progress(start + share * step / of, total)

            short = tokenizer.shortened(tokens, given, length, rng=rng)
            decoded = tokenizer.decode(short, rng=rng, sampling=sampling, on_step=on_step)
            pictures[length] = to_uint8(decoded)
            done += len(batch)
            progress(done, total)
        for i, (_, entry) in enumerate(batch):
            own = {length: images[i] for length, images in pictures.items()}
            psnr = {length: psnr_of(original[i], image) for length, image in own.items()}
            strips.append(Strip(entry.id, original[i], own, psnr))
    return strips, seen


def usual_lengths(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The model's budgets: at most eight of them, and at most three of a large model's on a CPU."""
    slow = tokenizer.device.type == "cpu" and sum(p.numel() for p in tokenizer.parameters()) >= LARGE
    return spread(tokenizer.config.budgets, FEW if slow else COLUMNS)


def spread(budgets: Sequence[int], most: int) -> tuple[int, ...]:
    """Budgets, all or `most` of them, first and last among them, spaced evenly in proportion."""
    if len(budgets) <= most:
        return tuple(budgets)
    first, last = math.log(budgets[0]), math.log(budgets[-1])
    chosen: list[int] = []
    for i in range(most):
        place = first + i * (last - first) / (most - 1)
        apart = {budget: abs(math.log(budget) - place) for budget in budgets if budget not in chosen}
        chosen.append(min(apart, key=apart.__getitem__))
    return tuple(sorted(chosen))


def numbers(strips: Sequence[Strip]) -> list[dict[str, Any]]:
    """The strips' numbers as plain data."""
    return [{"id": s.id, "psnr": {str(k): round(value, 4) for k, value in s.psnr.items()}} for s in strips]


def _parts(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
