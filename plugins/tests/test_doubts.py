"""Obstacles to and doubts about runs of real parts: each with its place, its number and its remedy."""

import pytest
import torch

from flexframe.rng import Rng
from flexframe.tokens import Batch, Tokens
from flexframe_flextok import FlowDecoderConfig
from flexframe_flextok.decoder import FlowDecoder
from flexframe_registry import LatentSpec, Spec, TokenSpec, cards
from flexframe_registry.cards import read_training
from flexframe_registry.doubts import doubts, obstacles, of_card

FLEXTOK, TITOK, GRID = "flextok/digits-tiny", "titok/digits-tiny", "grid/digits-tiny"
DOUBTS = [
    # card, settings, place, words
    (TITOK, "image_size=64 encoder.patch=16 decoder.patch=16", "decoder.width", "64 spans 8% of the 768 values of a"),
    (TITOK, "decoder.proxy_codebook=64", "decoder.proxy_codebook", "64 does nothing with the head 'pixels'"),
    (
        GRID,
        "image_size=128 decoder.stem=16 encoder.stem=16 length=4",
        "decoder.stem",
        "16 folds 768 values into 32 cha",
    ),
    (
        FLEXTOK,
        "decoder.mode_scale=0.5 decoder.time_sampling=logit-normal",
        "decoder.mode_scale",
        "0.5 does nothing with",
    ),
    (FLEXTOK, "decoder.single_null=true decoder.null_dropout=0", "decoder.single_null", "where null_dropout is 0"),
    (
        FLEXTOK,
        "quantizer.apply_corrupt_tokens_p=0.5",
        "quantizer.apply_corrupt_tokens_p",
        "0.5 does nothing where corr",
    ),
    (
        FLEXTOK,
        "quantizer.corrupt_tokens_p=0.1 quantizer.apply_corrupt_tokens_p=0",
        "quantizer.corrupt_tokens_p",
        "0.1 doe",
    ),
    (FLEXTOK, "quantizer={type: vq, decay: 0.9}", "quantizer.decay", "0.9 does nothing without ema; set ema: true"),
    (FLEXTOK, "quantizer={type: residual-vq, ema: false, decay: 0.9}", "quantizer.decay", "0.9 does nothing without"),
    (TITOK, "run.steps=300", "quantizer.dead_code_threshold", "0.02 replaces no entry before step 390 of 300: counts"),
    (
        FLEXTOK,
        "run.steps=210 quantizer={type: residual-vq, decay: 0.98, dead_code_threshold: 0.1}",
        "quantizer.dead_code_threshold",
        "0.1 replaces no entry before step 114 of 210",
    ),
    (FLEXTOK, "quantizer={type: product-vq, codebooks: 1}", "quantizer.codebooks", "1 leaves nothing to divide"),
    (FLEXTOK, "quantizer={type: ibq, entropy: 0, diversity: 2}", "quantizer.diversity", "2 does nothing where entropy"),
    (FLEXTOK, "quantizer={type: softvq, codebook_size: 64, tau: 1}", "quantizer.tau", "1 leaves no entry more than 10"),
    (FLEXTOK, "quantizer={type: gumbel, final_temperature: 0.5}", "quantizer.final_temperature", "0.5 does nothing"),
    (
        FLEXTOK,
        "run.steps=9 quantizer={type: gumbel, anneal_steps: 10}",
        "quantizer.anneal_steps",
        "10 are more than",
    ),
    (FLEXTOK, "quantizer={type: lfq, pooled: true}", "quantizer.pooled", "true does nothing with one codebook"),
    (FLEXTOK, "quantizer={type: lfq, entropy: 0, diversity: 2}", "quantizer.diversity", "2 does nothing where entropy"),
    (
        FLEXTOK,
        "quantizer={type: none, dim: 512} masker=full",
        "length",
        "are 4,096, and the latents have 768: nothing is compressed",
    ),
    (FLEXTOK, "length=512", "length", "all tokens (512) are 8,174 bits, and the image itself has 6,144"),
    (
        FLEXTOK,
        "length=1 quantizer={type: vq, codebook_size: 64} masker=full",
        "length",
        "all tokens (1) are 6 bits, which tell at most 64",
    ),
    (FLEXTOK, "length=1", "length", "1 leaves masker 'pow2' nothing to drop"),
    (
        TITOK,
        "run.objectives=[mse,{type: l1, start: 99999}]",
        "run.objectives.1.start",
        "99999 is not before the last step",
    ),
    (
        TITOK,
        "run.objectives=[mse,{type: l1, weight: 0}]",
        "run.objectives.1.weight",
        "0 leaves objective 'l1' without eff",
    ),
    (
        TITOK,
        "run.objectives=[{type: repa, teacher: null, dim: 8}]",
        "run.objectives",
        "'repa' see inner features alone",
    ),
    (FLEXTOK, "run.optimizer.final_lr=0.003", "run.optimizer.final_lr", "0.003 is above the peak, 0.002"),
    (FLEXTOK, "run.steps=200 run.optimizer.warmup=300", "run.optimizer.warmup", "300 steps are the whole run of 200"),
    (FLEXTOK, "run.sample_count=9", "run.sample_count", "9 does nothing without pictures; set run.sample_every"),
    (FLEXTOK, "run.optimizer.lr=0.02", "run.optimizer.lr", "0.02 is 10 times the recipe's 0.002"),
]


def train(name, settings=""):
    return cards().get(name).train([word for word in _words(settings) if word])


def _words(settings):
    """Settings apart, each of which may hold spaces within brackets."""
    words, depth = [""], 0
    for letter in settings:
        depth += (letter in "[{") - (letter in "]}")
        if letter == " " and not depth:
            words.append("")
        else:
            words[-1] += letter
    return words


@pytest.mark.parametrize(("name", "settings", "place", "words"), DOUBTS, ids=lambda value: str(value)[:40])
def test_what_is_unlikely_to_be_meant_is_told(name, settings, place, words):
    config = train(name, settings)
    told = dict(of_card(cards().get(name), config))
    assert list(told) == [place]
    assert words in told[place]
    assert dict(of_card(cards().get(name), train(name))) == {}
    assert obstacles(config) == []


@pytest.mark.parametrize("prior", [{"type": "gpt", "class_dropout": 0.3}, {"type": "rar", "class_dropout": 0.3}])
def test_a_prior_doubts_the_dropout_of_no_classes(prior):
    model = {"size": "tiny", "tokenizer": "titok/digits-tiny", "prior": prior}
    config = read_training({"kind": "generator", "model": model, "run": {"data": "digits", "steps": 200_000}})
    ((place, text),) = doubts(config)
    assert place == "prior.class_dropout"
    assert "0.3 does nothing without classes" in text


def test_orders_that_are_permuted_to_the_end_are_doubted():
    model = {"size": "tiny", "tokenizer": "titok/digits-tiny", "classes": 10, "prior": "rar"}
    config = read_training({"kind": "generator", "model": model, "run": {"data": "digits", "steps": 1000}})
    ((place, text),) = doubts(config)
    assert place == "prior.anneal_start"
    assert "125000 is not before the last step, 1000" in text


@pytest.mark.parametrize("objectives", ["[]", "[{type: mse, start: 100000}]", "[{type: mse, weight: 0}]"])
def test_a_decoder_without_any_loss_is_refused(objectives):
    ((place, text),) = obstacles(train(TITOK, f"run.objectives={objectives}"))
    assert place == "run.objectives"
    assert "leave decoder 'vit' without a loss" in text
    assert "take run.objectives=mse" in text
    assert obstacles(train(FLEXTOK, "run.objectives=[]")) == []  # a flow has its own


@pytest.mark.slow
def test_no_training_gets_below_the_least_loss_that_is_told():
    """200 steps of a decoder of width 16 on patches of 48 values come to 0.71; of 12 values to 0.02."""
    spec, losses = Spec(LatentSpec(3, 8, 8), 16, TokenSpec(1, 2)), {}
    for patch in (4, 2):
        torch.manual_seed(0)
        config = FlowDecoderConfig(width=16, depth=1, head_dim=8, patch=patch, null_dropout=0)
        decoder, index = FlowDecoder(config, spec), torch.arange(64)
        optimizer = torch.optim.AdamW(decoder.parameters(), 1e-2)
        tokens = Tokens(torch.zeros(64, 1, 2), torch.ones(64, 1, dtype=torch.bool), torch.zeros(64, 1, 2))
        grey, kept = torch.full((64, 3, 8, 8), 0.5), []
        for step in range(200):
            batch = Batch(index, grey, latents=grey)
            loss = decoder(tokens, batch, taps=frozenset(), rng=Rng(0, index, step)).losses["flow"].mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            kept.append(loss.item())
        losses[patch] = sum(kept[-20:]) / 20
    told = "".join(text for _, text in FlowDecoderConfig(width=16, head_dim=8, patch=4).obstacles(spec))
    assert "16 is less than the 48 values" in told
    assert "the loss cannot fall below 0.667" in told
    assert 0.667 < losses[4] < 0.8
    assert losses[2] < 0.1
