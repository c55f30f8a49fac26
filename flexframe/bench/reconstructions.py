"""Reconstructions of a suite's own images: from prefixes of one token sequence an image, at every token count."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flexframe.bench import extremes, protocol
from flexframe.bench.gallery import Gallery
from flexframe.bench.lanes import Entrant, Made, Some
from flexframe.bench.metric import Remake
from flexframe.bench.task import Task
from flexframe.data.captions import LOOKED
from flexframe.data.source import Source
from flexframe.models.fingerprint import fingerprint, weights
from flexframe.models.tokenizer import Tokenizer
from flexframe.rng import Rng
from flexframe.tokens import Tokens
from flexframe_registry import ConfigError, Spec, SuiteConfig, TokenizerConfig

CAPTION, CLASS = "the caption of each image that says most", "A photo of a <class>."
"""What a suite's texts are, in a protocol's words."""


@dataclass
class Texts:
    """The texts of a suite's images, for models whose decoder reads some: of each the caption that says most, or where
    none of the first has one, `A photo of a <class>.`, as arXiv 2501.07730 measures by."""

    source: Source | None = None
    rule: str | None = None
    """What the texts are, in a protocol's words; None where there are none."""

    def see(self, source: Source, models: Iterable[Tokenizer]) -> None:
        """Take the texts from this source.

        Raises:
            ConfigError: it has none, and a model reads some; or nothing embeds them for it.
        """
        self.source, self.rule = source, None
        models = [model for model in models if model.config.decoder.texts() is not None]
        if models:
            captions = any(source.read_captions(range(min(len(source), LOOKED))))
            self.rule = CAPTION if captions else CLASS if source.class_names() else None
        for model in models:
            place = model.id or "the model"
            if model.conditioner is None:
                told = "reads texts, and names no encoder of them; set its `conditioner`, as {type: clip, padded: true}"
                raise ConfigError.at(place, told)
            if self.rule is None:
                told = "decodes with texts, and the suite's images have neither captions nor named classes"
                raise ConfigError.at(place, f"{told}; give data that have, or leave the model out")

    def of(self, model: Tokenizer, index: Sequence[int]) -> dict[str, Any]:
        """The argument `texts` of a model's `decode` for these images; nothing where it reads none."""
        if model.conditioner is None or self.source is None:
            return {}
        names = self.source.class_names()
        if self.rule == CLASS and names:
            labels = [sample.label for sample in self.source.samples(index)]
            return {"texts": [None if label is None else f"A photo of a {names[label]}." for label in labels]}
        return {"texts": [[*each.values()][-1] if each else None for each in self.source.read_captions(index)]}


@dataclass(frozen=True)
class _Again(Remake):
    """A tokenizer at one token count, on the images of a batch."""

    model: Tokenizer
    budget: int
    rng: Rng
    told: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.model)

    def encode(self, images: Float[Tensor, "b 3 h w"]) -> Tokens:
        return self.model.shortened(self.model.encode(images, rng=self.rng), images, self.budget, rng=self.rng)

    def decode(self, tokens: Tokens, draw: int = 0) -> Float[Tensor, "b 3 h w"]:
        rng = Rng((self.rng.seed + draw) % 2**63, self.rng.index) if draw else self.rng
        return self.model.decode(tokens, **self.told, rng=rng)


@dataclass
class Rebuilder(Entrant):
    """A tokenizer that rebuilds the suite's images."""

    model: Tokenizer
    texts: Texts = field(kw_only=True)
    codec_is: str | None = field(default=None, kw_only=True)
    """The model beside it whose weights its codec has."""

    @property
    def config(self) -> TokenizerConfig:
        return self.model.config

    @property
    def spec(self) -> Spec:
        return self.model.config.spec

    @property
    def bits(self) -> float | None:
        return self.model.config.bits_per_token

    def make(self, some: Some) -> Iterator[Made]:
        count, device = len(some.index), some.real.device
        labels, attributes = [s.label for s in some.samples], [s.attributes for s in some.samples]
        given, told = some.real.float() / 255, self.texts.of(self.model, some.index)
        with self.watch.running(count, device):
            tokens = self.model.encode(given, rng=some.rng)
        for lane in self.lanes:
            short = self.model.shortened(tokens, given, lane.budget, rng=some.rng)
            with lane.watch.running(count, device):
                images = self.model.decode(short, **told, rng=some.rng)
            yield Made(lane, images, short, labels, attributes, _Again(self.model, lane.budget, some.rng, told))

    def used(self, suite: SuiteConfig, device: torch.device) -> dict[str, Any]:
        rule = self.texts.rule if self.model.conditioner is not None else None
        return {**used(self.model, suite, device), **({"texts": rule} if rule else {})}

    def identity(self, suite: SuiteConfig, device: torch.device) -> dict[str, Any]:
        sampling = self.model.sampling.deciding()
        return {"config": described(self.config), "fingerprint": self.weights, "sampling": sampling}

    def entry(self, suite: SuiteConfig, device: torch.device) -> dict[str, Any]:
        return {
            "id": self.model.id,
            **self.identity(suite, device),
            "trained": dict(self.model.about),
            "parameters": parameters(self.model),
            **({"codec_is": self.codec_is} if self.codec_is else {}),
            "length": self.config.length,
            "bits_per_token": self.config.bits_per_token,
            "speed": {"encode_images_per_second": round(self.watch.rate(), 2)},
        }


class Reconstruct(Task):
    """Tokenizers rebuild the suite's own images.

    Args:
        models: pairs of a display name and a tokenizer.
    """

    record = {"task": "reconstruction of the suite's own images"}

    def __init__(self, models: Sequence[tuple[str, Tokenizer]]) -> None:
        self._models, self._texts = models, Texts()

    def see(self, source: Source) -> None:
        self._texts.see(source, (model for _, model in self._models))

    def sizes(self) -> Sequence[tuple[str, tuple[int, int]]]:
        return [(name, model.config.image_size) for name, model in self._models]

    def budgets(self, suite: SuiteConfig) -> Mapping[str, Sequence[int]]:
        """The token counts of each model that a suite measures; of some models there may be none.

        Raises:
            ConfigError: no model is offered at what the suite asks for.
        """
        own = {name: model.config.budgets for name, model in self._models}
        asked = suite.budgets
        if asked is None:
            return own
        chosen = {name: [k for k in budgets if k in asked] for name, budgets in own.items()}
        if not any(chosen.values()):
            told = "; ".join(f"{name} is at {_counts(budgets)}" for name, budgets in own.items())
            text = f"no model is offered at {', '.join(map(str, asked))} tokens: {told}; ask for some of these"
            raise ConfigError.at("budgets", text)
        return chosen

    def entrants(self, device: torch.device) -> Sequence[Entrant]:
        made = [
            Rebuilder(name, weights(model.to(device).eval()), model, texts=self._texts) for name, model in self._models
        ]
        for each in made:
            beside = (other.name for other in made if other is not each and is_codec(other.model, each.model))
            each.codec_is = next(beside, None)
        return made

    def pictures(
        self, suite: SuiteConfig, source: Source, entrants: Sequence[Entrant], device: torch.device
    ) -> Mapping[str, Mapping[int, Tensor]]:
        shown = range(min(suite.show, len(source)))
        if not shown or not entrants:
            none = torch.zeros(0, 3, *source.size, dtype=torch.uint8)
            return {each.name: {lane.budget: none for lane in each.lanes} for each in entrants}
        return self._rebuilt(suite, source, entrants, device, shown)[1]

    def _rebuilt(
        self,
        suite: SuiteConfig,
        source: Source,
        entrants: Sequence[Entrant],
        device: torch.device,
        indices: Sequence[int],
    ) -> tuple[Tensor, Mapping[str, Mapping[int, Tensor]]]:
        own, rounded = dict(self._models), partial(protocol.to_uint8, rounding=suite.rounding)
        models = {entrant.name: (own[entrant.name], [lane.budget for lane in entrant.lanes]) for entrant in entrants}
        return extremes.rebuild(
            source, models, indices, seed=suite.seed, device=device, rounded=rounded, told=self._texts.of
        )

    def further(
        self,
        suite: SuiteConfig,
        source: Source,
        entrants: Sequence[Entrant],
        device: torch.device,
        results: Mapping[str, Any],
    ) -> Gallery | None:
        """The best and worst images that `suite.show` does not show anyhow; none where the page shows no images."""
        wanted = [i for i in extremes.positions(results) if i >= suite.show]
        if not suite.show or not wanted:
            return None
        return Gallery(*self._rebuilt(suite, source, entrants, device, wanted), numbers=wanted)


def described(config: TokenizerConfig) -> dict[str, Any]:
    """A config as plain data, as it was before tokenizers had a conditioner where there is none."""
    return config.model_dump(mode="json", exclude=None if config.conditioner else {"conditioner"})


def _counts(budgets: Sequence[int]) -> str:
    """Token counts, rising; many in a row as their ends."""
    whole = len(budgets) > 4 and list(budgets) == list(range(budgets[0], budgets[-1] + 1))
    return f"{budgets[0]}..{budgets[-1]}" if whole else ", ".join(map(str, budgets))


def used(model: Tokenizer, suite: SuiteConfig, device: torch.device) -> dict[str, Any]:
    """The use of a tokenizer: what moves its reconstructions beside its weights."""
    exact = {"float32": torch.get_float32_matmul_precision(), "tf32": torch.backends.cudnn.allow_tf32}
    return {
        "seed": suite.seed,
        **({} if model.config.encoder.prefixes() else {"tokens": "encoded anew for each number"}),
        "sampling": model.sampling.deciding(),
        "precision": model.precision,
        "device": device.type,
        **({"matmul": exact} if device.type == "cuda" else {}),
        "providers": protocol.providers(model.config.parts.values()),
    }


def is_codec(model: Tokenizer, of: Tokenizer) -> bool:
    """Say whether all weights of a tokenizer's codec are a model's own, or all that it has: then the tokenizer rebuilds
    no better than that model."""
    own: dict[tuple[int, ...], list[Tensor]] = {}
    parts: tuple[nn.Module, ...] = (model.encoder, model.quantizer, model.decoder)
    if not any(True for part in parts for _ in part.parameters()):
        parts = (model.codec,)  # it is its codec by itself
    for part in parts:
        for value in part.parameters():
            own.setdefault(tuple(value.shape), []).append(value)
    codec = [(value, own.get(tuple(value.shape), [])) for value in of.codec.parameters()]
    return bool(codec) and all(any(torch.equal(value, each) for each in alike) for value, alike in codec)


def parameters(model: Tokenizer) -> dict[str, int]:
    """Counts by part; `total` leaves out the codec, which is frozen and usually somebody else's."""
    parts: dict[str, nn.Module] = {
        "encoder": model.encoder,
        "quantizer": model.quantizer,
        "decoder": model.decoder,
        "codec": model.codec,
    }
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    return {"total": sum(n for name, n in counts.items() if name != "codec"), **counts}
