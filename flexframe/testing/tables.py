"""A fixed table in the place of the random generator, for parity and for forcing branches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from flexframe.rng import Rng


class TableRng(Rng):
    """Gives `tables[purpose]` where there is one, and the ordinary draw of seed 0 elsewhere."""

    def __init__(self, tables: Mapping[str, Tensor], batch: int, step: int = 0) -> None:
        super().__init__(0, torch.arange(batch), step)
        self.tables = tables

    def shared(self) -> TableRng:
        """A row for draws that the batch has in common: by the tables of one row, where there are some."""
        return TableRng({name: table for name, table in self.tables.items() if len(table) == 1}, 1, self.step)

    def uniform(self, purpose: str, shape: Sequence[int] = ()) -> Tensor:
        return self._table(purpose, shape) if purpose in self.tables else super().uniform(purpose, shape)

    def uniforms(self, purposes: Sequence[str], shape: Sequence[int] = ()) -> Tensor:
        return torch.stack([self.uniform(purpose, shape) for purpose in purposes])

    def normal(self, purpose: str, shape: Sequence[int] = ()) -> Tensor:
        return self._table(purpose, shape) if purpose in self.tables else super().normal(purpose, shape)

    def integers(self, purpose: str, high: int, shape: Sequence[int] = ()) -> Tensor:
        return self._table(purpose, shape) if purpose in self.tables else super().integers(purpose, high, shape)

    def _table(self, purpose: str, shape: Sequence[int]) -> Tensor:
        table = self.tables[purpose]
        if table.shape != (len(self.index), *shape):
            raise ValueError(f"table {purpose!r} has shape {tuple(table.shape)}, asked for {(len(self.index), *shape)}")
        return table
