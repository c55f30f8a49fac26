"""`flexframe.list_models`: cards by what one needs of them."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from fnmatch import fnmatch

from flexframe_registry import Card, ConfigError, ModelConfig, TokenizerConfig, cards
from flexframe_registry.models import ModelKind

log = logging.getLogger("flexframe")


def list_models(
    pattern: str = "*",
    *,
    kind: ModelKind | None = None,
    pretrained: bool | None = None,
    licence: str | Sequence[str] | None = None,
    max_parameters: int | None = None,
) -> list[str]:
    """Ids of the installed cards that are asked for, sorted: what `flexframe.load` takes. Nothing is fetched.

    Args:
        pattern: of ids, as `grid/*`.
        kind: `tokenizer`, `generator` or `codec`; None takes all.
        pretrained: True for those that have weights, here or on the hub; False for those without; None takes all.
        licence: the card's licence, as `Apache-2.0`, or several, one of which it must be. Word for word but for the
            case, since what follows may take it back ("of the weights not stated"); `Apache-2.0*` takes all that begins
            so.
        max_parameters: the most parameters in all, the codec's among them. A card that does not say its `parameters`
            is built without their numbers to count them, which takes torch.
    """
    wanted = [licence] if isinstance(licence, str) else licence
    found = []
    for name in cards().names():
        if not fnmatch(name, pattern):
            continue
        try:
            card = cards().get(name)
            config = card.described
            with_weights = _has_weights(card)
        except (ConfigError, LookupError) as error:
            log.warning("card %s is left out, for it cannot be read: %s", name, error)
            continue
        if kind not in (None, config.kind) or pretrained not in (None, with_weights):
            continue
        if wanted is not None and not any(fnmatch(card.file.licence.lower(), each.lower()) for each in wanted):
            continue
        if max_parameters is None or (card.file.parameters or _count(name, config)) <= max_parameters:
            found.append(name)
    return found


def _has_weights(card: Card) -> bool:
    try:
        return card.weighted().file.weights is not None
    except ConfigError:  # another model than its base, to be trained
        return False


def _count(name: str, config: ModelConfig) -> float | int:
    """Parameters of a model; without end, with a warning, where it cannot be built."""
    try:
        return count_parameters(config)
    except ImportError as error:
        log.warning("card %s is left out, for its parameters cannot be counted: %s", name, error)
        return math.inf


def count_parameters(config: ModelConfig) -> int:
    """Parameters of a model, the codec's among them: what a card says as `parameters`. Nothing is allocated.

    Raises:
        ImportError: what it takes is not installed.
    """
    import torch

    from flexframe.models import profile
    from flexframe.models.build import build

    if not isinstance(config, TokenizerConfig):
        with torch.device("meta"):
            return sum(each.numel() for each in build(config).parameters())
    sizes = profile.build(config)[1]
    for size in sizes:
        if size.missing:
            raise ImportError(size.missing)
    return sum(size.parameters for size in sizes)
