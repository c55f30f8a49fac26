"""What a text asks and what the picture shows: a prior that reads captions of scenes, by form of caption and by tokens.

    OMP_NUM_THREADS=1 python benchmarks/scripts/scenes_text.py gpt/scenes-64-text -o out/scenes-text

Every held-out scene's caption is given to the prior in each of the source's four forms, and one sequence is drawn of
each, which is decoded from its first 1, 2, 4, ... tokens. What a caption asks is read off the pictures: the main
object's shape and colour, the background, its palette, the light and the number of objects by the second judge that
ships with the scenes; the smaller object's side and colour by its pixels' hue. Beside the samples stand the
scenes themselves (how well the reading is right), the tokenizer's reconstructions of them at the same tokens (what a
perfect prior could reach), and chance: the samples held against the next scene's caption. `results.json` and `table.md`
are written to the folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flexframe import load, provenance
from flexframe.files import write_json, write_text
from flexframe.models.fingerprint import weights
from flexframe.pictures import to_uint8
from flexframe.rng import Rng
from flexframe.use.generate import powers
from flexframe_registry import catalogue
from flexframe_standard.sources.scenes.colours import HUES
from flexframe_standard.sources.scenes_config import WORDS, ScenesConfig

FORMS = ("class", "short", "objects", "long")
ASKED: Mapping[str, Sequence[str]] = {
    "class": ("shape",),
    "short": ("shape", "colour"),
    "objects": ("shape", "colour", "count", "other side", "other colour"),
    "long": ("shape", "colour", "count", "other side", "other colour", "background", "palette", "light"),
}
"""What the captions of a form say. Of a scene without a smaller object, the two facts of it are not asked."""
JUDGED = ("shape", "colour", "count", "background", "palette", "light")
SATURATED, BRIGHT, FEW, NEAR = 0.4, 0.5, 20, 2
"""Saturation and value from which a pixel has a hue; of 64 x 64, the fewest pixels of an object, and how far around the
main one they are taken for its edge."""
CHUNK = 64


def hues(images: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hue in turns, saturation and value of the pixels of pictures b 3 h w, in [0, 1]."""
    red, green, blue = images.numpy().transpose(1, 0, 2, 3)
    value, least = images.amax(1).numpy(), images.amin(1).numpy()
    span = np.maximum(value - least, 1e-6)
    hue = np.where(value == red, (green - blue) / span, np.where(value == green, 2 + (blue - red) / span,
                   4 + (red - green) / span)) / 6 % 1  # fmt: skip
    return hue, span / np.maximum(value, 1e-6), value


def coloured(images: Tensor) -> np.ndarray:
    """Each pixel's colour among the objects' eight, b h w; -1 where it has none."""
    hue, saturation, value = hues(images)
    own, strong, _ = hues(torch.from_numpy(HUES)[:, :, None, None])
    off = np.abs(hue[..., None] - own.reshape(-1))
    off = np.minimum(off, 1 - off) + 0.12 * np.abs(saturation[..., None] - strong.reshape(-1))  # red is not pink
    return np.where((saturation >= SATURATED) & (value >= BRIGHT), off.argmin(-1), -1)


def side(first: np.ndarray, second: np.ndarray) -> str:
    """Side where the pixels of one object lie beside another's."""
    (y, x), (v, u) = (np.argwhere(each).mean(0) for each in (first, second))
    if abs(u - x) >= abs(v - y):
        return "left of" if u > x else "right of"
    return "above" if v > y else "below"


def shown(pixels: np.ndarray, asked: Mapping[str, Any]) -> dict[str, bool]:
    """Tell whether an object smaller than the main one is on the side of it that is asked for, in whatever colour; and
    whether there is one in the colour that is asked for. Of one picture's pixels by colour."""
    main, other = pixels == asked["colour"], pixels == asked["other colour"]
    around = np.pad(main, NEAR)
    rows, columns = main.shape
    shifts = [(i, j) for i in range(2 * NEAR + 1) for j in range(2 * NEAR + 1)]
    beside = (pixels >= 0) & ~np.any([around[i : i + rows, j : j + columns] for i, j in shifts], 0)
    most = 0.8 * max(main.sum(), 1)
    there = main.sum() >= FEW and FEW <= beside.sum() < most
    return {
        "other side": bool(there and side(main, beside) == asked["other side"]),
        "other colour": bool(FEW <= other.sum() < most),
    }


class Reader:
    """Reader of what pictures show of what was asked of them."""

    def __init__(self, config: ScenesConfig) -> None:
        self.source = catalogue().build(config, (64, 64))
        judge = self.source.second_classifier()
        assert judge is not None
        self.judge = judge
        samples = self.source.samples(range(len(self.source)))
        self.images = torch.stack([sample.image for sample in samples])
        self.captions = self.source.read_captions(range(len(self.source)))
        self.truth: list[dict[str, Any]] = []
        for number, sample in enumerate(samples):
            asked: dict[str, Any] = {name: sample.attributes[name] for name in JUDGED}
            others = self.source.objects(number)[1:]
            if others:
                words = self.captions[number]["objects"].split(f"{WORDS['shape'][asked['shape']]} ", 1)[1]
                asked["other colour"] = WORDS["colour"].index(others[0].colour)
                asked["other side"] = " ".join(words.split()[:2]) if words.split()[1] == "of" else words.split()[0]
            self.truth.append(asked)

    def right(self, images: Tensor, asked: Sequence[Mapping[str, Any]]) -> list[dict[str, bool]]:
        """Answers by picture and fact: whether it shows what was asked; facts that were not asked are left out."""
        found: list[dict[str, bool]] = []
        for start in range(0, len(images), CHUNK):
            part, wanted = images[start : start + CHUNK], asked[start : start + CHUNK]
            read = {name: values.tolist() for name, values in self.judge(part).items()}
            pixels = coloured(part.float() / 255)
            for i, facts in enumerate(wanted):
                row = {name: read[name][i] == facts[name] for name in JUDGED}
                found.append(row | (shown(pixels[i], facts) if "other colour" in facts else {}))
        return found


def shares(right: Sequence[Mapping[str, bool]], form: str) -> dict[str, float]:
    """Percent of pictures that show each fact that a form asks, and all of them at once."""
    asked = ASKED[form]
    told = {}
    for name in asked:
        known = [row[name] for row in right if name in row]
        told[name] = round(100 * float(np.mean(known)), 1)
    told["all"] = round(100 * float(np.mean([all(row[name] for name in asked if name in row) for row in right])), 1)
    return told


def measure(prior: str, count: int, guidance: float | None, batch: int) -> dict[str, Any]:
    """The shares by form and tokens: of samples, of chance, of reconstructions, and of the scenes themselves."""
    generator = load(prior, kind="generator")
    assert generator.config.tokenizer is not None
    tokenizer = load(generator.config.tokenizer)
    reader = Reader(ScenesConfig(split="val", complexity=1, count=count))
    lengths = powers(generator.spec.length)
    settings = {} if guidance is None else {"guidance": guidance}
    results: dict[str, Any] = {form: {} for form in FORMS}
    rows = [torch.arange(start, min(start + batch, count)) for start in range(0, count, batch)]
    codes = torch.cat([tokenizer.encode(reader.images[row].float() / 255, rng=Rng(0, row)).codes for row in rows])

    def decoded(codes: Tensor, length: int) -> Tensor:
        parts = [tokenizer.decode(tokenizer.tokens(codes[row, :length]), rng=Rng(0, row)) for row in rows]
        return torch.cat([to_uint8(part) for part in parts])

    itself = reader.right(reader.images, reader.truth)
    real = {length: reader.right(decoded(codes, length), reader.truth) for length in lengths}
    other = [*reader.truth[1:], reader.truth[0]]
    for form in FORMS:
        texts = [captions[form] for captions in reader.captions]
        drawn = torch.cat(
            [generator.sample(texts=[texts[i] for i in row], rng=Rng(0, row), sampling=settings).codes for row in rows]
        )
        results[form] = {"scenes": shares(itself, form), "samples": {}, "chance": {}, "reconstructions": {}}
        for length in lengths:
            images = decoded(drawn, length)
            for name, asked in (("samples", reader.truth), ("chance", other)):
                results[form][name][length] = shares(reader.right(images, asked), form)
            results[form]["reconstructions"][length] = shares(real[length], form)
            print(form, length, results[form]["samples"][length], flush=True)
    return {
        "prior": generator.id, "weights": weights(generator), "tokenizer": generator.config.tokenizer,
        "scenes": count, "sampling": generator.sampling.laid(settings).deciding(),
        "decoder": tokenizer.sampling.deciding(), "judge": dict(reader.judge.protocol()), "percent": results,
    }  # fmt: skip


def table(results: Mapping[str, Any]) -> str:
    """A row a form, and of `long` a row a fact: samples by tokens, then reconstructions, chance and the scenes."""
    percent = results["percent"]
    lengths = [int(length) for length in percent["class"]["samples"]]
    head = ["caption", "what is right", *map(str, lengths), f"reconstructed, {lengths[-1]}", "chance", "scenes"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for form, name in [*((form, "all that it asks") for form in FORMS), *(("long", each) for each in ASKED["long"])]:
        key, of = "all" if name.startswith("all") else name, percent[form]
        cells = [of["samples"][length][key] for length in lengths]
        last = (of["reconstructions"][lengths[-1]][key], of["chance"][lengths[-1]][key], of["scenes"][key])
        lines.append(f"| {form} | {name} | {' | '.join(f'{each:.1f}' for each in (*cells, *last))} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("prior")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=256, help="held-out scenes")
    parser.add_argument("--guidance", type=float, help="the prior's own if not given")
    parser.add_argument("--batch-size", type=int, default=32)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(given.prior, given.count, given.guidance, given.batch_size)
    given.out.mkdir(parents=True, exist_ok=True)
    write_json(given.out / "results.json", {**found, "made": dict(provenance.manifest())})
    write_text(given.out / "table.md", table(found))
    print(table(found))
