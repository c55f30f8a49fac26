"""`encode`, `decode` and `reconstruct`: a trained model at work on files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Annotated, Any

import typer

from flexframe.commands import complete
from flexframe.commands.common import Device, out, pick_device, say
from flexframe_registry import ConfigError
from flexframe_registry.files import put, split_override

LINE_EVERY = 60.0
"""Seconds between lines of progress where there is no terminal."""
Images = Annotated[
    list[str],
    typer.Argument(metavar="IMAGES...", help="Files, folders (searched in depth), quoted globs, .tar shards."),
]
Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="A card's id or file, a model file, or a run's folder.", autocompletion=complete.models
    ),
]
Seed = Annotated[int, typer.Option(help="What all draws follow from, beside each image's own number.")]
Resize = Annotated[
    str | None, typer.Option(help="torchvision-bicubic, torchvision-bilinear or adm; the card's own if not given.")
]
Steps = Annotated[int | None, typer.Option(min=1, help="Steps of a decoder that takes steps.")]
Guidance = Annotated[float | None, typer.Option(help="Guidance scale of a decoder that takes one.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="sampling.KEY=VALUE, of the decoder; repeatable.")
]


def encode(
    images: Images,
    model: Model,
    to: Annotated[Path, typer.Option("--out", "-o", help="The token file to write.")],
    lengths: Annotated[
        str | None,
        typer.Option(help="Tokens: 16 for all; 4,8,16 one for each image; @FILE.csv of id,length. All if not given."),
    ] = None,
    allocator: Annotated[
        str | None,
        typer.Option(
            help="Choose each image's length: a name from `flexframe list allocator`.",
            autocompletion=complete.names_of("allocator"),
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="allocator.KEY=VALUE, as allocator.target=24; repeatable."),
    ] = None,
    seed: Seed = 0,
    resize: Resize = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time; changes speed only.")] = 8,
    workers: Annotated[int, typer.Option(min=1, help="Threads that read images.")] = 2,
    skip_broken: Annotated[bool, typer.Option("--skip-broken", help="Leave out what cannot be read; list it.")] = False,
    device: Device = "auto",
) -> None:
    """Encode images to a token file. Broken off, the same command goes on where it stopped.

    `flexframe encode photos/ -m flextok/digits-tiny -o tokens.safetensors --allocator psnr --set allocator.target=22`
    """
    if to.exists():
        raise ConfigError.at(str(to), "is there already; delete it or choose another -o")
    chosen = _prefixed(settings, "allocator")
    from flexframe.use.encode import encode as run
    from flexframe.use.lengths import read_rule

    tokenizer, name, way = _open(model, device, resize)
    rule = read_rule(lengths, allocator, chosen, tokenizer)
    with _progress("encoding") as progress:
        found = run(
            tokenizer, images, to, model=name, rule=rule, resize=way, seed=seed, batch_size=batch_size,
            workers=workers, skip_broken=skip_broken, progress=progress,
        )  # fmt: skip
    for reason in found.reasons:
        say.print(reason, style="yellow", markup=False, soft_wrap=True)
    if found.broken > len(found.reasons):
        say.print(f"... and {found.broken - len(found.reasons)} more", style="yellow")
    told = f"{found.count:,} images, {found.tokens / found.count:.1f} tokens each on average, in {found.path}"
    told += f"; {found.resumed:,} were done before" if found.resumed else ""
    told += f"; {found.broken:,} could not be read" if found.broken else ""
    out.print(told, markup=False, soft_wrap=True)


def decode(
    tokens: Annotated[Path, typer.Argument(help="A token file.")],
    folder: Annotated[Path, typer.Option("--out", "-o", help="Where the PNG files go: a folder of their own.")],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="As for encode; what the token file names if not given.",
            autocompletion=complete.models,
        ),
    ] = None,
    length: Annotated[int | None, typer.Option(min=1, help="Use the first tokens only, at most so many.")] = None,
    steps: Steps = None,
    guidance: Guidance = None,
    settings: Settings = None,
    seed: Seed = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time; changes speed only.")] = 8,
    force: Annotated[bool, typer.Option("--force", help="Decode with another model than encoded.")] = False,
    device: Device = "auto",
) -> None:
    """Decode a token file to PNG files, named by id. Broken off, the same command goes on where it stopped."""
    sampling = _sampling(steps, guidance, settings)
    from flexframe.data.tokenfile import TokenFile
    from flexframe.use.decode import decode as run

    file = TokenFile(tokens)
    file.check()  # before a large model is loaded for nothing
    tokenizer, name, _ = _open(model or _model_of(file), device, None)
    with _progress("decoding") as progress:
        found = run(
            file, tokenizer, folder, model=name, length=length, seed=seed, sampling=sampling, batch_size=batch_size,
            force=force, progress=progress,
        )  # fmt: skip
    kept = f"; {found.kept:,} were there already" if found.kept else ""
    out.print(f"{found.count:,} images in {found.folder}{kept}", markup=False, soft_wrap=True)


def reconstruct(
    images: Images,
    model: Model,
    to: Annotated[Path, typer.Option("--out", "-o", help="The picture to write.")] = Path("grid.png"),
    lengths: Annotated[
        str | None, typer.Option(help="As 1,4,16; else the model's own, at most eight, or three if slow.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Images, at most.")] = 8,
    steps: Steps = None,
    guidance: Guidance = None,
    settings: Settings = None,
    seed: Seed = 0,
    resize: Resize = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images at a time; 1 on a CPU and 8 elsewhere if not given.")
    ] = None,
    numbers: Annotated[Path | None, typer.Option("--json", help="Write the numbers to this file too.")] = None,
    device: Device = "auto",
) -> None:
    """Show images beside their reconstructions from more and more tokens, as one picture."""
    sampling = _sampling(steps, guidance, settings)
    from PIL import Image

    from flexframe.files import replaced, write_json
    from flexframe.pictures import grid
    from flexframe.use import reconstruct as work
    from flexframe.use.lengths import fewest, read_lengths

    if to.suffix.lower() not in Image.registered_extensions():
        raise ConfigError.at(str(to), "has no suffix of a picture that can be written; end it in .png")
    tokenizer, name, way = _open(model, device, resize)
    columns = read_lengths(lengths, tokenizer.config.length, least=fewest(tokenizer)) if lengths else None
    rows = batch_size or (1 if tokenizer.device.type == "cpu" else 8)
    with _progress("reconstructing") as progress:
        strips, total = work.reconstruct(
            tokenizer, images, lengths=columns, count=count, resize=way, seed=seed, sampling=sampling, batch_size=rows,
            progress=progress,
        )  # fmt: skip
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
    columns_shown, budgets = len(strips[0].found), len(tokenizer.config.budgets)
    if not lengths and columns_shown < budgets:
        say.print(f"{columns_shown} of the model's {budgets} lengths; --lengths names others", style="dim")
    shown = f"{len(strips)} of {total:,} images" if total > len(strips) else f"{total} image{'s'[: total > 1]}"
    out.print(f"{shown}, in {to}", markup=False, soft_wrap=True)


# --- helpers -----------------------------------------------------------------------------------------------------


def _open(where: str, device: str, resize: str | None) -> tuple[Any, str, str]:
    """A tokenizer, the name that finds it again, and how its images are brought to size."""
    from flexframe.data.images import RESIZES

    if resize is not None and resize not in RESIZES:
        raise ConfigError.at("--resize", f"there is no {resize!r}; there are: {', '.join(RESIZES)}")
    on = pick_device(device)
    from flexframe.store.load import load
    from flexframe.store.places import preprocessing

    with say.status(f"loading {where}"):
        tokenizer = load(where, device=on)
    return tokenizer, tokenizer.id, resize or preprocessing(where).resize


def _model_of(file: Any) -> str:
    """The model that a token file names, where that is a card or on this disk: a data file starts no download."""
    name = str(file.about.model)
    if name.startswith("hf:"):
        raise ConfigError.at(str(file.path), f"was encoded by {name}; give --model {name} to fetch and use it")
    return name if name.startswith("path:") else f"card:{name}"


def _prefixed(settings: Sequence[str] | None, prefix: str) -> list[str]:
    """`prefix.key=value` without the prefix."""
    for setting in settings or ():
        if not setting.startswith(f"{prefix}."):
            raise ConfigError.at(setting, f"is not of the form {prefix}.key=value")
    return [setting.removeprefix(f"{prefix}.") for setting in settings or ()]


def _sampling(steps: int | None, guidance: float | None, settings: Sequence[str] | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for setting in _prefixed(settings, "sampling"):
        key, value = split_override(setting)
        found = put(found, key.split("."), value)
    given = {"steps": steps, "guidance": guidance}
    twice = [name for name, value in given.items() if value is not None and name in found]
    if twice:
        raise ConfigError.at(f"--{twice[0]}", f"and --set sampling.{twice[0]} both say so; give one of the two")
    return found | {name: value for name, value in given.items() if value is not None}


@contextmanager
def _progress(what: str) -> Iterator[Callable[[float | int, int], None]]:
    """A bar on standard error, moved by (done, of all); until it is first told, images are being listed.

    Where standard error is no terminal, a line a minute.
    """
    if not say.is_terminal:
        last = monotonic()

        def line(done: float | int, of: int) -> None:
            nonlocal last
            if monotonic() - last >= LINE_EVERY:
                last = monotonic()
                say.print(f"{what}: {done:,.1f} of {of:,}")

        yield line
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[count]}")
    times = TimeElapsedColumn(), TextColumn("left", style="dim"), TimeRemainingColumn()
    with Progress(*columns, *times, console=say, transient=True) as shown:
        task = shown.add_task("listing images", total=None, count="")

        def told(done: float | int, of: int) -> None:
            count = f"{done:,.1f}".removesuffix(".0") + f"/{of:,}"
            shown.update(task, description=what, completed=done, total=of, count=count)

        yield told


def _table(strips: Sequence[Any]) -> None:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("PSNR, dB, by tokens", overflow="ellipsis", no_wrap=True, max_width=40)
    for length in strips[0].found:
        table.add_column(str(length), justify="right")
    for strip in strips:
        table.add_row(strip.id, *(f"{value:.2f}" for value in strip.psnr.values()))
    out.print(table)
