"""The files that count as images by their name, and an account of those that do not: one rule for folders, patterns
and shards, and for every command."""

from __future__ import annotations

from collections import Counter
from pathlib import PurePosixPath

from flexframe.data.images import suffixes

BESIDE = ("cls", "json", "txt")
"""Suffixes of what lies beside an image: label, both, caption."""
ASIDE = frozenset({"__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"})
"""Folders that systems keep for themselves, beside those whose name begins with a dot."""
SHOWN = 5
"""Names of a kind that a remark gives."""


def hidden(name: str) -> bool:
    """True for a relative path with `/` of which a part is hidden: its name begins with a dot, or is in `ASIDE`."""
    return any((part.startswith(".") and part not in (".", "..")) or part in ASIDE for part in name.split("/"))


class LeftOut:
    """An account of what was met among images and left out, for remarks."""

    def __init__(self) -> None:
        self.hidden: Counter[str] = Counter()
        """Images by the hidden folder that they are in, or by their own hidden name."""
        self.others: Counter[str] = Counter()
        """Files of other kinds, by suffix."""
        self.folders = 0
        """Folders that match a pattern, which names files."""

    def take(self, name: str) -> bool:
        """True for an image that is to be read, by its relative path with `/`. Others are counted."""
        suffix = PurePosixPath(name).suffix.lower()
        image = suffix in suffixes()
        if hidden(name):
            if image:
                self.hidden[next(part for part in name.split("/") if hidden(part))] += 1
            return False
        if not image and suffix.removeprefix(".") not in BESIDE:
            self.others[suffix or "without a suffix"] += 1
        return image

    def remarks(self, place: str) -> tuple[str, ...]:
        """A sentence for each kind of what was left out of `place`; none where nothing was."""
        told = []
        if self.hidden:
            count = self.hidden.total()
            told.append(f"{count:,} images of {place} are hidden and were left out: {_named(self.hidden)}")
        if self.others:
            count = self.others.total()
            told.append(f"{count:,} files of {place} are no images by their suffix and were left out: "
                        f"{_named(self.others)}")  # fmt: skip
        if self.folders:
            told.append(f"{self.folders:,} folders match {place} and were not entered; end it in /**/* to read them")
        return tuple(told)


def _named(counts: Counter[str]) -> str:
    more = [f"and {len(counts) - SHOWN} kinds more"] if len(counts) > SHOWN else []
    return ", ".join([*(f"{name} ({count:,})" for name, count in counts.most_common(SHOWN)), *more])
