"""A generator: a prior, and the codes that it is of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Int
from torch import Tensor, nn

from flexframe.models import shown
from flexframe.models.fingerprint import fingerprint
from flexframe.models.precision import use
from flexframe.models.published import Published
from flexframe.models.tokenizer import Lengths, Random, Tokenizer, save
from flexframe.parts import Conditioner, Prior
from flexframe.rng import as_rng
from flexframe.tokens import Codes, Condition, Losses, Text
from flexframe_registry import ConfigError, GeneratorConfig, SamplingConfig, catalogue


def fits(generator: Generator, tokenizer: Tokenizer, force: bool = False) -> None:
    """Raise `ConfigError` unless the prior's codes are the tokenizer's."""
    config = generator.config
    config.check_tokenizer(tokenizer.config, tokenizer.id or "the tokenizer")
    if config.fingerprint not in (None, fingerprint(tokenizer)) and not force:
        text = f"was trained on codes of another tokenizer than {tokenizer.id}, or of it before it changed"
        raise ConfigError.at(generator.id, f"{text}; name the right one with --model, or generate with --force")


def needs_texts(tokenizer: Tokenizer, texts: Sequence[str], remedy: str) -> None:
    """Refuse to decode without texts where the decoder reads some.

    Args:
        remedy: what gives some.

    Raises:
        ConfigError: there are none, or nothing embeds them.
    """
    if tokenizer.config.decoder.texts() is None:
        return
    place = tokenizer.id or "the tokenizer"
    if not texts:
        raise ConfigError.at(place, f"its decoder reads texts, and there are none; {remedy}")
    if tokenizer.conditioner is None:
        told = "its decoder reads texts, and it names no encoder of them; set its `conditioner`"
        raise ConfigError.at(place, told)


def same_classes(config: GeneratorConfig, names: Sequence[str]) -> bool:
    """Tell whether labels mean to a prior what they mean where classes have these names: none are no contradiction."""
    own = config.class_names
    if config.classes is None or not names:
        return config.classes is not None
    return len(names) == config.classes and (not own or tuple(own) == tuple(names))


@final
class Generator(nn.Module, Published):
    """A prior over the codes of a tokenizer, ready to train or to draw from."""

    prior: Prior
    conditioner: Conditioner | None

    def __init__(self, config: GeneratorConfig, sampling: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.config, self.spec = config, config.spec
        self.id = ""  # where it was loaded from
        self.about: Mapping[str, Any] = {}  # what its file says of it, or of its import
        self.sampling: SamplingConfig = config.prior.sampling.read(dict(sampling or {}), "sampling")
        self.prior = catalogue().build(config.prior, config.spec)
        self.conditioner = None if config.conditioner is None else catalogue().build(config.conditioner)

    @property
    def device(self) -> torch.device:
        """The device of its weights."""
        return next(self.parameters()).device

    def __repr__(self) -> str:
        return shown.text(self, self.config, self.id, self.sampling)

    def _repr_html_(self) -> str:
        return shown.html(self, self.config, self.id, self.sampling)

    def save(self, path: str | Path) -> None:
        """Write it as a model file, which `flexframe.load` reads. A folder gets a `model.safetensors`.

        Raises:
            OSError: the disk does not take it.
        """
        save(self, path, self.config, self.about, self.sampling)

    def forward(self, codes: Codes, condition: Condition | None = None, *, rng: Random = None) -> Losses:
        """The prior's losses of these codes; continuous tokens come to it at mean 0 and deviation 1."""
        self._check(codes, condition)
        if self.spec.dim is not None:
            mean, deviation = self._scale(codes.codes.device)
            codes = Codes((codes.codes.float() - mean) / deviation, codes.keep)
        rows = as_rng(rng, len(codes.keep), codes.keep.device)
        losses: Losses = self.prior(codes, self.embedded(condition, len(codes.keep)), rng=rows)
        return losses

    def embedded(self, condition: Condition | None, batch: int) -> Condition | None:
        """The condition of so many rows with its texts embedded, where there is a conditioner; all rows have one then,
        if only the null text.

        Raises:
            ValueError: texts, and no conditioner.
        """
        if self.conditioner is None:
            if condition is not None and condition.texts is not None:
                raise ValueError("this generator reads no texts; give none")
            return condition
        given = condition or Condition(torch.ones(batch, dtype=torch.bool, device=self.device))
        if given.embeddings is not None:
            return given
        texts = given.texts or (None,) * batch
        text = self.conditioner([*(each or "" for each in texts), ""])  # the last one is of no row
        embeddings, pooled = (
            None if each is None else each.to(next(self.prior.parameters())) for each in (text.embeddings, text.pooled)
        )
        assert embeddings is not None
        first, last = (None, None) if pooled is None else (pooled[:-1], pooled[-1:])
        nothing = Text(embeddings[-1:], text.present[-1:], last)
        present = text.present[:-1]
        whole = replace(given, embeddings=embeddings[:-1], present=present, pooled=first, nothing=nothing)
        return whole.hidden(given.null)

    @torch.no_grad()
    def sample(
        self,
        labels: Int[Tensor, " b"] | None = None,
        *,
        texts: Sequence[str] | None = None,
        count: int | None = None,
        lengths: Lengths = None,
        rng: Random = None,
        sampling: SamplingConfig | Mapping[str, Any] | None = None,
        on_token: Callable[[int], None] | None = None,
    ) -> Codes:
        """Draw sequences, of codes or of continuous tokens in their tokenizer's own range.

        Args:
            labels: a class a row.
            texts: a text a row; one that is longer than the conditioner reads counts as cut.
            count: instead of both: so many unconditional rows.
            lengths: tokens of each row, one number or one each; the model's length if None.
            rng: a seed, a generator, an `Rng`, or None for seed 0.
            sampling: the prior's settings, or a mapping that is laid on the model's own.
            on_token: told how many of the prior's steps are done.

        Raises:
            ConfigError: a setting that the prior has not.
            ValueError: neither or both of `labels` or `texts` and `count`, labels or lengths out of range, whole
                settings of another prior.
        """
        if (labels is None and texts is None) == (count is None):
            raise ValueError("give labels or texts, or a count of unconditional rows; one of the two")
        sizes = {len(each) for each in (labels, texts) if each is not None} | ({count} if count is not None else set())
        batch = sizes.pop()
        if sizes:
            raise ValueError("labels and texts are of as many rows")
        if labels is not None:
            if self.spec.classes is None:
                raise ValueError("this generator knows no classes; give a count")
            _check_span("labels", labels, self.spec.classes)
            labels = labels.to(self.device)
        condition = None
        if self.spec.classes is not None or texts is not None:
            null = torch.full((batch,), count is not None, device=self.device)
            condition = Condition(null, labels=labels, texts=None if texts is None else tuple(texts))
        condition = self.embedded(condition, batch)
        wanted = torch.as_tensor(self.spec.length if lengths is None else lengths, device=self.device)
        if wanted.is_floating_point() or wanted.shape not in ((), (batch,)):
            raise ValueError(f"lengths are one whole number, or one for each of {batch} rows, not {lengths!r}")
        if wanted.numel() and not 1 <= int(wanted.min()) <= int(wanted.max()) <= self.spec.length:
            span = f"{int(wanted.min())}..{int(wanted.max())}"
            raise ValueError(f"lengths span {span}; they must lie in 1..{self.spec.length}")
        settings, rows = self.sampling.laid(sampling), as_rng(rng, batch, self.device)
        with use(self, None, self.device, double=True):
            drawn = self.prior.sample(condition, wanted.expand(batch), rng=rows, sampling=settings, on_token=on_token)
        if self.spec.dim is None:
            return drawn
        mean, deviation = self._scale(drawn.codes.device)
        return Codes((drawn.codes.float() * deviation + mean).masked_fill(~drawn.keep[..., None], 0), drawn.keep)

    def _scale(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and deviation of continuous tokens: one number, or one for each value."""
        mean, deviation = self.config.mean or (0.0,), self.config.deviation or (1.0,)
        return torch.tensor(mean, device=device), torch.tensor(deviation, device=device)

    def _check(self, codes: Codes, condition: Condition | None) -> None:
        spec, shape = self.spec, tuple(codes.codes.shape)
        if codes.codes.is_floating_point() and spec.dim is None:
            raise ValueError("this generator models integer codes; these are a continuous quantizer's values")
        if not codes.codes.is_floating_point() and spec.dim is not None:
            raise ValueError("this generator models continuous tokens; these are integer codes")
        width = spec.codebooks if spec.dim is None else spec.dim
        if len(shape) != 3 or not 1 <= shape[1] <= spec.length or shape[2] != width:
            expected = f"b k {width} with k in 1..{spec.length}"
            raise ValueError(f"codes have shape {shape}; this generator's are {expected}")
        if spec.dim is None:
            _check_span("codes", codes.codes[codes.keep], spec.entries)
        if condition is not None and condition.labels is not None and spec.classes is not None:
            _check_span("labels", condition.labels[~condition.null], spec.classes)


def _check_span(what: str, values: Tensor, size: int) -> None:
    low, high = (int(values.min()), int(values.max())) if values.numel() else (0, 0)
    if low < 0 or high >= size:
        raise ValueError(f"{what} span {low}..{high}; this generator's are 0..{size - 1}")
