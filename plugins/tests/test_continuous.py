"""Continuous tokenizers get a generator by config: tokens measured and stored, a prior trained, pictures drawn."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console as Terminal

from flexframe.data.scale import hardly_vary
from flexframe.models.generator import Generator
from flexframe.models.tokenizer import Tokenizer
from flexframe.store.load import load
from flexframe.train.console import Console
from flexframe.train.feeds.create import create_feed
from flexframe.train.loop import train
from flexframe.train.run import Run
from flexframe.use.generate import generate
from flexframe.use.precompute import precompute_tokens
from flexframe_registry import ConfigError, TokenizerConfig, catalogue
from flexframe_registry.cards import cards, read_training
from flexframe_registry.slots import resolve

DATA = {"type": "scenes", "complexity": 0, "count": 24}
TOKENIZERS = {
    "kl": ("titok/digits-tiny", "quantizer={type: kl, dim: 4}"),
    "none": ("titok/digits-tiny", "quantizer={type: none, dim: 5}"),
    "softvq": ("titok/digits-tiny", "quantizer={type: softvq, codebook_size: 16, dim: 6}"),
    "semanticist": ("semanticist/digits-tiny",),
}
PRIORS = {
    "causal-denoising": {"type": "causal-denoising", "head_width": 32},
    "mar": {"type": "mar", "head_width": 32, "buffer": 2},
    "maskgen-kl": {"type": "maskgen-kl", "head_width": 32},
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokens(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Path]:
    """A tokenizer with random weights, and a file of its tokens."""
    name, *changes = TOKENIZERS[request.param]
    folder = tmp_path_factory.mktemp("tokens")
    torch.manual_seed(0)
    model = TokenizerConfig.of(cards().get(name).train(changes).model, "model")
    Tokenizer(model).eval().save(folder / "tokenizer.safetensors")
    tokenizer = load(folder / "tokenizer.safetensors")
    source = catalogue().build(resolve("source", DATA), (16, 16))
    precompute_tokens(tokenizer, source, folder / "tokens.safetensors", model=str(folder / "tokenizer.safetensors"))
    return tokenizer, folder


def config(folder: Path, prior: dict[str, Any], **fields: Any) -> Any:
    feed = {"type": "token-file", "path": str(folder / "tokens.safetensors")}
    model = {"size": "tiny", "tokenizer": str(folder / "tokenizer.safetensors"), "classes": 10, "prior": prior}
    run = {"data": DATA, "feed": feed, "steps": 2, "batch_size": 8, "optimizer": {"warmup": 1}}
    return read_training({"model": model | fields, "run": run})


@pytest.mark.parametrize("prior", PRIORS)
def test_a_prior_trains_on_its_tokens_and_draws_pictures(
    tokens: tuple[Tokenizer, Path], prior: str, tmp_path: Path
) -> None:
    tokenizer, folder = tokens
    run = Run.create(config(folder, PRIORS[prior]), tmp_path / "run", torch.device("cpu"), {"steps": 3})
    train(run, Console(Terminal(file=io.StringIO())))
    generator = load(tmp_path / "run", kind="generator")
    assert isinstance(generator, Generator)
    assert generator.config.dim == tokenizer.spec.tokens.dim
    assert generator.config.deviation is not None
    assert len(generator.config.deviation) == tokenizer.spec.tokens.dim
    sampling = {"guidance": 2.0} | ({"passes": 3} if "passes" in type(generator.sampling).model_fields else {})
    decoding = {"steps": 2} if "steps" in type(tokenizer.sampling).model_fields else {}
    done = generate(
        generator, tokenizer, tmp_path / "drawn", classes=[0, 3], count=3, sampling=sampling, decoding=decoding
    )
    assert len(list((done.folder / str(tokenizer.spec.tokens.length)).glob("*.png"))) == 3
    assert json.loads((done.folder / "generate.json").read_text())["sampling"]["guidance"] == 2.0


def test_priors_and_tokens_that_do_not_fit_are_refused(tokens: tuple[Tokenizer, Path], tmp_path: Path) -> None:
    _, folder = tokens
    with pytest.raises(ConfigError, match=r"prior 'gpt' models integer codes, and tokens of .* are continuous"):
        config(folder, {"type": "gpt"})
    discrete = {"model": {"tokenizer": "titok/digits-tiny", "classes": 10, "prior": "mar"}, "run": {"data": "digits"}}
    with pytest.raises(ConfigError, match=r"'mar' models continuous tokens, and tokens of .* are codes of 4,096"):
        read_training(discrete)


def test_tokens_that_hardly_vary_are_told(tokens: tuple[Tokenizer, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=(50, 4, 3))
    assert hardly_vary(values, "x") == []
    spread = values + 100 * np.arange(4)[None, :, None]  # as where a decoder ignores tokens, and slots stand apart
    assert hardly_vary(spread, "x")[0].startswith("x: tokens hardly vary from image to image (0.01% of their variance")
    monkeypatch.setattr("flexframe.data.scale.LITTLE", 1.01)  # all do
    raw = config(tokens[1], PRIORS["mar"])
    on_the_way = raw.model_copy(update={"run": raw.run.model_copy(update={"feed": resolve("feed", "tokens")})})
    for told, place in ((on_the_way, "run.data"), (raw, str(tokens[1] / "tokens.safetensors"))):
        (found,) = create_feed(told, torch.device("cpu")).remarks()
        assert found.startswith(f"{place}: tokens hardly vary from image to image (")
