"""Every prior that reads texts: equal with and without caches, in a batch and alone, guided by nothing and not guided;
and the same refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from flexframe.models.generator import Generator
from flexframe.nn.init import redraw_zeros
from flexframe.rng import Rng
from flexframe.tokens import Codes, Condition
from flexframe.use.generate import read_texts
from flexframe_registry import ConfigError, GeneratorConfig, catalogue

TEXTS = ["a red star", "a large blue ring left of a small star", "a cat"]
READERS = [
    part.name
    for part in catalogue()
    if part.kind == "prior" and part.config.texts and part.name != "toy"  # type: ignore[attr-defined]
]
SMALL = {"mar": {"buffer": 2}}
UNGUIDED = {"maskgit-bert": 0.0, "maskgit-uvit": 0.0}
"""Scale of guidance that is none, where it is not 1."""


def build(kind: str, **settings: Any) -> Generator:
    """A generator of that prior with words of its own, and weights by which texts matter."""
    torch.manual_seed(0)
    continuous = catalogue().get("prior", kind).config.continuous  # type: ignore[attr-defined]
    raw: dict[str, Any] = {"size": "tiny", "length": 5, **({"dim": 3} if continuous else {"codebook_size": 12})}
    words = {"type": "words", "width": 16, "depth": 1, "heads": 2, "length": 12}
    prior = {"type": kind, **SMALL.get(kind, {}), **({"head_width": 32} if continuous else {}), **settings}
    model = Generator(GeneratorConfig.read({**raw, "prior": prior, "conditioner": words}))
    redraw_zeros(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".tables." in name or ".reading." in name:
                parameter.normal_(std=0.5)
    return model.eval()


@pytest.fixture(scope="module", params=READERS)
def generator(request: pytest.FixtureRequest) -> Generator:
    return build(request.param)


def draw(model: Generator, rows: list[int] | None = None, **sampling: Any) -> Tensor:
    rows = list(range(len(TEXTS))) if rows is None else rows
    settings: dict[str, Any] = {"guidance": 3.0, "temperature": 0.5, **sampling}
    fields = type(model.sampling).model_fields
    settings |= {name: value for name, value in {"steps": 4, "passes": 3}.items() if name in fields}
    texts = [TEXTS[i] for i in rows]
    return model.sample(texts=texts, rng=Rng(1, torch.tensor(rows)), sampling=settings).codes


def same(one: Tensor, other: Tensor) -> bool:
    """Whether codes are equal, and values but for rounding."""
    if not one.is_floating_point():
        return torch.equal(one, other)
    return torch.allclose(one, other, atol=1e-4 * float(other.abs().max()), rtol=1e-4)


def test_all_priors_read_texts() -> None:
    assert {"gpt", "rar", "mar", "causal-denoising", "maskgit-bert", "maskgit-uvit", "maskgen-vq"} <= set(READERS)


def test_caches_move_nothing(generator: Generator) -> None:
    if "cache" in type(generator.sampling).model_fields:
        assert same(draw(generator, cache=True), draw(generator, cache=False))


def test_a_row_is_its_batch_of_one(generator: Generator) -> None:
    whole = draw(generator)
    for i in range(len(TEXTS)):
        assert same(draw(generator, [i])[0], whole[i])


def test_guidance_of_one_is_none_and_more_is_some(generator: Generator) -> None:
    none = UNGUIDED.get(generator.config.prior.type, 1.0)
    plain = draw(generator, guidance=none)
    assert same(draw(generator, guidance=none + 1e-7), plain)  # two evaluations a step, whose difference counts nothing
    assert not same(draw(generator, guidance=none + 8.0), plain)


def test_texts_are_hidden_as_often_as_it_is_told(generator: Generator) -> None:
    model = build(generator.config.prior.type, class_dropout=1.0).train()
    rows, keep = torch.arange(3), torch.ones(3, 5, dtype=torch.bool)
    values = torch.randn(3, 5, 3) if model.spec.dim else torch.randint(12, (3, 5, 1))
    said = Condition(torch.zeros(3, dtype=torch.bool), texts=tuple(TEXTS))
    hidden, absent = (model(Codes(values, keep), each, rng=Rng(0, rows)) for each in (said, None))
    for name, loss in hidden.items():
        torch.testing.assert_close(loss, absent[name])
    read = generator.train()(Codes(values, keep), said, rng=Rng(0, rows))
    generator.eval()
    assert any(not torch.allclose(loss, absent[name]) for name, loss in read.items())


@pytest.mark.parametrize(
    ("text", "told"),
    [(" ", "--text: is empty; say what"), ("a b c d e f g h i j k l m", "--text: has 13 words or pieces, and cond")],
)
def test_texts_that_are_refused(generator: Generator, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        read_texts([text], None, generator)


def test_a_prior_that_is_given_no_text_says_so(generator: Generator) -> None:
    sampling = type(generator.sampling).quick()
    with pytest.raises(ValueError, match="this prior is conditioned on texts; give their embeddings"):
        generator.prior.sample(None, torch.tensor([5]), rng=Rng(0, torch.arange(1)), sampling=sampling)
