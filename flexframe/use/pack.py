"""Token files in as many bits as a prior needs: entropy coding of the codes, and back to the same ids.

A prior's bits for an image are what its tokens cost where the reader has the prior too (Shannon, 1948). The range coder
is constriction's. Reading needs the very probabilities that were coded with, to the last bit, so a block is coded and
read by the same passes of the prior over the same rows: on one kind of machine and one torch that holds, on another it
may not, and then each block's checksum tells.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from flexframe.data.tokenfile import About, Row, Rows, TokenFile, write
from flexframe.files import BLANK, check_seal, drop_parts, refuse_pointer, replaced, seal
from flexframe.lock import writes
from flexframe.models.fingerprint import fingerprint, weights
from flexframe.models.generator import Generator, same_classes
from flexframe.models.tokenizer import Tokenizer
from flexframe.parts import LikelihoodPrior, SymbolWalk
from flexframe.provenance import processor
from flexframe.tokens import Condition
from flexframe_registry import Config, ConfigError

log = logging.getLogger("flexframe")
FORMAT = "flexframe-packed/1"
BLOCK = 64
"""Images that are coded together: the coder rounds up to whole words of 32 bits once for all of them."""
EXTRA = "entropy coding needs constriction: pip install 'flexframe[pack]'"
Progress = Callable[[int, int], None]


class How(Config):
    """The description that a packed file gives of itself, beside that of its tokens."""

    prior: str
    """The prior as `flexframe.load` takes it."""
    weights: str = Field(pattern="^[0-9a-f]{64}$")
    """Hash of the prior's weights."""
    labelled: bool
    """Whether the prior was told each image's label."""
    block: int = Field(ge=1, le=65_536)
    torch: str
    processor: str
    threads: int | None = Field(None, ge=1)
    """Of torch on the CPU, which sums in another order with others; None on another device, and in files of before."""
    about: About
    """Of the token file."""


@dataclass(frozen=True)
class Packed:
    """The outcome of a packing."""

    path: Path
    count: int
    tokens: int
    bits: int
    """Of the codes alone, as they are coded."""
    plain_bits: float
    """Of the codes as plain integers."""


def coder() -> Any:
    """The library.

    Raises:
        ConfigError: it is not there.
    """
    try:
        import constriction  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        raise ConfigError.at("", EXTRA) from None
    return constriction


@writes("out")
def pack(
    file: TokenFile, generator: Generator, out: Path, *, prior: str, progress: Progress = lambda done, of: None
) -> Packed:
    """Write a token file's codes in the bits that a prior needs, and see that they are read back.

    Args:
        prior: the name that the file gives for the prior.
        progress: told how many images are done, and of how many.

    Raises:
        ConfigError: continuous tokens, a prior of other codes or one that does not say what each symbol's chances are,
            an output that is there.
    """
    constriction = coder()
    if out.exists():
        raise ConfigError.at(str(out), "is there already; delete it or choose another -o")
    about, config = file.about, generator.config
    _see_that_it_codes(generator, about, str(file.path))
    file.check()
    labels = file.table().labels
    labelled = bool((labels >= 0).all()) and bool((labels < (config.classes or 0)).all())
    if labelled and not same_classes(config, about.class_names):
        log.warning("%s: its classes are not those of %s, which is told none", file.path, prior)
        labelled = False
    words, ends, sums, parts = list[np.ndarray](), list[int](), list[bytes](), list[Rows]()
    done = 0
    for rows in file.batches(BLOCK):
        told = labels[done : done + len(rows.lengths)] if labelled else None
        codes = rows.codes
        made = _coded(constriction, _walk(generator, len(codes), told), codes, rows.lengths)
        again = _read(constriction, _walk(generator, len(codes), told), made, rows.lengths)
        if not torch.equal(again, codes):
            text = "gives other chances for the same symbols in a second pass, so that nothing it codes can be read"
            raise ConfigError.at(prior, f"{text}; use another --device")
        words.append(made)
        ends.append(sum(map(len, words)))
        sums.append(_sum(codes, rows.lengths))
        parts.append(rows)
        done += len(codes)
        progress(done, file.count)
    how = How(prior=prior, weights=weights(generator), labelled=labelled, block=BLOCK, torch=torch.__version__,
              processor=processor(generator.device), threads=_threads(generator), about=about)  # fmt: skip
    _write(out, how, words, ends, sums, parts, labels)
    lengths = torch.cat([each.lengths for each in parts])
    assert about.codebook_size is not None
    plain = float(lengths.sum()) * about.codebooks * float(np.log2(about.codebook_size))
    return Packed(out, file.count, int(lengths.sum()), 32 * sum(map(len, words)), plain)


def read_how(path: Path) -> How:
    """The description of a packed file.

    Raises:
        ConfigError: it is none.
    """
    if not path.is_file():
        raise ConfigError.at(str(path), "there is no such file")
    refuse_pointer(path)
    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ConfigError.at(str(path), f"is not a whole safetensors file ({error}); pack the tokens again") from None
    if metadata.get("format") != FORMAT:
        held = metadata.get("format", "no format")
        raise ConfigError.at(str(path), f"is no packed file of this version: its metadata names {held}, not {FORMAT!r}")
    check_seal(path, "pack the tokens again")
    try:
        raw = json.loads(metadata.get("packed", ""))
    except ValueError as error:
        raise ConfigError.at(str(path), f"its metadata cannot be read ({error}); pack the tokens again") from None
    return How.read(raw, str(path))


@writes("out")
def unpack(path: Path, generator: Generator, out: Path, *, progress: Progress = lambda done, of: None) -> int:
    """Write the token file that was coded, and give its number of images.

    Raises:
        ConfigError: a broken file, another prior, a machine on which the prior's chances are others, an output that is
            there.
    """
    constriction = coder()
    if out.exists():
        raise ConfigError.at(str(out), "is there already; delete it or choose another -o")
    how = read_how(path)
    if weights(generator) != how.weights:
        text = f"was packed with another prior than {generator.id or 'this'}: {how.prior}, or it before it changed"
        raise ConfigError.at(str(path), f"{text}; name the right one with --prior")
    _see_that_it_codes(generator, how.about, str(path))
    tensors = _tensors(path)
    rows = list(_rows(constriction, path, how, generator, tensors, progress))
    write(out, how.about, lambda: rows)
    return len(rows)


def _rows(
    constriction: Any,
    path: Path,
    how: How,
    generator: Generator,
    tensors: Mapping[str, np.ndarray],
    progress: Progress,
) -> Iterator[Row]:
    lengths, count = torch.from_numpy(tensors["lengths"].astype(np.int64)), len(tensors["lengths"])
    ids, id_ends, labels = tensors["ids"].tobytes(), tensors["id_ends"].tolist(), tensors.get("labels")
    for number, start in enumerate(range(0, count, how.block)):
        stop = min(start + how.block, count)
        first = int(tensors["ends"][number - 1]) if number else 0
        told = labels[start:stop].astype(np.int64) if how.labelled and labels is not None else None
        walk = _walk(generator, stop - start, told)
        codes = _read(constriction, walk, tensors["words"][first : int(tensors["ends"][number])], lengths[start:stop])
        if _sum(codes, lengths[start:stop]) != tensors["sums"][number].tobytes():
            here = _machine(torch.__version__, processor(generator.device), _threads(generator))
            text = (
                f"images {start} to {stop - 1} come to other ids: the prior's chances are not the same to the last bit"
            )
            coded = f"here ({here}) as where they were coded ({_machine(how.torch, how.processor, how.threads)})"
            raise ConfigError.at(str(path), f"{text} {coded}; unpack it as it was there")
        for i in range(start, stop):
            name = ids[id_ends[i - 1] if i else 0 : id_ends[i]].decode()
            label = None if labels is None or labels[i] < 0 else int(labels[i])
            yield Row(int(tensors["index"][i]), name, codes[i - start, : lengths[i]].numpy(), label)
        progress(stop, count)


def _threads(generator: Generator) -> int | None:
    """Torch's number of threads, where it is what a prior computes with."""
    return torch.get_num_threads() if generator.device.type == "cpu" else None


def _machine(version: str, device: str, threads: int | None) -> str:
    """Words for what the chances hang on to the last bit."""
    return f"torch {version} on {device}{f', threads {threads}' if threads else ''}"


def see_that_it_packs(generator: Generator, tokenizer: Tokenizer, model: str) -> None:
    """See that what a tokenizer encodes can be packed, before it does.

    Args:
        model: the tokenizer's name.

    Raises:
        ConfigError: constriction is not there; continuous tokens; a prior that codes none of these.
    """
    coder()
    tokens = tokenizer.config.spec.tokens
    told: dict[str, Any] = {
        "model": model,
        "fingerprint": fingerprint(tokenizer),
        "codebook_size": tokens.codebook_size,
    }
    about = About.model_construct(**told, length=tokens.length, codebooks=tokens.codebooks)
    _see_that_it_codes(generator, about, model, "makes")


def _see_that_it_codes(generator: Generator, about: About, place: str, holds: str = "holds") -> None:
    config, name = generator.config, generator.id or "the prior"
    if about.codebook_size is None:
        raise ConfigError.at(place, f"{holds} continuous tokens, which have no bits; quantized ones can be coded")
    walks = isinstance(generator.prior, LikelihoodPrior) and type(generator.prior).walk is not LikelihoodPrior.walk
    if not walks:
        text = f"is a {config.prior.type!r}, which does not say how likely each symbol is given those before it"
        raise ConfigError.at(name, f"{text}; pack with one that does")
    own, theirs = (config.codebook_size, config.codebooks), (about.codebook_size, about.codebooks)
    if own != theirs or config.length < about.length or config.fingerprint not in (None, about.fingerprint):
        text = f"models the codes of another tokenizer than {about.model}, whose the tokens are"
        raise ConfigError.at(name, f"{text}; name a prior of that one")


def _walk(generator: Generator, count: int, labels: np.ndarray | None) -> SymbolWalk:
    """The way through so many sequences, whose first symbols hang on the labels alone, or on nothing."""
    condition = None
    if generator.config.classes is not None:
        told = None if labels is None else torch.from_numpy(labels).to(generator.device)
        condition = Condition(torch.full((count,), labels is None, device=generator.device), told)
    assert isinstance(generator.prior, LikelihoodPrior)
    walk = generator.prior.walk(generator.embedded(condition, count), count)
    assert walk is not None
    return walk


@torch.no_grad()
def _chances(walk: SymbolWalk, symbols: Tensor, here: np.ndarray) -> np.ndarray:
    """Probabilities of the next symbol in the rows that have one, float64."""
    logits: np.ndarray = walk.logits(symbols).float().cpu().numpy()[here].astype(np.float64)
    chances = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(chances / chances.sum(1, keepdims=True))


def _coded(constriction: Any, walk: SymbolWalk, codes: Tensor, lengths: Tensor) -> np.ndarray:
    """The words of a block."""
    stream = constriction.stream
    encoder, family = stream.queue.RangeEncoder(), stream.model.Categorical(perfect=False)
    symbols = walk.symbols(codes.to(walk.device))
    for step in range(int(lengths.max()) * walk.period):
        here = (lengths * walk.period > step).numpy()
        chances = _chances(walk, symbols[:, :step], here)
        encoder.encode(symbols[:, step].cpu().numpy()[here].astype(np.int32), family, chances)
    return np.asarray(encoder.get_compressed())


def _read(constriction: Any, walk: SymbolWalk, words: np.ndarray, lengths: Tensor) -> Tensor:
    """The codes of a block, zero where a token is absent."""
    stream = constriction.stream
    decoder, family = stream.queue.RangeDecoder(words.astype(np.uint32)), stream.model.Categorical(perfect=False)
    longest = int(lengths.max())
    symbols = torch.zeros(len(lengths), longest * walk.period, dtype=torch.long, device=walk.device)
    for step in range(longest * walk.period):
        here = (lengths * walk.period > step).numpy()
        found = decoder.decode(family, _chances(walk, symbols[:, :step], here))
        symbols[torch.from_numpy(here).to(walk.device), step] = torch.from_numpy(found.astype(np.int64)).to(walk.device)
    codes = walk.codes(symbols).cpu()
    return codes.masked_fill(~(torch.arange(longest) < lengths[:, None])[..., None], 0)


def _sum(codes: Tensor, lengths: Tensor) -> bytes:
    """Checksum of a block's codes that are present."""
    digest = hashlib.sha256(lengths.numpy().astype("<i8").tobytes())
    for row, length in zip(codes, lengths.tolist(), strict=True):
        digest.update(row[:length].numpy().astype("<i8").tobytes())
    return digest.digest()


def _write(
    out: Path,
    how: How,
    words: list[np.ndarray],
    ends: list[int],
    sums: list[bytes],
    parts: list[Rows],
    labels: np.ndarray,
) -> None:
    names = [name.encode() for part in parts for name in part.ids]
    tensors: dict[str, np.ndarray] = {
        "words": np.concatenate(words).astype(np.uint32),
        "ends": np.array(ends, np.int64),
        "sums": np.frombuffer(b"".join(sums), np.uint8).reshape(-1, 32),
        "lengths": torch.cat([part.lengths for part in parts]).numpy().astype(np.int32),
        "index": torch.cat([part.index for part in parts]).numpy(),
        "id_ends": np.cumsum([len(name) for name in names]).astype(np.int64),
        "ids": np.frombuffer(b"".join(names), np.uint8),
    }
    if (labels >= 0).any():
        tensors["labels"] = labels.astype(np.int32)
    text = json.dumps(how.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
    drop_parts(out)
    with replaced(out) as part:
        part.write_bytes(save(tensors, {"format": FORMAT, "packed": text, **BLANK}))
        seal(part)


def _tensors(path: Path) -> dict[str, np.ndarray]:
    """All of a packed file.

    Raises:
        ConfigError: its tensors do not fit each other.
    """
    try:
        with safe_open(path, "np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ConfigError.at(str(path), f"cannot be read ({error}); pack the tokens again") from None
    wanted = {"words", "ends", "sums", "lengths", "index", "id_ends", "ids"}
    if not wanted <= tensors.keys() or len({len(tensors[name]) for name in ("lengths", "index", "id_ends")}) > 1:
        raise ConfigError.at(str(path), "its tensors do not fit each other; pack the tokens again")
    return tensors
