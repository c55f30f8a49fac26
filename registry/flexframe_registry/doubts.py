"""Obstacles to a run, which refuse it, and doubts about it, which are told: both known before its first step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .cards import Card, cards
from .errors import ConfigError
from .kinds import ObjectiveConfig
from .models import GeneratorConfig, TokenizerConfig
from .runs import USUAL, TrainConfig

Problems = Sequence[tuple[str, str]]
"""Pairs of a place in a config, as the command line spells it, and a sentence."""
DECADE = 10.0
"""A learning rate is doubted from so many times the usual one on."""
FEW_BITS = 16.0
"""Tokens of fewer bits in all are doubted: they tell fewer images apart than a small data set has."""
SMOKE = 100
"""Steps of a run that only shows whether it runs; its schedule is not doubted."""


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
        told += [*_information(model), *_judges(config, model)]
    elif isinstance(model, GeneratorConfig):
        told += [(f"prior.{field}", text) for field, text in model.prior.doubts_of_codes(model.spec, steps)]
    return [*told, *_schedule(config), *_rate(config, usual_rate)]


def obstacles(config: TrainConfig) -> list[tuple[str, str]]:
    """List what keeps the parts that learn from learning; a frozen one need not."""
    if not isinstance(config.model, TokenizerConfig):
        return []
    spec, still = config.model.spec, ("codec", *config.run.freeze)
    learning = {name: part for name, part in config.model.parts.items() if name not in still}
    told = [(f"{name}.{field}", text) for name, part in learning.items() for field, text in part.obstacles(spec)]
    decoder, usual = config.model.decoder, config.model.decoder.usual_objectives()
    if usual and not _counting(config):  # one that names none has a loss of its own
        why = f"leave decoder {decoder.type!r} without a loss in all {config.run.steps} steps: it has none of its own"
        told.append(("run.objectives", f"{why}, and no objective counts; take run.objectives={usual[0]}"))
    return [*told, *_unmoved(config, [name for name in ("encoder", "quantizer") if name in learning])]


def _unmoved(config: TrainConfig, learning: Sequence[str]) -> Problems:
    """Parts before the tokens that learn beside an objective which takes the decoder's losses away and compares with
    the tokens alone: nothing would move them but decay and revivals, away from what is taught."""
    counting = _counting(config)
    alone = next((each for each in counting if each.replaces and "tokens" in each.still()), None)
    moved = any((each.needs() - each.still()) and not each.replaces for each in counting)
    if alone is None or moved or not learning:
        return []
    text = f"leaves {' and '.join(learning)} to learn, and objective {alone.type!r} moves the decoder alone"
    return [("run.freeze", f"{text}; take run.freeze=[encoder,quantizer]")]


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


def _counting(config: TrainConfig) -> list[ObjectiveConfig]:
    return [each for each in config.objectives if each.weight > 0 and each.start < config.run.steps]


def _judges(config: TrainConfig, model: TokenizerConfig) -> Iterator[tuple[str, str]]:
    """Objectives that never count or that an encoder misses, and a decoder whose last layer none of them sees."""
    counting = _counting(config)
    for i, each in enumerate(config.objectives):
        place = f"run.objectives.{i}"
        if each.start >= config.run.steps:
            text = f"{each.start} is not before the last step, {config.run.steps}, so {each.type!r} never counts"
            yield f"{place}.start", f"{text}; start it earlier, or leave it out"
        elif each.weight == 0:
            yield f"{place}.weight", f"0 leaves objective {each.type!r} without effect on the model; leave it out"
    types = {each.type for each in counting}
    for name in (usual for usual in model.encoder.usual_objectives() if usual not in types):
        text = f"lack {name!r}, by which encoder {model.encoder.type!r} usually learns what it alone has"
        yield "run.objectives", f"{text}; add {name}"
    seen = frozenset[str]().union(*(each.needs() for each in counting))
    if counting and model.decoder.usual_objectives() and not seen & {"reconstruction", "logits"}:
        names = " and ".join(repr(each.type) for each in counting)
        usual = model.decoder.usual_objectives()[0]
        yield (
            "run.objectives",
            f"{names} see inner features alone, so what the decoder gives is not trained; add {usual}",
        )


def _information(model: TokenizerConfig) -> Iterator[tuple[str, str]]:
    """What all tokens hold, against what there is to hold."""
    tokens, latents, bits = model.spec.tokens, model.spec.latents, model.bits_per_token
    height, width = model.image_size
    if bits is None:
        numbers, own = tokens.length * tokens.dim, latents.channels * latents.height * latents.width
        # where training drops tokens, what is left of them is compressed, and copying will not do
        if min(model.budgets) * tokens.dim >= own:
            text = f"{tokens.length} tokens of {tokens.dim} numbers are {numbers:,}, and the latents have {own:,}"
            yield "length", f"{text}: nothing is compressed, and copying will do; take fewer tokens or a smaller dim"
        return
    total, raw = bits * tokens.length, 24 * height * width
    if total >= raw:
        text = f"all tokens ({tokens.length}) are {total:,.0f} bits, and the image itself has {raw:,}"
        yield "length", f"{text}: nothing is compressed; take fewer tokens or a smaller codebook"
    elif total < FEW_BITS:
        text = f"all tokens ({tokens.length}) are {total:.3g} bits, which tell at most {2**total:,.0f} images apart"
        yield "length", f"{text}; take more tokens or a larger codebook"
    if model.masker.masked and tokens.length == 1:
        yield "length", f"1 leaves masker {model.masker.type!r} nothing to drop; take more tokens, or masker=full"


def _schedule(config: TrainConfig) -> Iterator[tuple[str, str]]:
    run, optimizer = config.run, config.run.optimizer
    if optimizer.final_lr > optimizer.lr:
        text = f"{optimizer.final_lr:g} is above the peak, {optimizer.lr:g}, so the rate rises to the end"
        yield "run.optimizer.final_lr", f"{text}; lower it with the peak"
    if optimizer.warmup >= run.steps > SMOKE:
        text = f"{optimizer.warmup} steps are the whole run of {run.steps}, so the rate never reaches its peak"
        yield "run.optimizer.warmup", f"{text}; shorten it to a tenth of the run"
    if not run.sample_every and any(True for _ in run.changed("sample_count")):
        yield (
            "run.sample_count",
            f"{run.sample_count} does nothing without pictures; set run.sample_every, or leave it out",
        )
