"""The weights that ship: they load by their cards' names, as a user writes it, and are as good as the README says."""

from functools import cache

import pytest
import torch
from sklearn.svm import SVC

import flexframe
from flexframe.rng import Rng
from flexframe_registry import cards
from flexframe_standard import DigitsConfig
from flexframe_standard.sources.digits import Digits

SHIPPED = [n for n in cards().names() if (weights := cards().get(n).file.weights) and weights.path is not None]

SEEN = 0.45
"""The least share of drawn digits that are the one asked for; a tenth by chance."""


@cache
def held_out():
    """A third of the held-out images, and the labels that a classifier of the training digits gives images."""
    train, val = (Digits(DigitsConfig(split=split), (16, 16)) for split in ("train", "val"))
    grey = torch.stack([sample.image[0] for sample in train.samples(range(len(train)))])
    judge = SVC(C=10).fit(grey.flatten(1).numpy() / 255, train.labels)
    images = torch.stack([sample.image for sample in val.samples(range(120))]).float() / 255
    return images, lambda given: judge.predict(given.mean(1).flatten(1).numpy())


@cache
def quality(name):
    """(PSNR in dB, share of equal labels) by token count."""
    images, judge = held_out()
    tokenizer = flexframe.load(name)
    found, real = {}, judge(images)
    for budget in tokenizer.config.budgets:
        decoded = tokenizer.decode(tokenizer.encode(images, lengths=budget), rng=Rng(0, torch.arange(len(images))))
        psnr = -10 * torch.log10((decoded - images).square().mean((1, 2, 3))).mean()
        found[budget] = (float(psnr), float((judge(decoded) == real).mean()))
        print(f"{name} at {budget} tokens: {found[budget][0]:.2f} dB, {found[budget][1]:.1%} keep their label")
    return found


def test_both_methods_ship():
    assert {"flextok/digits-tiny", "titok/digits-tiny"} <= set(SHIPPED)
    scenes = {"grid/scenes-64", "flextok/scenes-64", "titok/scenes-64-16", "titok/scenes-64-4"}
    assert scenes <= set(SHIPPED)


def test_all_weights_together_are_small():
    """Of the bytes the pair for photographs has half, each of it with its codec."""
    paths = {cards().get(name).folder / cards().get(name).file.weights.path for name in SHIPPED}
    assert sum(path.stat().st_size for path in paths) <= 92e6


@pytest.mark.slow
def test_flextok_is_as_good_as_promised():
    found = quality("flextok/digits-tiny")
    assert list(found) == [1, 2, 4, 8]
    psnr = [found[budget][0] for budget in found]
    assert psnr == sorted(psnr)
    assert found[8][0] >= 22
    assert found[8][1] >= 0.95
    assert found[1][1] >= 0.8  # a digit, and usually the right one, at a single token


@pytest.mark.slow
def test_titok_is_as_good_as_promised():
    psnr, agreement = quality("titok/digits-tiny")[8]
    assert psnr >= 22
    assert agreement >= 0.95


@pytest.mark.slow
def test_a_prior_of_continuous_tokens_draws_the_digit_that_is_asked():
    prior, tokenizer = flexframe.load("mar/digits-tiny", kind="generator"), flexframe.load("grid/digits-tiny-kl")
    labels = torch.arange(10).repeat(20)
    images = tokenizer.decode(tokenizer.tokens(prior.sample(labels).codes))
    assert (torch.from_numpy(held_out()[1](images)) == labels).float().mean() >= SEEN


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_is_the_one_its_card_describes(name):
    card, model = cards().get(name), flexframe.load(name, kind=None)
    # a prior's file says by itself which tokenizer's codes it is of, of what scale, and what its classes are called
    untold = {"fingerprint": None, "class_names": (), "mean": None, "deviation": None}
    untold = untold if model.config.kind == "generator" else {}
    assert model.config.model_copy(update=untold) == card.described
    assert not model.training
    if model.config.kind != "codec":  # which draws nothing at use
        assert model.sampling.model_dump(exclude_unset=True) == card.file.sampling


def test_the_readme_snippet_runs():
    images = held_out()[0][:2]
    tok = flexframe.load("flextok/digits-tiny")
    tokens = tok.encode(images, lengths=8)
    images = tok.decode(tokens, rng=0, sampling={"steps": 20, "guidance": 3.0})
    assert images.shape == (2, 3, 16, 16)
