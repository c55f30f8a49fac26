"""Folders of tensors that were computed once for every image of a source: shards of safetensors, and what they are.

<folder>/<kind>.json    an `About`            <folder>/<kind>-NNNNN.safetensors    its rows, so many a shard, in order

Kinds are `latents` and `features`; one folder may hold both. A shard is there whole or not at all.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from flexframe.data.inventory import refuse_changed
from flexframe.files import drop_parts, refuse_other, replaced, write_json
from flexframe_registry import Config, ConfigError, SourceConfig
from flexframe_registry.files import CHANGED, read_json

SUMS = "crc32"
"""In a shard: the CRC-32 of each row, over its tensors in the order of their names. Not in shards of before."""
LABELS = "labels"
FORMAT = "flexframe-shards/1"
Kind = Literal["latents", "features"]


class About(Config):
    """The description of a folder's shards of one kind."""

    format: Literal["flexframe-shards/1"] = "flexframe-shards/1"
    kind: Kind
    of: dict[str, dict[str, Any]]
    """What decides each tensor, by its name: codec and its fingerprint, teacher and grid."""
    dtype: Literal["fp32", "fp16"]
    source: dict[str, Any]
    """The data source, with its settings; the rows are its images, in its order."""
    protocol: dict[str, Any]
    """How the images were brought to size."""
    image_size: tuple[int, int]
    count: int
    rows: int
    """Rows of a shard; the last one may have fewer."""
    class_names: tuple[str, ...] = ()
    images: dict[str, Any] | None = None
    """The inventory of the source's images when this was begun; null in folders of before."""
    flexframe: str
    """The version that wrote them."""

    @property
    def shards(self) -> int:
        """Number of files."""
        return -(-self.count // self.rows)


def _sum(row: Mapping[str, Tensor]) -> int:
    total = 0
    for name in sorted(row):
        total = zlib.crc32(row[name].contiguous().view(torch.uint8).numpy().tobytes(), total)
    return total


class Shards:
    """A folder's tensors of one kind, by row. Only what is asked for is read."""

    def __init__(self, folder: Path, about: About) -> None:
        self.folder, self.about = folder, about
        self._open: dict[int, Any] = {}

    @classmethod
    def begin(cls, folder: Path, about: About, source: SourceConfig) -> Shards:
        """Make a folder to be filled, or take one to be filled on.

        Raises:
            ConfigError: it was begun otherwise, or its images have changed since.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{about.kind}.json"
        if path.is_file():
            before = cls._about(path)
            was, now = (each.model_dump(mode="json", exclude={"images"}) for each in (before, about))
            was["source"] = source.again(was["source"])
            refuse_other(path, "was begun otherwise", was, now, "repeat that command, or choose another -o")
            remedy = "put them back, or choose another -o"
            refuse_changed(path, "was begun with other images", before.images, about.images, remedy)
            about = before
        else:
            drop_parts(path)
            write_json(path, about.model_dump(mode="json"))
        return cls(folder, about)

    @classmethod
    def read(cls, folder: Path, kind: Kind) -> Shards:
        """Open what a folder holds.

        Raises:
            ConfigError: it holds nothing of this kind, or not all of it.
        """
        path = folder / f"{kind}.json"
        if not path.is_file():
            text = f"holds no {kind}; make them: flexframe precompute {kind}"
            raise ConfigError.at(str(folder), text)
        shards = cls(folder, cls._about(path))
        missing = [number for number in range(shards.about.shards) if not shards.path(number).is_file()]
        if missing:
            text = f"lacks {len(missing)} of {shards.about.shards} shards, {shards.path(missing[0]).name} first"
            raise ConfigError.at(str(folder), f"{text}; repeat the command that makes them, which goes on")
        return shards

    @staticmethod
    def _about(path: Path) -> About:
        return About.read(read_json(path, "precompute again"), str(path))

    def __len__(self) -> int:
        return self.about.count

    def path(self, shard: int) -> Path:
        """The file of a shard."""
        return self.folder / f"{self.about.kind}-{shard:05d}.safetensors"

    def range(self, shard: int) -> range:
        """The rows of a shard."""
        return range(shard * self.about.rows, min((shard + 1) * self.about.rows, self.about.count))

    def write(self, shard: int, tensors: Mapping[str, Tensor]) -> None:
        """Write a whole shard, atomically; what a killed writer left of it goes."""
        drop_parts(self.path(shard))
        whole = {name: value.contiguous() for name, value in tensors.items()}
        rows = ({name: value[i : i + 1] for name, value in whole.items()} for i in range(len(self.range(shard))))
        with replaced(self.path(shard)) as part:
            save_file({**whole, SUMS: torch.tensor([_sum(row) for row in rows])}, part)

    def take(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """Tensors of these rows, as they are stored.

        Raises:
            ConfigError: a shard is broken, or one of these rows is not as it was written.
        """
        pieces: dict[str, list[Tensor]] = {}
        for row in rows:
            shard, place = divmod(row, self.about.rows)
            file = self._file(shard)
            found = {name: file.get_slice(name)[place : place + 1] for name in file.keys()}  # noqa: SIM118
            kept = found.pop(SUMS, None)
            if kept is not None and kept.item() != _sum(found):
                text = f"row {place} {CHANGED}; delete it, and repeat the command that made it"
                raise ConfigError.at(str(self.path(shard)), text)
            for name, value in found.items():
                pieces.setdefault(name, []).append(value)
        return {name: torch.cat(parts) for name, parts in pieces.items()}

    def _file(self, shard: int) -> Any:
        if shard not in self._open:
            path = self.path(shard)
            try:
                file: Any = safe_open(path, framework="pt")
            except (SafetensorError, OSError) as error:
                text = f"is not a whole shard ({error}); delete it, and repeat the command that made it"
                raise ConfigError.at(str(path), text) from None
            odd = {*file.keys()} - {*self.about.of, LABELS, SUMS}
            if odd:  # else a sum under a name with a flipped bit would be none, as in a shard of before
                text = f"holds {', '.join(map(repr, sorted(odd)))}, which none was written with; delete it, and"
                raise ConfigError.at(str(path), f"{text} precompute it again")
            lengths = {file.get_slice(name).get_shape()[0] for name in file.keys()}  # noqa: SIM118
            if lengths != {len(self.range(shard))}:
                text = f"has {sorted(lengths)} rows, not {len(self.range(shard))}; delete it, and precompute it again"
                raise ConfigError.at(str(path), text)
            self._open[shard] = file
        return self._open[shard]

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "about": self.about, "_open": {}}  # files are opened by each worker itself
