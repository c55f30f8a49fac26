"""Statistics that others publish of a data set's features: a `.npz` of `mu` and `sigma`."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flexframe.files import refuse_pointer, sha256
from flexframe_registry import ConfigError

LARGEST = 1 << 26
"""Bytes of an array that are read; a covariance of 2048 features in float64 is half as many."""
TOLERANCE = 1e-3
"""Asymmetry, and negative variance, as a share of the largest entry, that are taken for rounding."""


@dataclass(frozen=True)
class Statistics:
    """Mean and covariance of features, and what a protocol tells of their file."""

    mu: np.ndarray
    sigma: np.ndarray
    told: Mapping[str, Any]

    def statistics(self) -> dict[str, np.ndarray]:
        """`mu` and `sigma`, under torch-fidelity's names."""
        return {"mu": self.mu, "sigma": self.sigma}


def read_statistics(name: str, width: int, extractor: str, count: int | None = None) -> Statistics:
    """The statistics of a file, checked.

    Args:
        width: of the features that they are compared with.
        extractor: what makes these features; a file that names another is refused. Most name none.
        count: of how many images they are, as the user knows it; a file may say so itself.

    Raises:
        ConfigError: there is no such file, it is broken, or its statistics do not fit.
    """
    path = Path(name).expanduser()
    held = _arrays(path)
    if "mu" not in held or "sigma" not in held:
        there = ", ".join(sorted(held)) or "nothing"
        images = "; arr_0 are images: unpack them, and name their folder" if "arr_0" in held else ""
        raise ConfigError.at(str(path), f"holds {there}, and no statistics: mu and sigma{images}")
    mu, sigma = (np.asarray(held[key]) for key in ("mu", "sigma"))
    if mu.shape != (width,) or sigma.shape != (width, width):
        fits = f"; layer {mu.size} has as many" if str(mu.size) in ("64", "192", "768", "2048") else ""
        told = f"has mu of {mu.shape} and sigma of {sigma.shape}; this layer's are ({width},) and ({width}, {width})"
        raise ConfigError.at(str(path), f"{told}{fits}")
    if mu.dtype.kind != "f" or sigma.dtype.kind != "f" or not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise ConfigError.at(str(path), "has a mu or sigma that are no finite numbers; fetch it again")
    mu, sigma = mu.astype(np.float64), sigma.astype(np.float64)
    most = max(float(np.abs(sigma).max()), np.finfo(np.float64).tiny)
    if np.abs(sigma - sigma.T).max() > TOLERANCE * most or sigma.diagonal().min() < -TOLERANCE * most:
        raise ConfigError.at(str(path), "has a sigma that is no covariance: not symmetric, or of negative variances")
    named = _said(held, "extractor")
    if named is not None and named != extractor:
        raise ConfigError.at(str(path), f"is of features of {named!r}, and these are of {extractor!r}")
    own = _said(held, "count")
    if own is not None and count is not None and int(own) != count:
        raise ConfigError.at(str(path), f"is of {own} images by itself, and of {count} by `count`; one is wrong")
    of = count if own is None else int(own)
    told_of = {"count": of, "extractor": named or "not said by the file", "sha256": sha256(path)}
    return Statistics(mu, sigma, told_of)


def _arrays(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise ConfigError.at(str(path), "there is no such file of statistics")
    refuse_pointer(path)
    try:
        with zipfile.ZipFile(path) as whole:
            wanted = {each.filename.removesuffix(".npy"): each.file_size for each in whole.infolist()}
        with np.load(path, allow_pickle=False) as file:
            few = [name for name in ("mu", "sigma", "count", "extractor") if name in wanted]
            large = [name for name in few if wanted[name] > LARGEST]
            if large:
                raise ConfigError.at(str(path), f"{large[0]} has {wanted[large[0]]:,} bytes; at most {LARGEST:,}")
            return {name: file[name] if name in few else None for name in wanted}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        why = " ".join(str(error).split())[:120]
        raise ConfigError.at(str(path), f"is no whole .npz of arrays ({why}); fetch it again") from None


def _said(held: Mapping[str, Any], name: str) -> str | None:
    value = held.get(name)
    return None if value is None or np.ndim(value) else str(value)
