"""`unpack`: the token file that `pack` or `encode --prior` coded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flexframe.commands import complete
from flexframe.commands.common import out, refuse
from flexframe.commands.options import Device
from flexframe.commands.pack import open_prior
from flexframe.commands.progress import bar
from flexframe.lock import writes

EXAMPLES = ("flexframe unpack packed.safetensors -o tokens.safetensors",)


@writes("to")
def unpack(
    packed: Annotated[Path, typer.Argument(help="A packed file.")],
    to: Annotated[Path, typer.Option("--out", "-o", help="The token file to write.")],
    prior: Annotated[
        str | None,
        typer.Option(
            "--prior", "-p", help="What it was packed with, where it is elsewhere now.", autocompletion=complete.models
        ),
    ] = None,
    device: Device = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of torch on a CPU; not given: as many as it was packed with.")
    ] = None,
) -> None:
    """Write the token file that was packed, the same ids and names."""
    from flexframe.use.pack import read_how
    from flexframe.use.pack import unpack as run

    how = read_how(packed)
    name = how.prior
    if prior is None and name.startswith("hf:"):  # a data file starts no download
        refuse(str(packed), f"was packed with {name}; give --prior {name} to fetch and use it")
    if prior is None and name.startswith("path:") and not Path(name.removeprefix("path:")).exists():
        told = f"was packed with {name.removeprefix('path:')}, which is not there, seen from this folder"
        refuse(str(packed), f"{told}; say with --prior where it is")
    where = prior or (name if name.startswith("path:") else f"card:{name}")
    with bar("unpacking") as progress:
        count = run(packed, open_prior(where, device, threads or how.threads), to, progress=progress)
    out.print(f"{count:,} images in {to}", markup=False, soft_wrap=True)
