"""Bits of tokens under a prior: those of its likelihood, token by token, and a page that draws numbers over them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from flexframe.bench import runner
from flexframe.bench.report import write
from flexframe.models.fingerprint import fingerprint
from flexframe.models.generator import Generator
from flexframe.models.tokenizer import Tokenizer
from flexframe.store.load import load
from flexframe.tokens import Codes, Condition
from flexframe_registry import ConfigError, GeneratorConfig, SuiteConfig

COUNT = 10


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load("titok/digits-tiny")


def prior(tokenizer: Tokenizer, to: Path, **fields: Any) -> str:
    torch.manual_seed(0)
    spec = tokenizer.config.spec.tokens
    raw = {"size": "tiny", "length": spec.length, "codebook_size": spec.codebook_size, "classes": 10, "prior": "gpt",
           "fingerprint": fingerprint(tokenizer)}  # fmt: skip
    made = Generator(GeneratorConfig.read(raw | fields))
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    made.save(to)
    return str(to)


def suite(*priors: str) -> SuiteConfig:
    coded = {"type": "coded-bits", "priors": priors}
    return SuiteConfig.read({"data": {"type": "digits", "split": "val"}, "count": COUNT, "metrics": ["psnr", coded]})


@pytest.mark.parametrize("names", [("a", "b"), tuple("abcdefghijkl")])
def test_classes_that_are_not_the_priors_are_not_told(
    names: tuple[str, ...], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    for number, name in enumerate(names):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.new("RGB", (16, 16), (20 * number,) * 3).save(tmp_path / "data" / name / "0.png")
    where = prior(tokenizer, tmp_path / "prior.safetensors")
    given = {"data": {"type": "folder", "path": str(tmp_path / "data")}, "metrics": suite(where).metrics}
    report = runner.run(SuiteConfig.read(given), [("one", tokenizer)], tmp_path / "out")
    number = report.results["models"]["one"]["budgets"]["8"]["metrics"]["coded_bits"]
    images = torch.stack([torch.full((3, 16, 16), 20.0 * i) for i in range(len(names))]) / 255
    tokens, model = tokenizer.encode(images), load(where, kind="generator")
    condition = Condition(torch.ones(len(names)).bool(), labels=torch.zeros(len(names)).long())
    bits = -model.prior.log_prob(Codes(tokens.codes, tokens.keep), condition).double() / math.log(2)
    assert number["value"] == pytest.approx(float(bits.sum(1).mean()), rel=1e-4)
    assert "classes, and none to" in str(report.results["protocols"][number["protocol"]]["measure"]["measured"]["told"])


def test_bits_are_those_of_the_likelihood(tokenizer: Tokenizer, tmp_path: Path) -> None:
    name = prior(tokenizer, tmp_path / "prior.safetensors")
    other = load("titok/digits-tiny-4")
    models = [("one", tokenizer), ("other", other)]
    report = runner.run(suite(name), models, tmp_path / "out", batch_size=4)
    number = report.results["models"]["one"]["budgets"]["8"]["metrics"]["coded_bits"]
    source = runner.Head(runner.catalogue().build(suite().data, (16, 16)), COUNT)
    images = torch.stack([source[i].image for i in range(COUNT)]).float() / 255
    labels = torch.tensor([source[i].label or 0 for i in range(COUNT)])
    tokens = tokenizer.encode(images)
    model = load(name, kind="generator")
    told = model.prior.log_prob(Codes(tokens.codes, tokens.keep), Condition(torch.zeros(COUNT).bool(), labels=labels))
    bits = -told.double() / math.log(2)
    assert number["value"] == pytest.approx(float(bits.sum(1).mean()), rel=1e-4)
    assert number["by_position"] == pytest.approx(bits.mean(0).tolist(), abs=2e-3)
    assert (
        "none of the priors is of this tokenizer"
        in (report.results["models"]["other"]["budgets"]["4"]["metrics"]["coded_bits"]["why"])
    )
    page = write(report.results, report.images, tmp_path / "report.html").read_text()
    assert "over bits under a prior" in page
    assert page.count('class="plot coded"') == 1  # PSNR over them, and not they over themselves
    assert page.count('class="plot position"') == 1


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"prior": "maskgit-bert"}, "is a 'maskgit-bert', which does not say how likely codes are"),
        ({"fingerprint": None}, "does not say which tokenizer's codes it is of"),
    ],
)
def test_priors_that_are_refused(tokenizer: Tokenizer, tmp_path: Path, fields: dict[str, Any], told: str) -> None:
    name = prior(tokenizer, tmp_path / "prior.safetensors", **fields)
    with pytest.raises(ConfigError, match=told):
        runner.run(suite(name), [("one", tokenizer)], tmp_path / "out")


def test_bits_of_two_processes_are_added_by_position(tokenizer: Tokenizer) -> None:
    source = runner.catalogue().build(suite().data, (16, 16))
    metric = runner.catalogue().build(suite("any").metrics[1], source)
    first, second = (metric.start(tokenizer.spec) for _ in range(2))
    first.bits, first.there, first.count = [3.0, 4.0], [2, 1], 2
    second.bits, second.there, second.count, second.of = [1.0, 1.0, 2.0], [1, 1, 1], 1, "a hash"
    first.join(second.state())
    assert (first.bits, first.there, first.count, first.of) == ([4.0, 5.0, 2.0], [3, 2, 1], 3, "a hash")
    assert first.compute()["coded_bits"] == pytest.approx(11 / 3)
