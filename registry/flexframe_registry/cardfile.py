"""The form of a card's file."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from .config import Config
from .kinds import Resize
from .models import ModelKind


class Weights(Config):
    """The place of a card's weights: a file beside it, which must hash to `sha256`, or a repository of the hub."""

    path: str | None = None
    """File beside the card."""
    hub: str | None = Field(None, pattern=r"^[\w.-]+/[\w.-]+$")
    """Repository `owner/name` on the Hugging Face hub, in the format of its publisher."""
    revision: str | None = None
    """The repository's commit, where it is known; else that of the first download is recorded."""
    file: str | None = None
    """The one file of the repository that is meant, where it holds several models."""
    entry: str = ""
    """The entry of the file that holds the tensors, where it holds several, as an average beside the last weights."""
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    """Hash of the file."""

    @model_validator(mode="after")
    def _one_place(self) -> Weights:
        if (self.path is None) == (self.hub is None):
            raise ValueError("weights have a `path` beside the card or a `hub` repository; give one of the two")
        if self.path is not None and self.sha256 is None:
            raise ValueError("weights beside a card need their `sha256`")
        return self


class Preprocessing(Config):
    """The way from an image file to the model's input."""

    resize: Resize = "torchvision-bicubic"
    """The filter that brings the shorter edge to size (Pillow, antialiased), before a centre crop."""


class Shown(Config):
    """The place of a model in `flexframe demo`."""

    suite: str
    """The suite on which it is compared."""
    place: int = Field(ge=1)
    """Its place among the models shown."""
    trained: bool = False
    """Show it where the demo trains models from scratch, by the card's run; else with its weights."""


class Trained(Config):
    """The training of a card's weights, in all its stages, for a reader."""

    on: str = ""
    """The images, in words."""
    images: int | None = Field(None, ge=1)
    """Images seen, each time counted."""
    minutes: float | None = Field(None, gt=0)
    """Time that it took."""
    machine: str = ""
    """The machine that took so long, as `one core of an AMD EPYC of 2022`."""
    taught_by: tuple[str, ...] = ()
    """Judges, as metrics name them (`first judge`), that taught it: what they measure of it flatters."""


class Expected(Config):
    """A number that these weights are to reproduce on a suite."""

    suite: str
    """The suite and its version, as `imagenet256-recon@1`."""
    measure: str
    """The number's name in results.json, as `fid`."""
    tokens: int = Field(ge=1)
    """Of so many tokens."""
    value: float
    """What was published, or measured here."""
    tolerance: float = Field(gt=0)
    """By how much another machine or library may be off."""
    origin: str = ""
    """Where it is from, and under which protocol as far as it is stated."""


class CardFile(Config):
    """The fields of a card. `model` and `run` are checked when they are used, so that listing needs no plugin."""

    base: str | None = None
    """Card that this one builds on: its id, or the path of a YAML file or of a run's folder, from where the command
    runs. Where this one says no
    `weights` and leaves `model` and `run` as they are, it has those of its base: that model, used otherwise."""
    summary: str
    """One line for listings."""
    licence: str = "Apache-2.0"
    """Licence of the weights."""
    parameters: int | None = Field(None, ge=1)
    """Parameters in all, the codec's among them and those of a prior's tokenizer not, so that `list_models` builds
    nothing to count them."""
    source: str = ""
    """Origin of the model: paper, repository, data."""
    kind: ModelKind = "tokenizer"
    """The kind of `model`."""
    model: dict[str, Any]
    """A `TokenizerConfig`, `GeneratorConfig` or `CodecModelConfig`, as `kind` says."""
    run: dict[str, Any] | None = None
    """A `RunConfig`: how the weights were, or are to be, trained."""
    sampling: dict[str, Any] = {}
    """Default settings of the decoder at use."""
    weights: Weights | None = None
    """The trained weights: shipped with the card, or on the hub."""
    preprocessing: Preprocessing = Preprocessing()
    """Steps that images go through before the model."""
    verified: str = ""
    """The check of the import of these weights against the reference; empty: there was none."""
    metrics: dict[str, Any] = {}
    """Measured or published numbers, each with its origin."""
    trained: Trained | None = None
    """Images and time of its training."""
    expected: dict[str, dict[int, float]] = {}
    """The curve that its run took when it was measured: of each logged number, its value after so many steps."""
    expect: tuple[Expected, ...] = ()
    """Numbers that its weights are to reproduce, which `flexframe bench --expect` holds them to."""
    demo: Shown | None = None
    """Its place in `flexframe demo`; a card that builds on this one is not shown for that."""
