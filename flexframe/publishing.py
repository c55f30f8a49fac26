"""Models for others: a folder of `config.json`, `model.safetensors` and `README.md`, its upload, and the way back.

The README is a model card: licence, tags and numbers for the hub, and for people how to use it, what it makes of
pictures, what it was trained on, and what not to conclude. What nobody knows is said to be unknown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from flexframe.bench.gallery import Report
from flexframe.bench.notebook import strips
from flexframe.bench.report.numbers import Numbers
from flexframe.bench.results import read
from flexframe.files import replaced, write_text
from flexframe.models.build import Model
from flexframe.models.fingerprint import weights
from flexframe.models.generator import Generator
from flexframe.models.tokenizer import Tokenizer
from flexframe.store.load import load
from flexframe_registry import ConfigError, cards

README, CONFIG, STRIP = "README.md", "config.json", "strip.png"
LICENCES = (
    "apache-2.0", "mit", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0",
    "openrail", "gpl-3.0", "unlicense",
)  # fmt: skip
"""Licences that the hub knows by these words; any other is `other`, with its own words as the name."""
TAGS: Mapping[str, Sequence[str]] = {
    "tokenizer": ("image-tokenizer", "image-to-image"),
    "generator": ("image-generation",),
    "codec": ("autoencoder",),
}


# --- the three verbs ---------------------------------------------------------------------------------------------


def from_pretrained(
    cls: type[Any],
    where: str | Path,
    *,
    revision: str | None = None,
    device: str | torch.device = "cpu",
    overrides: Sequence[str] = (),
) -> Any:
    """A trained model of the class that is asked: as `flexframe.load`, for a name of the hub, a folder or a card.

    Args:
        revision: commit, branch or tag of the hub; the recorded commit, else the newest, if not given.

    Raises:
        ConfigError: what `load` raises; it is a model of another kind; a revision of what is not on the hub.
    """
    here = isinstance(where, Path) or Path(where).exists() or str(where) in cards().files
    if revision is not None:
        if here:
            raise ConfigError.at(str(where), "is on this machine and has no revisions; leave `revision` out")
        where = f"hf:{str(where).removeprefix('hf:')}@{revision}"
    model: Model = load(where, device=device, overrides=overrides, kind=None)
    if not isinstance(model, cls):
        text = f"holds a {model.config.kind}, and {cls.__name__} was asked for; ask {type(model).__name__}"
        raise ConfigError.at(str(where), text)
    return model


def save_pretrained(
    model: Model,
    folder: str | Path,
    *,
    licence: str | None = None,
    results: Report | str | Path | None = None,
    base_model: str | None = None,
    datasets: Sequence[str] = (),
    repo: str | None = None,
) -> Path:
    """Write `config.json`, `model.safetensors` and a model card `README.md`, with `strip.png` where pictures are given.

    Args:
        licence: of the weights; what its card or file says if not given.
        results: what measured it, a `flexframe.bench` result (whose pictures the card then shows) or a results.json.
        base_model: the hub's name of the model that it was made from.
        datasets: the hub's names of the data that it was trained on.
        repo: the name that it will have on the hub, for the card.

    Raises:
        ConfigError: no licence is known; results that are not of these weights.
        OSError: the disk does not take it.
    """
    folder = Path(folder)
    known = Facts.of(model, licence, results)
    base_model = base_model or model.about.get("import", {}).get("base_model")
    model.save(folder)
    config = {
        "library_name": "flexframe", "flexframe": version("flexframe"), "kind": model.config.kind,
        "config": model.config.model_dump(mode="json"), "sampling": _sampling(model),
    }  # fmt: skip
    write_text(folder / CONFIG, json.dumps(config, indent=1, ensure_ascii=False) + "\n")
    picture = None if known.report is None else strips(known.report).get(known.name)
    if picture is not None:
        with replaced(folder / STRIP) as part:
            picture.save(part, "PNG")
    write_text(folder / README, card(model, known, repo or folder.name, base_model, datasets, picture is not None))
    return folder


def push_to_hub(
    model: Model,
    repo: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    branch: str | None = None,
    create_pr: bool = False,
    commit_message: str = "Push model using flexframe",
    **facts: Any,
) -> str:
    """Upload a model with its card, by huggingface_hub's own client, and return the commit's address.

    Args:
        repo: `owner/name`; it is made if it is not there, `private` or not.
        token: of the hub; that of `hf auth login` if not given.
        branch: where it goes; `create_pr` proposes it instead.
        facts: as `save_pretrained` takes them.

    Raises:
        ConfigError: as `save_pretrained`; the hub refuses, with its own words.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with TemporaryDirectory(prefix="flexframe-") as made:
        folder = save_pretrained(model, Path(made) / "model", repo=repo, **facts)
        try:
            api.create_repo(repo, private=private, exist_ok=True)
            if branch is not None:
                api.create_branch(repo, branch=branch, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repo, folder_path=folder, revision=branch, create_pr=create_pr, commit_message=commit_message
            )
        except Exception as error:  # the client's own, and whatever carries it over the network raises
            why = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            text = f"was not uploaded ({why}); check the name and the network, and `hf auth login`"
            raise ConfigError.at(f"hf:{repo}", text) from None
    return str(commit.commit_url)


# --- the card ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Facts:
    """Facts that are known about a model beyond its config."""

    licence: str
    name: str
    """The model's in the results."""
    results: Mapping[str, Any] | None
    report: Report | None
    trained: Mapping[str, Any]
    """What its card says of its training: on, images, minutes, machine."""
    source: str

    @staticmethod
    def of(model: Model, licence: str | None, results: Report | str | Path | None) -> Facts:
        """Gather them.

        Raises:
            ConfigError: no licence is known; results that are not of these weights.
        """
        own = cards().get(model.id).weighted().file if model.id in cards().files else None
        said = own.licence if own is not None else model.about.get("licence")
        said = licence or said or model.about.get("import", {}).get("licence")
        if not said:
            text = "is not given, and neither card nor file says it; as licence='apache-2.0'"
            raise ConfigError.at("licence", text)
        report = results if isinstance(results, Report) else None
        held = report.results if report is not None else None if results is None else read(_file(Path(str(results))))
        trained = {} if own is None or own.trained is None else own.trained.model_dump(exclude_defaults=True)
        source = own.source if own is not None else str(model.about.get("import", {}).get("source", ""))
        return Facts(str(said), _named(model, held) if held is not None else "", held, report, trained, source)


def _file(path: Path) -> Path:
    return path / "results.json" if path.is_dir() else path


def _named(model: Model, results: Mapping[str, Any]) -> str:
    """The name under which results hold these very weights."""
    own = weights(model)
    found = [str(name) for name, entry in results["models"].items() if entry["fingerprint"] == own]
    if not found:
        raise ConfigError.at("results", f"are of {', '.join(results['models'])}, and of none with these weights")
    return found[0]


def _sampling(model: Model) -> dict[str, Any]:
    settings = getattr(model, "sampling", None)  # a codec has none
    return {} if settings is None else dict(settings.model_dump(mode="json", exclude_unset=True))


def card(model: Model, known: Facts, repo: str, base_model: str | None, datasets: Sequence[str], pictured: bool) -> str:
    """The model card: the hub's fields, and what a person must know."""
    title = repo.rsplit("/", 1)[-1]
    parts = [_front(model, known, title, base_model, datasets), f"# {title}", _what(model)]
    parts += [f"![The first images of the suite, and what this model makes of them at each length]({STRIP})"] * pictured
    parts += ["## Use", _usage(model, repo), "## Numbers", _numbers(known), "## Training", _training(model, known)]
    parts += ["## What not to conclude", _warnings(model, known), f"Licence of the weights: {known.licence}."]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front(model: Model, known: Facts, title: str, base_model: str | None, datasets: Sequence[str]) -> str:
    """The block that the hub reads."""
    from huggingface_hub import EvalResult, ModelCardData

    word = known.licence.strip().lower()
    licence: dict[str, Any] = {"license": word if word in LICENCES else "other"}
    if word not in LICENCES:
        licence["license_name"] = known.licence
    found = [
        EvalResult(
            task_type="image-to-image", dataset_type=str(known.results["suite"]["name"]),
            dataset_name=str(known.results["suite"]["name"]), metric_type=name, metric_value=value,
            metric_name=f"{label}, {tokens} tokens, protocol {protocol}",
        )
        for name, label, tokens, protocol, value in _each(known)
        if known.results is not None
    ]  # fmt: skip
    kind = model.config.kind
    parts = sorted({getattr(model.config, name).type for name, _ in model.named_children()})
    data = ModelCardData(
        **licence, library_name="flexframe", tags=["flexframe", kind, *TAGS[kind], *parts], base_model=base_model,
        datasets=list(datasets) or None, model_name=title, eval_results=found or None,
    )  # fmt: skip
    return f"---\n{data.to_yaml()}\n---"


def _each(known: Facts) -> list[tuple[str, str, int, str, float]]:
    """Numbers: name, label, tokens, protocol id and value, of measures that have a better end."""
    if known.results is None:
        return []
    numbers, model = Numbers(known.results), known.results["models"][known.name]
    return [
        (column.name, column.label, int(k), column.protocol, value)
        for column in numbers.columns
        if column.directed
        for k in model["budgets"]
        if (value := numbers.value(column, known.name, int(k))) is not None
    ]


def _what(model: Model) -> str:
    rows = dict(model.config.describe())
    for name, part in model.named_children():
        count = sum(each.numel() for each in part.parameters())
        rows[name] = getattr(model.config, name).type + (f", {count:,} parameters" if count else "")
    lines = "\n".join(f"| {what} | {text} |" for what, text in rows.items())
    return f"A {model.config.kind} of flexframe.\n\n| | |\n|---|---|\n{lines}"


def _usage(model: Model, repo: str) -> str:
    name = f"hf:{repo}" if "/" in repo else repo
    if isinstance(model, Tokenizer):
        code = f'tok = flexframe.load("{name}")\ntokens = tok.encode(images)  # float b 3 H W in [0, 1]\n'
        told = "" if model.config.decoder.texts() is None else "texts=texts, "
        code += f"images = tok.decode(tokens, {told}rng=0)"
    elif isinstance(model, Generator):
        code = f'prior = flexframe.load("{name}", kind="generator")\ncodes = prior.sample(count=4, rng=0)'
    else:
        code = f'codec = flexframe.load("{name}", kind="codec")\nlatents = codec.encode(images)'
    return f"```python\nimport flexframe\n\n{code}\n```"


def _numbers(known: Facts) -> str:
    if known.results is None:
        return "None was measured for this card. `flexframe bench SUITE MODEL` does."
    results = known.results
    numbers = Numbers(results)
    columns = [column for column in numbers.columns if column.directed]
    head = " | ".join(["tokens", *(f"{c.label}{f', {c.unit}' if c.unit else ''}" for c in columns)])
    rows = [
        " | ".join([k, *(column.text(numbers.value(column, known.name, int(k))) for column in columns)])
        for k in results["models"][known.name]["budgets"]
    ]
    lines = [f"| {head} |", "|" + "---|" * (1 + len(columns)), *(f"| {row} |" for row in rows)]
    ids = ", ".join(f"{column.label} `{column.protocol}`" for column in columns)
    suite = f"By suite `{results['suite']['name']}` of flexframe."
    return "\n".join(lines) + f"\n\n{suite} Protocols: {ids}; a number compares with another of the same id only."


def _training(model: Model, known: Facts) -> str:
    told = []
    if known.trained.get("on"):
        told.append(f"On {known.trained['on']}.")
    if known.trained.get("images"):
        told.append(f"{known.trained['images']:,} images were seen.")
    if known.trained.get("minutes"):
        told.append(f"It took {known.trained['minutes']:,} minutes on {known.trained.get('machine', 'a machine')}.")
    run = model.about.get("run")
    if isinstance(run, Mapping) and not told:
        data = run.get("data", {})
        kind = data.get("type") if isinstance(data, Mapping) else data
        seen = int(run.get("steps", 0)) * int(run.get("batch_size", 0))
        told.append(f"On data of source `{kind}`: {run.get('steps')} steps, {seen:,} images seen.")
    if known.source:
        told.append(f"Source: {known.source.rstrip('.')}.")
    return " ".join(told) or "Nothing is known of its training."


def _warnings(model: Model, known: Facts) -> str:
    told = []
    if known.results is not None:
        note = str(known.results["suite"].get("note") or "").strip()
        told.append(f"The numbers are of one suite, and say nothing about other images.{f' {note}' if note else ''}")
        told.append("A number of another protocol id, or from another paper, does not stand beside these.")
    on = known.trained.get("on")
    told.append(
        f"It has learned what {on} look like; of other pictures it has not been asked here." if on else
        "What it makes of pictures unlike those that it was trained on has not been asked here."
    )  # fmt: skip
    if isinstance(model, Tokenizer) and type(model.sampling).model_fields:
        told.append("Its decoder draws what the tokens leave open: a picture is one of many that would fit.")
    return "\n".join(f"- {text}" for text in told)
