"""Pictures while they come: each drawn to 1, 2, 4, ... tokens and shown at once, until more tokens change nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flexframe.data.tokenfile import Row, write
from flexframe.files import replaced
from flexframe.lock import writes
from flexframe.models.fingerprint import fingerprint, weights
from flexframe.models.generator import Generator, fits, needs_texts
from flexframe.models.tokenizer import Tokenizer
from flexframe.pictures import sheet
from flexframe.rng import Rng
from flexframe.use.decode import save
from flexframe.use.generate import Job, about, begin, powers
from flexframe_registry import ConfigError

SHOWN = 16
"""Pictures of a frame, at most."""
FRAME = 700
"""Milliseconds that a frame of the animation stands; the last stands three times as long."""


@dataclass(frozen=True)
class Streamed:
    """The outcome of a stream."""

    folder: Path
    count: int
    tokens: Mapping[str, float] = field(default_factory=dict)
    """By class or text, the tokens that its pictures have on average."""


@writes("folder")
def stream(
    generator: Generator,
    tokenizer: Tokenizer,
    folder: Path,
    *,
    classes: Sequence[int] = (),
    texts: Sequence[str] = (),
    count: int = 16,
    length: int | None = None,
    until: float | None = None,
    seed: int = 0,
    sampling: Mapping[str, Any] | None = None,
    decoding: Mapping[str, Any] | None = None,
    batch_size: int = 16,
    force: bool = False,
    progress: Callable[[float, int], None] = lambda done, of: None,
) -> Streamed:
    """Draw pictures coarse to fine into a folder: `live.png` and `frame-<tokens>.png` as they come; at the end
    `stream.webp` of the frames, `<number>.png` and `tokens.safetensors`.

    Pictures are those of `generate` at the same seed. A prior that draws a longer sequence begins it as a shorter one,
    so each doubling draws from the start: twice the tokens of one whole drawing, less what `until` saves.

    Args:
        length: the most tokens; the prior's if None.
        until: a picture is done where twice the tokens change it by less than this root mean square, pixels in [0, 1];
            it then has the fewer of them. None to go on to the end.

    Raises:
        ConfigError: as `generate`; a tokenizer of one length; a prior whose longer sequences begin otherwise.
    """
    fits(generator, tokenizer, force)
    needs_texts(tokenizer, texts, "give --text")
    most = length or generator.spec.length
    if not 1 <= most <= generator.spec.length:
        raise ConfigError.at("--length", f"{most} is not within 1..{generator.spec.length}, the prior's")
    name = tokenizer.id or "the tokenizer"
    if len(tokenizer.config.budgets) == 1 or not tokenizer.config.encoder.prefixes():
        text = f"{name}'s first tokens are no picture, so there is none to show as they come; leave it out"
        raise ConfigError.at("--stream", text)
    drawn, decoded = generator.sampling.laid(sampling), tokenizer.sampling.laid(decoding, "decoder")
    job = Job(generator, tokenizer, tuple(classes), tuple(texts), count, seed, drawn, decoded, batch_size, progress)
    steps = powers(most)
    record = {"stream": True, "prior": generator.id, "weights": weights(generator), "tokenizer": tokenizer.id,
              "decoder": weights(tokenizer.decoder), "fingerprint": fingerprint(tokenizer), "seed": seed,
              "count": count, "classes": list(classes), "texts": list(texts), "length": most, "until": until,
              "sampling": drawn.deciding(), "decoding": decoded.deciding()}  # fmt: skip
    begin(folder, record)
    codes: dict[int, Tensor] = {}
    images: dict[int, Tensor] = {}
    going, frames = list(range(count)), list[Image.Image]()
    for number, step in enumerate(steps):
        for start in range(0, len(going), batch_size):
            batch = going[start : start + batch_size]
            found, pictures = _drawn(job, batch, step)
            for i, (row, picture) in enumerate(zip(found, pictures, strict=True)):
                _refuse_other_beginning(codes.get(batch[i]), row, generator)
                if until is None or number == 0 or _change(images[batch[i]], picture) >= until:
                    codes[batch[i]], images[batch[i]] = row, picture
            progress(count * number + count - len(going) + start + len(batch), count * len(steps))
        if until is not None and number:
            going = [each for each in going if len(codes[each]) == step]
        told = [(images[i], _told(job.word(i), len(codes[i]))) for i in range(min(count, SHOWN))]
        across = math.ceil(math.sqrt(len(told)))
        frames.append(sheet([told[i : i + across] for i in range(0, len(told), across)]))
        for file in ("live.png", f"frame-{step}.png"):
            with replaced(folder / file) as part:
                frames[-1].save(part, "PNG")
        if not going:
            break
    progress(count * len(steps), count * len(steps))
    return _ended(job, folder, codes, images, frames)


def _ended(
    job: Job, folder: Path, codes: Mapping[int, Tensor], images: Mapping[int, Tensor], frames: list[Image.Image]
) -> Streamed:
    """Write what is there at the end, and count tokens."""
    across, down = max(each.width for each in frames), max(each.height for each in frames)
    pages = []
    for each in frames:
        page = Image.new("RGB", (across, down), each.getpixel((0, 0)))
        page.paste(each, (0, 0))
        pages.append(page)
    with replaced(folder / "stream.webp") as part:
        times = [FRAME] * (len(pages) - 1) + [3 * FRAME]
        pages[0].save(part, "WEBP", save_all=True, append_images=pages[1:], duration=times, loop=0, lossless=True)
    for number in range(job.count):
        save(images[number], folder / f"{number:05d}.png", folder)
    lengths = sorted({len(row) for row in codes.values()})
    rows = [Row(n, f"{n:05d}.png", codes[n].numpy(), job.label(n)) for n in range(job.count)]
    write(folder / "tokens.safetensors", about(job, lengths), lambda: rows)
    words: dict[str, list[int]] = {}
    for number in range(job.count):
        words.setdefault(job.word(number), []).append(len(codes[number]))
    return Streamed(folder, job.count, {word: float(np.mean(each)) for word, each in words.items()})


def _drawn(job: Job, numbers: Sequence[int], length: int) -> tuple[Tensor, Tensor]:
    """Codes and pictures of these numbers at a length."""
    rng = Rng(job.seed, torch.tensor(numbers, device=job.generator.device))
    codes = job.generator.sample(**job.given(numbers), lengths=length, rng=rng, sampling=job.sampling).codes
    return codes.cpu(), job.decode(codes, rng, numbers)


def _change(before: Tensor, after: Tensor) -> float:
    """Root mean square of what changed, pixels in [0, 1]."""
    return float((after.float() - before.float()).square().mean().sqrt()) / 255


def _refuse_other_beginning(before: Tensor | None, after: Tensor, generator: Generator) -> None:
    if before is not None and not torch.equal(before, after[: len(before)]):
        text = "does not begin a longer sequence as a shorter one, so its pictures cannot be shown as they come"
        raise ConfigError.at(generator.id or "the prior", f"{text}; leave --stream out")


def _told(word: str, tokens: int) -> str:
    return ", ".join(filter(None, (word, f"{tokens} token{'s' if tokens > 1 else ''}")))
