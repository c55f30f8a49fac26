"""Draws of a GPT, digit by digit."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from flexframe.nn.priors import class_ids, gumbel
from flexframe.rng import Rng
from flexframe.tokens import Condition

from . import GPTSampling
from .compiled import compiled_step
from .steps import Layer, Steps, laid

if TYPE_CHECKING:
    from .gpt import GPT

AHEAD = 1 << 20
"""Random numbers that are drawn at once, at the most."""


class Reader:
    """A GPT in use: told digits, it says the logits of those that follow.

    Conditional rows and, with guidance, as many null ones stand in one batch.

    Args:
        digits: as many as there will be.
    """

    def __init__(
        self, prior: GPT, condition: Condition | None, sampling: GPTSampling, digits: Int[Tensor, "b n"]
    ) -> None:
        spec = prior.spec
        self.prior, self.scale, self.done = prior, sampling.guidance, 0
        self.guided = self.scale != 1 and (spec.classes is not None or spec.text is not None)
        self.rows = class_ids(condition, spec.classes, len(digits), digits.device, self.guided)
        self.context = prior.context(condition, self.guided)
        self.before = 0 if self.context is None or self.context.known else self.context.present.shape[1]
        if not sampling.cache:
            self.steps, self.heads = None, prior.heads
            return
        config, count = prior.config, digits.shape[1]
        trunk = nn.ModuleList([prior.blocks, prior.heads])
        copy = trunk if sampling.compile else laid(trunk, len(self.rows), count)
        blocks, self.heads = copy
        layers = [Layer(b.norm1, b.attn.qkv, b.attn.proj, b.norm2, b.fc1, b.fc2, b.reading) for b in blocks]
        step = None
        if sampling.compile:  # one for all lengths
            step = compiled_step(prior, layers, config.heads, len(self.rows))
            count = spec.length * len(prior.radices) + 1
        rotated = config.positions == "rope"
        self.steps = Steps(layers, copy is not trunk, config.heads, self.before + count, rotated, step)

    def __call__(self, digits: Int[Tensor, "b m"]) -> list[Float[Tensor, "b v"]]:
        """Logits, guided, of the digits that follow those it was told of before and each of those it was not."""
        prior, first = self.prior, self.done
        told = digits.repeat(2, 1) if self.guided else digits
        if self.steps is None:
            return [self._guide(prior.next_logits(told, self.rows, None, self.context))]
        self.done = digits.shape[1]
        begins = not self.steps.done
        x = prior.embed(told[:, first:], self.rows if begins else None, first + (not begins))
        count, seen, known, present = x.shape[1], None, [], None
        if self.context is not None:
            known, present = self.context.known, self.context.present
            if self.before:
                x = torch.cat([self.context.vectors.to(x.dtype), x], 1) if begins else x
                seen = self.context.before(x.shape[1], self.steps.done + x.shape[1])
        x = prior.norm(self.steps(x, seen, known, present)[:, -count:])
        period = len(prior.radices)
        return [self._guide(self.heads[(self.done - count + 1 + i) % period](x[:, i])) for i in range(count)]

    def back(self, done: int) -> None:
        """Forget all but the first digits."""
        if self.steps is not None and self.done > done:
            self.steps.done -= self.done - done
            self.done = done

    def _guide(self, logits: Float[Tensor, "n v"]) -> Float[Tensor, "b v"]:
        if not self.guided:
            return logits
        conditional, free = logits.chunk(2)
        return free + self.scale * (conditional - free)


def fill(
    digits: Int[Tensor, "b n"],
    reader: Reader,
    choose: Chooser,
    told: Callable[[int], None],
    draft: Reader | None = None,
    ahead: int = 0,
) -> None:
    """Draw all digits, in their order.

    With a draft, that one draws some digits ahead, and the reader then sees all of them at once. As a digit's noise is
    its own, the reader would have drawn each of them that it draws now, up to the first one that differs, of which its
    own counts (Daliri et al., arXiv 2408.07978): digits are those without a draft. Rows wait for each other.

    Args:
        told: how many are drawn.
        ahead: digits that the draft draws.
    """
    done, count = 0, digits.shape[1]
    while done < count:
        guessed = min(ahead, count - done - 1) if draft is not None else 0
        for i in range(done, done + guessed):
            assert draft is not None
            digits[:, i] = choose(draft(digits[:, :i])[-1], i)
        for i, logits in enumerate(reader(digits[:, : done + guessed]), done):
            own = choose(logits, i)
            right = i < done + guessed and bool((own == digits[:, i]).all())
            digits[:, i] = own
            if not right:
                break
        reader.back(i)
        if draft is not None:
            draft.back(i)
        for each in range(done, i + 1):
            told(each + 1)
        done = i + 1


class Noise:
    """Gumbel noise of each digit, drawn for many digits at once. A digit's is its own, whatever was drawn before.

    Args:
        purpose: of a digit's draw, before its number.
        radices: values of each of a token's digits.
        digits: how many there will be.
    """

    def __init__(self, rng: Rng, purpose: str, radices: tuple[int, ...], digits: int) -> None:
        self.rng, self.purpose, self.radices, self.digits = rng, purpose, radices, digits
        self.together = max(1, AHEAD // max(1, len(rng.index) * sum(radices)))  # tokens
        self.held: dict[int, Tensor] = {}

    def __call__(self, digit: int) -> Float[Tensor, "b v"]:
        if digit not in self.held:
            period = len(self.radices)
            token = digit // period
            self.held = {i: each for i, each in self.held.items() if i >= (token - 1) * period}
            for place, radix in enumerate(self.radices):
                which = range(token * period + place, min(self.digits, (token + self.together) * period), period)
                drawn = self.rng.uniforms([f"{self.purpose}.{i}" for i in which], (radix,))
                self.held.update(zip(which, gumbel(drawn), strict=True))
        return self.held[digit]


class Chooser:
    """Digits by the settings, out of logits. The argmax of logits and Gumbel noise is a draw from their softmax: two
    models that agree about a digit's chances choose the same one."""

    def __init__(self, radices: tuple[int, ...], digits: int, sampling: GPTSampling, rng: Rng) -> None:
        self.sampling, self.noise = sampling, Noise(rng, "gpt/digit", radices, digits)

    def __call__(self, logits: Float[Tensor, "b v"], digit: int) -> Int[Tensor, " b"]:
        """The values of a digit."""
        if not self.sampling.temperature:
            return logits.argmax(-1)
        logits = truncate(logits / self.sampling.temperature, self.sampling.top_k, self.sampling.top_p)
        return (logits + self.noise(digit)).argmax(-1)


def truncate(logits: Float[Tensor, "b v"], top_k: int | None, top_p: float) -> Float[Tensor, "b v"]:
    """Minus infinity for all but the `top_k` likeliest, of which then those remain that together have `top_p`.

    At least one remains. The likeliest that alone or with those before it passes `top_p` is still among them.
    """
    if top_k is not None and top_k < logits.shape[-1]:
        least = logits.topk(top_k).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if top_p < 1:
        ordered, places = logits.sort(descending=True, stable=True)
        chances = ordered.softmax(-1)
        before = chances.cumsum(-1) - chances
        beyond = torch.zeros_like(before, dtype=torch.bool).scatter(-1, places, before >= top_p)
        logits = logits.masked_fill(beyond, -torch.inf)
    return logits
