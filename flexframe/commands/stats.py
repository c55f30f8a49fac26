"""`stats`: statistics of a data set's images in a file, as a reference for later."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer

from flexframe.commands import complete
from flexframe.commands.common import out, pick_device, refuse, say
from flexframe.commands.models import source_of
from flexframe.commands.options import Device, Threads
from flexframe.lock import writes

EXAMPLES = (
    "flexframe stats /data/imagenet/train --size 256 --resize adm -o train.npz",
    "flexframe stats digits --size 16 --metric '{type: frechet, layer: \"64\"}' -o digits.npz",
)


@writes("to")
def stats(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder, .npz or tar of images; or a source, as digits or '{type: scenes, split: val}'.",
            autocompletion=complete.names_of("source"),
        ),
    ],
    to: Annotated[Path, typer.Option("--out", "-o", help="The .npz to write.")],
    size: Annotated[int, typer.Option(min=1, help="Height and width of the images in pixels, as models see them.")],
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            help="Whose statistics, as frechet or '{type: frechet, layer: \"768\"}'; frechet if not given; repeatable.",
            autocompletion=complete.names_of("metric"),
        ),
    ] = None,
    resize: Annotated[
        str | None, typer.Option(help="torchvision-bicubic (if not given), torchvision-bilinear or adm.")
    ] = None,
    count: Annotated[int | None, typer.Option(min=2, help="The first ones alone; all if not given.")] = None,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Write mean and covariance of a data set's features, which a metric takes as its `reference`."""
    from flexframe_registry import SuiteConfig
    from flexframe_registry.kinds import Resize

    given = f"{{type: images, path: {source!r}}}" if Path(source).exists() else source
    images = source_of(given, "SOURCE")
    if resize is not None:
        ways: tuple[Resize, ...] = get_args(Resize)
        if resize not in ways:
            refuse("--resize", f"there is no {resize!r}; there are: {', '.join(ways)}")
        images = images.resized(ways[ways.index(resize)])
    wanted = SuiteConfig.read({"data": "digits", "metrics": [_plain(each) for each in metrics or ["frechet"]]}).metrics
    on = pick_device(device)
    from flexframe.bench.passes import Head
    from flexframe.bench.statistics import write_statistics
    from flexframe.threads import use
    from flexframe_registry import catalogue

    use(threads)
    head = Head(catalogue().build(images, (size, size), place="SOURCE"), count)
    with say.status(f"measuring {len(head):,} images"):
        held = write_statistics([catalogue().build(each, head) for each in wanted], to, on)
    for remark in head.remarks():
        say.print(remark, style="yellow", markup=False, soft_wrap=True)
    arrays = ", ".join(f"{name} {' x '.join(map(str, array.shape))}" for name, array in held.items() if array.ndim)
    out.print(f"{len(head):,} images, {arrays}, in {to}", markup=False, soft_wrap=True)


def _plain(text: str) -> object:
    from flexframe_registry.files import split_override

    return split_override(f"--metric={text}")[1]
