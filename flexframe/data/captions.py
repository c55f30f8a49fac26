"""The texts of a prior's training batches: captions of the run's images."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from flexframe.data.source import Source
from flexframe.rng import Rng
from flexframe.tokens import Condition
from flexframe_registry import ConfigError

log = logging.getLogger("flexframe")
LOOKED = 64
"""Images among which one is to have a caption."""


class Captions:
    """Captions of a source's images, of several of one image one drawn for each step.

    Raises:
        ConfigError: none of the first images has one.
    """

    def __init__(self, source: Source, place: str = "run.data", remedy: str = "model.conditioner=null") -> None:
        source.want("captions")
        self.source = source
        count = min(len(source), LOOKED)
        missing = sum(not each for each in source.read_captions(range(count)))
        if missing == count:
            text = f"has no captions, of {count} images that were looked at, and the model reads texts"
            raise ConfigError.at(place, f"{text}; give data with captions, or {remedy}")
        if missing:
            told = "of the %d images that were looked at have no caption, and are learned without one"
            log.warning(f"%s: %d {told}", place, missing, count)

    def of(self, index: torch.Tensor, rng: Rng) -> Condition:
        """The condition of images of these numbers: texts, and null where an image has none."""
        known = self.source.read_captions(index.tolist())
        drawn = (rng.uniform("data/caption") * torch.tensor([len(each) for each in known], device=index.device)).long()
        texts = tuple([*each.values()][at] if each else None for each, at in zip(known, drawn.tolist(), strict=True))
        return Condition(torch.tensor([text is None for text in texts], device=index.device), texts=texts)


def every(source: Source, rows: Sequence[int]) -> list[str]:
    """Captions, all of them, of images of these numbers, of all forms."""
    return [text for each in source.read_captions(rows) for text in each.values()]
