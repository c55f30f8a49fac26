"""A token file to PNG files, each written whole, and from where it stopped."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from flexframe.data.images import suffixes
from flexframe.data.tarmembers import check_id
from flexframe.data.tokenfile import Rows, TokenFile
from flexframe.files import drop_parts, refuse_other, replaced, sha256, write_json
from flexframe.lock import writes
from flexframe.models.fingerprint import fingerprint, weights
from flexframe.models.generator import needs_texts
from flexframe.models.tokenizer import Tokenizer
from flexframe.pictures import to_uint8, whole_png
from flexframe.rng import Rng
from flexframe.tokens import Tokens
from flexframe.use.lengths import fewest
from flexframe_registry import ConfigError
from flexframe_registry.files import read_json

log = logging.getLogger("flexframe")
MIXED = "3 to 5 % of token ids are others in bfloat16 than in float32, 0.1 to 0.5 % in float16"
"""Measured on the 359 held-out digits by the shipped models of digits."""
RECORD = "decode.json"
FORMAT = "flexframe-decode/1"
Progress = Callable[[float, int], None]
"""Told how many images are done, with fractions for steps, and of how many."""


@dataclass(frozen=True)
class Decoded:
    """The outcome of a decoding."""

    folder: Path
    count: int
    kept: int
    """How many images were there before this run."""


@writes("folder")
def decode(
    file: TokenFile,
    tokenizer: Tokenizer,
    folder: Path,
    *,
    model: str = "",
    length: int | None = None,
    seed: int = 0,
    sampling: Mapping[str, Any] | None = None,
    batch_size: int = 8,
    force: bool = False,
    progress: Progress = lambda done, of: None,
) -> Decoded:
    """Decode every image of a token file to `<folder>/<id>.png`, with `.png` in place of the id's suffix.

    A PNG appears when it is whole, and one that is damaged is decoded again. `decode.json` in the folder says what the
    run was, so that one that was broken off goes on, and pictures of two runs are never mixed. An image draws by the
    number it had when it was encoded.

    Args:
        length: the most tokens of an image to use; all if None.
        sampling: decoder settings, laid on the model's own.
        force: decode with a model whose token ids mean something else.

    Raises:
        ConfigError: a broken file, another model, a folder with other things in it.
    """
    compatible(file, tokenizer, force)
    needs_texts(tokenizer, (), "a file of tokens holds none: `decode(tokens, texts=[...])` in Python takes them")
    if length is not None and not 1 <= length <= file.longest:
        raise ConfigError.at("--length", f"{length} is not within 1..{file.longest}, the longest of {file.path}")
    if length is not None and length < file.longest and not file.about.prefixes:
        text = f"{length} of {file.longest}: this model's tokens hang on how many are kept, so the first ones are no"
        raise ConfigError.at("--length", f"{text} image; encode the images again with --lengths {length}")
    if length is not None and length < fewest(tokenizer):
        text = f"{length}: this model was trained at {fewest(tokenizer)} tokens alone: fewer are no image; leave it out"
        raise ConfigError.at("--length", text)
    file.check()
    named = names(file)
    settings = tokenizer.sampling.laid(sampling)
    record = {
        "format": FORMAT,
        "tokens_sha256": sha256(file.path),
        "model": model,
        "fingerprint": fingerprint(tokenizer),
        "decoder": weights(tokenizer.decoder),
        "length": length,
        "seed": seed,
        "sampling": settings.deciding(),
    }
    _begin(folder, record)
    done = kept = 0
    progress(0, len(file))
    for rows in file.batches(batch_size):
        targets = [folder / named(name) for name in rows.ids]
        todo = [i for i, target in enumerate(targets) if not _there(target)]
        kept += len(targets) - len(todo)
        start, share = done + len(targets) - len(todo), len(todo)

        def on_step(step: int, of: int, start: int = start, share: int = share) -> None:
            progress(start + share * step / of, len(file))

        if todo:
            tokens, rng = _taken(tokenizer, rows, todo, length, seed)
            images = to_uint8(tokenizer.decode(tokens, rng=rng, sampling=settings, on_step=on_step))
            for i, image in zip(todo, images, strict=True):
                save(image, targets[i], folder)
        done += len(targets)
        progress(done, len(file))
    return Decoded(folder, done, kept)


def compatible(file: TokenFile, tokenizer: Tokenizer, force: bool = False) -> None:
    """Raise `ConfigError` unless the model can read the file's tokens, and reads them as they were meant."""
    about, spec, place = file.about, tokenizer.spec.tokens, str(file.path)
    if file.longest > spec.length:
        raise ConfigError.at(place, f"has sequences of {file.longest} tokens; this model's have at most {spec.length}")
    held, own = (
        f"{each.codebooks} x {each.codebook_size}" if each.codebook_size else f"{each.dim} values"
        for each in (about.spec, spec)
    )
    if held != own:
        raise ConfigError.at(place, f"has tokens of {held}; this model's are of {own}, so it cannot decode them")
    mixed = about.precision != tokenizer.precision
    told = f"was encoded in {about.precision}, and this model computes in {tokenizer.precision}: {MIXED}"
    if about.fingerprint != fingerprint(tokenizer) and not force:
        if mixed:
            raise ConfigError.at(place, f"{told}; use the same, encode again, or decode with --force")
        text = f"was encoded by another model ({about.model}), whose token ids mean something else; name that one"
        raise ConfigError.at(place, f"{text} with --model, or decode with --force")
    if mixed:
        log.warning("%s %s", place, told)


def names(file: TokenFile) -> Callable[[str], str]:
    """The place of each image below the folder: its id, with `.png` for its suffix.

    Where two ids would meet (`a.jpg`, `a.png`), each keeps its suffix before the `.png`. Costs 8 bytes an image.

    Raises:
        ConfigError: two images would still be written to one place.
    """

    def shorter(id_: str) -> str:
        path = PurePosixPath(check_id(id_, file.path))
        return f"{path.with_suffix('') if path.suffix.lower() in suffixes() else path}.png"

    meeting = _twice(file, shorter)

    def name(id_: str) -> str:
        short = shorter(id_)
        return short if _hash(short) not in meeting or id_ == short else f"{id_}.png"

    clash = _twice(file, name)
    if clash:
        clashing = next(id_ for id_ in file.ids() if _hash(name(id_)) in clash)
        raise ConfigError.at(str(file.path), f"two of its images would be written to {name(clashing)!r}")
    return name


def save(image: UInt8[Tensor, "3 h w"], target: Path, folder: Path) -> None:
    """Write a PNG whole or not at all, and nowhere but below `folder`.

    Raises:
        ConfigError: a link leads out of the folder.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.parent.resolve().is_relative_to(folder.resolve()):
        raise ConfigError.at(str(target), f"leads out of {folder}, by a link; remove the link")
    with replaced(target) as part:
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(part, format="PNG")


def _there(target: Path) -> bool:
    """Tell whether a picture is there and whole; what a fault of the disk changed is decoded again."""
    if not target.is_file():
        return False
    if whole_png(target.read_bytes()):
        return True
    log.warning("%s is damaged, and decoded again", target)
    return False


def _taken(tokenizer: Tokenizer, rows: Rows, todo: list[int], length: int | None, seed: int) -> tuple[Tokens, Rng]:
    """Tokens of the rows to decode, and what their draws follow from."""
    device, longest = tokenizer.device, int(rows.lengths[todo].max())
    lengths = rows.lengths[todo].clamp(max=length or longest)
    codes = rows.codes[todo, : int(lengths.max())].to(device)
    tokens = tokenizer.tokens(codes, lengths=lengths.to(device))
    return tokens, Rng(seed, rows.index[todo].to(device))


def _begin(folder: Path, record: Mapping[str, Any]) -> None:
    """Make the folder, or see that what is in it is of this same run."""
    path = folder / RECORD
    if path.is_file():
        held = read_json(path, "these may be the images of another decoding: choose another folder")
        refuse_other(folder, "holds the images of another decoding", held, record, "choose another folder")
        drop_parts(folder)
        return
    drop_parts(path)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError.at(str(folder), f"is no empty folder and has no {RECORD} to go on from; choose another")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, record, sort_keys=True)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def _twice(file: TokenFile, name: Callable[[str], str]) -> frozenset[int]:
    """Hashes of the names that more than one image has."""
    hashes = np.fromiter((_hash(name(id_)) for id_ in file.ids()), np.uint64, len(file))
    hashes.sort()
    return frozenset(int(value) for value in hashes[1:][hashes[1:] == hashes[:-1]])
