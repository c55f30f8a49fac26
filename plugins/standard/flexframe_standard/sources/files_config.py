"""Configs of the sources that read image files: folders and tar shards. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from flexframe_registry import ConfigError, SourceConfig
from flexframe_registry.config import PLACE
from flexframe_registry.files import MAX_PIXELS, SCHEME
from flexframe_registry.kinds import Resize


def class_names(path: Path) -> tuple[str, ...]:
    """Names of classes in a file: a line each, or in JSON a list, or names by number, all from 0 on. Of an entry of
    several words for one class, as ImageNet's index has them, the first counts.

    Raises:
        ConfigError: there is no such file, or it holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() != ".json":
            names: Any = [line.strip() for line in text.splitlines() if line.strip()]
        else:
            held = json.loads(text)
            names = [held[str(number)] for number in range(len(held))] if isinstance(held, dict) else held
    except OSError as error:
        raise ConfigError.at("", f"{str(path)!r} is no file of names ({error.strerror}); give one, or a list") from None
    except (ValueError, KeyError):
        raise ConfigError.at("", f"{path} holds no list of names, nor names by number from 0 on") from None
    firsts = [each[0] if isinstance(each, list) and each else each for each in names if isinstance(names, list)]
    if not firsts or not all(isinstance(each, str) for each in firsts) or len(set(firsts)) < len(firsts):
        raise ConfigError.at("", f"{path} holds no list of names, each another")
    return tuple(firsts)


FETCHED = ("https://", "http://", "s3://")
"""Beginnings of the addresses that are fetched."""


class FilesConfig(SourceConfig):
    """Settings that sources of image files share."""

    fetches: ClassVar[bool] = False
    """Whether the path may be an address."""
    path: str = Field(json_schema_extra=PLACE)
    """Where the images are, on this machine's disks."""
    resize: Resize | Literal["none"] = "torchvision-bicubic"
    """How an image is brought to size before a centre crop, with Pillow, antialiased: the shorter edge at once, or
    halved by boxes first (`adm`); `none` refuses one of another size. Not given: as the model's card says, in training
    and measuring."""
    crops: int | None = Field(None, ge=1)
    """Crops at random places, so many of each image, which then counts as so many: index i is crop i % crops of image
    i // crops, and its place is drawn from i alone. The same crop is the same in every epoch, in precomputing and in
    training; more of them for more variety. Null: the one in the middle."""
    broken: Literal["refuse", "skip"] = "refuse"
    """What becomes of a file that cannot be read: an error that names it; or all files are read once beforehand, and
    those that cannot be are left out, counted, and reported with every number."""
    max_pixels: int = Field(MAX_PIXELS, ge=1, le=2 * MAX_PIXELS)
    """The most pixels of an image file; a larger one counts as broken."""

    classes: tuple[str, ...] | None = None
    """Names of the classes in the order of their numbers, so that a part of the data keeps the numbers of the whole; or
    a file of them, read as the settings are: a name a line, or JSON (a list, or names by number). A folder or a label
    that is none of them is refused. Null: of a folder, its subfolders, sorted."""
    labels: Literal["files", "folders", "none"] | None = None
    """Where labels are from: the files beside images, the names of subfolders, or nowhere. They never mix. Null: files,
    where there are any that hold one; else folders."""

    @field_validator("classes", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return class_names(Path(value).expanduser()) if isinstance(value, str) else value

    @field_validator("path")
    @classmethod
    def _local(cls, value: str) -> str:
        if SCHEME.match(value) and not (cls.fetches and value.startswith(FETCHED)):
            what = "a command" if value.startswith("pipe:") else "an address"
            text = f"{value!r} is {what}; images are read from this machine's disks only, so fetch them first"
            if value.startswith(FETCHED):
                text += ", or have the shards of a data set fetched: {type: tar, path: ..., hosts: [...]}"
            raise ConfigError.at("", text)
        return value

    def resized(self, resize: Resize) -> SourceConfig:
        return self if "resize" in self.model_fields_set else self.model_copy(update={"resize": resize})

    def way(self) -> Resize | None:
        return None if self.resize == "none" else self.resize


class FolderConfig(FilesConfig):
    """Images in a folder and its subfolders, in sorted order; a subfolder's name is its images' class.

    Beside `a.png`, `a.txt` holds its caption, `a.cls` its label, and `a.json` its `caption` and `label`: where files
    hold labels, no folder's name is one. Hidden files and folders are left out, and told.
    """

    type: Literal["folder"] = "folder"


class TarConfig(FilesConfig):
    """Images in tar files of WebDataset's form, in their order; a shard, a pattern, or braces: `train-{000..099}.tar`.

    Members of one name, in any order, are a sample: an image, a label in `.cls` or in `.json` under `label`, a caption
    in `.txt` or in `.json` under `caption`. Nothing else is read, and nothing is unpickled. Of an address, the shards
    are fetched once, and then read from this machine's disk.
    """

    fetches: ClassVar[bool] = True
    type: Literal["tar"] = "tar"
    path: str = Field(json_schema_extra=PLACE)
    """The shards on this machine's disks, or their addresses, with braces for several: `https://HOST/train-{000..099}.tar`,
    `http://...`, or `s3://BUCKET/...` (`pip install 'flexframe[s3]'`)."""
    hosts: tuple[str, ...] = Field((), json_schema_extra=PLACE)
    """Hosts that shards may be fetched from, as `[data.example.org]`; of S3 the bucket. Nothing is fetched from any
    other, also where one of these leads there."""
    cache: str | None = Field(None, json_schema_extra=PLACE)
    """The folder that keeps fetched shards, by host and path. Null: `fetched` in `$FLEXFRAME_HOME`, or in
    `~/.cache/flexframe`. What is there is not fetched again; delete what was changed at its place."""

    @model_validator(mode="after")
    def _named_hosts(self) -> TarConfig:
        if not self.path.startswith(FETCHED):
            return self
        host = urlsplit(self.path).hostname or ""
        if host not in self.hosts:
            text = f"is on {host!r}, which `hosts` does not name; to have the shards fetched, add hosts: [{host}]"
            raise ConfigError.at("path", text)
        return self


class ArraysConfig(FilesConfig):
    """Images of a `.npz` file, 8-bit in `arr_0` (count x height x width x 3), their classes in `arr_1`, if it has it.

    So ADM's reference batches are, and the samples of the projects after it. Nothing is unpickled.
    """

    type: Literal["arrays"] = "arrays"


class ImagesConfig(FilesConfig):
    """Images of a folder, of a `.npz`, a `.parquet` or of tar shards, whichever the path is: see `folder`, `arrays`,
    `parquet` and `tar`."""

    type: Literal["images"] = "images"
