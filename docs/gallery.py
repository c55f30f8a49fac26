"""The pictures of docs/gallery.md: `python docs/gallery.py FOLDER`, where the folder holds Kodak's photographs as PNG.

What it takes ships with the project. Nothing is trained: the first picture is of a published codec's latents, each
quantizer's linear maps and tables fitted to the other photographs in closed form.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

import flexframe
from flexframe.data.images import fit, to_tensor
from flexframe.rng import Rng
from flexframe_registry import LatentSpec, Spec
from flexframe_registry.slots import resolve

PAGE = Path(__file__).parent
SHOWN, SMALL = "23", ("23", "15", "07")
"""The photograph of the quantizers' picture, and those of the others."""
TABLE = 1024
QUANTIZERS: dict[str, dict[str, Any]] = {
    "none": {"type": "none"},
    "kl, sampled": {"type": "kl", "dim": 16, "fixed_logvar": -1.5, "sample": True},
    "softvq": {"type": "softvq", "codebook_size": TABLE, "dim": 32, "tau": 2.0, "l2_norm": False},
    "fsq": {"type": "fsq", "levels": [8, 8, 8, 5, 5, 5]},
    "residual-fsq, 2 steps": {"type": "residual-fsq", "levels": [8, 8, 8, 5, 5, 5], "num_quantizers": 2},
    "lfq": {"type": "lfq", "codebook_size": 2**16},
    "bsq": {"type": "bsq", "codebook_size": 2**16},
    "vq": {"type": "vq", "codebook_size": TABLE, "dim": 32, "l2_norm": False},
    "vq on the sphere": {"type": "vq", "codebook_size": TABLE, "dim": 32, "l2_norm": True},
    "product-vq, 4 parts": {"type": "product-vq", "codebooks": 4, "codebook_size": TABLE, "dim": 32, "l2_norm": False},
    "residual-vq, 4 tables": {"type": "residual-vq", "num_quantizers": 4, "codebook_size": TABLE, "dim": 32},
}
"""What is put to 32 numbers. `ibq`, `simvq` and `gumbel` choose one entry of a table as `vq` does; they differ in how
the table is learned."""
MASKERS = ("full", "uniform", "pow2", "uniform-pow2", "tail-drop", "doubling")


def photograph(folder: Path, name: str, size: int) -> Tensor:
    """The middle square of a photograph, `3 H W` in [0, 1]."""
    with Image.open(folder / f"{name}.png") as image:
        return to_tensor(fit(image.convert("RGB"), (size, size), "torchvision-bicubic")) / 255


# --- quantizers --------------------------------------------------------------------------------------------------


def quantizers(folder: Path) -> Image.Image:
    """One photograph by way of each quantizer."""
    codec: Any = flexframe.load("grid/taef2", kind="codec")
    names = sorted(path.stem for path in folder.glob("*.png") if path.stem != SHOWN)
    others = torch.cat([rows(codec.encode(photograph(folder, name, 256)[None])) for name in names])
    image = photograph(folder, SHOWN, 256)
    latents = codec.encode(image[None])
    shown = [(image, "the photograph")]
    for name, fields in QUANTIZERS.items():
        quantizer, back = fitted(resolve("quantizer", fields), others)
        values = through(quantizer, rows(latents))
        rebuilt = codec.decode((with_one(values) @ back).T.reshape(latents.shape))[0]
        config = quantizer.spec.tokens
        bits = (
            "" if config.codebook_size is None else f"{config.codebooks * math.log2(config.codebook_size):.0f} bits, "
        )
        psnr = -10 * (rebuilt - image).square().mean().log10()
        shown.append((rebuilt, f"{name}: {bits}{psnr:.1f} dB"))
    return sheet([shown[i : i + 4] for i in range(0, len(shown), 4)])


def rows(latents: Tensor) -> Tensor:
    """Latents as rows, a place each."""
    return latents[0].flatten(1).T


def with_one(values: Tensor) -> Tensor:
    return torch.cat([values, torch.ones(len(values), 1)], 1)


def through(quantizer: Any, values: Tensor) -> Tensor:
    """Token values of rows."""
    keep = torch.ones(1, len(values), dtype=torch.bool)
    done: Tensor = quantizer(values[None], keep, rng=Rng(0, torch.zeros(1).long())).values
    return done[0]


def fitted(config: Any, values: Tensor) -> tuple[Any, Tensor]:
    """A quantizer that fits these rows, and the linear map from its tokens back to them, by least squares."""
    tokens = config.tokens(len(values), values.shape[1])
    quantizer: Any = flexframe.catalogue().build(config, Spec(LatentSpec(32, 32, 32, None), values.shape[1], tokens))
    quantizer.eval().requires_grad_(False)
    mean = values.mean(0)
    if isinstance(getattr(quantizer, "project", None), torch.nn.Linear):
        wide = quantizer.project.weight.shape[0]
        if wide == values.shape[1]:  # a table holds what is there
            weight, bias = torch.eye(wide), torch.zeros(wide)
        else:  # the directions along which rows differ most, each of unit variance
            spread, axes = torch.linalg.eigh((values - mean).T @ (values - mean) / len(values))
            weight = (axes / spread.clamp(min=1e-9).sqrt())[:, -wide:].flip(1).T
            bias = -weight @ mean
        quantizer.project.weight.copy_(weight)
        quantizer.project.bias.copy_(bias)
        fill(quantizer, values @ weight.T + bias)
    return quantizer, torch.linalg.lstsq(with_one(through(quantizer, values)), values).solution


def fill(quantizer: Any, values: Tensor) -> None:
    """Tables from the means of what is nearest to their entries."""
    books = [*getattr(quantizer, "codebooks", [getattr(quantizer, "codebook", quantizer)])]
    parts = values.chunk(len(books), 1) if quantizer.config.type == "product-vq" else [values] * len(books)
    left = values
    for book, part in zip(books, parts, strict=True):
        table = getattr(book, "embedding", None)
        if table is None:
            continue
        residual = quantizer.config.type == "residual-vq"
        table.weight.copy_(means(left if residual else part, len(table.weight)))
        if residual:
            left = left - table.weight[nearest(left, table.weight)]


def means(values: Tensor, count: int, rounds: int = 8) -> Tensor:
    """k-means."""
    table = values[torch.randperm(len(values), generator=torch.Generator().manual_seed(0))[:count]].clone()
    for _ in range(rounds):
        near = nearest(values, table)
        held = torch.zeros(count).index_add_(0, near, torch.ones(len(values)))
        sums = torch.zeros_like(table).index_add_(0, near, values)
        table = torch.where(held[:, None] > 0, sums / held.clamp(min=1)[:, None], table)
    return table


def nearest(values: Tensor, table: Tensor) -> Tensor:
    return (table.square().sum(1) - 2 * values @ table.T).argmin(1)


# --- lengths and decoders ----------------------------------------------------------------------------------------


def lengths(folder: Path) -> Image.Image:
    """Show what prefixes of a model that was trained with nested dropout hold, beside one of fixed length."""
    flexible, fixed = flexframe.load("flextok/photos-64"), flexframe.load("titok/photos-64-32")
    images = torch.stack([photograph(folder, name, 64) for name in SMALL])
    counts = list(flexible.config.budgets)
    tokens, whole = flexible.encode(images), fixed.encode(images)
    columns = {f"{k} token{'s' * (k > 1)}": flexible.decode(tokens.truncate(k), rng=0) for k in counts}
    columns["titok, 32"] = fixed.decode(whole, rng=0)
    columns["the codec alone"] = flexible.codec.decode(
        flexible.codec.encode(images, rng=Rng(0, torch.arange(len(images))))
    ).clamp(0, 1)
    columns["the photograph"] = images
    return sheet([[(column[i], name) for name, column in columns.items()] for i in range(len(images))], 128, 1)


def decoders(folder: Path) -> Image.Image:
    """The same tokens by a decoder that draws, otherwise each time, and by one that does not."""
    drawn, plain = flexframe.load("flextok/photos-64"), flexframe.load("titok/photos-64-32")
    image = photograph(folder, SHOWN, 64)[None]
    tokens, own = drawn.encode(image), plain.encode(image)

    def flow(text: str, rng: int = 0, k: int = 32, **sampling: Any) -> tuple[Tensor, str]:
        return drawn.decode(tokens.truncate(k), rng=rng, sampling=sampling)[0], text

    steps = [flow(f"flow, {n} step{'s' * (n > 1)}", steps=n) for n in (1, 2, 5, 10, 25)]
    guided = [flow(f"guidance {g:g}", guidance=g) for g in (1.0, 1.5, 2.5, 4.0, 7.5)]
    seeds = [flow(f"seed {seed}, 4 tokens", rng=seed, k=4) for seed in range(5)]
    again = [(plain.decode(own, rng=seed)[0], f"vit, seed {seed}") for seed in range(2)]
    shown = [*again, (image[0], "the photograph")]
    return sheet([steps, guided, seeds, shown], 128)


def maskers() -> Image.Image:
    """Which of 32 tokens are kept of 24 samples in turn."""
    tokens = resolve("quantizer", "fsq").tokens(32, 32)
    columns = []
    for name in MASKERS:
        masker: Any = flexframe.catalogue().build(resolve("masker", name), Spec(LatentSpec(4, 8, 8), 32, tokens))
        kept = masker.train().draw(24, 32, rng=Rng(0, torch.arange(24))).keep
        wide = torch.zeros(24, 32, dtype=torch.bool)
        wide[:, : kept.shape[1]] = kept
        cells = torch.where(wide, 0.25, 0.9).repeat_interleave(8, 0).repeat_interleave(8, 1)
        cells[::8], cells[:, ::8] = 1.0, 1.0
        columns.append((cells[None].expand(3, -1, -1), name))
    return sheet([columns[:3], columns[3:]])


# --- sheets ------------------------------------------------------------------------------------------------------


def sheet(lines: list[list[tuple[Tensor, str]]], width: int = 256, titled: int | None = None) -> Image.Image:
    """Pictures in lines, each with its words above; of `titled` lines alone, where that is said."""
    font, gap, head = ImageFont.load_default(13), 8, 22
    heads = [head if titled is None or i < titled else 0 for i in range(len(lines))]
    tall = [max(each.shape[1] * width // each.shape[2] for each, _ in line) for line in lines]
    size = max(map(len, lines)) * (width + gap) + gap, sum(tall) + sum(heads) + gap * (len(lines) + 1)
    whole = Image.new("RGB", size, "white")
    draw, top = ImageDraw.Draw(whole), gap
    for line, above, height in zip(lines, heads, tall, strict=True):
        for i, (picture, text) in enumerate(line):
            left = gap + i * (width + gap)
            if above:
                draw.text((left, top + 3), text, "black", font)
            pixels = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
            whole.paste(Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST), (left, top + above))
        top += above + height + gap
    return whole


def main() -> None:
    folder = Path(sys.argv[1])
    wanted = sys.argv[2:] or ["quantizers", "lengths", "decoders", "maskers"]
    torch.set_grad_enabled(False)
    for name in wanted:
        picture = maskers() if name == "maskers" else globals()[name](folder)
        if name == "maskers":
            picture.convert("P", palette=Image.Palette.ADAPTIVE, colors=16).save(
                PAGE / f"gallery-{name}.png", optimize=True
            )
        else:
            picture.save(PAGE / f"gallery-{name}.jpg", quality=88)


if __name__ == "__main__":
    main()
