"""A suite over what priors draw: every prior, at every token count, its samples beside the suite's images.

The pass, its tallies, protocols and what an interruption leaves are those of reconstructions (`runner`). Sample i is of
class i mod the number of classes and draws by its number alone: it is the picture that `flexframe generate --class all`
draws with the same seed.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from flexframe.bench import protocol, reconstructions
from flexframe.bench.gallery import Report
from flexframe.bench.given import UNTOLD, Given, pixels
from flexframe.bench.lanes import Entrant, Made, Some
from flexframe.bench.metric import Metric
from flexframe.bench.reconstructions import Rebuilder
from flexframe.bench.runner import SAVE_SECONDS, measure
from flexframe.bench.task import Task
from flexframe.data.source import Source
from flexframe.files import replaced
from flexframe.lock import writes
from flexframe.models.fingerprint import weights
from flexframe.models.generator import Generator, fits, needs_texts, same_classes
from flexframe.models.tokenizer import Tokenizer
from flexframe.pictures import sheet
from flexframe_registry import ConfigError, GeneratorConfig, SamplingConfig, Spec, SuiteConfig, catalogue

Priors = Sequence[tuple[str, Generator, Tokenizer]]
log = logging.getLogger("flexframe")
FOLDER = "samples"


@writes("out")
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
    given: Sequence[tuple[str, Source]] = (),
) -> Report:
    """Draw as many samples as the suite has images, measure them, and write `out/results.json` and sheets of the first.

    A prior that reads texts draws from the captions of the suite's images, once of each form that they have, and beside
    it stand its tokenizer's reconstructions of these images. Neither `batch_size` nor the suite's count moves a sample.
    Interrupted, the same call goes on from what
    `out/partial` holds.

    Args:
        priors: a display name, a prior, and the tokenizer that it is of; all of one image size.
        name: the suite's name.
        sampling: settings of the priors, laid on their own.
        decoding: settings of the decoders, laid on their own.
        progress: a running rich progress display to add a bar to.
        save_seconds: after how long the state is saved, at the end of a batch.
        given: a display name, and samples that are there already: the first ones are measured as they are.

    Raises:
        ConfigError: metrics that make no sense of samples, a prior that is of another tokenizer's codes, token counts
            that no prior offers, settings that a prior does not have, another benchmark in `out`, finished or
            interrupted.
        ValueError: priors that cannot be compared, or a suite that wants more images than there are.
    """
    task = Draw(priors, sampling, decoding, given, forms=forms_of(suite, priors))
    return measure(
        task, suite, out, name=name, batch_size=batch_size, device=device, progress=progress, save_seconds=save_seconds
    )


@dataclass
class Captions:
    """Captions of one form, of the images that a suite comes to have."""

    form: str
    source: Source | None = None

    def read(self, index: Sequence[int]) -> list[str]:
        """The captions of some images.

        Raises:
            ConfigError: one has none of this form.
        """
        assert self.source is not None
        found = [captions.get(self.form) for captions in self.source.read_captions(index)]
        if None in found:
            told = f"image {index[found.index(None)]} has no caption of form {self.form!r}, as the first one has"
            raise ConfigError.at("data", f"{told}; give data whose images all have one")
        return [text for text in found if text is not None]


@dataclass
class Drawing(Entrant):
    """A prior that draws; `weights` is the hash of the prior's."""

    model: Tokenizer
    """The tokenizer that decodes."""
    prior: Generator
    sampling: SamplingConfig
    decoding: SamplingConfig
    decoder: str
    """The hash of the tokenizer's tensors."""
    captions: Captions | None = None
    """Captions that a prior of texts is asked."""

    @property
    def config(self) -> GeneratorConfig:
        return self.prior.config

    @property
    def spec(self) -> Spec:
        return self.model.config.spec

    @property
    def bits(self) -> float | None:
        return self.model.config.bits_per_token

    def unasked(self, source: Source) -> str | None:
        return unasked(self.prior, source)

    def make(self, some: Some) -> Iterator[Made]:
        count, device, classes = len(some.index), some.real.device, self.prior.spec.classes
        labels = [None if classes is None else i % classes for i in some.index]
        asked: dict[str, Any] = {"count": count} if classes is None else {"labels": torch.tensor(labels)}
        form = None if self.captions is None else self.captions.form
        if self.captions is not None:
            asked = {"texts": self.captions.read(some.index)}
        for lane in self.lanes:
            with self.watch.running(count, device):
                drawn = self.prior.sample(**asked, lengths=lane.budget, rng=some.rng, sampling=self.sampling)
            with lane.watch.running(count, device):
                tokens = self.model.tokens(drawn.codes)
                told = {"texts": asked["texts"]} if self.model.conditioner is not None else {}
                images = self.model.decode(tokens, **told, rng=some.rng, sampling=self.decoding)
            yield Made(lane, images, tokens, labels, form=form)

    def used(self, suite: SuiteConfig, device: torch.device) -> dict[str, Any]:
        return {
            **reconstructions.used(self.model, suite, device),
            "sampling": self._sampling(),
            **self._asked(),
            "prior": {
                "classes": self.config.classes,
                "precision": str(next(self.prior.parameters()).dtype).removeprefix("torch."),
                "providers": protocol.providers([self.config.prior]),
            },
            "tokenizer": {
                "config": protocol.short_id(reconstructions.described(self.model.config)),
                "weights": self.decoder,
            },
        }

    def _sampling(self) -> dict[str, Any]:
        return {"prior": self.sampling.deciding(), "decoder": self.decoding.deciding()}

    def _asked(self) -> dict[str, str]:
        return {} if self.captions is None else {"texts": f"{self.captions.form} captions of the suite's images"}

    def identity(self, suite: SuiteConfig, device: torch.device) -> dict[str, Any]:
        return {
            "config": self.config.deciding(),
            "fingerprint": self.weights,
            **self._asked(),
            "tokenizer": {
                "id": self.model.id,
                "config": reconstructions.described(self.model.config),
                "fingerprint": self.decoder,
                "trained": dict(self.model.about),
            },
            "sampling": self._sampling(),
        }

    def entry(self, suite: SuiteConfig, device: torch.device) -> dict[str, Any]:
        parts = reconstructions.parameters(self.model)
        own = sum(p.numel() for p in self.prior.parameters())
        return {
            "id": self.prior.id,
            **self.identity(suite, device),
            "trained": {},
            "parameters": {
                "total": own + parts["quantizer"] + parts["decoder"],
                "prior": own,
                **{name: parts[name] for name in ("quantizer", "decoder", "codec")},
            },
            "length": self.config.length,
            "bits_per_token": self.model.config.bits_per_token,
            "speed": {"draw_sequences_per_second": round(self.watch.rate(), 2)},
        }


class Draw(Task):
    """Priors draw as many samples as the suite has images.

    Args:
        priors: a display name, a prior, and the tokenizer that it is of.
        sampling: settings of the priors, laid on their own.
        decoding: settings of the decoders, laid on their own.
        given: a display name, and samples that are there already: the first ones are measured as they are.
        forms: of captions, that priors of texts are asked.

    Raises:
        ConfigError: a prior that is of another tokenizer's codes.
    """

    record = {
        "task": "samples of a prior",
        "labels": "sample i is of class i mod the number of classes; of none where the prior knows none",
    }
    rests_on = record

    def __init__(
        self,
        priors: Priors,
        sampling: Mapping[str, Any] | None = None,
        decoding: Mapping[str, Any] | None = None,
        given: Sequence[tuple[str, Source]] = (),
        forms: Sequence[str] = (),
    ) -> None:
        for _, prior, tokenizer in priors:
            fits(prior, tokenizer)
            needs_texts(tokenizer, forms if prior.conditioner is not None else (), "give data with captions")
        self.sampling, self.decoding, self.given = sampling, decoding, given
        self.asked: list[tuple[str, Generator, Tokenizer, Captions | None]] = []
        self.rebuilt: dict[str, Tokenizer] = {}
        self.texts = reconstructions.Texts()
        for name, prior, tokenizer in priors:
            if prior.conditioner is None or not forms:
                self.asked.append((name, prior, tokenizer, None))
                continue
            many = len(forms) > 1
            self.asked += [(f"{name}, {f}" if many else name, prior, tokenizer, Captions(f)) for f in forms]
            self.rebuilt[f"{tokenizer.id or name}, real tokens"] = tokenizer

    def sizes(self) -> Sequence[tuple[str, tuple[int, int]]]:
        own = [(name, tokenizer.config.image_size) for name, _, tokenizer, _ in self.asked]
        own += [(name, tokenizer.config.image_size) for name, tokenizer in self.rebuilt.items()]
        return [*own, *((name, source.size) for name, source in self.given)]

    def budgets(self, suite: SuiteConfig) -> Mapping[str, Sequence[int]]:
        own = {name: offered(prior, tokenizer) for name, prior, tokenizer, _ in self.asked}
        own |= {name: list(tokenizer.config.budgets) for name, tokenizer in self.rebuilt.items()}
        return {**(_chosen(suite, own) if own else {}), **{name: [UNTOLD] for name, _ in self.given}}

    def entrants(self, device: torch.device) -> Sequence[Entrant]:
        drawn: list[Entrant] = [
            Drawing(
                name,
                weights(prior.to(device).eval()),
                tokenizer,
                prior,
                prior.sampling.laid(self.sampling, "sampling"),
                tokenizer.sampling.laid(self.decoding, "decoder"),
                weights(tokenizer.to(device).eval()),
                captions,
            )
            for name, prior, tokenizer, captions in self.asked
        ]
        drawn += [
            Rebuilder(name, weights(each.to(device).eval()), each, texts=self.texts)
            for name, each in self.rebuilt.items()
        ]
        return [*drawn, *(Given(name, pixels(source), source) for name, source in self.given)]

    def see(self, source: Source) -> None:
        self.texts.see(source, self.rebuilt.values())
        for *_, captions in self.asked:
            if captions is not None:
                captions.source = source
        for name, own in self.given:
            if len(own) < len(source):
                told = f"holds {len(own):,} samples, and the suite takes {len(source):,}; say count={len(own)} or fewer"
                raise ConfigError.at(name, told)

    def metrics(self, metrics: Sequence[Metric[Any]]) -> Sequence[Metric[Any]]:
        return of_samples(metrics)

    def finish(self, report: Report, entrants: Sequence[Entrant]) -> None:
        """Write a picture of the first samples for each prior and token count, `samples/<prior>-<tokens>.png`."""
        for name, prior, _, captions in self.asked:
            for budget, images in report.images.fake.get(name, {}).items():
                texts = None if captions is None else captions.read(range(len(images)))
                tiles = [(image, texts[i] if texts else _word(i, prior.config)) for i, image in enumerate(images)]
                if tiles:
                    across = math.ceil(math.sqrt(len(tiles)))
                    path = report.out / FOLDER / f"{name.replace('/', '-').replace(', ', '-')}-{budget}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with replaced(path) as part:
                        sheet([tiles[i : i + across] for i in range(0, len(tiles), across)]).save(part, "PNG")


# --- what can be measured ----------------------------------------------------------------------------------------


def of_samples(metrics: Sequence[Metric]) -> list[Metric]:
    """The metrics as they are of samples.

    Raises:
        ConfigError: some make no sense of them.
    """
    pairs = [(metric.config.type, metric.of_samples()) for metric in metrics]
    without = [name for name, metric in pairs if metric is None]
    if without:
        rest = ", ".join(dict.fromkeys(name for name, metric in pairs if metric is not None)) or "classifier"
        told = f"{', '.join(without)}: compares an image with its own reconstruction, and a sample is of no image"
        raise ConfigError.at("metrics", f"{told}; name others, as metrics='[{rest}]'")
    return [metric for _, metric in pairs if metric is not None]


def forms_of(suite: SuiteConfig, priors: Priors) -> tuple[str, ...]:
    """The forms of captions that a suite's images have, where some prior reads texts."""
    if not any(prior.conditioner is not None for _, prior, _ in priors):
        return ()
    source = catalogue().build(suite.data, priors[0][2].config.image_size, place="data")
    source.want("any")
    forms = tuple(source.read_captions([0])[0])
    if not forms:
        log.warning("data: the first image has no caption, so that priors that read texts draw without one")
    return forms


def offered(prior: Generator, tokenizer: Tokenizer) -> list[int]:
    """The token counts of a tokenizer that a prior's length covers; that length alone, where tokens hang on it."""
    nested, whole = tokenizer.config.encoder.prefixes(), prior.spec.length
    return [k for k in tokenizer.config.budgets if k == whole or (nested and k < whole)]


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


def unasked(prior: Generator, source: Source) -> str | None:
    """The reason why the classes that a prior is asked for are not those of a source's images, or None."""
    classes, own, theirs = prior.config.classes, prior.config.class_names, tuple(source.class_names())
    if prior.conditioner is not None:
        return "the prior reads texts and knows no classes, so that none was asked for; metric `asked` is of texts"
    if classes is None:
        return "the prior knows no classes, so that none was asked for"
    if not same_classes(prior.config, theirs):
        names = ", ".join(own[:4]) + (", ..." if len(own) > 4 else "") if own else str(classes)
        told = f"the prior's classes ({names}) are not those of the suite's images ({', '.join(theirs[:4])}"
        return f"{told}{', ...' if len(theirs) > 4 else ''})"
    return None


def _word(number: int, config: GeneratorConfig) -> str:
    """The name of a sample's class."""
    if config.classes is None:
        return ""
    label = number % config.classes
    return config.class_names[label] if config.class_names else f"class {label}"
