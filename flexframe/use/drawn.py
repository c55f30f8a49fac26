"""Pictures that priors draw for the report page: each class, at each length of the prior's tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from flexframe.data.source import Source
from flexframe.store.load import load
from flexframe.use.generate import generate


def draw(
    priors: Sequence[str], folder: Path, *, seed: int = 0, device: str | torch.device = "cpu"
) -> list[dict[str, Any]]:
    """Draw a picture of each class into `folder`, and give the rows that `report.samples` reads.

    Args:
        priors: cards or paths of class-conditional generators that name their tokenizer.
    """
    rows: list[dict[str, Any]] = []
    for number, name in enumerate(priors):
        generator = load(name, device=device, kind="generator")
        config = generator.config
        if config.tokenizer is None or config.classes is None:
            raise ValueError(f"{name} names no tokenizer or knows no classes; there is no picture of each class")
        tokenizer = load(config.tokenizer, device=device)
        lengths = [k for k in tokenizer.config.budgets if k <= generator.spec.length]
        classes = list(range(config.classes))
        where = folder / str(number)
        generate(
            generator, tokenizer, where, classes=classes, count=len(classes), lengths=lengths, seed=seed
        )  # fmt: skip
        names = config.class_names or tuple(f"class {i}" for i in classes)
        settings = ", ".join(f"{k} {v}" for k, v in generator.sampling.model_dump(exclude_unset=True).items())
        for length in lengths:
            files = [str((where / str(length) / f"{i:05d}.png").resolve()) for i in classes]
            about = ", ".join(filter(None, [f"one a class, seed {seed}", settings]))
            row = {"prior": name, "of": config.tokenizer, "length": length, "files": files, "labels": list(names)}
            rows.append({**row, "about": about})
    return rows


def judged(rows: Sequence[dict[str, Any]], source: Source) -> None:
    """Write into each row of `draw`, as `accepted`, in which of its pictures the class asked for is seen, and as
    `judge` by whom.

    It is seen by the source's second classifier, or by its first where it has one only; left out where neither can be
    used, or the classes are not those of the source.
    """
    try:
        second = source.second_classifier()
        judge = second or source.classifier()
    except ValueError:
        return
    for row in rows:
        if judge is not None and row["labels"] == list(source.class_names()):
            pixels = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in row["files"]])
            pictures = torch.from_numpy(pixels).permute(0, 3, 1, 2)
            row["judge"] = "first judge" if second is None else "second judge"
            row["accepted"] = (judge(pictures)[judge.label].cpu() == torch.arange(len(pictures))).tolist()
