"""Probes: how much of an image's class a linear classifier, or neighbours, read off what a tokenizer makes of it.

A probe is trained on what a model makes of labelled images, at each token count, and asked about held-out ones. The
model is not touched. It says what is there to be read so, not what a prior or a decoder makes of it.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from flexframe import provenance
from flexframe.bench import intervals, protocol
from flexframe.data.source import Source
from flexframe.files import BLANK, replaced, seal, sealed
from flexframe.models.fingerprint import weights
from flexframe.models.tokenizer import Tokenizer
from flexframe.rng import Rng
from flexframe.store.hub import home
from flexframe_registry import ConfigError

log = logging.getLogger(__name__)

What = Literal["tokens", "average", "features"]
WHATS: tuple[What, ...] = ("tokens", "average", "features")
ABOUT: Mapping[What, str] = {
    "tokens": "values of the first tokens, one behind the other",
    "average": "the mean of the first tokens' values",
    "features": "the mean of the encoder's features at the first tokens' places, before the quantizer",
}
BATCH = 64


@dataclass(frozen=True)
class Settings:
    """Settings of a probe's training. `mae` is that of masked autoencoders (He et al., 2022): batch norm without scale
    and shift, SGD with momentum 0.9 and no decay, the rate warmed up and let go by a cosine."""

    solver: Literal["newton", "mae"] = "newton"
    """`newton`: multinomial logistic regression on standardized values, by L-BFGS to its optimum; or `mae`."""
    penalties: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1)
    """Of `newton`: weights of the squared norm, of which a fifth of the training images, held out, chooses."""
    epochs: int = 90
    """Of `mae`."""
    warmup: int = 10
    """Of `mae`: epochs over which the rate rises."""
    lr: float = 0.1
    """Of `mae`: the rate at a batch of 256, which grows with it."""
    batch: int = 16384
    """Of `mae`: images a step; all at once where there are fewer."""
    neighbours: int = 20
    """Neighbours by cosine that vote, each with exp(similarity / 0.07) (Caron et al., 2021)."""
    seed: int = 0


@dataclass(frozen=True)
class Labelled:
    """Labelled images, and the hash of their pixels and labels."""

    images: Tensor
    labels: Int[Tensor, " n"]
    sha256: str

    @classmethod
    def of(cls, source: Source, count: int | None, place: str) -> Labelled:
        """The first images of a source.

        Raises:
            ConfigError: one without a label.
        """
        samples = source.samples(range(len(source) if count is None else min(count, len(source))))
        bare = next((sample.id for sample in samples if sample.label is None), None)
        if bare is not None:
            raise ConfigError.at(place, f"image {bare!r} has no label; probes take labelled images")
        images, labels, digest = torch.stack([s.image for s in samples]), torch.tensor([s.label for s in samples]), None
        digest = protocol.Digest()
        digest.add(images.flatten(1))
        told = hashlib.sha256(f"{digest.hex()} {labels.tolist()}".encode()).hexdigest()
        return cls(images, labels, told)


def probe(
    models: Sequence[tuple[str, Tokenizer]],
    train: Labelled,
    test: Labelled,
    whats: Sequence[What] = WHATS,
    settings: Settings = Settings(),
    device: str | torch.device = "cpu",
) -> dict[str, Any]:
    """Probe models at every token count: accuracies with intervals, and whether they rise with tokens.

    Raises:
        ConfigError: test images of a class that no training image has.
    """
    unseen = sorted(set(test.labels.tolist()) - set(train.labels.tolist()))
    if unseen:
        raise ConfigError.at("test", f"class {unseen[0]} is of no training image; name images of the same classes")
    rows, rises = list[dict[str, Any]](), list[dict[str, Any]]()
    for name, model in models:
        model = model.to(device).eval()
        mark, pairs = weights(model), dict[What, list[tuple[int, np.ndarray]]]()
        for what, k, known, asked in made(model, mark, train, test, whats, settings.seed):
            hits = {
                "linear": linear(known, train.labels, asked, settings) == test.labels,
                "neighbours": nearest(known, train.labels, asked, settings.neighbours) == test.labels,
            }
            told = {by: _told(right) for by, right in hits.items()}
            rows.append({"model": name, "on": what, "tokens": k, "width": known.shape[1], **told})
            pairs.setdefault(what, []).append((k, 100.0 * hits["linear"].numpy()))
        for what, curve in pairs.items():
            rises += [_rise(name, what, curve)] if len(curve) > 1 else []
    return {
        "rows": rows,
        "rises": rises,
        "on": {what: ABOUT[what] for what in whats},
        "chance": 100 / len(set(train.labels.tolist())),
        "settings": asdict(settings),
        "train": {"count": len(train.labels), "sha256": train.sha256},
        "test": {"count": len(test.labels), "sha256": test.sha256},
        "models": {name: {"id": model.id, "fingerprint": weights(model)} for name, model in models},
        "manifest": provenance.manifest(torch.device(device)),
    }


def _told(right: Tensor) -> dict[str, float]:
    values = 100.0 * right.double().numpy()
    span = intervals.ends(intervals.resampled_means(values[:, None])[:, 0])
    return {"accuracy": float(values.mean()), "low": span.low, "high": span.high}


def _rise(name: str, what: What, curve: Sequence[tuple[int, np.ndarray]]) -> dict[str, Any]:
    """The difference of the linear probe's accuracy at the most tokens from that at the fewest, on the same images."""
    (few, first), (many, last) = curve[0], curve[-1]
    drawn = intervals.resampled_means(np.stack([last, first], 1))
    compared = intervals.compare(last, first, drawn[:, 0], drawn[:, 1], "higher")
    words = {"better": "rises", "worse": "falls", "not distinguishable": "not distinguishable"}
    ends = {"difference": compared.difference, "low": compared.low, "high": compared.high}
    return {"model": name, "on": what, "from": few, "to": many, **ends, "verdict": words[compared.verdict]}


# --- what models make ------------------------------------------------------------------------------------------------


def made(
    model: Tokenizer, mark: str, train: Labelled, test: Labelled, whats: Sequence[What], seed: int
) -> Iterator[tuple[What, int, Float[Tensor, "n d"], Float[Tensor, "m d"]]]:
    """Values and features of both sets, by kind and token count. Kept in `$FLEXFRAME_HOME/probes` by the content of the
    images and of the model's weights."""
    sides = [_whole(model, mark, each, seed) for each in (train, test)]
    for what in whats:
        for k in counts(model):
            known, asked = (_at(side, what, k) for side in sides)
            yield what, k, known, asked


def counts(model: Tokenizer) -> list[int]:
    """Token counts that are probed: powers of two and all, whatever the decoder takes, for a probe needs none; those of
    the model's own where its encoder makes other tokens for each."""
    length = model.config.length
    if not model.config.encoder.prefixes():
        return list(model.config.budgets)
    return sorted({length, *(1 << i for i in range(length.bit_length()) if 1 << i < length)})


def _at(held: Mapping[str, Tensor], what: What, k: int) -> Tensor:
    values = held.get(f"values.{k}", held.get("values"))
    assert values is not None
    if what == "features":
        return held["features"][:, :k].mean(1)
    return values[:, :k].mean(1) if what == "average" else values[:, :k].flatten(1)


def _whole(model: Tokenizer, mark: str, images: Labelled, seed: int) -> dict[str, Tensor]:
    key = json.dumps([mark, images.sha256, seed, f"torch.{model.precision}", torch.__version__])
    path = home() / "probes" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.safetensors"
    if path.is_file():
        try:
            if sealed(path):
                return load_file(path)
            reason = "its content does not have its checksum"
        except (OSError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:120]
        log.warning("%s is damaged (%s): its features are computed anew", path, reason)
    parts: dict[str, list[Tensor]] = {}
    for start in range(0, len(images.labels), BATCH):
        some = images.images[start : start + BATCH].to(model.device).float() / 255
        rng = Rng(seed, torch.arange(start, start + len(some), device=model.device))
        features, tokens = model.described(some, rng=rng)
        parts.setdefault("values", []).append(tokens.values.float().cpu())
        parts.setdefault("features", []).append(features.cpu())
        for k in () if model.config.encoder.prefixes() else model.config.budgets:
            short = model.shortened(tokens, some, k, rng=rng)
            parts.setdefault(f"values.{k}", []).append(short.values.float().cpu())
    whole = {name: torch.cat(each).contiguous() for name, each in parts.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as part:
        save_file(whole, part, {**BLANK})
        seal(part)
    return whole


# --- probes ----------------------------------------------------------------------------------------------------------


def nearest(
    known: Float[Tensor, "n d"], labels: Int[Tensor, " n"], asked: Float[Tensor, "m d"], count: int
) -> Int[Tensor, " m"]:
    """The class of each by its nearest known ones, by cosine, which vote with exp(similarity / 0.07)."""
    similar = F.normalize(asked.double(), dim=1) @ F.normalize(known.double(), dim=1).T
    near, which = similar.topk(min(count, len(known)), dim=1)
    votes = torch.zeros(len(asked), int(labels.max()) + 1, dtype=torch.float64)
    votes.scatter_add_(1, labels[which], (near / 0.07).exp())
    return votes.argmax(1)


def linear(
    known: Float[Tensor, "n d"], labels: Int[Tensor, " n"], asked: Float[Tensor, "m d"], settings: Settings
) -> Int[Tensor, " m"]:
    """The class of each by a linear classifier."""
    if settings.solver == "mae":
        return _mae(known, labels, asked, settings)
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(settings.seed))
    held, rest = order[: len(known) // 5], order[len(known) // 5 :]
    scores = [
        (_logits(known[rest], labels[rest], known[held], penalty).argmax(1) == labels[held]).double().mean()
        for penalty in settings.penalties
    ]
    best = settings.penalties[max(range(len(scores)), key=lambda i: (float(scores[i]), settings.penalties[i]))]
    return _logits(known, labels, asked, best).argmax(1)


def _logits(known: Tensor, labels: Tensor, asked: Tensor, penalty: float) -> Float[Tensor, "m c"]:
    mean, spread = known.double().mean(0), known.double().std(0, correction=0).clamp(min=1e-6)
    x, y = ((each.double() - mean) / spread for each in (known, asked))
    classes = int(labels.max()) + 1
    matrix = torch.zeros(x.shape[1], classes, dtype=torch.float64, requires_grad=True)
    offset = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    step = torch.optim.LBFGS([matrix, offset], max_iter=200, tolerance_grad=1e-7, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        step.zero_grad()
        value = F.cross_entropy(x @ matrix + offset, labels) + penalty * matrix.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        step.step(loss)  # type: ignore[no-untyped-call]
    return (y @ matrix + offset).detach()


def _mae(known: Tensor, labels: Tensor, asked: Tensor, settings: Settings) -> Int[Tensor, " m"]:
    generator = torch.Generator().manual_seed(settings.seed)
    norm = torch.nn.BatchNorm1d(known.shape[1], affine=False, eps=1e-6)
    head = torch.nn.Linear(known.shape[1], int(labels.max()) + 1)
    torch.nn.init.normal_(head.weight, std=0.01, generator=generator)
    torch.nn.init.zeros_(head.bias)
    size = min(settings.batch, len(known))
    peak, steps = settings.lr * size / 256, -(-len(known) // size)
    optimizer = torch.optim.SGD(head.parameters(), lr=peak, momentum=0.9)
    with torch.enable_grad():
        for epoch in range(settings.epochs):
            order = torch.randperm(len(known), generator=generator)
            for number in range(steps):
                at = epoch + number / steps
                rest = (at - settings.warmup) / max(1, settings.epochs - settings.warmup)
                factor = at / settings.warmup if at < settings.warmup else 0.5 * (1 + np.cos(np.pi * rest))
                for group in optimizer.param_groups:
                    group["lr"] = peak * factor
                rows = order[number * size : (number + 1) * size]
                if len(rows) < 2:
                    continue  # one image has no spread
                optimizer.zero_grad()
                F.cross_entropy(head(norm(known[rows].float())), labels[rows]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    norm.eval()
    logits: Tensor = head(norm(asked.float()))
    return logits.argmax(1)
