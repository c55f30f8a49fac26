"""Checks of feeds."""

from __future__ import annotations

import torch

from flexframe_registry import Component, ConfigError, TrainConfig
from flexframe_registry.models import MODELS

from .materials import BATCH, Check, Fields, small_model, tiny

STEPS = 4


def check_feed_says_whom_it_feeds(component: Component, fields: Fields) -> None:
    """Its config names kinds of model that there are."""
    models = tiny(component, fields).models
    assert models and models <= set(MODELS), f"feeds {sorted(models)}; kinds of model are {sorted(MODELS)}"


def check_feed_batches(component: Component, fields: Fields) -> None:
    """A tokenizer's batches are those of their step whenever it is entered, of the rows that `rows` names.

    A feed whose data are not here says so by a `ConfigError`, and is asked for nothing more.
    """
    config = tiny(component, fields)
    if "tokenizer" not in config.models:
        return
    run = {"data": "digits", "feed": config, "steps": STEPS, "batch_size": BATCH}
    training = TrainConfig.read({"model": small_model(), "run": run})
    try:
        feed = component.load()(config, training, torch.device("cpu"))
    except ConfigError:
        return
    assert len(feed) > 0
    whole, later = list(feed.batches(0)), list(feed.batches(STEPS // 2))
    assert [len(whole), len(later)] == [STEPS, STEPS - STEPS // 2], "there is a batch for each step to the last"
    for step, batch in enumerate(whole):
        assert batch.index.tolist() == feed.rows(step), "a batch is not of the rows that `rows` names"
    for batch, again in zip(whole[STEPS // 2 :], later, strict=True):
        for name in ("index", "images", "latents"):
            one, other = getattr(batch, name), getattr(again, name)
            assert (one is None) == (other is None)
            assert one is None or torch.equal(one, other), f"{name} of a step depend on when it is entered"


CHECKS: tuple[Check, ...] = (check_feed_says_whom_it_feeds, check_feed_batches)
