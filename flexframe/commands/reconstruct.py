"""`reconstruct`: images beside their reconstructions, as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from flexframe.commands.common import out, refuse, say
from flexframe.commands.models import open_tokenizer
from flexframe.commands.options import Device, Images, Model, Resize, Seed, Threads
from flexframe.commands.progress import bar
from flexframe.commands.sampling import Settings, read_sampling
from flexframe.lock import writes

EXAMPLES = ("flexframe reconstruct photos/ -m flextok/scenes-64 -o grid.png --lengths 1,8,32",)


@writes("to", "numbers")
def reconstruct(
    ctx: typer.Context,
    images: Images,
    model: Model,
    to: Annotated[Path, typer.Option("--out", "-o", help="The picture to write.")] = Path("grid.png"),
    lengths: Annotated[
        str | None, typer.Option(help="As 1,4,16; else the model's own, at most eight, or three if slow.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Images, at most.")] = 8,
    settings: Settings = None,
    seed: Seed = 0,
    resize: Resize = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images at a time; 1 on a CPU and 8 elsewhere if not given.")
    ] = None,
    numbers: Annotated[Path | None, typer.Option("--json", help="Write the numbers to this file too.")] = None,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Show images beside their reconstructions from more and more tokens, as one picture.

    Settings of the model's decoder are options too, as `--steps 20`; `flexframe show decoder/NAME` lists them.
    """
    from PIL import Image

    from flexframe.files import replaced, write_json
    from flexframe.pictures import grid
    from flexframe.use import reconstruct as work
    from flexframe.use.lengths import fewest, read_lengths

    if to.suffix.lower() not in Image.registered_extensions():
        refuse(str(to), "has no suffix of a picture that can be written; end it in .png")
    tokenizer, name, way = open_tokenizer(model, device, resize, threads)
    sampling = read_sampling(ctx, tokenizer.config.decoder, settings)
    columns = read_lengths(lengths, tokenizer.config.length, least=fewest(tokenizer)) if lengths else None
    rows = batch_size or (1 if tokenizer.device.type == "cpu" else 8)
    remarks: list[str] = []
    with bar("reconstructing") as progress:
        strips, total = work.reconstruct(
            tokenizer, images, lengths=columns, count=count, resize=way, seed=seed, sampling=sampling, batch_size=rows,
            progress=progress, remarks=remarks,
        )  # fmt: skip
    for remark in remarks:
        say.print(remark, style="yellow", markup=False, soft_wrap=True)
    to.parent.mkdir(parents=True, exist_ok=True)
    with replaced(to) as part:
        grid(strips).save(part, Image.registered_extensions()[to.suffix.lower()])
    if numbers is not None:
        from flexframe.models.fingerprint import fingerprint

        settled = {**tokenizer.sampling.model_dump(mode="json"), **sampling}
        record = {"model": name, "fingerprint": fingerprint(tokenizer), "seed": seed, "sampling": settled,
                  "resize": way, "images": work.numbers(strips)}  # fmt: skip
        numbers.parent.mkdir(parents=True, exist_ok=True)
        write_json(numbers, record)
    _table(strips)
    columns_shown, budgets = len(strips[0].reconstructions), len(tokenizer.config.budgets)
    if not lengths and columns_shown < budgets:
        say.print(f"{columns_shown} of the model's {budgets} lengths; --lengths names others", style="dim")
    shown = f"{len(strips)} of {total:,} images" if total > len(strips) else f"{total} image{'s'[: total > 1]}"
    out.print(f"{shown}, in {to}", markup=False, soft_wrap=True)


def _table(strips: Sequence[Any]) -> None:

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("PSNR, dB, by tokens", overflow="ellipsis", no_wrap=True, max_width=40)
    for length in strips[0].reconstructions:
        table.add_column(str(length), justify="right")
    for strip in strips:
        table.add_row(strip.id, *(f"{value:.2f}" for value in strip.psnr.values()))
    out.print(table)
