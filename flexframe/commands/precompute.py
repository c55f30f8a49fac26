"""`precompute`: what a training run would otherwise compute again and again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flexframe.commands import complete
from flexframe.commands.common import Device, out, pick_device, say
from flexframe.commands.use import _progress
from flexframe_registry import ConfigError, GeneratorConfig, SourceConfig
from flexframe_registry.cards import card as find_card
from flexframe_registry.cards import split_override
from flexframe_registry.configs import resolve

app = typer.Typer(help="Compute once what training would compute again and again.", no_args_is_help=True)


@app.callback()
def precompute() -> None:
    """Compute once what training would compute again and again."""


@app.command()
def tokens(
    card: Annotated[
        str | None,
        typer.Argument(help="A prior's card, or a YAML file of that form: its tokenizer, and its run's data."),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="As for train: run.data.count=1000.", metavar="[KEY=VALUE]...")
    ] = None,
    to: Annotated[Path, typer.Option("--out", "-o", help="The token file to write.")] = Path("tokens.safetensors"),
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Without a card: the tokenizer.", autocompletion=complete.models),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Without a card: a source, as scenes or '{type: scenes, complexity: 1}'.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of codecs that draw; the card's run's, or 0.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time; changes speed only.")] = 32,
    device: Device = "auto",
) -> None:
    """Encode every image of a data source, at full length and with its label, to a token file for `run.tokens`.

    Broken off, the same command goes on where it stopped.

    `flexframe precompute tokens -m flextok/scenes-64 --data scenes -o tokens.safetensors`
    """
    if to.exists():
        raise ConfigError([(str(to), "is there already; delete it or choose another -o")])
    if (card is None) == (model is None) or (model is None) != (data is None):
        raise ConfigError([("", "name a prior's card, or give --model and --data; one of the two ways")])
    if card is not None:
        config = find_card(card).train(overrides or [])
        if not isinstance(config.model, GeneratorConfig) or config.model.tokenizer is None:
            raise ConfigError([(card, "describes no prior of a named tokenizer; give --model and --data instead")])
        model, images, seed = config.model.tokenizer, config.run.data, config.run.seed if seed is None else seed
    else:
        images = resolve("source", split_override(f"data={data}")[1])
    assert model is not None
    assert isinstance(images, SourceConfig)
    on = pick_device(device)
    from flexframe.loading import load, preprocessing
    from flexframe.use.precompute import precompute_tokens
    from flexframe_registry import catalogue

    with say.status(f"loading {model}"):
        tokenizer = load(model, device=on)
    images = images.resized(preprocessing(model).resize)
    source = catalogue().build(images, tokenizer.config.image_size)
    for remark in source.remarks():
        say.print(remark, style="yellow", markup=False, soft_wrap=True)
    with _progress("encoding") as progress:
        found = precompute_tokens(
            tokenizer, source, to, model=tokenizer.id, seed=seed or 0, batch_size=batch_size, progress=progress
        )
    told = f"{found.count:,} images of {images.type}, {tokenizer.config.length} tokens each, in {found.path}"
    told += "" if found.labelled else "; none has a label"
    told += f"; {found.resumed:,} were done before" if found.resumed else ""
    out.print(told, markup=False, soft_wrap=True)
