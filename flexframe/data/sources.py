"""Image sources: finite, indexable, of one size."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL import __version__ as pillow_version

from flexframe.contracts import Sample, Source
from flexframe.data.images import COLOUR, SUFFIXES, fit, read_image, to_tensor
from flexframe_registry import ConfigError
from flexframe_registry.configs import SourceConfig


class Digits(Source):
    """Handwritten digits of the UCI optical recognition set (E. Alpaydin, C. Kaynak), as scikit-learn ships them."""

    def __init__(self, config: SourceConfig, size: tuple[int, int]) -> None:
        super().__init__(config, size)
        from sklearn.datasets import load_digits

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
        return {"resize": "pillow-bicubic from 8 x 8", "crop": "none", "pillow": pillow_version}


class Folder(Source):
    """Image files under a folder. A file that cannot be read is an error that names it."""

    def __init__(self, config: SourceConfig, size: tuple[int, int]) -> None:
        super().__init__(config, size)
        self.root = Path(config.path).expanduser()
        if not self.root.is_dir():
            raise ConfigError([("path", f"there is no folder {str(self.root)!r}")])
        self.files = sorted(p for p in self.root.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if not self.files:
            known = " ".join(sorted(SUFFIXES))
            raise ConfigError([("path", f"no images under {str(self.root)!r}; looked for {known}")])

    @cached_property
    def classes(self) -> Mapping[str, int]:
        """Class number by folder name, in sorted order; images directly in the root have no class."""
        names = {p.relative_to(self.root).parts[0] for p in self.files if p.parent != self.root}
        return {name: i for i, name in enumerate(sorted(names))}

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        path = self.files[index]
        image = fit(read_image(path, str(path)), self.size, self.config.resize)
        name = path.relative_to(self.root)
        return Sample(to_tensor(image), self.classes.get(name.parts[0]), name.as_posix())

    def protocol(self) -> Mapping[str, Any]:
        return {"resize": self.config.resize, "crop": "centre", "colour": COLOUR, "pillow": pillow_version}
