"""Trainees: a tokenizer and the run's objectives, or a prior, as one module with one forward."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from flexframe.models.generator import Generator
from flexframe.models.tokenizer import Tokenizer
from flexframe.parts import Objective
from flexframe.rng import Rng
from flexframe.tokens import Batch, Codes, Losses, Tokens
from flexframe.train.carried import carried
from flexframe.train.init import Start, initialise
from flexframe_registry import ConfigError, GeneratorConfig, StepConfig, TokenizerConfig, TrainConfig, catalogue
from flexframe_registry.catalogue import attribute
from flexframe_registry.errors import nearest
from flexframe_registry.kinds import ENCODER, OUTPUTS, ObjectiveConfig


@dataclass(frozen=True, slots=True)
class ParameterGroup:
    """Parameters stepped together; matrices of linear and convolution layers decay, nothing else does."""

    parameters: list[nn.Parameter]
    matrices: frozenset[int]
    how: StepConfig
    start: int
    """The first step at which they can have a gradient."""

    @property
    def decayed(self) -> list[nn.Parameter]:
        """Parameters that decay."""
        return [p for p in self.parameters if id(p) in self.matrices]

    @property
    def plain(self) -> list[nn.Parameter]:
        """Parameters that do not decay."""
        return [p for p in self.parameters if id(p) not in self.matrices]

    @classmethod
    def of(cls, module: nn.Module, how: StepConfig, start: int = 0) -> ParameterGroup:
        """Group a module's parameters that learn."""
        layers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)
        matrices = frozenset(id(m.weight) for m in module.modules() if isinstance(m, layers))
        return cls([p for p in module.parameters() if p.requires_grad], matrices, how, start)


class Latents:
    """Latents of images that were seen before, by their number in the data set; on the device of the first."""

    def __init__(self) -> None:
        self.rows: dict[int, Tensor] = {}

    def prepare(self, model: Tokenizer, batch: Batch, rng: Rng) -> Batch:
        """The batch with latents, of which those that are new are encoded."""
        if batch.latents is not None or batch.images is None:
            return model.prepare(batch, rng=rng)
        numbers = batch.index.tolist()
        new = [place for place, number in enumerate(numbers) if number not in self.rows]
        if new:
            places = torch.tensor(new, device=batch.index.device)
            part = Batch(batch.index[places], batch.images[places])
            # drawn once, so at no step: whatever order, process or resumed run meets an image first
            latents = model.prepare(part, rng=rng.at(0).rows(part.index)).latents
            assert latents is not None
            self.rows |= {numbers[place]: row.clone() for place, row in zip(new, latents, strict=True)}
        return batch.with_latents(torch.stack([self.rows[number] for number in numbers]))


class Learner(nn.Module, ABC):
    """Base of all that the loop trains. `model` is what is averaged and exported."""

    model: Tokenizer | Generator

    def freeze(self, names: Sequence[str]) -> None:
        """Keep parts, or modules within them, from learning.

        Raises:
            ConfigError: the model has no such module, or nothing is left to train, if anything ever was.
        """
        if not any(p.requires_grad for p in self.model.parameters()):
            whose = "no part has parameters but the codec, which is frozen"
            raise ConfigError.at("model", f"has nothing to train: {whose}; use it as it is, or take other parts")
        self.frozen = [find_module(self.model, name, "run.freeze") for name in names]
        for module in self.frozen:
            module.requires_grad_(False)
        if not any(p.requires_grad for p in self.model.parameters()):
            raise ConfigError.at("run.freeze", "leaves nothing of the model to train")
        self.train()

    def train(self, mode: bool = True) -> Learner:
        """Enter training or evaluation; what is frozen stays in evaluation."""
        super().train(mode)
        for module in self.frozen:  # dropout and running statistics included
            module.eval()
        return self

    @property
    @abstractmethod
    def codebooks(self) -> tuple[int, int] | None:
        """Codebooks of a token whose use is logged, and the entries of each; None where there are none."""

    def initialise(self, starts: Sequence[Start]) -> list[dict[str, Any]]:
        """Start from other models' weights, where this kind of model can; says what was taken from where."""
        return []

    def facts(self) -> Mapping[str, Any]:
        """Facts that move training beyond the config, for the manifest."""
        return {}

    @abstractmethod
    def forward(self, batch: Batch, *, step: int, rng: Rng) -> tuple[Losses, Codes]:
        """Weighted losses by name (a value a sample, or a scalar for a batch statistic), and the batch's codes."""

    def probe(self, batch: Batch, *, rng: Rng) -> Mapping[str, Tensor]:
        """Measures of a batch by name, in evaluation, that no loss tells; none unless a kind of model has some."""
        return {}

    def groups(self) -> Mapping[str, ParameterGroup]:
        """The parameters that an optimizer steps, by who owns them."""
        return {"model": ParameterGroup.of(self.model, StepConfig())}


class Trainee(Learner):
    """A tokenizer under training. Objectives are here and not in the model, so no checkpoint of a model holds them."""

    model: Tokenizer

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        model = TokenizerConfig.of(config.model, "model")
        self.model = Tokenizer(model)
        self.model.codec.precision = config.run.codec_precision
        judges: list[Objective] = []
        for i, each in enumerate(config.objectives):
            try:
                objective = catalogue().build(each, self.model.spec)
                objective.check(model)
            except (ValueError, LookupError, OSError) as error:
                raise ConfigError.at(f"run.objectives.{i}", f"objective {each.type!r}: {error}") from None
            judges.append(objective)
        self.objectives = nn.ModuleList(judges)
        types = [o.type for o in config.objectives]
        names = [t if types.count(t) == 1 else f"{t}.{i}" for i, t in enumerate(types)]
        self.judges = dict(zip(names, judges, strict=True))
        """The objectives by the name that losses and parameters of theirs have; of a type that is there twice with its
        number."""
        self.latents = Latents() if config.run.feed.keeps_latents() else None
        self.freeze(config.run.freeze)

    @property
    def codebooks(self) -> tuple[int, int] | None:
        tokens = self.model.spec.tokens
        return None if tokens.codebook_size is None else (tokens.codebooks, tokens.codebook_size)

    def initialise(self, starts: Sequence[Start]) -> list[dict[str, Any]]:
        return initialise(self.model, starts)

    def forward(self, batch: Batch, *, step: int, rng: Rng) -> tuple[Losses, Codes]:
        batch = self._prepared(batch, rng)
        counting = [each.config for each in self.judges.values() if each.config.counts(step)]
        taps = frozenset[str]().union(*(each.needs() for each in counting)) - OUTPUTS
        replaced = any(each.replaces for each in counting)
        out = self.model(batch, taps=taps, rng=rng, decodes=not replaced or self._asks(counting))
        losses = {name: loss for name, loss in out.losses.items() if not (replaced and name.startswith("decoder/"))}
        for owner, objective in self.judges.items():
            config = objective.config
            if config.counts(step):
                for name, loss in objective(out, batch, step=step, rng=rng).items():
                    losses[f"{owner}/{name}"] = loss if name in objective.own else config.weight * loss
        if not losses:
            raise ValueError("nothing to train on: the model has no loss of its own and no objective counts yet")
        assert out.codes is not None
        return losses, out.codes

    @staticmethod
    def _asks(counting: Sequence[ObjectiveConfig]) -> bool:
        """Whether objectives need something that the decoder's own pass gives."""
        needs = frozenset[str]().union(*(each.needs() for each in counting)) - {"tokens", "flow"}
        return any(not name.startswith(ENCODER) for name in needs)

    def _prepared(self, batch: Batch, rng: Rng) -> Batch:
        kept = self.latents
        return self.model.prepare(batch, rng=rng) if kept is None else kept.prepare(self.model, batch, rng)

    def probe(self, batch: Batch, *, rng: Rng) -> Mapping[str, Tensor]:
        """Measures of `carried`, at full length; none of a single image."""
        if len(batch) < 2:
            return {}
        batch, model = self._prepared(batch, rng), self.model
        assert batch.latents is not None
        keep = torch.ones(len(batch), model.spec.tokens.length, dtype=torch.bool, device=batch.latents.device)
        quantized = model.quantizer(model.encoder(model.read(batch), keep), keep, rng=rng)
        values, codes = quantized.values, quantized.codes
        each = Tokens(values, keep, codes), Tokens(values.roll(1, 0), keep, codes.roll(1, 0))
        own, other = (model.decoder(tokens, batch, taps=frozenset(), rng=rng) for tokens in each)
        return carried(own, other, batch.latents, Codes(codes, keep))

    def groups(self) -> Mapping[str, ParameterGroup]:
        groups = dict(super().groups())
        for owner, objective in self.judges.items():
            group = ParameterGroup.of(objective, objective.config.stepped(), objective.config.start)
            groups |= {owner: group} if group.parameters else {}
        return groups

    def facts(self) -> Mapping[str, Any]:
        """Facts of the objectives by name, where they were made of more than their configs."""
        return {owner: facts for owner, objective in self.judges.items() if (facts := objective.facts())}


class PriorTrainee(Learner):
    """A prior under training, on batches that hold codes already."""

    model: Generator

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.model = Generator(GeneratorConfig.of(config.model, "model"))
        self.freeze(config.run.freeze)

    @property
    def codebooks(self) -> tuple[int, int] | None:
        return None  # which codes the data have is no news of training

    def forward(self, batch: Batch, *, step: int, rng: Rng) -> tuple[Losses, Codes]:
        if batch.codes is None:
            raise ValueError("a batch for a prior holds codes; this one holds none")
        if self.model.spec.classes is not None and batch.condition is None:
            text = "has no labels, and the prior is conditioned on classes; give labelled data, or model.classes=null"
            raise ConfigError.at("run.data", text)
        return self.model(batch.codes, batch.condition, rng=rng), batch.codes


def create_trainee(config: TrainConfig) -> Learner:
    """Build what trains this model."""
    assert config.model.trainee is not None  # as the config sees to
    learner: Learner = attribute(config.model.trainee)(config)
    return learner


def find_module(model: nn.Module, name: str, place: str) -> nn.Module:
    """The module of a dotted name within a model.

    Raises:
        ConfigError: there is none; at `place`, with the nearest name.
    """
    known: dict[str, nn.Module] = dict(model.named_modules())
    if not name or name not in known:
        near = nearest(name, known)
        parts = ", ".join(each for each, _ in model.named_children())
        raise ConfigError.at(place, f"the model has no module {name!r}.{near} Parts: {parts}")
    return known[name]


def means(losses: Losses) -> dict[str, Tensor]:
    """The mean of each loss."""
    return {name: loss.float().mean() for name, loss in losses.items()}


def summed(means: Mapping[str, Tensor]) -> Tensor:
    """The sum of the losses' means."""
    return sum(means.values(), start=next(iter(means.values())).new_zeros(()))


def total(losses: Losses) -> Tensor:
    """The scalar that is minimised: the sum of each loss's mean."""
    return summed(means(losses))
