"""Statistics of a data set's features as files: those that others publish, `mu` and `sigma`, and those of `stats`."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flexframe.files import refuse_pointer, sha256
from flexframe_registry import ConfigError
from flexframe_registry.files import plain

LARGEST = 1 << 26
"""Bytes of an array that are read; a covariance of 2048 features in float64 is half as many."""
MOST_FACTS = 1 << 16
"""Letters of what a file tells of its making that are read."""
TOLERANCE = 1e-3
"""Asymmetry, and negative variance, as a share of the largest entry, that are taken for rounding."""
OURS = "inception-v3-compat"
"""torch-fidelity's name for its usual network."""
FIDELITY = re.compile(r"-(?P<network>[\w.-]+?)(?:-features)?-stat-fid-(?P<layer>\w+)$")
"""The end of torch-fidelity's name for statistics that it keeps."""
CLEAN = re.compile(
    r"_(clean|legacy_pytorch|legacy_tensorflow)_(\w+_)?(train|test|val|trainval|trainfull|custom|na)_", re.I
)
"""clean-fid's way to bring images to the network's size, in its name for statistics."""
ANOTHER_WAY = {
    "clean": "brought to 299 pixels by clean-fid, outside of the network",
    "legacy_pytorch": "brought to 299 pixels by PyTorch's bilinear rule, where this network has TensorFlow's",
}


@dataclass(frozen=True)
class Statistics:
    """Mean and covariance of features, and what a protocol tells of their file."""

    mu: np.ndarray
    sigma: np.ndarray
    told: Mapping[str, Any]

    def statistics(self) -> dict[str, np.ndarray]:
        """`mu` and `sigma`, under torch-fidelity's names."""
        return {"mu": self.mu, "sigma": self.sigma}


def read_statistics(
    name: str, width: int, extractor: str, count: int | None = None, names: tuple[str, str] = ("mu", "sigma")
) -> Statistics:
    """The statistics of a file, checked.

    Args:
        name: a `.npz`, or a `.pt` that torch-fidelity keeps in its cache.
        width: of the features that they are compared with.
        extractor: what makes these features; a file that names another is refused. Most name none.
        count: of how many images they are, as the user knows it; a file may say so itself.
        names: of mean and covariance in the file.

    Raises:
        ConfigError: there is no such file, it is broken, or its statistics do not fit.
    """
    path = Path(name).expanduser()
    if not path.is_file():
        raise ConfigError.at(str(path), "there is no such file of statistics")
    refuse_pointer(path)
    _see_name(path, width)
    held = _kept(path) if path.suffix == ".pt" else _arrays(path, names)
    if not set(names) <= held.keys():
        there = ", ".join(sorted(held)) or "nothing"
        images = "; arr_0 are images, as `{type: images, path: ...}` takes them" if "arr_0" in held else ""
        raise ConfigError.at(str(path), f"holds {there}, and no statistics: {' and '.join(names)}{images}")
    mu, sigma = (np.asarray(held[key]) for key in names)
    if mu.shape != (width,) or sigma.shape != (width, width):
        fits = f"; layer {mu.size} has as many" if str(mu.size) in ("64", "192", "768", "2048") else ""
        told = f"has {names[0]} of {mu.shape} and {names[1]} of {sigma.shape}; this layer's are ({width},) and "
        raise ConfigError.at(str(path), f"{told}({width}, {width}){fits}")
    if mu.dtype.kind != "f" or sigma.dtype.kind != "f" or not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise ConfigError.at(str(path), f"has a {names[0]} or {names[1]} that are no finite numbers; fetch it again")
    mu, sigma = mu.astype(np.float64), sigma.astype(np.float64)
    most = max(float(np.abs(sigma).max()), np.finfo(np.float64).tiny)
    if np.abs(sigma - sigma.T).max() > TOLERANCE * most or sigma.diagonal().min() < -TOLERANCE * most:
        raise ConfigError.at(
            str(path), f"has a {names[1]} that is no covariance: not symmetric, or of negative variances"
        )
    named = _said(held, "extractor")
    if named is not None and named != extractor:
        raise ConfigError.at(str(path), f"is of features of {named!r}, and these are of {extractor!r}")
    own = _said(held, "count")
    if own is not None and count is not None and int(own) != count:
        raise ConfigError.at(str(path), f"is of {own} images by itself, and of {count} by `count`; one is wrong")
    of = count if own is None else int(own)
    told_of = {"count": of, "extractor": named or "not said by the file", "sha256": sha256(path)}
    return Statistics(mu, sigma, {**_facts(path, _said(held, f"facts_{names[0]}")), **told_of})


def _see_name(path: Path, width: int) -> None:
    """Refuse statistics that are of other features by their name, which is all that some files say."""
    kept, clean = FIDELITY.search(path.stem), CLEAN.search(path.stem)
    if kept is not None and not kept["network"].endswith(OURS):
        raise ConfigError.at(
            str(path), f"is of network {kept['network']!r} by its name, and these features are {OURS}'s"
        )
    if kept is not None and kept["layer"] != str(width):
        raise ConfigError.at(str(path), f"is of layer {kept['layer']} by its name, and this layer is {width}")
    way = None if clean is None else ANOTHER_WAY.get(clean[1].lower())
    if clean is not None and clean[2]:
        way = f"of the network {clean[2].rstrip('_')}"
    if way is not None:
        told = f"is of images {way}, by its name; of clean-fid's statistics those of mode legacy_tensorflow fit"
        raise ConfigError.at(str(path), told)


def _kept(path: Path) -> Mapping[str, Any]:
    """What torch-fidelity keeps of a data set: numpy's arrays in a pickle, of which nothing else is taken."""
    try:
        with torch.serialization.safe_globals(_arrays_alone()):
            held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever is wrong with the file, or whatever else it holds
        why = " ".join(str(error).split())[:120]
        raise ConfigError.at(str(path), f"is no file of torch-fidelity's statistics ({why})") from None
    if not isinstance(held, Mapping) or not all(isinstance(value, np.ndarray) for value in held.values()):
        raise ConfigError.at(str(path), "is no file of torch-fidelity's statistics: they are arrays by name")
    return held


def _arrays_alone() -> list[Any]:
    """What unpickling an array of numbers needs."""
    own = np.zeros(1).__reduce__()[0]
    return [own, np.ndarray, np.dtype, type(np.dtype(np.float32)), type(np.dtype(np.float64))]


def _facts(path: Path, text: str | None) -> dict[str, Any]:
    """What a file of `flexframe stats` tells of the images, and of how their features were made."""
    if text is None:
        return {}
    try:
        if len(text) > MOST_FACTS:
            raise ValueError(f"they have {len(text):,} letters")
        return dict(plain(json.loads(text), str(path)))
    except (ValueError, RecursionError) as error:
        raise ConfigError.at(
            str(path), f"tells facts that cannot be read ({str(error)[:120]}); write it anew"
        ) from None


def _arrays(path: Path, names: tuple[str, str]) -> Mapping[str, Any]:
    try:
        with zipfile.ZipFile(path) as whole:
            wanted = {each.filename.removesuffix(".npy"): each.file_size for each in whole.infolist()}
        with np.load(path, allow_pickle=False) as file:
            few = [name for name in (*names, "count", "extractor", f"facts_{names[0]}") if name in wanted]
            large = [name for name in few if wanted[name] > LARGEST]
            if large:
                raise ConfigError.at(str(path), f"{large[0]} has {wanted[large[0]]:,} bytes; at most {LARGEST:,}")
            return {name: file[name] if name in few else None for name in wanted}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, ConfigError):
            raise
        why = " ".join(str(error).split())[:120]
        raise ConfigError.at(str(path), f"is no whole .npz of arrays ({why}); fetch it again") from None


def _said(held: Mapping[str, Any], name: str) -> str | None:
    value = held.get(name)
    return None if value is None or np.ndim(value) else str(value)
