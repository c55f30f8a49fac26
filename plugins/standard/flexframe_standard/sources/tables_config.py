"""Configs of the sources that read images from tables: Parquet files, and data sets of the library `datasets`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from flexframe_registry.config import PLACE
from flexframe_standard.sources.files_config import FilesConfig


class TableConfig(FilesConfig):
    """Settings that sources of tables share."""

    image: str = "image"
    """Column of the images: encoded ones (PNG, JPEG, ...) as bytes, or as the pair of bytes and path that the hub's
    data sets have. Paths alone are not followed."""
    label: str | None = "label"
    """Column of the classes: whole numbers, or names that `classes` numbers; no label where there is none of it."""
    caption: str | None = "caption"
    """Column of the captions, if there is one."""


class ParquetConfig(TableConfig):
    """Images in the rows of Parquet files, in order: a file, a pattern, or a folder with all below it.

    Read by pyarrow (`pip install 'flexframe[parquet]'`), a row group at a time, of which the last few are held: in
    order it is quick, and in the random order of training each image may cost a whole group. `datasets` maps into
    memory what it has once copied, and is the better one to train on.
    """

    type: Literal["parquet"] = "parquet"


class DatasetsConfig(TableConfig):
    """Images of a data set that the library `datasets` reads (`pip install 'flexframe[datasets]'`), in its order.

    What `save_to_disk` left, a folder that `load_dataset` reads, or the hub's `owner/name`, which is fetched and kept
    in its own cache. Images are asked for by number, in any order, so that a stream is read up to the `first` so many
    rows, which are kept.
    """

    later = frozenset({"first"})
    type: Literal["datasets"] = "datasets"
    path: str = Field(json_schema_extra=PLACE)
    """A folder on this machine's disks, or a data set's name on the hub."""
    name: str | None = None
    """Which of its configurations, if it has several."""
    split: str = "train"
    """Which of its splits, also a part of one, as `train[:1000]`."""
    revision: str | None = None
    """Commit, branch or tag of the hub's repository; the newest if not given."""
    first: int | None = Field(None, ge=1)
    """Take the first so many rows alone, from a stream: of a data set on the hub the rest is not fetched. They are kept
    in `$FLEXFRAME_HOME/streamed`, so that the same rows come again, in the same order. Null: all of the split."""
