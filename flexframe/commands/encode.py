"""`encode`: images to a token file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flexframe.commands import complete
from flexframe.commands.common import out, refuse, say
from flexframe.commands.models import open_tokenizer
from flexframe.commands.options import Device, Images, Model, Resize, Seed, Threads
from flexframe.commands.progress import bar
from flexframe.lock import writes

EXAMPLES = (
    "flexframe encode photos/ -m flextok/scenes-64 -o tokens.safetensors",
    "flexframe encode photos/ -m flextok/scenes-64 -o few.safetensors --allocator psnr --set allocator.target=22",
    "flexframe encode 'shards/*.tar' -m flextok/scenes-64 -o shards.safetensors --lengths 4",
)


@writes("to")
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
    prior: Annotated[
        str | None,
        typer.Option(
            "--prior",
            "-p",
            help="Write the ids entropy-coded under this prior; `flexframe unpack` gives the token file back.",
            autocompletion=complete.models,
        ),
    ] = None,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Encode images to a token file. Broken off, the same command goes on where it stopped."""
    if to.exists():
        refuse(str(to), "is there already; delete it or choose another -o")
    tokens = to if prior is None else to.with_name(f"{to.name}.tokens")
    if tokens.exists():
        text = (
            f"is there already, of an encoding that ended before it was packed: flexframe pack {tokens} --prior {prior}"
        )
        refuse(str(tokens), f"{text} -o {to}, or delete it")
    chosen = [_allocators_own(setting) for setting in settings or ()]
    from flexframe.use.encode import encode as run
    from flexframe.use.lengths import read_rule

    tokenizer, name, way = open_tokenizer(model, device, resize, threads)
    rule = read_rule(lengths, allocator, chosen, tokenizer)
    if prior is not None:
        from flexframe.commands.pack import open_prior, packed
        from flexframe.use.pack import see_that_it_packs

        generator = open_prior(prior, device, threads)
        see_that_it_packs(generator, tokenizer, name)
    with bar("encoding") as progress:
        encoded = run(
            tokenizer, images, tokens, model=name, rule=rule, resize=way, seed=seed, batch_size=batch_size,
            workers=workers, skip_broken=skip_broken, progress=progress,
        )  # fmt: skip
    for reason in (*encoded.remarks, *encoded.reasons):
        say.print(reason, style="yellow", markup=False, soft_wrap=True)
    if encoded.broken > len(encoded.reasons):
        say.print(f"... and {encoded.broken - len(encoded.reasons)} more", style="yellow")
    told = f"{encoded.count:,} images, {encoded.tokens / encoded.count:.1f} tokens each on average, in {encoded.path}"
    told += f"; {encoded.resumed:,} were done before" if encoded.resumed else ""
    told += f"; {encoded.broken:,} could not be read" if encoded.broken else ""
    out.print(told, markup=False, soft_wrap=True)
    if prior is not None:
        from flexframe.data.tokenfile import TokenFile

        packed(TokenFile(tokens), generator, to)
        tokens.unlink()


def _allocators_own(setting: str) -> str:
    """`allocator.key=value` as `key=value`."""
    if not setting.startswith("allocator."):
        refuse(setting, "is not of the form allocator.key=value")
    return setting.removeprefix("allocator.")
