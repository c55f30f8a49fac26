"""The data source `scenes`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from flexframe.data.source import AttributeClassifier, CaptionReader, Sample, Source
from flexframe_standard.sources.scenes.layout import draw
from flexframe_standard.sources.scenes.render import VERSION, pixels, portions
from flexframe_standard.sources.scenes.truth import Placed, captions, placed
from flexframe_standard.sources.scenes_config import WORDS, ScenesConfig


class Scenes(Source[ScenesConfig]):
    """Procedural scenes. The label is the main object's shape; the attributes are all that `WORDS` names."""

    def __len__(self) -> int:
        return self.config.count

    def __getitem__(self, index: int) -> Sample:
        return self.samples([index])[0]

    def samples(self, indices: Sequence[int]) -> list[Sample]:
        """The scenes of these indices, drawn together: several times as fast as one by one, and equal."""
        samples, lit = [], self.config.lighting != "flat"
        for part in portions(indices, self.size):
            layout = draw(self.config, [self.number(index) for index in part])
            images = torch.from_numpy(pixels(layout, self.size, self.config.lighting))
            for row, index in enumerate(part):
                attributes = {name: int(layout.attributes[name][row]) for name in WORDS}
                name = f"scene-{self.config.seed}-{self.number(index)}"
                told = captions(layout, row, lit)["long"]
                samples.append(Sample(images[row], attributes["shape"], name, told, attributes))
        return samples

    def read_captions(self, indices: Sequence[int]) -> list[Mapping[str, str]]:
        """Four of each scene: `class`, `short`, `objects` and `long`."""
        layout = draw(self.config, [self.number(index) for index in indices])
        return [captions(layout, row, self.config.lighting != "flat") for row in range(len(layout))]

    def objects(self, index: int) -> list[Placed]:
        """Objects of a scene and their places, the main one first."""
        return placed(draw(self.config, [self.number(index)]), 0)

    def number(self, index: int) -> int:
        """The scene's number, which its draws depend on."""
        if not 0 <= index < len(self):
            raise IndexError(f"there are {len(self):,} scenes, 0 to {len(self) - 1:,}, and no {index}")
        return index + (2**31 if self.config.split == "val" else 0)

    def class_names(self) -> Sequence[str]:
        """The shapes."""
        return WORDS["shape"]

    def classifier(self) -> AttributeClassifier:
        """The first judge that ships with the scenes, a convolutional network.

        Raises:
            ValueError: pictures that are not square, or scenes that it was not trained on.
        """
        from flexframe_standard.sources.scenes.classifier import FILE, shipped

        return shipped(FILE, self)

    def second_classifier(self) -> AttributeClassifier:
        """The second judge that ships with the scenes, a transformer. Nothing that it measures may learn from it.

        Raises:
            ValueError: pictures that are not square, or scenes that it was not trained on.
        """
        from flexframe_standard.sources.scenes.classifier import SECOND, shipped

        return shipped(SECOND, self)

    def caption_reader(self) -> CaptionReader:
        """The second judge, and an exact check of sizes and places.

        Raises:
            ValueError: as of `second_classifier`.
        """
        from flexframe_standard.sources.scenes.asked import ScenesReader

        return ScenesReader(self)

    def protocol(self) -> Mapping[str, Any]:
        """The renderer's version; nothing is resized."""
        return {"resize": "none: drawn at this size", "crop": "none", "renderer": VERSION}
