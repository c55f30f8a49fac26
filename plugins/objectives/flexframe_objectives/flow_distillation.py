"""Distillation of a guided flow of many steps into an unguided one of few."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flexframe.models.fingerprint import fingerprint
from flexframe.parts import Objective
from flexframe.rng import Rng
from flexframe.store.load import load
from flexframe.tokens import Batch, Flow, Losses, Outputs, Tokens
from flexframe_registry import Spec, TokenizerConfig

from . import FlowDistillationConfig
from .networks import RANDOM


class Teacher(Protocol):
    """A model that has a flow under tokens."""

    def flow(self, tokens: Tokens) -> Flow:
        """The flow that is taught."""


class Guided:
    """The frozen decoder of a tokenizer. It is no module of a run's, so that no checkpoint holds it."""

    def __init__(self, name: str, sampling: Mapping[str, Any]) -> None:
        with torch.random.fork_rng(devices=[]):
            self.name, self.model = name, load(name).requires_grad_(False)
        self.sampling = self.model.sampling.laid(sampling)

    def flow(self, tokens: Tokens) -> Flow:
        """Its flow, guided by its settings of use, on the tokens' device."""
        if self.model.device != tokens.device:
            self.model.to(tokens.device)
        return self.model.decoder.flow(tokens, self.sampling)

    def check(self, model: TokenizerConfig) -> None:
        """Check that its flow is of a model's latents, under its tokens.

        Raises:
            ValueError: it has no flow, or not of these.
        """
        if "flow" not in self.model.config.decoder.provides():
            raise ValueError(
                f"teacher {self.name!r} has a decoder {self.model.config.decoder.type!r}, which is no flow"
            )
        own, other = model.spec, self.model.spec
        for what, here, there in (("latents", own.latents, other.latents), ("tokens", own.tokens, other.tokens)):
            if here != there:
                raise ValueError(f"teacher {self.name!r} has {what} {there}, and the model {here}; make them equal")
        none = torch.zeros(0, own.tokens.length, own.tokens.dim, device=self.model.device)
        self.model.decoder.flow(Tokens(none, none[..., 0] > 0, none), self.sampling)


class Random:
    """A flow that learns nothing and teaches nothing."""

    def flow(self, tokens: Tokens) -> Flow:
        """Velocities that are the place itself, and a little more with time."""
        return Flow(lambda x, times, strides: x + times[:, None, None, None], lambda latents: latents)


def column(values: Float[Tensor, " b"]) -> Float[Tensor, "b 1 1 1"]:
    """A value a row, to be multiplied with latents."""
    return values[:, None, None, None]


class FlowDistillation(Objective):
    """Squared error of velocities over long steps, a mean over values. See `FlowDistillationConfig`."""

    config: FlowDistillationConfig

    def __init__(self, config: FlowDistillationConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        assert config.teacher is not None  # as the config sees to
        self.teacher: Guided | Random = (
            Random() if config.teacher == RANDOM else Guided(config.teacher, config.sampling)
        )

    def check(self, model: TokenizerConfig) -> None:
        if len(set(self.config.steps)) > 1 and not model.decoder.knows_strides():
            told = f"several numbers of steps need a decoder that is told a step's length, and {model.decoder.type!r}"
            raise ValueError(f"{told} is not; set its `strides: true` where it has that, or give one of `steps`")
        if isinstance(self.teacher, Guided):
            self.teacher.check(model)

    def facts(self) -> Mapping[str, Any]:
        if isinstance(self.teacher, Random):
            return {"teacher": RANDOM}
        return {"teacher": self.teacher.name, "fingerprint": fingerprint(self.teacher.model)}

    def forward(self, outputs: Outputs, batch: Batch, *, step: int, rng: Rng) -> Losses:
        if outputs.flow is None or outputs.tokens is None or batch.latents is None:
            raise ValueError("flow-distillation reads a flow, its tokens and the batch's latents; one is missing")
        tokens = replace(outputs.tokens, values=outputs.tokens.values.detach())
        teacher, data = self.teacher.flow(tokens), outputs.flow.data(batch.latents)
        learn = self.trajectory if self.config.by == "trajectory" else self.consistency
        return {"velocity": learn(outputs.flow, teacher, data, rng)}

    def trajectory(self, student: Flow, teacher: Flow, data: Tensor, rng: Rng) -> Float[Tensor, " b"]:
        """Long steps from places on the teacher's way, against where it goes from there."""
        states = self.way(teacher, rng.normal("distillation/noise", data.shape[1:]))
        rows, short = torch.arange(len(data), device=data.device), self.config.teacher_steps
        total = data.new_zeros(len(data), dtype=torch.float32)
        for use in range(self.config.uses):
            counts, places = self.long_steps(rng, str(use))
            begin, end = states[places * short // counts, rows], states[(places + 1) * short // counts, rows]
            length = 1 / counts
            found = student.velocity(begin, 1 - places / counts, length)
            total = total + (found - (begin - end) / column(length)).square().mean((1, 2, 3))
        return total / self.config.uses

    @torch.no_grad()
    def way(self, teacher: Flow, noise: Tensor) -> Float[Tensor, "n b c h w"]:
        """Places of the teacher from noise to data, one more than it takes short steps."""
        count, states = self.config.teacher_steps, [noise]
        stride = noise.new_full((len(noise),), 1 / count)
        for i in range(count):
            velocity = teacher.velocity(states[-1], noise.new_full((len(noise),), 1 - i / count), stride)
            states.append(states[-1] - velocity / count)
        return torch.stack(states)

    def consistency(self, student: Flow, teacher: Flow, data: Tensor, rng: Rng) -> Float[Tensor, " b"]:
        """A step to the end of a long one from noised data, against one that the teacher has begun."""
        short, (counts, places) = self.config.teacher_steps, self.long_steps(rng, "0")
        inner = torch.floor(rng.uniform("distillation/inner") * (short // counts))
        begin = 1 - places / counts - inner / short
        length = 1 / counts - inner / short
        x = column(begin) * rng.normal("distillation/noise", data.shape[1:]) + column(1 - begin) * data
        with torch.no_grad():
            rest = (length - 1 / short).clamp(min=0)
            ahead = x - teacher.velocity(x, begin, torch.full_like(begin, 1 / short)) / short
            target = x - ahead + column(rest) * student.velocity(ahead, begin - 1 / short, rest)
        return (student.velocity(x, begin, length) - target / column(length)).square().mean((1, 2, 3))

    def long_steps(self, rng: Rng, use: str) -> tuple[Int[Tensor, " b"], Int[Tensor, " b"]]:
        """Draw how many long steps each row takes, and which of them it is at."""
        several = torch.tensor(self.config.steps, device=rng.index.device)
        counts = several[rng.integers(f"distillation/steps/{use}", len(several))]
        places = torch.floor(rng.uniform(f"distillation/place/{use}") * counts).long()
        return counts, places
