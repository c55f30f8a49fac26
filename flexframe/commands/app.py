"""`app`: a window to look through, in a browser."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from flexframe.commands import complete
from flexframe.commands.common import names_of, out, pick_device, refuse, say
from flexframe.commands.options import Device, Threads

EXAMPLES = (
    "flexframe app flextok/scenes-64 titok/scenes-64-16",
    "flexframe app flextok/scenes-64 --prior gpt/scenes-64-flextok --port 8000",
)


def app(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL...", help="Cards, model files, runs' folders.", autocompletion=complete.models),
    ],
    priors: Annotated[
        list[str] | None,
        typer.Option("--prior", help="A prior to draw from; repeatable.", autocompletion=complete.models),
    ] = None,
    host: Annotated[str, typer.Option(help="0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, help="Of the address.")] = 7860,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Open a page: a picture rebuilt by several models at any number of tokens, its tokens edited or swapped,
    pictures drawn from priors. It stays on this machine.
    """
    from flexframe.extras import needed
    from flexframe.store.places import find

    names = names_of(models)
    for each in [*models, *(priors or [])]:
        find(each)  # a typo is told before anything is loaded
    needed("gradio", "app", "flexframe app")
    on = pick_device(device)
    from flexframe.models.generator import fits
    from flexframe.store.load import load
    from flexframe.store.places import preprocessing
    from flexframe.threads import use
    from flexframe.use import windowpage
    from flexframe.use.window import Entrant

    with say.status("loading"):
        entrants = [
            Entrant(name, load(model, device=on), preprocessing(model).resize)
            for name, model in zip(names, models, strict=True)
        ]
        drawers = list[tuple[str, Any, Entrant]]()
        for prior in priors or ():
            generator = load(prior, device=on, kind="generator")
            where = generator.config.tokenizer
            if where is None:
                refuse(prior, "names no tokenizer, so that its codes are no pictures here")
            entrant = next((each for model, each in zip(models, entrants, strict=True) if model == where), None)
            entrant = entrant or Entrant(where, load(where, device=on), preprocessing(where).resize)
            fits(generator, entrant.model)
            drawers.append((prior, generator, entrant))
        use(threads, *(each.model for each in entrants))
    out.print(f"http://{host}:{port} (Ctrl-C ends it)", soft_wrap=True)
    windowpage.serve(windowpage.page(entrants, drawers), host, port)
