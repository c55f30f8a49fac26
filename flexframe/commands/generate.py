"""`generate`: pictures from a prior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from flexframe.commands import complete
from flexframe.commands.common import Device, out, pick_device, say
from flexframe.commands.use import _prefixed, _progress
from flexframe_registry import ConfigError
from flexframe_registry.files import put, split_override

Temperature = Annotated[float | None, typer.Option(help="Logits are divided by it; 0 is the likeliest.")]
TopK = Annotated[int | None, typer.Option(help="Draw among so many likeliest codes only.")]
TopP = Annotated[float | None, typer.Option(help="Draw among the likeliest, of this probability together.")]
Guidance = Annotated[float | None, typer.Option(help="Of the prior; 1 is none.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="sampling.KEY=VALUE of the prior, decoder.KEY=VALUE."),
]


def generate(
    prior: Annotated[
        str,
        typer.Option("--prior", "-p", help="A card, a model file or a run's folder.", autocompletion=complete.models),
    ],
    folder: Annotated[Path, typer.Option("--out", "-o", help="Where all goes: a folder of its own.")],
    classes: Annotated[
        str | None, typer.Option("--class", help="By number or name; several as 3,star, or all. None if not given.")
    ] = None,
    lengths: Annotated[
        str | None, typer.Option("--length", help="Tokens; several as 4,16. The prior's most if not given.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Pictures, the classes in turn.")] = 16,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    guidance: Guidance = None,
    settings: Settings = None,
    seed: Annotated[int, typer.Option(help="What all draws follow from, beside each picture's number.")] = 0,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="The tokenizer; the prior's own if not given.", autocompletion=complete.models
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures at a time; changes speed only.")] = 16,
    force: Annotated[bool, typer.Option("--force", help="Decode with another tokenizer than trained on.")] = False,
    device: Device = "auto",
) -> None:
    """Draw pictures: files, a grid, the coarse-to-fine strip, and the token file.

    `flexframe generate --prior gpt/scenes-64-flextok --class star --length 16 --count 16 --seed 0 -o DIR`
    """
    given = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "guidance": guidance}
    sampling, decoding = read_settings(given, settings)
    on = pick_device(device)
    from flexframe.store.load import load
    from flexframe.use import generate as work
    from flexframe.use.lengths import read_lengths

    with say.status(f"loading {prior}"):
        generator = load(prior, device=on, kind="generator")
        config = generator.config
        chosen = work.read_classes(classes, config)
        wanted = read_lengths(lengths, config.length, "--length") if lengths is not None else ()
        where = model or config.tokenizer
        if where is None:
            raise ConfigError.at(prior, "names no tokenizer; give it with --model")
        tokenizer = load(where, device=on)
    with _progress("drawing") as progress:
        found = work.generate(
            generator, tokenizer, folder, classes=chosen, count=count, lengths=wanted, seed=seed, sampling=sampling,
            decoding=decoding, batch_size=batch_size, force=force, progress=progress,
        )  # fmt: skip
    if config.classes is not None and not chosen:
        say.print("drawn without a class; --class names one", style="dim")
    if not found.strip:
        say.print(f"no strip: {tokenizer.id} has one length, so that fewer tokens are no picture", style="dim")
    at = ", ".join(map(str, found.lengths))
    out.print(f"{found.count:,} pictures of {at} tokens in {found.folder}", markup=False, soft_wrap=True)


def read_settings(given: Mapping[str, Any], settings: Sequence[str] | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of the prior and of the decoder: of options by name, and of `--set`."""
    sampling = {name: value for name, value in given.items() if value is not None}
    own = [each for each in settings or () if not each.startswith("decoder.")]
    decoding = _read(_prefixed([each for each in settings or () if each.startswith("decoder.")], "decoder"))
    for name, value in _read(_prefixed(own, "sampling")).items():
        if name in sampling:
            raise ConfigError.at(f"--{name.replace('_', '-')}", f"and --set sampling.{name} both say so; give one")
        sampling[name] = value
    return sampling, decoding


def _read(settings: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for setting in settings:
        key, value = split_override(setting)
        found = put(found, key.split("."), value)
    return found
