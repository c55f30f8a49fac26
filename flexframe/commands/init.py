"""`init`: a model of random weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from flexframe_registry import ModelConfig

from flexframe.commands import complete
from flexframe.commands.common import out, refuse, say
from flexframe.lock import writes

EXAMPLES = (
    "flexframe init titok/s-128 -o model.safetensors --seed 0",
    "flexframe init flextok/d12-d12 -o model.safetensors --redraw-zeros",
)


@writes("to")
def init(
    card: Annotated[
        str, typer.Argument(help="A card's id, or a YAML file of the same form.", autocompletion=complete.models)
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="key.path=value over the model, sampling.key=value.", metavar="[KEY=VALUE]..."),
    ] = None,
    to: Annotated[
        Path, typer.Option("--out", "-o", help="A .safetensors file, or a folder for model.safetensors.")
    ] = Path(),
    seed: Annotated[int, typer.Option(min=0, help="What all weights follow from.")] = 0,
    redraw_zeros: Annotated[
        bool, typer.Option("--redraw-zeros", help="Draw small numbers where the method starts at zero throughout.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that is there.")] = False,
) -> None:
    """Write a model with random weights: what an untrained one is, for tests and timings.

    Where a method starts its heads at zero, an untrained model decodes to noise and has one token.
    """
    from flexframe_registry.cards import card as find_card

    chosen = find_card(card)
    given = [override.removeprefix("model.") for override in overrides or []]
    for override in given:
        if override.startswith("run."):
            refuse(override, "is of a run; `init` draws a model and trains nothing")
    target = _model_path(to, force)
    from flexframe.store.load import override as laid_on

    config, own = laid_on(chosen.described, {}, given)
    if _samples(config) == _samples(chosen.described):  # another decoder takes other settings
        own = {**chosen.file.sampling, **own}
    about = {
        "origin": "random weights, not trained",
        "seed": seed,
        "card": chosen.id,
        "overrides": given,
        "redrawn zeros": 0,
    }
    with say.status("drawing weights") as status:
        total, zeros = _draw(config, own, target, seed, redraw_zeros, about, status)
    out.print(f"{target}: {total:,} random parameters, seed {seed}", markup=False, soft_wrap=True)
    if zeros:
        text = f"{zeros} tensors start at zero throughout, as the method has it; --redraw-zeros draws them too"
        say.print(text, style="yellow")


def _model_path(to: Path, force: bool) -> Path:
    """The file to write; a name without suffix stands for a folder."""
    from flexframe_registry.runfolder import MODEL

    if to == Path():
        refuse("-o", "is required: a .safetensors file, or a folder")
    if to.suffix not in ("", ".safetensors") and not to.is_dir():
        refuse(str(to), "is neither a folder nor ends in .safetensors")
    target = to if to.suffix == ".safetensors" and not to.is_dir() else to / MODEL
    if target.exists() and not force:
        refuse(str(target), "is there already; choose another -o, or overwrite it with --force")
    return target


def _samples(config: ModelConfig) -> str | None:
    """The part whose settings of use a model has."""
    return None if config.sampled is None else config.sampled.type


def _draw(
    config: ModelConfig, sampling: Any, target: Path, seed: int, redraw: bool, about: dict[str, Any], status: Any
) -> tuple[int, int]:
    """Draw and write a model; its parameters, and how many tensors of them are zero throughout."""
    import torch

    from flexframe.models.build import build
    from flexframe.models.modelfile import save
    from flexframe.nn.init import redraw_zeros

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(config, sampling)
        if redraw:
            about["redrawn zeros"] = redraw_zeros(model)
    status.update(f"writing {target}")
    target.parent.mkdir(parents=True, exist_ok=True)
    save(model.state_dict(), config, target, sampling=sampling, about=about)
    parameters = [p for p in model.parameters() if p.requires_grad]
    zeros = sum(not p.any() for p in parameters)
    return sum(p.numel() for p in model.parameters()), zeros
