"""Pictures from a prior: drawn codes, decoded at several lengths, as files, sheets and a token file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from flexframe.data.tokenfile import About, Row, write
from flexframe.files import drop_parts, refuse_other, replaced, write_json
from flexframe.lock import writes
from flexframe.models.fingerprint import fingerprint, weights
from flexframe.models.generator import Generator, fits, needs_texts
from flexframe.models.tokenizer import Tokenizer
from flexframe.pictures import Picture, sheet, to_uint8
from flexframe.rng import Rng
from flexframe.use.decode import save
from flexframe_registry import ConfigError, GeneratorConfig
from flexframe_registry.errors import nearest
from flexframe_registry.files import read_json

RECORD = "generate.json"
SHOWN = 64
"""Pictures of a grid, at most."""
STRIPS = 8
"""Samples of the strip, at most."""


@dataclass(frozen=True)
class Generated:
    """The outcome of a generation."""

    folder: Path
    count: int
    lengths: tuple[int, ...]
    strip: bool
    """Whether there is one: a tokenizer of one fixed length has no coarse pictures."""


def read_classes(text: str | None, config: GeneratorConfig) -> list[int]:
    """`3`, `star`, `3,star` or `all` as class numbers; none given is none.

    Raises:
        ConfigError: the prior knows no such class.
    """
    if text is None:
        return []
    if config.classes is None:
        raise ConfigError.at("--class", "this prior knows no classes; leave it out")
    if text == "all":
        return list(range(config.classes))
    numbers = []
    for part in (each.strip() for each in text.split(",")):
        if part in config.class_names:
            numbers.append(config.class_names.index(part))
        elif part.isdecimal() and int(part) < config.classes:
            numbers.append(int(part))
        else:
            known = f"names: {', '.join(config.class_names)}" if config.class_names else "they have no names here"
            text = f"there is no class {part!r}.{nearest(part, config.class_names)} Classes are 0..{config.classes - 1}"
            raise ConfigError.at("--class", f"{text}; {known}")
    return numbers


def read_texts(given: Sequence[str], file: Path | None, generator: Generator) -> list[str]:
    """Texts as they are given, and those of a file, one a line; lines without a word are passed over.

    Raises:
        ConfigError: the prior reads no texts, a text is empty or longer than is read, there is no such file, or no
            encoder of texts.
    """
    texts = [("--text", text) for text in given]
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError.at("--texts", f"cannot read {file}: {error}; give a file of one text a line") from None
        texts += [(f"--texts: line {number} of {file}", line) for number, line in enumerate(lines, 1) if line.strip()]
        if len(texts) == len(given):
            raise ConfigError.at("--texts", f"{file} holds no text; write one a line")
    conditioner, config = generator.conditioner, generator.config.conditioner
    if not texts:
        return []
    if conditioner is None or config is None:
        raise ConfigError.at(texts[0][0], f"{generator.id or 'this prior'} reads no texts; leave it out")
    most = config.text().length
    for place, text in texts:
        if not text.strip():
            raise ConfigError.at(place, "is empty; say what the picture is to show, or leave it out")
        count = conditioner.count(text)
        if count > most:
            told = f"{count} words or pieces, and conditioner {config.type!r} reads {most}: {text[:40]!r}..."
            raise ConfigError.at(place, f"has {told}; shorten it")
    return [" ".join(text.split()) for _, text in texts]


@writes("folder")
def generate(
    generator: Generator,
    tokenizer: Tokenizer,
    folder: Path,
    *,
    classes: Sequence[int] = (),
    texts: Sequence[str] = (),
    count: int = 16,
    lengths: Sequence[int] = (),
    seed: int = 0,
    sampling: Mapping[str, Any] | None = None,
    decoding: Mapping[str, Any] | None = None,
    batch_size: int = 16,
    force: bool = False,
    progress: Callable[[float, int], None] = lambda done, of: None,
) -> Generated:
    """Draw pictures into a folder: `<length>/<number>.png`, `grid-<length>.png`, `strip.png`, `tokens.safetensors`.

    Picture i is of class `classes[i % n]` or of text `texts[i % n]`, or of none; it draws by its number alone, so that
    neither `count` nor `batch_size` moves it. Broken off, the same call draws the same again. The strip shows the first
    samples of the largest length, decoded at 1, 2, 4, ... tokens.

    Args:
        lengths: tokens; the prior's most if not given.
        sampling: settings of the prior, laid on its own.
        decoding: settings of the decoder, laid on its own.
        force: go on where the prior was trained on another tokenizer's codes.
        progress: told how many pictures are done, with fractions, and of how many.

    Raises:
        ConfigError: a prior of another tokenizer's codes, lengths that do not fit, a folder with other things in it.
    """
    fits(generator, tokenizer, force)
    needs_texts(tokenizer, texts, "give --text")
    lengths = tuple(sorted(set(lengths))) or (generator.spec.length,)
    if lengths[0] < 1 or lengths[-1] > generator.spec.length:
        span = f"{lengths[0]}..{lengths[-1]}"
        raise ConfigError.at("--length", f"{span} is not within 1..{generator.spec.length}, the prior's")
    budgets = tokenizer.config.budgets
    unfit = [length for length in lengths if length not in budgets]
    if len(budgets) == 1 and unfit:  # a tokenizer of several lengths decodes those in between as well
        told = f"{', '.join(map(str, unfit))}: {tokenizer.id or 'the tokenizer'} is of one length"
        raise ConfigError.at("--length", f"{told}, {budgets[0]}, and other numbers of tokens are no picture to it")
    whole, nested = generator.spec.length, tokenizer.config.encoder.prefixes()
    if not nested and lengths != (whole,):
        text = f"{tokenizer.id or 'the tokenizer'}'s tokens hang on how many are kept, and the prior draws {whole}"
        raise ConfigError.at("--length", f"{text}: fewer of them are no picture to it; leave it out")
    drawn = generator.sampling.laid(sampling)
    decoded = tokenizer.sampling.laid(decoding, "decoder")
    job = Job(generator, tokenizer, tuple(classes), tuple(texts), count, seed, drawn, decoded, batch_size, progress)
    columns = powers(lengths[-1]) if nested and len(tokenizer.config.budgets) > 1 else ()
    job.total = count * len(lengths) + min(count, STRIPS) * len(columns)
    record = {"prior": generator.id, "weights": weights(generator), "tokenizer": tokenizer.id,
              "decoder": weights(tokenizer.decoder), "fingerprint": fingerprint(tokenizer), "seed": seed,
              "count": count, "classes": list(classes), "lengths": list(lengths),
              "sampling": drawn.deciding(), "decoding": decoded.deciding()}  # fmt: skip
    if texts:
        record |= {"texts": list(texts)}
    begin(folder, record)
    progress(0, job.total)

    rows: list[Row] = []
    first: list[Tensor] = []
    for length in lengths:
        shown: list[tuple[Picture, str]] = []
        for numbers, codes, images in job.pictures(length):
            for number, image in zip(numbers, images, strict=True):
                save(image, folder / _name(length, number), folder)
            shown += [(i, job.word(n)) for n, i in zip(numbers, images, strict=True)][: SHOWN - len(shown)]
            rows += [Row(n, _name(length, n), c, job.label(n)) for n, c in zip(numbers, codes.numpy(), strict=True)]
            if length == lengths[-1] and numbers[0] < STRIPS:
                first.append(codes[: STRIPS - numbers[0]])
        across = math.ceil(math.sqrt(len(shown)))
        with replaced(folder / f"grid-{length}.png") as part:
            sheet([shown[i : i + across] for i in range(0, len(shown), across)]).save(part, "PNG")
    if columns:
        with replaced(folder / "strip.png") as part:
            sheet(job.strip(torch.cat(first), columns)).save(part, "PNG")
    write(folder / "tokens.safetensors", about(job, lengths), lambda: rows)
    return Generated(folder, count, lengths, bool(columns))


def begin(folder: Path, record: Mapping[str, Any]) -> None:
    """Make the folder, or see that what is in it is of this same generation, which is then drawn again."""
    path = folder / RECORD
    if path.is_file():
        held = read_json(path, "these may be the pictures of another generation: name another folder")
        refuse_other(folder, "holds the pictures of another generation", held, record, "name another folder")
        drop_parts(folder)
        return
    drop_parts(path)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError.at(str(folder), "is there already and not empty; name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, record)


def powers(most: int) -> tuple[int, ...]:
    """1, 2, 4, ... and `most`."""
    return (*(2**i for i in range(most.bit_length()) if 2**i < most), most)


@dataclass
class Job:
    """One generation: what is drawn with what, and how far it is."""

    generator: Generator
    tokenizer: Tokenizer
    classes: tuple[int, ...]
    texts: tuple[str, ...]
    count: int
    seed: int
    sampling: Any
    decoding: Any
    size: int
    progress: Callable[[float, int], None]
    done: int = 0
    total: int = 0

    def label(self, number: int) -> int | None:
        """The class of a picture; None without classes."""
        return self.classes[number % len(self.classes)] if self.classes else None

    def word(self, number: int) -> str:
        """The name of a picture's class, or its text."""
        if self.texts:
            return self.texts[number % len(self.texts)]
        label, names = self.label(number), self.generator.config.class_names
        return "" if label is None else names[label] if names else f"class {label}"

    def given(self, numbers: Sequence[int]) -> dict[str, Any]:
        """Labels or texts that these pictures are to show, as `Generator.sample` takes it."""
        if self.texts:
            return {"texts": [self.word(n) for n in numbers]}
        return (
            {"labels": torch.tensor([self.label(n) or 0 for n in numbers])} if self.classes else {"count": len(numbers)}
        )

    def pictures(self, length: int) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """Numbers, codes and pictures, batch by batch."""
        for start in range(0, self.count, self.size):
            numbers = list(range(start, min(start + self.size, self.count)))
            rng = Rng(self.seed, torch.tensor(numbers, device=self.generator.device))

            def on_token(step: int, share: int = len(numbers)) -> None:  # drawing is half the work
                self.progress(self.done + share * min(step / length, 1) / 2, self.total)

            codes = self.generator.sample(
                **self.given(numbers), lengths=length, rng=rng, sampling=self.sampling, on_token=on_token
            ).codes
            yield numbers, codes.cpu(), self.decode(codes, rng, numbers)
            self.done += len(numbers)
            self.progress(self.done, self.total)

    def strip(self, codes: Tensor, columns: Sequence[int]) -> list[list[tuple[Picture, str]]]:
        """A row a sample: its pictures at these lengths."""
        rows: list[list[tuple[Picture, str]]] = [[] for _ in codes]
        rng = Rng(self.seed, torch.arange(len(codes), device=self.tokenizer.device))
        for length in columns:
            told = f"{length} token{'s' if length > 1 else ''}"
            for number, image in enumerate(self.decode(codes[:, :length], rng, range(len(codes)))):
                named = ", ".join(filter(None, (self.word(number), told)))
                rows[number].append((image, told if rows[number] else named))
            self.done += len(codes)
            self.progress(self.done, self.total)
        return rows

    def decode(self, codes: Tensor, rng: Rng, numbers: Sequence[int]) -> UInt8[Tensor, "b 3 h w"]:
        """Pictures of codes, which are of these numbers."""
        tokens = self.tokenizer.tokens(codes.to(self.tokenizer.device))
        told = None if self.tokenizer.conditioner is None else [self.word(n) for n in numbers]
        return to_uint8(self.tokenizer.decode(tokens, texts=told, rng=rng, sampling=self.decoding))


def _name(length: int, number: int) -> str:
    return f"{length}/{number:05d}.png"


def about(job: Job, lengths: Sequence[int]) -> About:
    spec = job.tokenizer.spec.tokens
    rule = {"rule": "drawn", "prior": job.generator.id, "lengths": list(lengths),
            "sampling": job.sampling.deciding()}  # fmt: skip
    return About(
        model=job.tokenizer.id,
        fingerprint=fingerprint(job.tokenizer),
        length=spec.length,
        dim=spec.dim,
        codebooks=spec.codebooks,
        codebook_size=spec.codebook_size,
        image_size=job.tokenizer.config.image_size,
        preprocessing={},
        seed=job.seed,
        lengths=rule,
        flexframe=version("flexframe"),
        class_names=job.generator.config.class_names,
    )
