"""The contract of image sources: finite data sets of images of one size."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal

from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from typing_extensions import TypeVar

from flexframe_registry.kinds import SourceConfig

SourceC = TypeVar("SourceC", bound=SourceConfig, default=SourceConfig)

Facts = Literal["all", "labels", "captions", "any", "none"]
"""What is asked of the files beside images: `all` of them must be right; only `labels`, or only `captions`, are read,
and must be; or `any` label that can be read is taken, and the others are told; `none` is read."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a source: RGB uint8 and what is known about it."""

    image: UInt8[Tensor, "3 h w"]
    label: int | None
    id: str
    caption: str | None = None
    attributes: Mapping[str, int] = field(default_factory=dict)
    """By name, what is exactly known of it."""


class AttributeClassifier(ABC):
    """Reads off images what a source knows of them. It comes with the source."""

    label: str
    """The attribute that is the class."""
    values: Mapping[str, int]
    """By attribute, how many values it takes in the source's images, all equally likely. What does not show in them, or
    is the same in all, is not there."""

    @abstractmethod
    def __call__(self, images: UInt8[Tensor, "b 3 h w"]) -> Mapping[str, Int[Tensor, " b"]]:
        """Each of the `values`, as read."""

    def logits(self, images: Float[Tensor, "b 3 h w"]) -> Mapping[str, Float[Tensor, "b v"]]:
        """Logits of each of the `values`, of images in [0, 1], for objectives that learn from them.

        Raises:
            ValueError: it has no logits.
        """
        raise ValueError(f"{type(self).__name__} reads values alone, and has no logits to learn from")

    def plausible(self, images: UInt8[Tensor, "b 3 h w"]) -> Bool[Tensor, " b"] | None:
        """The images that it is as sure of as of the source's own; None where it tells no confidence."""
        return None

    def calibration(self) -> Mapping[str, Any]:
        """The facts of what it calls plausible: confidence, threshold, and the images that this is from."""
        return {}

    @abstractmethod
    def protocol(self) -> Mapping[str, Any]:
        """The facts of it: network, input size, hash of its weights, what it was trained on and how well it reads."""


class CaptionReader(ABC):
    """Reads off pictures whether they show what a caption asks. It comes with the source."""

    forms: Mapping[str, Sequence[str]]
    """By form of caption, the facts that it may ask; a fact that an image does not have is not asked of it."""

    @abstractmethod
    def truth(self, indices: Sequence[int]) -> Sequence[Mapping[str, Any]]:
        """Facts of the source's images, by name."""

    @abstractmethod
    def shown(
        self, images: UInt8[Tensor, "b 3 h w"], asked: Sequence[Mapping[str, Any]]
    ) -> Sequence[Mapping[str, bool]]:
        """Tell of each picture and each fact that is asked of it whether it shows it."""

    @abstractmethod
    def protocol(self) -> Mapping[str, Any]:
        """The facts of it, as of an `AttributeClassifier`."""


class Source(ABC, Generic[SourceC]):
    """A finite, indexable data set of images of one size, built as `(config, (height, width))`."""

    def __init__(self, config: SourceC, size: tuple[int, int]) -> None:
        self.config, self.size = config, size
        self.facts: Facts = "all"
        self.notes: dict[int, str] = {}
        """By number, what `remarks` has to tell of an image that was read, here or by a process that reads for this."""

    def want(self, facts: Facts) -> None:
        """Say what of the files beside images is needed, so that the rest is not read and stops nothing."""
        self.facts = facts

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Sample: ...

    def samples(self, indices: Sequence[int]) -> Sequence[Sample]:
        """Samples of several indices at once, the same as one by one; for sources that are faster so."""
        return [self[index] for index in indices]

    def read_labels(self, indices: Sequence[int]) -> Sequence[int | None] | None:
        """Labels of images, read without the images; None where this source has no way to."""
        return None

    def own_size(self) -> tuple[int, int] | None:
        """Height and width of its first image as it is in its file; None where images are made to size."""
        return None

    def read_captions(self, indices: Sequence[int]) -> Sequence[Mapping[str, str]]:
        """Captions of images, read without the images where there is a way: of each image by form, the one that says
        least first; none where there is no caption. A form is a word of this source's for how much is said."""
        samples = self.samples(indices)
        return [{} if sample.caption is None else {"caption": sample.caption} for sample in samples]

    def class_names(self) -> Sequence[str]:
        """Names of the labels 0, 1, ...; none where nobody knows."""
        return ()

    def classifier(self) -> AttributeClassifier | None:
        """The classifier that comes with the source, or None. `ValueError` says why it cannot be used here."""
        return None

    def second_classifier(self) -> AttributeClassifier | None:
        """A classifier of another architecture, seed and training, for what the first one taught; or None.

        Raises:
            ValueError: it cannot be used here.
        """
        return None

    def caption_reader(self) -> CaptionReader | None:
        """The reader of what captions ask that comes with the source, or None.

        Raises:
            ValueError: it cannot be used here.
        """
        return None

    @abstractmethod
    def protocol(self) -> Mapping[str, Any]:
        """The record of what was done to the images (resize, crop, library versions), part of every fingerprint."""

    def inventory(self) -> Mapping[str, Any]:
        """The inventory of what is there now (`flexframe.data.inventory`): where images are in files, others show
        in it. Plain data; `count`, the number of images, where the config alone decides them."""
        return {"count": len(self)}

    def remarks(self) -> Sequence[str]:
        """Sentences that a user of these images must know, which stand at the end of what a command prints."""
        return ()
