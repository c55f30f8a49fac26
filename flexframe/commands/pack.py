"""`pack`: a token file in the bits that a prior needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flexframe.commands import complete
from flexframe.commands.common import out, pick_device, say
from flexframe.commands.options import Device, Threads
from flexframe.commands.progress import bar
from flexframe.lock import writes

EXAMPLES = ("flexframe pack tokens.safetensors --prior gpt/scenes-64-flextok -o packed.safetensors",)

PriorOption = Annotated[
    str,
    typer.Option(
        "--prior",
        "-p",
        help="A card, a model file or a run's folder: whoever unpacks needs it too.",
        autocompletion=complete.models,
    ),
]


@writes("to")
def pack(
    tokens: Annotated[Path, typer.Argument(help="A token file.")],
    prior: PriorOption,
    to: Annotated[Path, typer.Option("--out", "-o", help="The packed file to write.")],
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Write a token file's ids entropy-coded under a prior. `flexframe unpack` gives the token file back.

    The chances must be the same to the last bit where it is unpacked: the same torch on the same kind of machine.
    """
    from flexframe.data.tokenfile import TokenFile

    file = TokenFile(tokens)
    file.check()
    packed(file, open_prior(prior, device, threads), to)


def open_prior(where: str, device: str, threads: int | None) -> Any:
    """A prior; torch has threads for it."""
    on = pick_device(device)
    from flexframe.store.load import load
    from flexframe.threads import use

    with say.status(f"loading {where}"):
        generator = load(where, device=on, kind="generator")
    use(threads, generator)
    return generator


def packed(file: Any, generator: Any, to: Path) -> None:
    """Pack, and tell what came of it."""
    from flexframe.use.pack import pack as run

    with bar("packing") as progress:
        done = run(file, generator, to, prior=generator.id, progress=progress)
    each, plain = done.bits / done.count, done.plain_bits / done.count
    told = f"{done.count:,} images in {done.path}: {each:,.1f} bits each, {done.bits / done.tokens:.2f} a token"
    out.print(f"{told}; {plain:,.1f} as plain ids", markup=False, soft_wrap=True)
