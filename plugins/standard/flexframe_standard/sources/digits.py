"""The data source `digits`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL import __version__ as pillow_version

from flexframe.data.images import to_tensor
from flexframe.data.source import Sample, Source
from flexframe_standard.sources.digits_config import DigitsConfig


class Digits(Source[DigitsConfig]):
    """Handwritten digits of the UCI optical recognition set (E. Alpaydin, C. Kaynak), as scikit-learn ships them."""

    def __init__(self, config: DigitsConfig, size: tuple[int, int]) -> None:
        super().__init__(config, size)
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]

        grey, labels = load_digits(return_X_y=True)
        held_out = np.arange(len(grey)) % 5 == 4
        chosen = held_out if config.split == "val" else ~held_out
        self.numbers = np.flatnonzero(chosen)
        self.labels = labels[chosen]
        pixels = np.rint(grey[chosen].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
        enlarged = [Image.fromarray(p).resize(size[::-1], Image.Resampling.BICUBIC) for p in pixels]
        self.images = torch.stack([to_tensor(image) for image in enlarged])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        return Sample(self.images[index], int(self.labels[index]), f"digit-{self.numbers[index]:04d}")

    def protocol(self) -> Mapping[str, Any]:
        """The record of how the digits were enlarged."""
        return {"resize": "pillow-bicubic from 8 x 8", "crop": "none", "pillow": pillow_version}
