"""`decode`: a token file to PNG files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flexframe.commands import complete
from flexframe.commands.common import out
from flexframe.commands.models import model_of, open_tokenizer
from flexframe.commands.options import Device, Seed, Threads
from flexframe.commands.progress import bar
from flexframe.commands.sampling import Settings, read_sampling
from flexframe.lock import writes

EXAMPLES = (
    "flexframe decode tokens.safetensors -o decoded",
    "flexframe decode tokens.safetensors -o decoded --length 4 --steps 20",
)


@writes("folder")
def decode(
    ctx: typer.Context,
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
    settings: Settings = None,
    seed: Seed = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time; changes speed only.")] = 8,
    force: Annotated[bool, typer.Option("--force", help="Decode with another model than encoded.")] = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Decode a token file to PNG files, named by id. Broken off, the same command goes on where it stopped.

    Settings of the model's decoder are options too, as `--steps 20`; `flexframe show decoder/NAME` lists them.
    """
    from flexframe.data.tokenfile import TokenFile
    from flexframe.use.decode import decode as run

    file = TokenFile(tokens)
    file.check()  # before a large model is loaded for nothing
    tokenizer, name, _ = open_tokenizer(model or model_of(file), device, None, threads)
    sampling = read_sampling(ctx, tokenizer.config.decoder, settings)
    with bar("decoding") as progress:
        decoded = run(
            file, tokenizer, folder, model=name, length=length, seed=seed, sampling=sampling, batch_size=batch_size,
            force=force, progress=progress,
        )  # fmt: skip
    kept = f"; {decoded.kept:,} were there already" if decoded.kept else ""
    out.print(f"{decoded.count:,} images in {decoded.folder}{kept}", markup=False, soft_wrap=True)
