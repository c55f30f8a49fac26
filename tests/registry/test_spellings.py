"""Earlier spellings of a run's settings: they mean what they meant, and are told once with the present ones."""

import warnings

import pytest

from flexframe_registry import ConfigError, RunConfig, cards
from flexframe_registry.spellings import MOVED, present

OFF = {
    "latents": None, "tokens": None, "workers": 0, "preload": False, "keep_latents": False, "keep_tokens": False,
    "held_out": 0, "flip": False, "shift": 0, "lr": 1e-3, "final_lr": 0.0, "warmup": 100, "betas": [0.9, 0.99],
    "weight_decay": 0.0, "clip": 1.0, "tensorboard": False, "wandb": None,
}  # fmt: skip
"""As a run that named none of them wrote them into its config.json."""


def test_what_an_earlier_run_left_as_it_was_is_what_a_run_leaves_as_it_is_now():
    assert OFF.keys() == MOVED.keys()
    with pytest.warns(FutureWarning, match=r"run\.lr is now run\.optimizer\.lr=0\.001; .*run\.clip is now") as told:
        earlier = RunConfig.read({"data": "digits", **OFF})
    assert earlier == RunConfig.read({"data": "digits"})
    assert len(told) == 1
    assert "flip" not in str(told[0].message)


@pytest.mark.parametrize(
    ("earlier", "now"),
    [
        ({"flip": True, "shift": 2}, {"transforms": ["flip", {"type": "shift", "pixels": 2}]}),
        ({"tensorboard": True, "wandb": "x"}, {"observers": ["tensorboard", {"type": "wandb", "project": "x"}]}),
        ({"latents": "x", "workers": 2}, {"feed": {"type": "latents", "path": "x", "workers": 2}}),
        ({"tokens": "x", "workers": 2, "held_out": 3}, {"feed": {"type": "token-file", "path": "x", "held_out": 3}}),
        ({"keep_latents": True, "preload": True}, {"feed": {"keep_latents": True, "preload": True}}),
        ({"warmup": 0, "betas": [0.8, 0.9]}, {"optimizer": {"warmup": 0, "betas": [0.8, 0.9]}}),
        ({"shift": 0, "transforms": ["flip", {"type": "shift", "pixels": 2}]}, {"transforms": ["flip"]}),
        ({"flip": True, "transforms": "flip"}, {"transforms": ["flip"]}),
        ({"workers": 0, "feed": {"workers": 4}}, {"feed": {"workers": 0}}),
        ({"tokens": None, "feed": {"type": "token-file", "path": "x", "held_out": 1}}, {"feed": {"held_out": 1}}),
        ({"lr": 2.0, "optimizer": "adam"}, {"optimizer": {"type": "adam", "lr": 2.0}}),
    ],
)
def test_an_earlier_spelling_is_laid_on_what_stands_in_its_place(earlier, now):
    with pytest.warns(FutureWarning, match="earlier spellings of settings still work: run"):
        assert present({"data": "digits", **earlier}) == {"data": "digits", **now}


def test_present_spellings_are_told_of_nothing_and_kept():
    run = {"data": "digits", "feed": {"workers": 2}, "optimizer": "lion", "transforms": ["flip"], "steps": 3}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert present(run) == run


def test_on_the_command_line_the_last_word_counts_however_it_is_spelled():
    card = cards().get("toy/digits-tiny")
    with pytest.warns(FutureWarning, match=r"run\.lr is now run\.optimizer\.lr=0\.5"):
        assert card.train(["run.optimizer.lr=0.1", "run.lr=0.5"]).run.optimizer.lr == 0.5
    with pytest.warns(FutureWarning, match="earlier spellings"):
        assert card.train(["run.lr=0.5", "run.optimizer.lr=0.1"]).run.optimizer.lr == 0.1


def test_another_optimizer_does_not_take_over_the_learning_rate_of_the_card_s():
    for overrides in (["run.optimizer=lion"], ["run.optimizer.type=lion"]):
        assert cards().get("toy/digits-tiny").train(overrides).run.optimizer.lr == 1e-4


def test_no_card_of_ours_uses_an_earlier_spelling(recwarn):
    for name in cards().names():
        cards().get(name)
    assert [str(each.message) for each in recwarn] == []


def test_an_earlier_spelling_beside_a_built_config_is_refused():
    built = RunConfig.read({"data": "digits"}).feed
    with pytest.raises(ConfigError, match="feed: is a config by itself"):
        RunConfig.read({"data": "digits", "feed": built, "workers": 2})
