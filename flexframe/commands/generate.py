"""`generate`: pictures from a prior."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flexframe.commands import complete
from flexframe.commands.common import out, pick_device, refuse, say
from flexframe.commands.options import Device, Threads
from flexframe.commands.progress import bar
from flexframe.commands.sampling import read_sampling
from flexframe.lock import writes

if TYPE_CHECKING:
    from flexframe_registry import GeneratorConfig
    from flexframe_registry.kinds import DecoderConfig, PriorConfig

EXAMPLES = (
    "flexframe generate --prior gpt/scenes-64-flextok --class star --length 16 --count 16 -o drawn",
    "flexframe generate -p gpt/scenes-64-flextok --class all --length 1,4,16 -o drawn",
    "flexframe generate -p gpt/scenes-64-flextok --class all --stream --until 0.03 -o drawn",
    'flexframe generate -p gpt/scenes-64-text --text "a large red circle left of a small blue square" -o drawn',
)

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="sampling.KEY=VALUE of the prior, decoder.KEY=VALUE."),
]


@writes("folder")
def generate(
    ctx: typer.Context,
    prior: Annotated[
        str,
        typer.Option("--prior", "-p", help="A card, a model file or a run's folder.", autocompletion=complete.models),
    ],
    folder: Annotated[Path, typer.Option("--out", "-o", help="Where all goes: a folder of its own.")],
    classes: Annotated[
        str | None, typer.Option("--class", help="By number or name; several as 3,star, or all. None if not given.")
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option(help="What a picture is to show, of a prior that reads texts; repeatable.")
    ] = None,
    texts: Annotated[Path | None, typer.Option(help="A file of texts, one a line.")] = None,
    lengths: Annotated[
        str | None, typer.Option("--length", help="Tokens; several as 4,16. The prior's most if not given.")
    ] = None,
    stream: Annotated[
        bool,
        typer.Option("--stream", help="Show pictures as they come: live.png, and stream.webp of 1, 2, 4, ... tokens."),
    ] = False,
    until: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="With --stream: a picture is done where twice the tokens change it by less (RMS, as 0.03).",
        ),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Pictures, the classes or texts in turn.")] = 16,
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
    threads: Threads = None,
) -> None:
    """Draw pictures: files, a grid, the coarse-to-fine strip, and the token file."""
    on = pick_device(device)
    from flexframe.store.load import load
    from flexframe.threads import use
    from flexframe.use import generate as work
    from flexframe.use.lengths import read_lengths

    with say.status(f"loading {prior}"):
        generator = load(prior, device=on, kind="generator")
        config = generator.config
        chosen, words = work.read_classes(classes, config), work.read_texts(text or (), texts, generator)
        wanted = read_lengths(lengths, config.length, "--length") if lengths is not None else ()
        where = model or config.tokenizer
        if where is None:
            refuse(prior, "names no tokenizer; give it with --model")
        tokenizer = load(where, device=on)
        use(threads, generator, tokenizer)
        sampling, decoding = read_both(ctx, config.prior, tokenizer.config.decoder, settings)
    if until is not None and not stream:
        refuse("--until", "says when a picture that comes is done; give --stream too")
    if stream:
        _stream(
            generator, tokenizer, folder, classes=chosen, texts=words, count=count, length=_one(wanted), until=until,
            seed=seed, sampling=sampling, decoding=decoding, batch_size=batch_size, force=force,
        )  # fmt: skip
        _told(config, chosen, words, count)
        return
    with bar("drawing") as progress:
        generated = work.generate(
            generator, tokenizer, folder, classes=chosen, texts=words, count=count, lengths=wanted, seed=seed,
            sampling=sampling, decoding=decoding, batch_size=batch_size, force=force, progress=progress,
        )  # fmt: skip
    _told(config, chosen, words, count)
    if not generated.strip:
        say.print(f"no strip: {tokenizer.id} has one length, so that fewer tokens are no picture", style="dim")
    at = ", ".join(map(str, generated.lengths))
    out.print(f"{generated.count:,} pictures of {at} tokens in {generated.folder}", markup=False, soft_wrap=True)


def _told(config: GeneratorConfig, classes: Sequence[int], texts: Sequence[str], count: int) -> None:
    """Tell what was not asked, and what was asked and not drawn."""
    if config.classes is not None and not classes:
        say.print("drawn without a class; --class names one", style="dim")
    if config.conditioner is not None and not texts:
        say.print("drawn without a text; --text says what to show", style="dim")
    for given, what in ((classes, "classes"), (texts, "texts")):
        if len(given) > count:
            told = f"the last {len(given) - count:,} of {len(given):,} {what} were not drawn, for --count is {count:,}"
            say.print(f"{told}; --count {len(given)} draws one of each", style="yellow", soft_wrap=True)


def _one(lengths: Sequence[int]) -> int | None:
    """The one length, or None."""
    if len(lengths) > 1:
        refuse("--length", "is one number with --stream: the most tokens; those before are shown anyway")
    return lengths[0] if lengths else None


def _stream(generator: Any, tokenizer: Any, folder: Path, **settings: Any) -> None:
    """Draw as they come, and tell how many tokens there are."""
    from flexframe.use.stream import stream

    say.print(f"look at {folder / 'live.png'} while they come", style="dim", markup=False, soft_wrap=True)
    with bar("drawing") as progress:
        done = stream(generator, tokenizer, folder, progress=progress, **settings)
    for word, tokens in done.tokens.items():
        out.print(f"{tokens:5.1f} tokens on average{': ' + word if word else ''}", markup=False, soft_wrap=True)
    out.print(f"{done.count:,} pictures in {folder}, and {folder / 'stream.webp'}", markup=False, soft_wrap=True)


def read_both(
    ctx: typer.Context, prior: PriorConfig, decoder: DecoderConfig, settings: Sequence[str] | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of the prior, of options and of `--set sampling.`, and of the decoder, of `--set decoder.`.

    Raises:
        ConfigError: a setting that they do not have, or cannot take.
    """
    from flexframe_registry.options import read_settings

    decoders = [setting for setting in settings or () if setting.startswith("decoder.")]
    own = [setting for setting in settings or () if setting not in decoders]
    return read_sampling(ctx, prior, own), read_settings(decoder.sampling, (), decoders, prefix="decoder")
