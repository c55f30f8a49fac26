"""One pass over a suite's images: every model, at every token count it supports, on the same images."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from jaxtyping import UInt8
from rich.progress import Progress
from torch import Tensor

from flexframe import provenance
from flexframe.bench import extremes, protocol
from flexframe.contracts import AttributeClassifier, Measure, Metric, Reconstructions, Sample, Source
from flexframe.fingerprint import weights
from flexframe.rng import Rng
from flexframe.tokenizer import Tokenizer
from flexframe_registry import SuiteConfig, catalogue, manager

Models = Sequence[tuple[str, Tokenizer]]


@dataclass(frozen=True)
class Gallery:
    """The first images of a suite, and each model's reconstructions of them by token count. All 8-bit, on the CPU."""

    real: UInt8[Tensor, "n 3 h w"]
    fake: Mapping[str, Mapping[int, Tensor]]
    numbers: Sequence[int] = ()
    """Each image's position in the suite; empty: 0, 1, 2, ..."""
    further: Gallery | None = None
    """Each model's best and worst images, where they are not among these."""


@dataclass(frozen=True)
class Report:
    """What a run gives: `results` is the content of results.json."""

    results: Mapping[str, Any]
    images: Gallery
    out: Path


class Head(Source):
    """The first images of a source."""

    def __init__(self, source: Source, count: int | None) -> None:
        super().__init__(source.config, source.size)
        if count is not None and count > len(source):
            raise ValueError(f"the suite wants {count} images and the source has {len(source)}; lower `count`")
        self.source, self.count = source, len(source) if count is None else count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        return self.source[index]

    def samples(self, indices: Sequence[int]) -> Sequence[Sample]:
        return self.source.samples(indices)

    def classifier(self) -> AttributeClassifier | None:
        return self.source.classifier()

    def protocol(self) -> Mapping[str, Any]:
        return self.source.protocol()


@dataclass
class Stopwatch:
    """Images a second. The first batch only warms up, unless there is no other."""

    laps: list[tuple[int, float]] = field(default_factory=list)

    def add(self, images: int, seconds: float) -> None:
        self.laps.append((images, seconds))

    def rate(self) -> float:
        laps = self.laps[1:] or self.laps
        return sum(n for n, _ in laps) / max(sum(s for _, s in laps), 1e-9)


@dataclass
class Lane:
    """One model at one token count, on its way through the images."""

    budget: int
    tallies: list[tuple[Metric, str | None]]
    """Each metric's tally, and why it takes no part, if it does not."""
    per_image: dict[str, list[float]] = field(default_factory=dict)
    codes: protocol.Digest = field(default_factory=protocol.Digest)
    shown: list[Tensor] = field(default_factory=list)
    watch: Stopwatch = field(default_factory=Stopwatch)

    def take(self, batch: Reconstructions, show: int) -> None:
        """Measure a batch, and keep its first `show` reconstructions."""
        self.codes.add(batch.tokens.codes)
        self.shown.append(batch.fake[:show].cpu())
        for tally, why in self.tallies:
            if why is None:
                for name, values in tally.update(batch).items():
                    self.per_image.setdefault(name, []).extend(values.double().tolist())


@dataclass
class Entrant:
    """One model, and its lanes."""

    name: str
    model: Tokenizer
    lanes: list[Lane]
    watch: Stopwatch = field(default_factory=Stopwatch)


def run(
    suite: SuiteConfig,
    models: Models,
    out: Path,
    *,
    name: str = "suite",
    batch_size: int = 64,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> Report:
    """Measure `models` and write `out/results.json`. Leaves the models on `device`, in evaluation mode.

    Numbers do not depend on `batch_size`: each image draws by its own index.

    Args:
        models: pairs of a display name and a tokenizer; all must have one image size.
        name: the suite's name, for the page and the protocol.
        progress: a running rich progress display to add a bar to.

    Raises:
        ValueError: models that cannot be compared, or a suite that wants more images than there are.
    """
    device = torch.device(device)
    source = Head(catalogue().build(suite.data, _common_size(models)), suite.count)
    metrics: list[Metric] = [catalogue().build(config, source) for config in suite.metrics]
    measures = _measures(metrics)
    entrants = [_enter(name, model.to(device).eval(), suite, metrics) for name, model in models]
    real, data = _pass(source, entrants, suite, batch_size, device, progress)
    results = _results(name, suite, source, entrants, measures, data, device)
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False)
    (out / "results.json").write_text(text + "\n", encoding="utf-8")
    fake = {e.name: {lane.budget: torch.cat(lane.shown) for lane in e.lanes} for e in entrants}
    report = Report(results, Gallery(real, fake, further=_further(results, source, entrants, suite, device)), out)
    manager().hook.flexframe_report(report=report)
    return report


def _common_size(models: Models) -> tuple[int, int]:
    if not models:
        raise ValueError("nothing to measure: name at least one model")
    names = [name for name, _ in models]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{twice[0]!r} is named twice; each model needs a name of its own")
    sizes = {name: tuple(model.config.image_size) for name, model in models}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name} {h} x {w}" for name, (h, w) in sizes.items())
        raise ValueError(f"models of different image sizes do not compare: {told}; measure them apart")
    height, width = next(iter(sizes.values()))
    return height, width


def _measures(metrics: Sequence[Metric]) -> dict[str, Measure]:
    found: dict[str, Measure] = {}
    for metric in metrics:
        for measure in metric.measures():
            if measure.name in found:
                raise ValueError(f"two metrics of the suite both give {measure.name!r}; keep one")
            found[measure.name] = measure
    return found


def _enter(name: str, model: Tokenizer, suite: SuiteConfig, metrics: Sequence[Metric]) -> Entrant:
    config = model.config
    lanes = []
    for budget in config.budgets:
        if suite.budgets is None or budget in suite.budgets:
            tallies = [metric.start(config.spec) for metric in metrics]
            lanes.append(Lane(budget, [(tally, tally.unavailable()) for tally in tallies]))
    return Entrant(name, model, lanes)


def _batches(source: Source, size: int) -> Iterator[tuple[Tensor, Tensor, Sequence[Sample]]]:
    for start in range(0, len(source), size):
        index = range(start, min(start + size, len(source)))
        samples = source.samples(index)
        yield torch.tensor(index), torch.stack([s.image for s in samples]), samples


def _pass(
    source: Source,
    entrants: Sequence[Entrant],
    suite: SuiteConfig,
    batch_size: int,
    device: torch.device,
    progress: Progress | None,
) -> tuple[Tensor, str]:
    """The originals to show, and the sha256 of all originals."""
    digest, shown = protocol.Digest(), []
    lanes = sum(len(entrant.lanes) for entrant in entrants)
    task = progress.add_task("measuring", total=lanes * len(source)) if progress else None
    for index, images, samples in _batches(source, batch_size):
        labels, attributes = [s.label for s in samples], [s.attributes for s in samples]
        digest.add(images)
        show = max(0, min(suite.show - int(index[0]), len(index)))
        shown.append(images[:show])
        real, rng = images.to(device), Rng(suite.seed, index.to(device))
        for entrant in entrants:
            started = _now(device)
            tokens = entrant.model.encode(real.float() / 255, rng=rng)
            entrant.watch.add(len(index), _now(device) - started)
            for lane in entrant.lanes:
                short = tokens.truncate(lane.budget)
                started = _now(device)
                fake = entrant.model.decode(short, rng=rng)
                lane.watch.add(len(index), _now(device) - started)
                fake8 = protocol.to_uint8(fake)
                lane.take(Reconstructions(real, fake8, fake, labels, short, attributes), show)
                if progress is not None and task is not None:
                    progress.update(task, advance=len(index), description=f"{entrant.name}, {lane.budget} tokens")
    return torch.cat(shown), digest.hex()


def _further(
    results: Mapping[str, Any], source: Source, entrants: Sequence[Entrant], suite: SuiteConfig, device: torch.device
) -> Gallery | None:
    """The best and worst images that `suite.show` does not show anyhow; none where the page shows no images."""
    wanted = [i for i in extremes.positions(results) if i >= suite.show]
    if not suite.show or not wanted:
        return None
    models = {entrant.name: (entrant.model, [lane.budget for lane in entrant.lanes]) for entrant in entrants}
    return Gallery(*extremes.rebuild(source, models, wanted, seed=suite.seed, device=device), numbers=wanted)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()


# --- results -------------------------------------------------------------------------------------------------------


def _results(
    name: str,
    suite: SuiteConfig,
    source: Source,
    entrants: Sequence[Entrant],
    measures: Mapping[str, Measure],
    data: str,
    device: torch.device,
) -> dict[str, Any]:
    common = {
        "suite": name,
        "data": suite.data.model_dump(mode="json"),
        "data_sha256": data,
        "count": len(source),
        "image_size": list(source.size),
        "images": dict(source.protocol()),
        "uint8": protocol.UINT8_RULE,
        "providers": protocol.providers([suite.data, *suite.metrics]),
        "versions": protocol.versions(),
    }
    protocols: dict[str, Any] = {}
    models = {entrant.name: _model(entrant, suite, common, protocols, device) for entrant in entrants}
    return {
        "schema": protocol.SCHEMA,
        "suite": {"name": name, **suite.model_dump(mode="json")},
        "measures": {
            m.name: {"label": m.label, "better": m.better, "unit": m.unit, "digits": m.digits, "note": m.note}
            for m in measures.values()
        },
        "budgets": sorted({lane.budget for entrant in entrants for lane in entrant.lanes}),
        "protocol": common,
        "models": models,
        "protocols": protocols,
        "per_image": {e.name: {str(lane.budget): lane.per_image for lane in e.lanes} for e in entrants},
        "codes_sha256": {e.name: {str(lane.budget): lane.codes.hex() for lane in e.lanes} for e in entrants},
        "manifest": provenance.manifest(device),
    }


def _model(
    entrant: Entrant, suite: SuiteConfig, common: Mapping[str, Any], protocols: dict[str, Any], device: torch.device
) -> dict[str, Any]:
    model, config = entrant.model, entrant.model.config
    bits = config.bits_per_token
    use = {
        "seed": suite.seed,
        "sampling": model.sampling.model_dump(mode="json"),
        "precision": str(next(model.parameters()).dtype).removeprefix("torch."),
        "device": device.type,
        "providers": protocol.providers(protocol.parts(config)),
    }
    budgets = {}
    for lane in entrant.lanes:
        budgets[str(lane.budget)] = {
            "bits": None if bits is None else lane.budget * bits,
            "metrics": _numbers(lane, common, {**use, "budget": lane.budget}, protocols),
            "speed": {"decode_images_per_second": round(lane.watch.rate(), 2)},
        }
    return {
        "config": config.model_dump(mode="json"),
        "fingerprint": weights(model),
        "parameters": _parameters(model),
        "length": config.length,
        "bits_per_token": bits,
        "sampling": use["sampling"],
        "speed": {"encode_images_per_second": round(entrant.watch.rate(), 2)},
        "budgets": budgets,
    }


def _numbers(
    lane: Lane, common: Mapping[str, Any], use: Mapping[str, Any], protocols: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Each number with the id of its protocol: `<what is measured, and how>.<how the model is used>`."""
    found: dict[str, dict[str, Any]] = {}
    for tally, refused in lane.tallies:
        why = refused or tally.unavailable()
        if why is not None:
            found |= {m.name: {"value": None, "why": why} for m in tally.measures()}
            continue
        measure = {**common, "metric": tally.config.model_dump(mode="json"), "measured": dict(tally.protocol())}
        key = f"{protocol.short_id(measure)}.{protocol.short_id(use)}"
        protocols[key] = {"measure": measure, "use": dict(use)}
        for name, value in tally.compute().items():
            if math.isfinite(value):
                found[name] = {"value": value, "protocol": key}
            else:
                found[name] = {"value": None, "why": f"came out as {value}, which is no number to report"}
    return found


def _parameters(model: Tokenizer) -> dict[str, int]:
    """Counts by part; `total` leaves out the codec, which is frozen and usually somebody else's."""
    parts = {"encoder": model.encoder, "quantizer": model.quantizer, "decoder": model.decoder, "codec": model.codec}
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    return {"total": sum(n for name, n in counts.items() if name != "codec"), **counts}
