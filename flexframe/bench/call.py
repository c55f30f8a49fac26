"""`flexframe.bench(...)`: models measured on the same images, from Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flexframe import threads as processors
from flexframe.bench.gallery import Report
from flexframe.bench.names import names_and_settings, names_of
from flexframe.bench.report import write
from flexframe.bench.runner import run
from flexframe.models.tokenizer import Tokenizer
from flexframe.store.load import load
from flexframe.store.places import preprocessing, trained
from flexframe.terminal import Bars, Terminal
from flexframe_registry import ConfigError, SuiteConfig, suite
from flexframe_registry.cardfile import Preprocessing
from flexframe_registry.suites import settle


def bench(
    name: str | Path,
    *models: str | Path | Tokenizer,
    out: str | Path = "out",
    batch_size: int = 64,
    device: str | torch.device = "auto",
    threads: int | None = None,
) -> Report:
    """Measure models on the same images at every token count they support, and write `results.json` and the page.

    The result shows itself in a notebook; `result.results` is what results.json holds, `result.page` the page's place.
    Interrupted, the same call goes on where it stopped.

    Args:
        name: a suite's name, or a YAML file.
        models: cards, files, run folders, or tokenizers that are loaded already; and settings of the suite, as
            `"count=100"`.
        out: a folder of its own.
        batch_size: images at a time; changes speed only.
        device: a torch device; `auto` takes CUDA, then MPS, then the CPU. Models stay there.
        threads: torch's on a CPU; None as commands choose them.

    Raises:
        ConfigError: a name that nothing has, settings that do not fit, another benchmark in `out`.
        ValueError: models that do not compare.
    """
    named = [str(each) for each in models if not isinstance(each, Tokenizer)]
    settings = names_and_settings(named)[1]
    measured = suite(str(name), settings)
    on = processors.device(device)
    entrants = opened([each for each in models if isinstance(each, Tokenizer) or str(each) not in settings], on)
    processors.use(threads, *(model for _, model in entrants.models))
    terminal = Terminal(stderr=True)
    with Bars(terminal) as progress:
        report = run(
            entrants.settled(measured), entrants.models, Path(out), name=str(name), batch_size=batch_size, device=on,
            progress=progress,
        )  # fmt: skip
    for remark in report.remarks:
        terminal.print(remark, style="yellow", soft_wrap=True)
    write({**report.results, "training": entrants.training}, report.images, report.page)
    return report


@dataclass(frozen=True)
class Entrants:
    """Models under the names that tables have for them."""

    models: Sequence[tuple[str, Tokenizer]]
    ways: dict[str, Any]
    """How each one's images are brought to size."""
    training: dict[str, Any]
    """What its card says of its training."""

    def settled(self, measured: SuiteConfig) -> SuiteConfig:
        """The suite with images as these models want them, where it does not say so itself."""
        return measured.model_copy(update={"data": settle(measured.data, self.ways)})


def opened(given: Sequence[str | Path | Tokenizer], device: torch.device) -> Entrants:
    """Models by their names, loaded where they are not yet.

    Raises:
        ConfigError: none is given, or what `load` raises.
    """
    if not given:
        raise ConfigError.at("models", "nothing to measure: name at least one model")
    places = [str(each) for each in given if not isinstance(each, Tokenizer)]
    short = dict(zip(places, names_of(places), strict=True)) if places else {}
    models = list[tuple[str, Tokenizer]]()
    ways, training = dict[str, Any](), dict[str, Any]()
    for each in given:
        if isinstance(each, Tokenizer):
            name, model = _unlike(each.id or "model", [*short.values(), *(taken for taken, _ in models)]), each
            said = Preprocessing.read(each.about.get("preprocessing", {}), f"{name}: preprocessing")
            ways[name], training[name] = said.resize, {}
        else:
            name, model = short[str(each)], load(str(each), device=device)
            ways[name], training[name] = preprocessing(str(each)).resize, trained(str(each))
        models.append((name, model))
    return Entrants(models, ways, training)


def _unlike(name: str, taken: Sequence[str]) -> str:
    """The name, with a number where it is taken."""
    names = [name, *(f"{name} ({i})" for i in range(2, len(taken) + 2))]
    return next(each for each in names if each not in taken)
