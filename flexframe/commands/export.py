"""`export`: tokens and models in the forms of other programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from flexframe.commands import complete
from flexframe.commands.common import examples, out, refuse, say
from flexframe.commands.import_ import Assume, Drop, Entry, assumptions
from flexframe.lock import writes

TOKENS = (
    "flexframe export tokens tokens.safetensors -o tokens.parquet",
    "flexframe export tokens tokens.safetensors -o tokens.jsonl --form class-jsonl",
)
MODELS = (
    "flexframe export model titok/digits-tiny -o exported --to onnx",
    "flexframe export model runs/mine -o exported --to reference --like checkpoint",
)
WAYS = ("onnx", "reference")

app = typer.Typer(help="Write tokens and models in the forms of other programs.", no_args_is_help=True)


@app.callback()
def export() -> None:
    """Write tokens and models in the forms of other programs."""


@app.command(epilog=examples(TOKENS))
@writes("to")
def tokens(
    file: Annotated[Path, typer.Argument(metavar="TOKENS", help="A token file.")],
    to: Annotated[Path, typer.Option("--out", "-o", help="The file to write; of `npy` a folder.")],
    form: Annotated[
        str | None,
        typer.Option(
            help="npz, parquet, jsonl, tar (WebDataset), class-jsonl (class_id and tokens), npy (a file an image); as "
            "the name ends if not given."
        ),
    ] = None,
) -> None:
    """Write the codes, ids and labels of a token file for other programs: no number is changed."""
    from flexframe.data.tokenfile import TokenFile
    from flexframe.use.tokenforms import FORMS, SUFFIXES

    chosen = form or SUFFIXES.get(to.suffix.lower(), "")
    if chosen not in FORMS:
        given = f"there is no form {form!r}" if form else f"{to.name!r} ends in none of {', '.join(SUFFIXES)}"
        refuse("--form" if form else "--out", f"{given}; forms are {', '.join(FORMS)}, given by --form")
    if to.is_file():
        refuse(str(to), "is there already; delete it or choose another -o")
    read = TokenFile(file)
    to.parent.mkdir(parents=True, exist_ok=True)
    with say.status("writing"):
        FORMS[chosen](read, to)
    out.print(f"{len(read):,} images' tokens in {to}", markup=False, soft_wrap=True)


@app.command(epilog=examples(MODELS))
@writes("folder")
def model(
    name: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A card, a model file, a run's folder.", autocompletion=complete.models),
    ],
    folder: Annotated[Path, typer.Option("--out", "-o", help="A folder of its own.")],
    to: Annotated[
        str, typer.Option("--to", help="onnx: encoder, and decoder or a step of it. reference: a code base's own form.")
    ] = "onnx",
    like: Annotated[
        str | None,
        typer.Option(
            help="Of `reference`: a checkpoint in its form and of the same sizes; what was imported if not given."
        ),
    ] = None,
    assume: Assume = None,
    drop: Drop = None,
    entry: Entry = "",
) -> None:
    """Write a model for other programs: as ONNX, compared with torch; or by the names of the code base whose importer
    reads it, compared by importing it again, which gives the same model to the bit.
    """
    if to not in WAYS:
        refuse("--to", f"there is no {to!r}; there are: {', '.join(WAYS)}")
    if to == "onnx" and (like or assume or drop or entry):
        refuse("--like", "is for --to reference")
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        refuse(str(folder), "is there already and is not empty; choose another folder with -o")
    from flexframe.store.load import load

    with say.status(f"loading {name}"):
        loaded = load(name, kind=None)
    if to == "reference":
        _reference(loaded, name, folder, like, {"assume": assumptions(assume), "drop": drop or [], "entry": entry})
    else:
        _onnx(loaded, name, folder)


def _onnx(loaded: Any, name: str, folder: Path) -> None:
    from flexframe.models.tokenizer import Tokenizer
    from flexframe.use import onnx

    if not isinstance(loaded, Tokenizer):
        refuse(name, "is no tokenizer; of these encoder and decoder are exported")
    with say.status("exporting, which takes a minute or more"):
        made = onnx.export(loaded, folder)
    for each in made:
        out.print(f"{each.path}: {each.told()}", markup=False, soft_wrap=True)


def _reference(loaded: Any, name: str, folder: Path, like: str | None, given: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    from flexframe.files import replaced, write_text
    from flexframe.importing import open_foreign, understood
    from flexframe.importing.export import exported
    from flexframe.store.places import fetch, locate
    from flexframe_registry.runfolder import MODEL

    made_of = loaded.about.get("import", {})
    if like is None:
        if not made_of:
            refuse("--like", f"is not given, and {name} is no import; name a checkpoint of the form that is wanted")
        if made_of.get("renamed"):
            refuse("--like", f"is not given, and names of {made_of['source']} were changed; name a checkpoint as it is")
        like = str(made_of["source"])
        given = {"assume": made_of["assumed"], "drop": made_of["dropped"], "entry": made_of.get("entry", "")}
    place = locate(like)
    with say.status(f"taking the names of {like}"):
        template, importer = understood(open_foreign(fetch(place)[0], **given, origin=place.id))
        tensors = exported(loaded.state_dict(), template, importer)
        folder.mkdir(parents=True, exist_ok=True)
        with replaced(folder / MODEL) as part:
            held = {key: value.contiguous().clone() for key, value in tensors.items()}
            save_file(held, part, metadata=dict(template.tensors.metadata) or {"format": "pt"})
        write_text(folder / "config.json", json.dumps(template.settings, indent=1, ensure_ascii=False) + "\n")
    kind = importer.config.type
    out.print(f"{len(tensors)} tensors by the names of importer {kind!r} in {folder / MODEL}", soft_wrap=True)
    out.print("imported again they are the same model to the bit", style="dim")
