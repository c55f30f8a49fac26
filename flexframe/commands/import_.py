"""`import`: a published checkpoint as a model of ours."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from flexframe.commands import complete
from flexframe.commands.common import out, refuse, say
from flexframe.lock import writes

EXAMPLES = (
    "flexframe import hf:EPFL-VILAB/flextok_d12_d12_in1k -o imported",
    "flexframe import checkpoint.pth -o imported --entry ema --rename net.=",
)

Assume = Annotated[
    list[str] | None,
    typer.Option("--assume", metavar="PATH=VALUE", help="A setting that the checkpoint's config lacks, or has wrong."),
]
Drop = Annotated[
    list[str] | None,
    typer.Option("--drop", metavar="PATH", help="A setting, or tensors by their prefix, to go without."),
]
Rename = Annotated[
    list[str] | None,
    typer.Option("--rename", metavar="A=B", help="Put B for the A that begins names of tensors; B may be nothing."),
]
Entry = Annotated[
    str,
    typer.Option("--entry", metavar="NAME", help="Where in a file the tensors are, if in several places: ema."),
]
As = Annotated[
    str | None,
    typer.Option("--as", help="Importer, where several could read it.", autocompletion=complete.names_of("importer")),
]


@writes("folder")
def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="A folder, a weights file, a card, or hf:owner/name.",
            autocompletion=complete.models,
        ),
    ],
    folder: Annotated[Path, typer.Option("--out", "-o", help="Folder for model.safetensors and card.yaml.")],
    assume: Assume = None,
    drop: Drop = None,
    rename: Rename = None,
    entry: Entry = "",
    importer: As = None,
) -> None:
    """Turn a published checkpoint into a model of ours: one safetensors file with its config, and a card."""
    from flexframe_registry.runfolder import MODEL

    target = folder / MODEL
    if target.exists():
        refuse(str(target), "is there already; name another folder with -o")
    from flexframe.models.build import assemble
    from flexframe.models.modelfile import save
    from flexframe.store import hub
    from flexframe.store.load import imported
    from flexframe.store.places import locate

    place = locate(source)
    with say.status(f"reading {place.id}"):
        given: dict[str, Any] = {
            "assume": assumptions(assume),
            "drop": drop or [],
            "rename": renames(rename),
            "entry": entry,
        }
        converted, about = imported(place, **given, importer=importer)
        card = None if place.card is None else place.card.file
        sampling = {**converted.sampling, **({} if card is None else card.sampling)}
        model = assemble(converted.config, converted.state, place.id, sampling, converted.names)
        folder.mkdir(parents=True, exist_ok=True)
        repo = place.repo or (None if card is None or card.weights is None else card.weights.hub)
        commit = about["import"]["revision"]
        if repo is not None and commit is not None:
            about["import"] |= hub.said(repo, commit)
        if card is not None:
            about |= {"preprocessing": card.preprocessing.model_dump(mode="json"), "licence": card.licence}
        save(model.state_dict(), converted.config, target, sampling=sampling, about=about)
    _write_card(folder / "card.yaml", place, converted.config, sampling, about)
    for note in converted.notes:
        say.print(f"note: {note}", style="yellow", markup=False, soft_wrap=True)
    total = sum(value.numel() for value in converted.state.values())
    out.print(f"{place.id}: {total:,} numbers in {len(converted.state)} tensors -> {target}", soft_wrap=True)


def assumptions(texts: Sequence[str] | None) -> dict[str, Any]:
    """`path=value` texts as a mapping; values are read as YAML."""
    from flexframe_registry.files import split_override

    return dict(split_override(text) for text in texts or [])


def renames(texts: Sequence[str] | None) -> dict[str, str]:
    """`A=B` texts as a mapping."""
    for text in texts or []:
        if not text.partition("=")[0] or "=" not in text:
            refuse("--rename", f"{text!r} is no A=B: the beginning of names, and what is put in its place")
    return {text.partition("=")[0]: text.partition("=")[2] for text in texts or []}


def _write_card(path: Path, place: Any, config: Any, sampling: dict[str, Any], about: dict[str, Any]) -> None:
    from ruamel.yaml import YAML

    from flexframe.files import replaced, sha256
    from flexframe_registry.runfolder import MODEL

    base = {} if place.card is None else place.card.file.model_dump(mode="json", exclude_unset=True)
    base = {key: base[key] for key in ("licence", "metrics", "preprocessing", "verified") if key in base}
    card = {
        "summary": f"imported from {place.id}" if place.card is None else place.card.file.summary,
        "licence": base.pop("licence", about.get("import", {}).get("licence", "that of its source")),
        "source": json.dumps(about.get("import", {}), sort_keys=True),
        "model": config.model_dump(mode="json"),
        "sampling": sampling,
        "weights": {"path": MODEL, "sha256": sha256(path.parent / MODEL)},
        **base,
    }
    yaml = YAML()
    yaml.width = 120
    with replaced(path) as part:
        yaml.dump(json.loads(json.dumps(card)), part)
