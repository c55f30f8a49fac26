"""Files below a folder, in one order, behind links too."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def walk(root: Path, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """Files at any depth, behind links too. A link that leads back above itself leads to nothing new."""
    here = root.resolve()
    above |= {here, *here.parents}
    with os.scandir(root) as entries:
        for each in entries:
            path = Path(each.path)
            if not each.is_dir():
                yield path
            elif not each.is_symlink() or path.resolve() not in above:
                yield from walk(path, above)
