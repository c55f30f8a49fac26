"""Obstacles to a run, which refuse it, and doubts about it, which are told: both known before its first step."""

from __future__ import annotations

from collections.abc import Sequence

from .cards import Card, cards
from .errors import ConfigError
from .models import GeneratorConfig, TokenizerConfig
from .runs import USUAL, TrainConfig

Problems = Sequence[tuple[str, str]]
"""Pairs of a place in a config, as the command line spells it, and a sentence."""
DECADE = 10.0
"""A learning rate is doubted from so many times the usual one on."""


def doubts(config: TrainConfig, usual_rate: float | None = None) -> list[tuple[str, str]]:
    """The doubts about a run, of its parts and of their fit.

    Args:
        usual_rate: the learning rate of the recipe that the run began from; None for the optimizer's own default.
    """
    model, steps = config.model, config.run.steps
    told: list[tuple[str, str]] = []
    if isinstance(model, TokenizerConfig):
        for name, part in model.parts.items():
            told += [(f"{name}.{field}", text) for field, text in part.doubts(model.spec, steps)]
        for i, objective in enumerate(config.objectives):
            place = f"run.objectives.{i}"
            told += [(f"{place}.{field}", text) for field, text in objective.doubts(model.spec, steps)]
    elif isinstance(model, GeneratorConfig):
        told += [(f"prior.{field}", text) for field, text in model.prior.doubts_of_codes(model.spec, steps)]
    return [*told, *_rate(config, usual_rate)]


def obstacles(config: TrainConfig) -> list[tuple[str, str]]:
    """What keeps the parts that learn from learning; a frozen one need not."""
    if not isinstance(config.model, TokenizerConfig):
        return []
    spec, still = config.model.spec, ("codec", *config.run.freeze)
    learning = {name: part for name, part in config.model.parts.items() if name not in still}
    return [(f"{name}.{field}", text) for name, part in learning.items() for field, text in part.obstacles(spec)]


def check(config: TrainConfig, doubted: Problems) -> None:
    """Refuse a new run that cannot learn; and one with doubts, where it is strict.

    Raises:
        ConfigError: all that is in the way.
    """
    problems = [*obstacles(config), *(doubted if config.run.strict else ())]
    if problems:
        raise ConfigError(problems)


def of_card(card: Card, config: TrainConfig) -> list[tuple[str, str]]:
    """The doubts about a run of a card with settings on top.

    The usual rate is that of the nearest installed card, this one or one that it builds on, for the same optimizer. A
    file of the user's own is no authority on itself.
    """
    below: Card | None = card
    while below is not None:
        optimizer = (below.file.run or {}).get("optimizer", {})
        own = optimizer if isinstance(optimizer, dict) and below.id in cards().files else {}
        if "lr" in own and own.get("type", USUAL["optimizer"]) == config.run.optimizer.type:
            return doubts(config, float(own["lr"]))
        below = below.base
    return doubts(config)


def _rate(config: TrainConfig, usual: float | None) -> Problems:
    """The rate against the recipe's. A rule by width alone would doubt what recipes of this size do well with: the
    rates of those that are known to work lie within a factor of twenty of each other, at any width."""
    optimizer = config.run.optimizer
    whose = "the recipe's"
    if usual is None:
        usual, whose = float(type(optimizer).model_fields["lr"].get_default()), f"{optimizer.type}'s usual"
    if optimizer.lr < DECADE * usual * (1 - 1e-9):
        return []
    text = (
        f"{optimizer.lr:g} is {optimizer.lr / usual:.0f} times {whose} {usual:g}, and is likely to diverge or to stall"
    )
    return [("run.optimizer.lr", f"{text}; lower it")]
