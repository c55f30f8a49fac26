"""The data source `digits`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL import __version__ as pillow_version
from torch import Tensor

from flexframe.data.images import to_tensor
from flexframe.data.source import Sample, Source
from flexframe_standard.sources.digits_config import DigitsConfig


@cache
def _stored() -> tuple[np.ndarray, np.ndarray]:
    """All digits, 8 x 8 pixels of 8 bits each, and their labels; by scikit-learn's file alone, which takes a tenth of a
    second where the package takes seconds to import.

    Raises:
        FileNotFoundError: scikit-learn is not installed, or has them elsewhere.
    """
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise FileNotFoundError("the digits are scikit-learn's, which is not installed: pip install scikit-learn")
    rows = np.loadtxt(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    return np.rint(rows[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8), rows[:, -1].astype(int)


class Digits(Source[DigitsConfig]):
    """Handwritten digits of the UCI optical recognition set (E. Alpaydin, C. Kaynak), as scikit-learn ships them."""

    def __init__(self, config: DigitsConfig, size: tuple[int, int]) -> None:
        super().__init__(config, size)
        grey, labels = _stored()
        held_out = np.arange(len(grey)) % 5 == 4
        chosen = held_out if config.split == "val" else ~held_out
        self.numbers = np.flatnonzero(chosen)
        self.labels, self.grey = labels[chosen], grey[chosen]
        self._enlarged: dict[int, Tensor] = {}  # enlarged when first asked for

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Sample:
        at = range(len(self))[index]
        if at not in self._enlarged:
            grey = Image.fromarray(self.grey[at])
            self._enlarged[at] = to_tensor(grey.resize(self.size[::-1], Image.Resampling.BICUBIC))
        return Sample(self._enlarged[at], int(self.labels[at]), f"digit-{self.numbers[at]:04d}")

    def read_labels(self, indices: Sequence[int]) -> list[int | None]:
        return [int(self.labels[index]) for index in indices]

    def protocol(self) -> Mapping[str, Any]:
        """The record of how the digits were enlarged."""
        return {"resize": "pillow-bicubic from 8 x 8", "crop": "none", "pillow": pillow_version}
