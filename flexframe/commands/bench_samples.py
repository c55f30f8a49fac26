"""`bench-samples`: what priors draw, measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flexframe.commands import complete
from flexframe.commands.common import names_and_settings, names_of, out, pick_device, print_json, refuse, say
from flexframe.commands.generate import Settings, read_both
from flexframe.commands.options import AsJson, Device, Limit, Suite, Threads, limited
from flexframe.commands.sampling import GIVEN
from flexframe.lock import writes

EXAMPLES = (
    "flexframe bench-samples scenes-64-samples gpt/scenes-64-flextok gpt/scenes-64-titok-16 -o out",
    "flexframe bench-samples mine.yaml path:samples.npz -o out",
)


@writes("folder")
def bench_samples(
    ctx: typer.Context,
    name: Suite,
    priors: Annotated[
        list[str],
        typer.Argument(
            metavar="PRIOR... [KEY=VALUE]...",
            help="Cards, model files, run folders; or samples that are there: a .npz, a folder or .tar of images. "
            "And settings of the suite, as count=500 or budgets='[4, 16]'.",
            autocompletion=complete.models,
        ),
    ],
    folder: Annotated[Path, typer.Option("--out", "-o", help="Where results.json and the pictures go.")],
    settings: Settings = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="The tokenizer; each prior's own if not given.", autocompletion=complete.models
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples at a time; changes speed only.")] = 64,
    device: Device = "auto",
    threads: Threads = None,
    limit: Limit = None,
    as_json: AsJson = False,
) -> None:
    """Draw samples of priors at every token count, of all classes in turn, and measure them."""
    from flexframe_registry import suite

    named, overrides = names_and_settings(priors)
    measured = limited(suite(name, overrides), limit)
    names = names_of(named)
    from flexframe.store.load import load
    from flexframe.store.places import find, preprocessing

    there = {prior: path for prior in named if (path := _images_at(prior)) is not None}
    for prior in named:
        if prior not in there:
            find(prior)  # a typo is told before anything is drawn
    on = pick_device(device)
    from flexframe.bench.samples import FOLDER, run
    from flexframe.bench.table import print_table
    from flexframe.models.generator import Generator
    from flexframe.models.tokenizer import Tokenizer
    from flexframe.terminal import Bars
    from flexframe.threads import use
    from flexframe_registry.suites import settle

    loaded, ways = list[tuple[str, Generator, Tokenizer]](), dict[str, Any]()
    sampling, decoding = dict[str, Any](), dict[str, Any]()
    given = [(shown, _as_they_are(there[one])) for shown, one in zip(names, named, strict=True) if one in there]
    for shown, prior in ((shown, one) for shown, one in zip(names, named, strict=True) if one not in there):
        generator = load(prior, device=on, kind=None)
        if not isinstance(generator, Generator):
            refuse(prior, "is no prior; `flexframe bench` measures tokenizers")
        where = model or generator.config.tokenizer
        if where is None:
            refuse(prior, "names no tokenizer; give it with --model")
        tokenizer = load(where, device=on)
        sampling, decoding = read_both(ctx, generator.config.prior, tokenizer.config.decoder, settings)
        loaded.append((shown, generator, tokenizer))
        ways[shown] = preprocessing(where).resize
    use(threads, *(model for _, *pair in loaded for model in pair))
    if there and not loaded and (settings or ctx.meta.get(GIVEN)):
        refuse(next(iter(there)), "is measured as it is; settings of sampling are for priors")
    if loaded:
        measured = measured.model_copy(update={"data": settle(measured.data, ways)})
    with Bars(say) as progress:
        report = run(
            measured, loaded, folder, name=name, sampling=sampling, decoding=decoding, batch_size=batch_size, device=on,
            progress=progress, given=given,
        )  # fmt: skip
    if as_json:
        print_json(report.results)
    else:
        print_table(report.results, out)
    for remark in report.remarks:
        say.print(remark, style="yellow", markup=False, soft_wrap=True)
    drawn = measured.show and loaded
    shown_at = f"; the first samples are in {folder / FOLDER}" if drawn else ""
    (say if as_json else out).print(f"\nthe numbers: {folder / 'results.json'}{shown_at}", markup=False, soft_wrap=True)


def _images_at(name: str) -> Path | None:
    """The place of samples that are there already; None of anything else that is named."""
    from flexframe.store.places import holds_model, locate

    path = locate(name).path
    if path is None or (path.is_file() and path.suffix.lower() not in (".npz", ".tar")):
        return None
    return None if path.is_dir() and holds_model(path) else path


def _as_they_are(path: Path) -> Any:
    """A source of samples in the size that they have."""
    from flexframe_registry import SourceConfig, catalogue
    from flexframe_registry.slots import resolve

    config = resolve("source", {"type": "images", "path": str(path), "resize": "none"})
    assert isinstance(config, SourceConfig)
    size = catalogue().build(config, (1, 1), place=str(path)).own_size()
    assert size is not None, "images of files have a size of their own"
    source = catalogue().build(config, size, place=str(path))
    source.want("any")
    return source
