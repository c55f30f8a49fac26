"""Images to a token file, in constant memory, and from where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import __version__ as pillow_version
from torch import Tensor

from flexframe.data.images import COLOUR, BrokenImage, fit, read_image, to_tensor
from flexframe.data.inventory import Inventory, refuse_changed
from flexframe.data.tokenfile import DTYPES, About, write
from flexframe.files import refuse_other
from flexframe.lock import writes
from flexframe.models.fingerprint import fingerprint
from flexframe.models.tokenizer import Tokenizer
from flexframe.rng import Rng
from flexframe.use.inputs import Entry, entries
from flexframe.use.journal import ImageJournal, counted
from flexframe.use.lengths import Rule
from flexframe_registry import ConfigError

LEAVE = ", or go on without it by --skip-broken (once files are changed, an encoding begins anew)"
SHOWN = 20
"""Broken images that a summary names."""
Work = list[tuple[int, Entry, int | None]]
"""Number, image and wanted length of each of a batch."""


@dataclass(frozen=True)
class Encoded:
    """The outcome of an encoding."""

    path: Path
    count: int
    tokens: int
    """Of all images together."""
    resumed: int
    """How many of them were done before this run."""
    broken: int
    reasons: tuple[str, ...]
    """Why, of the first broken ones."""
    remarks: tuple[str, ...] = ()
    """Sentences on what was met among the images and left out."""


@writes("out")
def encode(
    tokenizer: Tokenizer,
    inputs: Sequence[str | Path],
    out: Path,
    *,
    model: str,
    rule: Rule,
    resize: str = "torchvision-bicubic",
    seed: int = 0,
    batch_size: int = 8,
    workers: int = 2,
    skip_broken: bool = False,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Encoded:
    """Encode images to the token file `out`.

    What is done is kept in `<out>.part` until all is; started again with the same arguments, it goes on, and the file
    is the same to the byte. Neither `batch_size` nor `workers` moves a token id: each image is encoded in full, draws
    by its own number in the input order, and is then cut to its length.

    Args:
        model: the name that the file gives for the model.
        progress: told how many images are done, and of how many.

    Raises:
        ConfigError: inputs that cannot be listed, an output that is there, a part of another encoding.
        BrokenImage: the first image that cannot be read, unless `skip_broken`.
    """
    if out.exists():
        raise ConfigError.at(str(out), "is there already; delete it or choose another -o")
    out.parent.mkdir(parents=True, exist_ok=True)
    about = _about(tokenizer, model, rule, resize, seed)
    with ImageJournal(out.with_name(f"{out.name}.part")) as journal:
        remarks = _begin(journal, inputs, about, rule)
        count, resumed = len(journal), journal.done()
        earlier = next(journal.broken(), None)
        if earlier is not None and not skip_broken:
            raise BrokenImage(f"{earlier}{LEAVE}")
        progress(resumed, count)
        try:
            for work, images in _loaded(journal, batch_size, tokenizer.config.image_size, resize, workers):
                broken = [image for image in images if isinstance(image, BrokenImage)]
                if broken and not skip_broken:
                    raise BrokenImage(f"{broken[0]}{LEAVE}")
                journal.put(_encode(tokenizer, work, images, rule, about))
                progress(work[-1][0] + 1, count)
        finally:
            journal.save()
        reasons = list(journal.broken())[:SHOWN]
        put_aside = sum(1 for _ in journal.broken())
        if put_aside == count:
            raise ConfigError.at("", f"none of the {count} images can be read; the first: {reasons[0]}")
        count, tokens = write(out, about, lambda: journal.rows(DTYPES[about.dtype], about.width))
        journal.finish()
    return Encoded(out, count, tokens, resumed, put_aside, tuple(reasons), tuple(remarks))


def load(entry: Entry, size: tuple[int, int], resize: str) -> Tensor:
    """An image at the model's size, `3 h w`, uint8."""
    return to_tensor(fit(read_image(entry.open(), entry.shown), size, resize))


def preprocessing(resize: str) -> dict[str, str]:
    """The record of what `load` does."""
    return {"resize": resize, "crop": "centre", "colour": COLOUR, "pillow": pillow_version}


def _about(tokenizer: Tokenizer, model: str, rule: Rule, resize: str, seed: int) -> About:
    spec = tokenizer.spec.tokens
    return About(
        model=model,
        fingerprint=fingerprint(tokenizer),
        length=spec.length,
        dim=spec.dim,
        codebooks=spec.codebooks,
        codebook_size=spec.codebook_size,
        image_size=tokenizer.config.image_size,
        preprocessing=preprocessing(resize),
        seed=seed,
        lengths=rule.record(),
        flexframe=version("flexframe"),
        precision=tokenizer.precision,
        prefixes=tokenizer.config.encoder.prefixes(),
    )


def _begin(journal: ImageJournal, inputs: Sequence[str | Path], about: About, rule: Rule) -> list[str]:
    """List the images; or, where that was done, see that nothing differs. Gives remarks on what was left out."""
    remarks: list[str] = []
    settings, before = about.model_dump(mode="json"), journal.settings()
    place, remedy = str(journal.path), "repeat the first command, or delete this file to start over"
    if before is None:
        journal.fill(entries(inputs, remarks), settings)
    else:
        refuse_other(place, "was begun otherwise", before, settings, remedy)
        inventory = Inventory()
        for _ in counted(entries(inputs, remarks), inventory):
            pass
        refuse_changed(place, "was begun with other images", journal.inventory(), inventory.state(), remedy)
    lengths = rule.each(len(journal))
    if lengths is not None:
        journal.want(lengths, rule.place)
    return remarks


def _encode(
    tokenizer: Tokenizer, work: Work, images: Sequence[Tensor | BrokenImage], rule: Rule, about: About
) -> Iterator[tuple[int, np.ndarray | None, str]]:
    """Codes of a batch by image number, of as many tokens as the rule gives; or why there are none."""
    whole = [(n, want, image) for (n, _, want), image in zip(work, images, strict=True) if isinstance(image, Tensor)]
    codes: dict[int, np.ndarray] = {}
    if whole:
        numbers, wanted, pixels = zip(*whole, strict=True)
        batch = torch.stack(pixels).to(tokenizer.device).float() / 255
        rng = Rng(about.seed, torch.tensor(numbers, device=tokenizer.device))
        lengths = rule.lengths(tokenizer, batch, wanted, rng).tolist()
        # all of them where they are prefixes: their numbers then hang on no other image's length
        kept = None if tokenizer.config.encoder.prefixes() else lengths
        of_batch = tokenizer.encode(batch, lengths=kept, rng=rng).codes.cpu().numpy().astype(DTYPES[about.dtype])
        codes = {n: each[:length] for n, each, length in zip(numbers, of_batch, lengths, strict=True)}
    for (number, _, _), image in zip(work, images, strict=True):
        yield number, codes.get(number), str(image) if isinstance(image, BrokenImage) else ""


def _loaded(
    journal: ImageJournal, batch_size: int, size: tuple[int, int], resize: str, workers: int
) -> Iterator[tuple[Work, list[Tensor | BrokenImage]]]:
    """Batches of images; while one is encoded, the next is read."""
    with ThreadPoolExecutor(workers) as pool:
        waiting: list[tuple[Work, list[Future[Tensor | BrokenImage]]]] = []
        batches = journal.pending(batch_size)
        while True:
            for work in islice(batches, 2 - len(waiting)):
                waiting.append((work, [pool.submit(_load, entry, size, resize) for _, entry, _ in work]))
            if not waiting:
                return
            work, images = waiting.pop(0)
            yield work, [image.result() for image in images]


def _load(entry: Entry, size: tuple[int, int], resize: str) -> Tensor | BrokenImage:
    try:
        return load(entry, size, resize)
    except BrokenImage as error:
        return error
