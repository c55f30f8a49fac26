"""The contract of optimizers, the groups that they step, the learning rate, and the weight average."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic

import torch
from torch import Tensor, nn
from typing_extensions import TypeVar

from flexframe.parts import Part
from flexframe.train.sharding import like, local
from flexframe.train.trainee import Learner, find_module
from flexframe_registry import ConfigError, OptimizerConfig, RunConfig, catalogue
from flexframe_registry.kinds import Betas

OptimizerC = TypeVar("OptimizerC", bound=OptimizerConfig, default=OptimizerConfig)


@dataclass(frozen=True, slots=True)
class Group:
    """Parameters that are stepped alike."""

    parameters: list[nn.Parameter]
    matrices: bool
    """True for weights of linear and convolution layers."""
    weight_decay: float
    scale: float
    """Their learning rate's ratio to the run's."""
    start: int
    """The step at which their schedule begins."""
    betas: Betas | None
    """Moment decays, where they are others than the run's."""

    def entry(self) -> dict[str, Any]:
        """The group as torch's optimizers take it; the loop reads `scale` and `start` there."""
        own = {"scale": self.scale, "start": self.start}
        return {"params": self.parameters, "weight_decay": self.weight_decay, **own}

    def of(self, parameters: list[nn.Parameter]) -> Group:
        """Some of its parameters, stepped as all of them are."""
        return replace(self, parameters=parameters)


class Optimizer(ABC, Generic[OptimizerC]):
    """Makes the optimizer that its config describes. Built as `(config)`."""

    def __init__(self, config: OptimizerC) -> None:
        self.config = config

    @abstractmethod
    def create(self, groups: Sequence[Group], *, fused: bool) -> torch.optim.Optimizer:
        """Return a torch optimizer over these groups, each of whose `entry` is in one of its `param_groups`.

        The loop sets each group's `lr` before every step. All that moves the next step is in the optimizer's
        `state_dict`, as tensors and numbers.

        Args:
            fused: whether all parameters are where torch has fused optimizers.
        """


def learning_rate(run: RunConfig, step: int, *, scale: float = 1.0, start: int = 0) -> float:
    """Linear warm-up to `lr`, then a cosine that reaches `final_lr` as the last step ends.

    Args:
        scale: ratio of these parameters' rates to the run's.
        start: the step at which their schedule begins.
    """
    own = run.optimizer
    step, steps = max(0, step - start), run.steps - start
    if step < own.warmup:
        return scale * (own.lr * (step + 1) / own.warmup)
    progress = (step - own.warmup) / max(1, steps - own.warmup)
    return scale * (own.final_lr + (own.lr - own.final_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def create_optimizer(trainee: Learner, run: RunConfig) -> torch.optim.Optimizer:
    """The run's optimizer over the trainee's parameters.

    Raises:
        ConfigError: rates are given for modules that the model does not have, or that do not learn.
    """
    groups, scales = [], rates(trainee.model, run.optimizer)
    for group in trainee.groups().values():
        how = group.how
        decay = run.optimizer.weight_decay if how.weight_decay is None else how.weight_decay
        ratio = 1.0 if how.lr is None else how.lr / run.optimizer.lr
        for matrices, parameters in ((True, group.decayed), (False, group.plain)):
            alike: dict[float, list[nn.Parameter]] = {}
            for p in parameters:
                alike.setdefault(ratio * scales.get(id(p), 1.0), []).append(p)
            groups += [
                Group(some, matrices, decay if matrices else 0.0, scale, group.start, how.betas)
                for scale, some in alike.items()
            ]
    fused = all(p.device.type in ("cpu", "cuda") for p in trainee.parameters())
    made: torch.optim.Optimizer = catalogue().build(run.optimizer).create(groups, fused=fused)
    return made


def rates(model: nn.Module, config: OptimizerConfig) -> dict[int, float]:
    """Ratios of parameters' learning rates to the run's, by the parameter's `id`, as `parts` and `layer_decay` say.

    Raises:
        ConfigError: the model has no module of a name in `parts`, or nothing in it learns; or no part has layers.
    """
    scales = {id(p): 1.0 for p in model.parameters()}
    for name in sorted(config.parts, key=lambda each: each.count(".")):  # inner modules last: they count
        place = f"run.optimizer.parts.{name}"
        learning = [p for p in find_module(model, name, place).parameters() if p.requires_grad]
        if not learning:
            raise ConfigError.at(place, "has nothing that learns, so no rate is used; leave it out")
        scales |= {id(p): config.parts[name] for p in learning}
    if config.layer_decay < 1:
        layered = [part for part in model.children() if isinstance(part, Part) and part.layers()]
        if not layered:
            raise ConfigError.at("run.optimizer.layer_decay", "no part of the model has layers; leave it out")
        for part in layered:
            for p, height in heights(part).items():
                scales[id(p)] *= config.layer_decay**height
    return scales


def heights(part: Part[Any]) -> dict[nn.Parameter, int]:
    """Layers between each parameter and the part's last layer: 0 in that and behind it, as many as there are before
    the first. What is in no layer is before the first one if it is registered before it, else behind the last."""
    layers = part.layers()
    within = {p: len(layers) - 1 - i for i, layer in enumerate(layers) for p in layer.parameters()}
    outside, above = {}, len(layers)
    for p in part.parameters():
        if p in within:
            above = 0
        else:
            outside[p] = above
    return within | outside


@torch.no_grad()
def step(optimizer: torch.optim.Optimizer, skip: Tensor | None, parts: Sequence[Part[Any]] = ()) -> None:
    """One step, and what `parts` do behind it; none where `skip` is 1.0, which a fused optimizer sees on the device by
    itself, as when a gradient scaler tells it. Another one waits for the device."""
    behind = [act for part in parts if (act := part.before_step()) is not None]
    if skip is not None:
        if optimizer.defaults.get("fused"):
            optimizer.found_inf = skip  # type: ignore[attr-defined]
        elif bool(skip):
            return
    optimizer.step()
    for act in behind:
        act()


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor of a model by the place where its module keeps it, which may put another one there."""

    tensors: Mapping[str, Tensor | None]
    key: str

    def now(self) -> Tensor:
        """The tensor, of a sharded one this process's shard."""
        value = self.tensors[self.key]
        assert value is not None
        return local(value)


def places(model: nn.Module) -> dict[str, Place]:
    """The places where a model keeps the tensors of its state, by their names."""
    found = dict[str, Place]()
    for prefix, module in model.named_modules(remove_duplicate=False):
        lasting = module._buffers.keys() - module._non_persistent_buffers_set
        for tensors, keys in ((module._parameters, module._parameters.keys()), (module._buffers, lasting)):
            found |= {f"{prefix}.{key}".lstrip("."): Place(tensors, key) for key in keys if tensors[key] is not None}
    return found


class Average:
    """Exponential moving average of a model's weights in fp32; integers and what moves without learning are copied as
    they are. What cannot move, since it neither learns nor is of a module in training, is the model's own tensor and is
    not held twice; of decay 0 that is all.

    Of a sharded model each process averages its own shards.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {name: value.detach() for name, value in model.state_dict().items()}
        training = {name for name, module in model.named_modules(remove_duplicate=False) if module.training}
        learned = {name for name, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}
        self.moving = {name for name in self.state if decay and (name in learned or _owner(name) in training)}
        self.state |= {name: self.state[name].clone() for name in self.moving}
        at, averaged = places(model), {n for n in learned & self.moving if self.state[n].is_floating_point()}
        self.averaged = [(local(self.state[name]), at[name]) for name in self.state if name in averaged]
        self.copied = [(local(self.state[name]), at[name]) for name in self.state if name in self.moving - averaged]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """One step of decay min(decay, (1+step)/(10+step))."""
        decay = min(self.decay, (1 + step) / (10 + step))
        if self.averaged:
            own, theirs = zip(*((mine, place.now()) for mine, place in self.averaged), strict=True)
            torch._foreach_lerp_(own, theirs, 1 - decay)
        for mine, place in self.copied:
            mine.copy_(place.now())

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over another average's tensors, sharded as these are."""
        for name in self.moving:
            local(self.state[name]).copy_(local(like(state[name], self.state[name])))


def _owner(name: str) -> str:
    return name.rpartition(".")[0]
