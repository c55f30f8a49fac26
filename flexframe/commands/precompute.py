"""`precompute`: what a training run would otherwise compute again and again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flexframe.commands import complete
from flexframe.commands.common import Device, out, pick_device, say
from flexframe.commands.use import _progress
from flexframe_registry import ConfigError, GeneratorConfig, SourceConfig
from flexframe_registry.cards import card as find_card
from flexframe_registry.files import split_override
from flexframe_registry.slots import resolve

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
        raise ConfigError.at(str(to), "is there already; delete it or choose another -o")
    if (card is None) == (model is None) or (model is None) != (data is None):
        raise ConfigError.at("", "name a prior's card, or give --model and --data; one of the two ways")
    if card is not None:
        config = find_card(card).train(overrides or [])
        if not isinstance(config.model, GeneratorConfig) or config.model.tokenizer is None:
            raise ConfigError.at(card, "describes no prior of a named tokenizer; give --model and --data instead")
        model, images, seed = config.model.tokenizer, config.run.data, config.run.seed if seed is None else seed
    else:
        images = resolve("source", split_override(f"data={data}")[1])
    assert model is not None
    assert isinstance(images, SourceConfig)
    on = pick_device(device)
    from flexframe.store.load import load
    from flexframe.store.places import preprocessing
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


Dtype = Annotated[str, typer.Option(help="fp32, or fp16: half the size, rounded.")]
Folder = Annotated[Path, typer.Option("--out", "-o", help="The folder to fill; latents and features may share it.")]
Recipe = Annotated[
    str | None, typer.Argument(help="The card or YAML file of the run that will train on them: its codec and data.")
]


@app.command()
def latents(
    card: Recipe = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="As for train: run.data.crops=4.", metavar="[KEY=VALUE]...")
    ] = None,
    to: Folder = Path("latents"),
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "--codec",
            "-m",
            help="Without a card: a model that has the codec, or a codec by itself.",
            autocompletion=complete.models,
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Without a card: a source, as '{type: folder, path: photos}'.")
    ] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Of a codec by itself: image size in pixels.")] = None,
    dtype: Dtype = "fp32",
    posterior: Annotated[
        str,
        typer.Option(
            help="Of a codec that draws: its `moments`, or one `sample` an image, half as large.",
        ),
    ] = "moments",
    seed: Annotated[int, typer.Option(help="Of samples.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time; changes speed only.")] = 32,
    device: Device = "auto",
) -> None:
    """Encode every image of a data source by a codec, for training with `run.latents=DIR`.

    Broken off, the same command goes on with the shard where it stopped. Several crops an image: `run.data.crops=4`.

    `flexframe precompute latents RECIPE.yaml run.data.path=photos -o latents --dtype fp16`
    """
    if (card is None) == (model is None) or (model is None) != (data is None):
        raise ConfigError.at("", "name the recipe of a run, or give --model and --data; one of the two ways")
    _one_of("--dtype", dtype, ("fp32", "fp16"))
    _one_of("--posterior", posterior, ("moments", "sample"))
    on = pick_device(device)
    from flexframe.use.shards import precompute_latents

    if card is not None:
        name, codec, source = _of_the_run(card, overrides or [])
    else:
        assert model is not None
        assert data is not None
        name, codec, source = _of_a_model(model, data, size)
    _remark(source)
    with _progress("encoding") as progress:
        found = precompute_latents(
            codec, source, to, name=name, device=on, dtype=dtype, posterior=posterior, seed=seed,
            batch_size=batch_size, progress=progress,
        )  # fmt: skip
    _tell_of(found, "latents")


@app.command()
def features(
    card: Annotated[str, typer.Argument(help="The card or YAML file of the run that will train on them.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="As for train: run.data.crops=4.", metavar="[KEY=VALUE]...")
    ] = None,
    to: Folder = Path("latents"),
    dtype: Dtype = "fp16",
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time; changes speed only.")] = 32,
    device: Device = "auto",
) -> None:
    """Compute what a run's objectives see in every image of its data (a teacher's features), for `run.latents`.

    Broken off, the same command goes on with the shard where it stopped.
    """
    _one_of("--dtype", dtype, ("fp32", "fp16"))
    config = find_card(card).train(overrides or [])
    on = pick_device(device)
    from flexframe.parts import Objective
    from flexframe.use.shards import precompute_features
    from flexframe_registry import TokenizerConfig, catalogue

    if not isinstance(config.model, TokenizerConfig):
        raise ConfigError.at(card, "describes a prior, which has no objectives; see `flexframe precompute tokens`")
    objectives: list[Objective] = [
        catalogue().build(each, config.model.spec).to(on) for each in config.objectives if each.precomputes()
    ]
    source = catalogue().build(config.run.data, config.model.image_size)
    _remark(source)
    with _progress("looking") as progress:
        found = precompute_features(
            objectives, source, to, device=on, dtype=dtype, batch_size=batch_size, progress=progress
        )
    _tell_of(found, "features")


def _one_of(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError.at(option, f"is {value!r}; it is one of {', '.join(known)}")


def _of_the_run(card: str, overrides: list[str]) -> tuple[str, Any, Any]:
    """Name, codec and data of what a run will train."""
    config = find_card(card).train(overrides)
    from flexframe.models.tokenizer import Tokenizer
    from flexframe.train.init import initialise
    from flexframe_registry import TokenizerConfig, catalogue

    if not isinstance(config.model, TokenizerConfig):
        raise ConfigError.at(card, "describes a prior, which trains on tokens; see `flexframe precompute tokens`")
    with say.status("loading the codec"):
        model = Tokenizer(config.model)
        initialise(model, config.run.init)
    source = catalogue().build(config.run.data, config.model.image_size)
    return f"{config.model.codec.type} of {card}", model.codec, source


def _of_a_model(model: str, data: str, size: int | None) -> tuple[str, Any, Any]:
    images = resolve("source", split_override(f"data={data}")[1])
    assert isinstance(images, SourceConfig)
    from flexframe.models.tokenizer import Tokenizer
    from flexframe.store.load import load
    from flexframe.store.places import preprocessing
    from flexframe_registry import catalogue

    with say.status(f"loading {model}"):
        found = load(model, kind=None)
    if isinstance(found, Tokenizer) and size is None:
        codec, shape = found.codec, found.config.image_size
    elif isinstance(found, Tokenizer):
        raise ConfigError.at("--size", f"is that of {model}, {found.config.image_size}; leave it out")
    else:
        codec = getattr(found, "codec", None)
        if codec is None:
            raise ConfigError.at("--model", f"{model} is a prior, and has no codec")
        if size is None:
            raise ConfigError.at("--size", f"{model} is a codec by itself, for any size; say which, as --size 256")
        shape = (size, size)
    return model, codec, catalogue().build(images.resized(preprocessing(model).resize), shape)


def _remark(source: Any) -> None:
    for remark in source.remarks():
        say.print(remark, style="yellow", markup=False, soft_wrap=True)


def _tell_of(found: Any, kind: str) -> None:
    shapes = ", ".join(f"{name} {' x '.join(map(str, shape))}" for name, shape in found.shapes.items())
    told = f"{kind} of {found.count:,} images ({shapes}) in {found.folder}, for run.latents={found.folder}"
    told += f"; {found.resumed:,} were done before" if found.resumed else ""
    out.print(told, markup=False, soft_wrap=True)
