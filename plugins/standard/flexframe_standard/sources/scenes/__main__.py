"""A contact sheet of scenes, a row for each complexity: `python -m flexframe_standard.sources.scenes --sheet FILE`."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from flexframe_standard.sources.scenes.render import render
from flexframe_standard.sources.scenes_config import ScenesConfig


def sheet(columns: int, side: int, seed: int, first: int, gap: int = 4) -> Image.Image:
    """The same scenes in every row, from complexity 0 to 4, on white."""
    numbers, rows = range(first, first + columns), []
    for complexity in range(5):
        pictures = render(ScenesConfig.read({"complexity": complexity, "seed": seed}), numbers, (side, side))
        framed = np.pad(pictures, ((0, 0), (0, 0), (0, gap), (0, gap)), constant_values=255)
        rows.append(framed.transpose(2, 0, 3, 1).reshape(side + gap, -1, 3))
    return Image.fromarray(np.concatenate(rows)[:-gap, :-gap])


def main() -> None:
    """Write a sheet of scenes."""
    parser = argparse.ArgumentParser(prog="python -m flexframe_standard.sources.scenes", description=__doc__)
    parser.add_argument("--sheet", type=Path, required=True, help="the file to write, PNG")
    parser.add_argument("--columns", type=int, default=8, help="scenes")
    parser.add_argument("--side", type=int, default=88, help="pixels of a picture's edge")
    parser.add_argument("--seed", type=int, default=0, help="seed of the scenes")
    parser.add_argument("--first", type=int, default=1312, help="number of the first scene")
    args = parser.parse_args()
    sheet(args.columns, args.side, args.seed, args.first).save(args.sheet, optimize=True)


if __name__ == "__main__":
    main()
