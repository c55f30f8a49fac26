"""`precompute`: what a training run would otherwise compute again and again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from flexframe.commands import complete
from flexframe.commands.common import examples, out, pick_device, refuse, say
from flexframe.commands.models import source_of, tokenizer_of
from flexframe.commands.options import Device, Threads
from flexframe.commands.progress import bar
from flexframe.lock import writes

if TYPE_CHECKING:
    pass

Word = TypeVar("Word", bound=str)
DTYPES: tuple[Literal["fp32", "fp16"], ...] = ("fp32", "fp16")
PRECISIONS: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")
POSTERIORS: tuple[Literal["moments", "sample"], ...] = ("moments", "sample")

TOKENS = (
    "flexframe precompute tokens gpt/scenes-64-flextok -o tokens.safetensors",
    "flexframe precompute tokens -m flextok/scenes-64 --data scenes -o tokens.safetensors",
)
LATENTS = ("flexframe precompute latents RECIPE.yaml run.data.path=photos -o latents --dtype fp16",)
TEXT = (
    "flexframe precompute text RECIPE.yaml run.data.path=photos",
    "flexframe precompute text RECIPE.yaml model.conditioner=minilm",
)
FEATURES = ("flexframe precompute features RECIPE.yaml run.data.path=photos -o latents",)

app = typer.Typer(help="Compute once what training would compute again and again.", no_args_is_help=True)


@app.callback()
def precompute() -> None:
    """Compute once what training would compute again and again."""


@app.command(epilog=examples(TOKENS))
@writes("to")
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
    threads: Threads = None,
) -> None:
    """Encode every image of a data source, at full length and with its label, to a file for the feed `token-file`.

    Broken off, the same command goes on where it stopped.
    """
    if to.exists():
        refuse(str(to), "is there already; delete it or choose another -o")
    if (card is None) == (model is None) or (model is None) != (data is None):
        refuse("", "name a prior's card, or give --model and --data; one of the two ways")
    from flexframe_registry import GeneratorConfig
    from flexframe_registry.cards import card as find_card

    if card is not None:
        config = find_card(card).train(overrides or [])
        if not isinstance(config.model, GeneratorConfig) or config.model.tokenizer is None:
            refuse(card, "describes no prior of a named tokenizer; give --model and --data instead")
        model, images, seed = config.model.tokenizer, config.run.data, config.run.seed if seed is None else seed
    else:
        images = source_of(data)
    assert model is not None
    on = pick_device(device)
    from flexframe.store.load import load
    from flexframe.store.places import preprocessing
    from flexframe.threads import use
    from flexframe.use.precompute import precompute_tokens
    from flexframe_registry import catalogue

    with say.status(f"loading {model}"):
        tokenizer = load(model, device=on)
    use(threads, tokenizer)
    images = images.resized(preprocessing(model).resize)
    source = catalogue().build(images, tokenizer.config.image_size, place="--data" if card is None else "run.data")
    source.want("labels")
    for remark in source.remarks():
        say.print(remark, style="yellow", markup=False, soft_wrap=True)
    with bar("encoding") as progress:
        written = precompute_tokens(
            tokenizer, source, to, model=tokenizer.id, seed=seed or 0, batch_size=batch_size, progress=progress
        )
    told = f"{written.count:,} images of {images.type}, {tokenizer.config.length} tokens each, in {written.path}"
    told += "" if written.labelled else "; none has a label"
    told += f"; {written.resumed:,} were done before" if written.resumed else ""
    out.print(told, markup=False, soft_wrap=True)


Dtype = Annotated[str, typer.Option(help="fp32, or fp16: half the size, rounded.")]
Folder = Annotated[Path, typer.Option("--out", "-o", help="The folder to fill; latents and features may share it.")]
Recipe = Annotated[
    str | None, typer.Argument(help="The card or YAML file of the run that will train on them: its codec and data.")
]


@app.command(epilog=examples(LATENTS))
@writes("to", part="latents")
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
    precision: Annotated[
        str | None,
        typer.Option(help="Of the codec's arithmetic: fp32, or bf16, which is faster; not given: as the recipe says."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of samples.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time; changes speed only.")] = 32,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Encode every image of a data source by a codec, for the feed `latents`.

    Broken off, the same command goes on with the shard where it stopped. Several crops an image: `run.data.crops=4`.
    """
    if (card is None) == (model is None) or (model is None) != (data is None):
        refuse("", "name the recipe of a run, or give --model and --data; one of the two ways")
    stored, drawn = _one_of("--dtype", dtype, DTYPES), _one_of("--posterior", posterior, POSTERIORS)
    asked = None if precision is None else _one_of("--precision", precision, PRECISIONS)
    on = pick_device(device)
    from flexframe.threads import use
    from flexframe.use.shards import precompute_latents

    if card is not None:
        name, codec, source = _of_the_run(card, overrides or [])
    else:
        assert model is not None
        assert data is not None
        name, codec, source = _of_a_model(model, data, size)
    codec.precision = asked or codec.precision
    use(threads, codec)
    _remark(source)
    with bar("encoding") as progress:
        written = precompute_latents(
            codec, source, to, name=name, device=on, dtype=stored, posterior=drawn, seed=seed,
            batch_size=batch_size, progress=progress,
        )  # fmt: skip
    _tell_of(written, "latents")


@app.command(epilog=examples(FEATURES))
@writes("to", part="features")
def features(
    card: Annotated[str, typer.Argument(help="The card or YAML file of the run that will train on them.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="As for train: run.data.crops=4.", metavar="[KEY=VALUE]...")
    ] = None,
    to: Folder = Path("latents"),
    dtype: Dtype = "fp16",
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time; changes speed only.")] = 32,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Compute what a run's objectives see in every image of its data (a teacher's features), for the feed `latents`.

    Broken off, the same command goes on with the shard where it stopped.
    """
    from flexframe_registry.cards import card as find_card

    stored = _one_of("--dtype", dtype, DTYPES)
    config = find_card(card).train(overrides or [])
    on = pick_device(device)
    from flexframe.parts import Objective
    from flexframe.threads import use
    from flexframe.use.shards import precompute_features
    from flexframe_registry import catalogue

    model = tokenizer_of(
        config.model, card, "describes a prior, which has no objectives; see `flexframe precompute tokens`"
    )
    objectives: list[Objective] = [
        catalogue().build(each, model.spec).to(on) for each in config.objectives if each.precomputes()
    ]
    use(threads, *objectives)
    source = catalogue().build(config.run.data, model.image_size, place="run.data")
    _remark(source)
    with bar("looking") as progress:
        written = precompute_features(
            objectives, source, to, device=on, dtype=stored, batch_size=batch_size, progress=progress
        )
    _tell_of(written, "features")


@app.command(epilog=examples(TEXT))
def text(
    card: Annotated[str, typer.Argument(help="The card or YAML file of the run of a prior that reads texts.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="As for train: run.data.count=1000.", metavar="[KEY=VALUE]...")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time; changes speed only.")] = 256,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Embed every caption of a data source by a prior's frozen text encoder, which keeps them by content.

    They are kept in `$FLEXFRAME_HOME/texts`; broken off, the same command goes on where it stopped.
    """
    from flexframe_registry import GeneratorConfig
    from flexframe_registry.cards import card as find_card
    from flexframe_registry.cards import tokenizer_of as config_of

    config = find_card(card).train(overrides or [])
    if not isinstance(config.model, GeneratorConfig) or config.model.conditioner is None:
        refuse(card, "describes no prior that reads texts; give one with model.conditioner")
    named = config.model.conditioner
    if not named.frozen:
        refuse(card, f"conditioner {named.type!r} learns with the prior: there is nothing to compute before")
    on = pick_device(device)
    from flexframe.threads import use
    from flexframe.use.precompute import precompute_texts
    from flexframe_registry import catalogue

    tokenizer = None if config.model.tokenizer is None else config_of(config.model.tokenizer)
    size = (256, 256) if tokenizer is None else tokenizer.image_size
    source = catalogue().build(config.run.data, size, place="run.data")
    conditioner = catalogue().build(named, place="model.conditioner").to(on)
    use(threads, conditioner)
    _remark(source)
    with bar("embedding") as progress:
        captions, cut = precompute_texts(conditioner, source, batch_size=batch_size, progress=progress)
    told = f"{captions:,} captions of {len(source):,} images, by {named.type}, in $FLEXFRAME_HOME/texts"
    told += f"; {cut:,} are longer than the {named.text().length} that it reads, and cut" if cut else ""
    out.print(told, markup=False, soft_wrap=True)


def _one_of(option: str, value: str, known: tuple[Word, ...]) -> Word:
    chosen = next((word for word in known if word == value), None)
    if chosen is None:
        refuse(option, f"is {value!r}; it is one of {', '.join(known)}")
    return chosen


def _of_the_run(card: str, overrides: list[str]) -> tuple[str, Any, Any]:
    """Name, codec and data of what a run will train."""
    from flexframe_registry.cards import card as find_card

    config = find_card(card).train(overrides)
    told = "describes a prior, which trains on tokens; see `flexframe precompute tokens`"
    described = tokenizer_of(config.model, card, told)
    from flexframe.models.tokenizer import Tokenizer
    from flexframe.train.init import initialise, read_starts
    from flexframe_registry import catalogue

    with say.status("loading the codec"):
        model = Tokenizer(described)
        initialise(model, read_starts(config.run.init))
        model.codec.precision = config.run.codec_precision
    source = catalogue().build(config.run.data, described.image_size, place="run.data")
    return f"{described.codec.type} of {card}", model.codec, source


def _of_a_model(model: str, data: str, size: int | None) -> tuple[str, Any, Any]:
    images = source_of(data)
    from flexframe.models.generator import Generator
    from flexframe.models.tokenizer import Tokenizer
    from flexframe.store.load import load
    from flexframe.store.places import preprocessing
    from flexframe_registry import catalogue

    with say.status(f"loading {model}"):
        loaded = load(model, kind=None)
    if isinstance(loaded, Generator):
        refuse("--model", f"{model} is a prior, and has no codec")
    if isinstance(loaded, Tokenizer):
        if size is not None:
            refuse("--size", f"is that of {model}, {loaded.config.image_size}; leave it out")
        shape = loaded.config.image_size
    else:
        if size is None:
            refuse("--size", f"{model} is a codec by itself, for any size; say which, as --size 256")
        shape = (size, size)
    return model, loaded.codec, catalogue().build(images.resized(preprocessing(model).resize), shape, place="--data")


def _remark(source: Any) -> None:
    for remark in source.remarks():
        say.print(remark, style="yellow", markup=False, soft_wrap=True)


def _tell_of(written: Any, kind: str) -> None:
    shapes = ", ".join(f"{name} {' x '.join(map(str, shape))}" for name, shape in written.shapes.items())
    feed = f"'run.feed={{type: latents, path: {written.folder}}}'"
    told = f"{kind} of {written.count:,} images ({shapes}) in {written.folder}, for {feed}"
    told += f"; {written.resumed:,} were done before" if written.resumed else ""
    out.print(told, markup=False, soft_wrap=True)
