"""The contracts, a file a kind. Each check takes a component and the fields that its config has no default for."""

from __future__ import annotations

from collections.abc import Sequence

from flexframe.nn.init import redraw_zeros

from . import (
    allocator,
    codec,
    component,
    conditioner,
    decoder,
    encoder,
    feed,
    importer,
    masker,
    metric,
    objective,
    observer,
    optimizer,
    prior,
    quantizer,
    source,
    transform,
)
from .materials import Check, Fields, assert_gradients, reached, sampling, spec_of
from .telling import telling

CHECKS: dict[str, tuple[Check, ...]] = {
    "codec": codec.CHECKS,
    "encoder": encoder.CHECKS,
    "quantizer": quantizer.CHECKS,
    "masker": masker.CHECKS,
    "decoder": decoder.CHECKS,
    "objective": objective.CHECKS,
    "allocator": allocator.CHECKS,
    "source": source.CHECKS,
    "prior": prior.CHECKS,
    "conditioner": conditioner.CHECKS,
    "importer": importer.CHECKS,
    "metric": metric.CHECKS,
    "feed": feed.CHECKS,
    "transform": transform.CHECKS,
    "observer": observer.CHECKS,
    "optimizer": optimizer.CHECKS,
}
"""Checks of a kind beyond those of every component."""


def of(kind: str) -> Sequence[Check]:
    """The checks of a kind."""
    return [telling(check) for check in (*component.CHECKS, *CHECKS[kind])]


def __getattr__(name: str) -> Check:
    """A check of whatever kind by its name, as `check_quantizer_rows`."""
    for kind in CHECKS:
        for check in of(kind):
            if check.__name__ == name:
                return check
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["CHECKS", "Check", "Fields", "assert_gradients", "of", "reached", "redraw_zeros", "sampling", "spec_of"]
