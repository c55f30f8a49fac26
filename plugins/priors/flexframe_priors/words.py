"""Words: a text encoder that learns with the prior, without a vocabulary."""

from __future__ import annotations

import re
from collections.abc import Sequence
from zlib import crc32

import torch
from torch import Tensor, nn

from flexframe.nn.transformer import Block
from flexframe.parts import Conditioner
from flexframe.tokens import Text, prefix

from .texts_config import WordsConfig


class Words(Conditioner[WordsConfig]):
    """See `WordsConfig`. Row 0 of the first table is the null text's one word."""

    def __init__(self, config: WordsConfig) -> None:
        super().__init__(config)
        width = config.width
        self.tables = nn.ModuleList(nn.Embedding(config.buckets, width) for _ in range(2))
        self.positions = nn.Parameter(torch.empty(config.length, width))
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width)
        for table in self.tables:
            nn.init.normal_(table.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.02)

    def count(self, text: str) -> int:
        return len(words(text)) or 1

    def forward(self, texts: Sequence[str]) -> Text:
        config, device = self.config, self.positions.device
        rows = [words(text)[: config.length] for text in texts]
        lengths = torch.tensor([len(row) or 1 for row in rows])
        ids = torch.zeros(2, len(rows), int(lengths.max()), dtype=torch.long)
        for i, row in enumerate(rows):
            for table in range(2):
                ids[table, i, : len(row)] = torch.tensor([_bucket(word, table, config.buckets) for word in row])
        present = prefix(lengths.to(device), ids.shape[2])
        first, second = (table(each) for table, each in zip(self.tables, ids.to(device), strict=True))
        x: Tensor = first + second + self.positions[: ids.shape[2]]
        for block in self.blocks:
            x = block(x, present[:, None, None])
        return Text(self.norm(x), present)


def words(text: str) -> list[str]:
    """The words of a text in small letters, each sign of its own among them."""
    return re.findall(r"\w+|[^\w\s]", text.lower())


def _bucket(word: str, table: int, buckets: int) -> int:
    """A word's row in a table; 0 is the null text's."""
    return 1 + crc32(f"{table}{word}".encode()) % (buckets - 1)
