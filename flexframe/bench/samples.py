"""A suite over what priors draw: every prior, at every token count, its samples beside the suite's images.

The pass, its tallies, protocols and what an interruption leaves are those of reconstructions (`runner`). Sample i is of
class i mod the number of classes and draws by its number alone: it is the picture that `flexframe generate --class all`
draws with the same seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from flexframe.bench import protocol, results, runner
from flexframe.bench.lanes import Entrant, Lane
from flexframe.bench.metric import Metric, Reconstructions
from flexframe.bench.partial import Partial
from flexframe.bench.runner import SAVE_SECONDS, Gallery, Head, Pass, Report
from flexframe.data.source import Source
from flexframe.models.fingerprint import weights
from flexframe.models.generator import Generator, fits
from flexframe.models.tokenizer import Tokenizer
from flexframe.pictures import sheet
from flexframe.rng import Rng
from flexframe_registry import ConfigError, GeneratorConfig, SamplingConfig, SuiteConfig, catalogue, manager
from flexframe_registry.kinds import laid

Priors = Sequence[tuple[str, Generator, Tokenizer]]
TASK = {
    "task": "samples of a prior",
    "labels": "sample i is of class i mod the number of classes; of none where the prior knows none",
}
FOLDER = "samples"


@dataclass(kw_only=True)
class Drawing(Entrant):
    """A prior at its lanes; `model` is the tokenizer that decodes its codes, `weights` the hash of the prior's."""

    prior: Generator
    sampling: SamplingConfig
    decoding: SamplingConfig
    decoder: str
    """The hash of the tokenizer's tensors."""


def run(
    suite: SuiteConfig,
    priors: Priors,
    out: Path,
    *,
    name: str = "suite",
    sampling: Mapping[str, Any] | None = None,
    decoding: Mapping[str, Any] | None = None,
    batch_size: int = 64,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
    save_seconds: float = SAVE_SECONDS,
) -> Report:
    """Draw as many samples as the suite has images, measure them, and write `out/results.json` and sheets of the first.

    Neither `batch_size` nor the suite's count moves a sample. Interrupted, the same call goes on from what
    `out/partial` holds.

    Args:
        priors: a display name, a prior, and the tokenizer that it is of; all of one image size.
        name: the suite's name.
        sampling: settings of the priors, laid on their own.
        decoding: settings of the decoders, laid on their own.
        progress: a running rich progress display to add a bar to.
        save_seconds: after how long the state is saved, at the end of a batch.

    Raises:
        ConfigError: metrics that make no sense of samples, a prior that is of another tokenizer's codes, token counts
            that no prior offers, settings that a prior does not have.
        ValueError: what reconstructions refuse as well: a suite that wants more images than there are, another
            benchmark in `out`, finished or interrupted.
    """
    device = torch.device(device)
    size = runner.common_size([(title, tokenizer) for title, _, tokenizer in priors])
    for _, prior, tokenizer in priors:
        fits(prior, tokenizer)
    chosen = _chosen(suite, {title: offered(prior, tokenizer) for title, prior, tokenizer in priors})
    source = Head(catalogue().build(suite.data, size), suite.count)
    metrics = of_samples([catalogue().build(config, source) for config in suite.metrics])
    measures = runner.measures_of(metrics)
    entrants = [_entrant(*each, sampling, decoding, device) for each in priors]
    results.refuse_others(out / results.FILE, suite, {each.name: _identity(each, suite, device) for each in entrants})
    partial = Partial(out, _rests_on(suite, source, metrics, entrants, device))
    state = partial.read()
    for number, each in enumerate(entrants):
        each.lanes = [_lane(number, each, k, metrics, source, partial) for k in chosen[each.name]]
    walk = Draws(source, entrants, suite, batch_size, device, progress)
    if state is not None:
        walk.restore(state)
    walk.run(partial, save_seconds)
    found = results.assemble(name, suite, source, entrants, measures, walk.seen(), device, TASK, _entry)
    out.mkdir(parents=True, exist_ok=True)
    results.write(found, out / results.FILE)
    partial.drop()
    fake = {each.name: {lane.budget: torch.cat(lane.shown) for lane in each.lanes} for each in entrants}
    report = Report(found, Gallery(torch.cat(walk.shown), fake), out, source.remarks())
    _sheets(report, entrants)
    manager().hook.flexframe_report(report=report)
    return report


def _entrant(
    name: str,
    prior: Generator,
    tokenizer: Tokenizer,
    sampling: Mapping[str, Any] | None,
    decoding: Mapping[str, Any] | None,
    device: torch.device,
) -> Drawing:
    """A prior with its settings, on the device and without its lanes."""
    return Drawing(
        name,
        tokenizer,
        weights(prior.to(device).eval()),
        [],
        prior=prior,
        sampling=laid(prior.config.prior.sampling, prior.sampling, sampling, "sampling"),
        decoding=laid(tokenizer.config.decoder.sampling, tokenizer.sampling, decoding, "decoder"),
        decoder=weights(tokenizer.to(device).eval()),
    )


# --- what can be measured ----------------------------------------------------------------------------------------


def of_samples(metrics: Sequence[Metric]) -> list[Metric]:
    """The metrics as they are of samples; `ConfigError` names those that make no sense of them."""
    pairs = [(metric.config.type, metric.of_samples()) for metric in metrics]
    without = [name for name, metric in pairs if metric is None]
    if without:
        rest = ", ".join(dict.fromkeys(name for name, metric in pairs if metric is not None)) or "classifier"
        told = f"{', '.join(without)}: compares an image with its own reconstruction, and a sample is of no image"
        raise ConfigError.at("metrics", f"{told}; name others, as metrics='[{rest}]'")
    return [metric for _, metric in pairs if metric is not None]


def offered(prior: Generator, tokenizer: Tokenizer) -> list[int]:
    """The token counts of a tokenizer that a prior's length covers."""
    return [k for k in tokenizer.config.budgets if k <= prior.spec.length]


def _chosen(suite: SuiteConfig, budgets: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """Each prior's token counts; `ConfigError` where one has none, or one that is asked for is nobody's."""
    every = {k for counts in budgets.values() for k in counts}
    unknown = [k for k in suite.budgets or () if k not in every]
    if unknown:
        offers = ", ".join(f"{name} {', '.join(map(str, counts)) or 'none'}" for name, counts in budgets.items())
        raise ConfigError.at("budgets", f"no prior offers {', '.join(map(str, unknown))} tokens; offered: {offers}")
    chosen = {n: [k for k in counts if suite.budgets is None or k in suite.budgets] for n, counts in budgets.items()}
    for name, counts in chosen.items():
        if not counts:
            own = ", ".join(map(str, budgets[name])) or "none of its tokenizer's"
            raise ConfigError.at("budgets", f"{name} offers {own}, so that nothing is left to draw; leave it out")
    return chosen


def _lane(number: int, each: Drawing, budget: int, metrics: Sequence[Metric], source: Source, partial: Partial) -> Lane:
    scratch, why = partial.scratch(number, budget), unasked(each.prior, source)
    tallies = [metric.start(each.model.config.spec, scratch) for metric in metrics]
    return Lane(budget, [(t, (why if t.metric.of_classes else None) or t.unavailable()) for t in tallies])


def unasked(prior: Generator, source: Source) -> str | None:
    """Why the classes that a prior is asked for are not those of a source's images, or None."""
    classes, own, theirs = prior.config.classes, prior.config.class_names, tuple(source.class_names())
    if classes is None:
        return "the prior knows no classes, so that none was asked for"
    if theirs and (len(theirs) != classes or (own and own != theirs)):
        names = ", ".join(own[:4]) + (", ..." if len(own) > 4 else "") if own else str(classes)
        told = f"the prior's classes ({names}) are not those of the suite's images ({', '.join(theirs[:4])}"
        return f"{told}{', ...' if len(theirs) > 4 else ''})"
    return None


# --- the pass ----------------------------------------------------------------------------------------------------


class Draws(Pass):
    """The way through the samples: as many as images, each batch of them beside as many of the suite's images."""

    @torch.no_grad()
    def _batch(self, index: range, task: Any) -> None:
        images, _ = self._read(index)
        real, rng = images.to(self.device), Rng(self.suite.seed, torch.tensor(index, device=self.device))
        for entrant in self.entrants:
            assert isinstance(entrant, Drawing)
            classes = entrant.prior.spec.classes
            labels = [None if classes is None else i % classes for i in index]
            asked = {"count": len(index)} if classes is None else {"labels": torch.tensor(labels)}
            for lane in entrant.lanes:
                started = runner.now(self.device)
                drawn = entrant.prior.sample(**asked, lengths=lane.budget, rng=rng, sampling=entrant.sampling)
                entrant.watch.add(len(index), runner.now(self.device) - started)
                started = runner.now(self.device)
                tokens = entrant.model.tokens(drawn.codes)
                fake = entrant.model.decode(tokens, rng=rng, sampling=entrant.decoding)
                lane.watch.add(len(index), runner.now(self.device) - started)
                fake8 = protocol.to_uint8(fake, self.suite.rounding)
                lane.take(Reconstructions(real, fake8, fake, labels, tokens), self._show(index))
                if self.progress is not None and task is not None:
                    told = f"{entrant.name}, {lane.budget} tokens"
                    self.progress.update(task, advance=len(index), description=told)
        self.done = index[-1] + 1


# --- what is reported --------------------------------------------------------------------------------------------


def used(each: Drawing, suite: SuiteConfig, device: torch.device) -> dict[str, Any]:
    """How a prior is used: what moves its samples beside its weights."""
    config = each.prior.config
    return {
        **results.used(each.model, suite, device),
        "sampling": {"prior": each.sampling.model_dump(mode="json"), "decoder": each.decoding.model_dump(mode="json")},
        "prior": {
            "classes": config.classes,
            "precision": str(next(each.prior.parameters()).dtype).removeprefix("torch."),
            "providers": protocol.providers([config.prior]),
        },
        "tokenizer": {
            "config": protocol.short_id(each.model.config.model_dump(mode="json")),
            "weights": each.decoder,
        },
    }


def _identity(each: Drawing, suite: SuiteConfig, device: torch.device) -> dict[str, Any]:
    """Which prior and tokenizer they are, and how they draw."""
    return {
        "config": each.prior.config.model_dump(mode="json"),
        "fingerprint": each.weights,
        "tokenizer": {
            "id": each.model.id,
            "config": each.model.config.model_dump(mode="json"),
            "fingerprint": each.decoder,
            "trained": dict(each.model.about),
        },
        "sampling": used(each, suite, device)["sampling"],
    }


def _rests_on(
    suite: SuiteConfig, source: Source, metrics: Sequence[Metric], entrants: Sequence[Drawing], device: torch.device
) -> dict[str, Any]:
    tokenizers = [(each.name, each.model) for each in entrants]
    found = runner.rests_on(suite, source, metrics, tokenizers, {e.name: e.decoder for e in entrants}, device)
    models = {each.name: {**used(each, suite, device), "weights": each.weights} for each in entrants}
    configs = {each.name: each.prior.config.model_dump(mode="json") for each in entrants}
    return {**found, **TASK, "models": models, "configs": configs}


def _entry(
    each: Drawing, suite: SuiteConfig, common: Mapping[str, Any], protocols: dict[str, Any], device: torch.device
) -> dict[str, Any]:
    tokenizer, config, use = each.model, each.prior.config, used(each, suite, device)
    bits, parts = tokenizer.config.bits_per_token, results.parameters(tokenizer)
    prior = sum(p.numel() for p in each.prior.parameters())
    return {
        "id": each.prior.id,
        **_identity(each, suite, device),
        "trained": {},
        "parameters": {
            "total": prior + parts["quantizer"] + parts["decoder"],
            "prior": prior,
            **{name: parts[name] for name in ("quantizer", "decoder", "codec")},
        },
        "length": config.length,
        "bits_per_token": bits,
        "speed": {"draw_sequences_per_second": round(each.watch.rate(), 2)},
        "budgets": {
            str(lane.budget): {
                "bits": None if bits is None else lane.budget * bits,
                "metrics": results.numbers(lane, common, {**use, "budget": lane.budget}, protocols),
                "speed": {"decode_images_per_second": round(lane.watch.rate(), 2)},
            }
            for lane in each.lanes
        },
    }


def _sheets(report: Report, entrants: Sequence[Drawing]) -> None:
    """A picture of the first samples for each prior and token count, `samples/<prior>-<tokens>.png`."""
    for each in entrants:
        for budget, images in report.images.fake[each.name].items():
            tiles = [(image, _word(i, each.prior.config)) for i, image in enumerate(images)]
            if tiles:
                across = math.ceil(math.sqrt(len(tiles)))
                path = report.out / FOLDER / f"{each.name.replace('/', '-')}-{budget}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                sheet([tiles[i : i + across] for i in range(0, len(tiles), across)]).save(path)


def _word(number: int, config: GeneratorConfig) -> str:
    """What the class of a sample is called."""
    if config.classes is None:
        return ""
    label = number % config.classes
    return config.class_names[label] if config.class_names else f"class {label}"
