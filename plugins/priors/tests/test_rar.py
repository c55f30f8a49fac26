"""RAR: orders, causality, likelihoods, sampling and its cache, against what they are said to be."""

import math

import pytest
import torch
from torch.nn import functional as F

from flexframe.models.build import build
from flexframe.models.generator import Generator
from flexframe.models.modelfile import save
from flexframe.rng import Rng
from flexframe.store.load import load
from flexframe.testing.tables import TableRng
from flexframe.tokens import Codes, Condition, prefix
from flexframe_priors import RARConfig, RARSampling
from flexframe_priors.rar import Cache
from flexframe_registry import ConfigError, GeneratorConfig, cards

LENGTH, CODES, CLASSES = 7, 13, 3
ROWS = torch.arange(4)
LABELS = ROWS % CLASSES


def generator(**prior):
    torch.manual_seed(3)
    raw = {"length": LENGTH, "codebook_size": CODES, "classes": CLASSES}
    shape = {"type": "rar", "width": 24, "depth": 2, "heads": 3, "hidden": 40}
    model = Generator(GeneratorConfig.read({**raw, "prior": {**shape, **prior}})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


def codes_of(lengths=(LENGTH,) * 4):
    ids = Rng(9, ROWS).integers("ids", CODES, (LENGTH, 1))
    return Codes(ids, prefix(torch.tensor(lengths), LENGTH))


def condition(labels=LABELS):
    return Condition(torch.zeros(len(labels), dtype=torch.bool), labels=labels)


# --- orders ------------------------------------------------------------------------------------------------------


def test_a_code_is_seen_by_those_after_it_in_the_order_alone():
    prior = generator().prior
    order = Rng(0, ROWS).uniform("order", (LENGTH,)).argsort(1)
    ids = codes_of().codes[..., 0].gather(1, order)
    other = ids.clone()
    other[:, 3] = (other[:, 3] + 1) % CODES
    with torch.no_grad():
        one, two = prior.logits(ids, LABELS, order), prior.logits(other, LABELS, order)
    torch.testing.assert_close(one[:, :4], two[:, :4])
    assert ((one - two)[:, 4:].abs().amax((1, 2)) > 1e-3).all()


def test_a_position_is_told_which_one_comes_next():
    prior = generator().prior
    order = torch.arange(LENGTH).repeat(2, 1)
    order[1, [2, 5]] = order[1, [5, 2]]  # the same beginning, another target
    ids = codes_of().codes[:1, :, 0].expand(2, -1)
    with torch.no_grad():
        one, two = prior.logits(ids[:, :2], LABELS[:1].expand(2), order).unbind()
    torch.testing.assert_close(one[:2], two[:2])
    assert (one[2] - two[2]).abs().max() > 1e-3


def test_training_permutes_a_share_of_rows_that_falls_with_the_step():
    prior, rows = generator(anneal_start=100, anneal_end=300).prior, torch.arange(1000)
    keep = prefix(torch.where(rows % 2 == 0, LENGTH, 5), LENGTH)
    raster = torch.arange(LENGTH)
    for step, share in ((0, 1.0), (99, 1.0), (200, 0.5), (300, 0.0), (10**6, 0.0)):
        order = prior.choose_order(keep, rng=Rng(0, rows, step))
        assert torch.equal(order.sort(1).values, raster.expand(1000, -1)), "an order is no permutation"
        assert (order[1::2, :5] < 5).all(), "an absent slot comes before a present one"
        assert (order != raster).any(1).float().mean().item() == pytest.approx(share, abs=0.05)
    assert [RARConfig(anneal_start=5, anneal_end=5).permuted_share(s) for s in (4, 5, 6)] == [1.0, 0.0, 0.0]


# --- losses and likelihoods --------------------------------------------------------------------------------------


def test_the_loss_is_the_mean_cross_entropy_in_the_drawn_order():
    model, codes = generator(dropout=0.0, attention_dropout=0.0, class_dropout=0.0), codes_of((7, 4, 1, 7))
    rng = Rng(5, ROWS)
    with torch.no_grad():
        found = model.train()(codes, condition(), rng=rng)["codes"]
        order = model.prior.choose_order(codes.keep, rng=rng)
        ids = codes.codes[..., 0].gather(1, order)
        logits = model.prior.logits(ids, LABELS, order)
    for i, length in enumerate(codes.keep.sum(1).tolist()):
        expected = F.cross_entropy(logits[i, :length], ids[i, :length])
        torch.testing.assert_close(found[i], expected)


def test_likelihoods_are_those_of_the_evaluated_loss():
    model, codes = generator(), codes_of((7, 4, 1, 7))
    with torch.no_grad():
        loss = model(codes, condition(), rng=Rng(0, ROWS))["codes"]
    found = model.prior.log_prob(codes, condition())
    torch.testing.assert_close(-found.sum(1) / codes.keep.sum(1), loss)


def test_training_hides_classes():
    model, codes = generator(dropout=0.0, attention_dropout=0.0, class_dropout=1.0), codes_of()
    with torch.no_grad():
        hidden = model.train()(codes, condition(), rng=Rng(0, ROWS))["codes"]
        without = model(codes, None, rng=Rng(0, ROWS))["codes"]
    torch.testing.assert_close(hidden, without)


@pytest.mark.slow
def test_it_learns_which_class_has_which_codes():
    torch.manual_seed(0)
    raw = {"length": LENGTH, "codebook_size": CODES, "classes": CLASSES}
    prior = {"type": "rar", "width": 32, "depth": 2, "heads": 2, "hidden": 64, "anneal_start": 15, "anneal_end": 30}
    model = Generator(GeneratorConfig.read({**raw, "prior": prior})).train()
    wanted = Rng(1, torch.arange(CLASSES)).integers("wanted", CODES, (LENGTH,))
    rows = torch.arange(24)
    labels = rows % CLASSES
    codes = Codes(wanted[labels][..., None], torch.ones(24, LENGTH, dtype=torch.bool))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(60):
        loss = model(codes, condition(labels), rng=Rng(0, rows, step))["codes"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = model.eval().sample(torch.arange(CLASSES), sampling={"temperature": 0.5})
    assert (found.codes[..., 0] == wanted).float().mean() > 0.9


# --- sampling ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("worth")
@pytest.mark.parametrize("settings", [{}, {"guidance": 1.0}, {"guidance": 3.0, "power": 2.0, "temperature": 0.8}])
@pytest.mark.parametrize("lengths", [7, [7, 4, 1, 6]])
def test_the_cache_moves_no_code(settings, lengths):
    model = generator()
    cached = model.sample(LABELS, lengths=torch.tensor(lengths), sampling=settings)
    plain = model.sample(LABELS, lengths=torch.tensor(lengths), sampling={**settings, "cache": False})
    assert torch.equal(cached.codes, plain.codes)
    assert torch.equal(cached.keep, plain.keep)


def test_cached_logits_are_the_others():
    prior, codes = generator().prior, codes_of()
    ids, order = codes.codes[..., 0], torch.arange(LENGTH).expand(4, -1)
    caches = [Cache(2 + LENGTH) for _ in prior.blocks]
    with torch.no_grad():
        whole = prior.logits(ids, LABELS, order)
        steps = [prior.logits(ids[:, :m], LABELS, order, caches)[:, -1] for m in range(LENGTH + 1)]
    torch.testing.assert_close(torch.stack(steps, 1), whole, atol=1e-5, rtol=1e-5)
    assert caches[0].keys.shape == (4, 3, LENGTH + 2, 8)


def test_the_cache_takes_the_type_that_autocast_computes_in():
    with torch.autocast("cpu", torch.bfloat16):
        found = generator().sample(LABELS)
    assert found.codes.shape == (4, LENGTH, 1)


def test_at_temperature_0_each_code_is_the_likeliest():
    model = generator()
    found = model.sample(LABELS, sampling={"temperature": 0, "guidance": 1.0})
    ids, order = found.codes[..., 0], torch.arange(LENGTH).expand(4, -1)
    with torch.no_grad():
        logits = model.prior.logits(ids[:, :-1], LABELS, order)
    assert torch.equal(logits.argmax(-1), ids)


@pytest.mark.slow
def test_samples_have_the_models_frequencies():
    model, rows = generator(), torch.arange(20_000)
    found = model.sample(torch.zeros(len(rows), dtype=torch.long), lengths=1, sampling={"guidance": 1.0}).codes
    every = Codes(torch.arange(CODES)[:, None, None], torch.ones(CODES, 1, dtype=torch.bool))
    chances = model.prior.log_prob(every, condition(torch.zeros(CODES, dtype=torch.long))).exp()[:, 0]
    counts = found.flatten().bincount(minlength=CODES) / len(rows)
    assert chances.max() < 0.9
    assert (counts - chances).abs().max() < 0.02


@pytest.mark.parametrize("power", [0.0, 2.0])
def test_guidance_grows_along_a_cosine(power):
    model, scale = generator(), 5.0
    found = model.sample(LABELS, sampling={"temperature": 0, "guidance": scale, "power": power}).codes[..., 0]
    order, nulls = torch.arange(LENGTH).expand(4, -1), torch.full((4,), CLASSES)
    with torch.no_grad():
        given = model.prior.logits(found[:, :-1], LABELS, order)
        free = model.prior.logits(found[:, :-1], nulls, order)
    for k in range(LENGTH):
        factor = 1 + (scale - 1) * (1 - math.cos(math.pi * (k / LENGTH) ** power)) / 2
        assert torch.equal((free[:, k] + factor * (given[:, k] - free[:, k])).argmax(-1), found[:, k])
    assert RARSampling(guidance=scale, power=0).excess(0.0) == scale - 1


def test_draws_are_taken_from_the_rng_token_by_token():
    model = generator()
    almost = torch.full((4, CODES), 0.5)
    almost[:, 11] = 1 - 2**-24  # a draw so near 1 wins everything
    tables = {f"rar/token.{i}": almost for i in range(LENGTH)}
    assert (model.sample(LABELS, rng=TableRng(tables, 4), sampling={"guidance": 1.0}).codes == 11).all()


def test_without_classes_it_is_unconditional():
    raw = {"size": "tiny", "length": LENGTH, "codebook_size": CODES, "prior": "rar"}
    model = Generator(GeneratorConfig.read(raw)).eval()
    assert model.sample(count=3).codes.shape == (3, LENGTH, 1)
    with pytest.raises(ValueError, match="knows no classes"):
        model.sample(LABELS)


# --- configs, cards, files ---------------------------------------------------------------------------------------


def test_what_cannot_be_modelled_is_refused():
    with pytest.raises(ConfigError, match=r"^prior: models one code a token, and these tokens have 2"):
        GeneratorConfig.read({"length": 8, "codebook_size": 16, "codebooks": 2, "prior": "rar"})
    with pytest.raises(ConfigError, match="width 25 is not divisible by its 3 heads"):
        generator(width=25)
    with pytest.raises(ConfigError, match="anneal_end, 5, is before anneal_start, 9"):
        generator(anneal_start=9, anneal_end=5)


def test_a_file_of_ours_comes_back(tmp_path):
    model = generator()
    save(model.state_dict(), model.config, tmp_path / "model.safetensors", sampling={"guidance": 2.0})
    found = load(tmp_path, kind="generator")
    assert found.sampling == RARSampling(guidance=2.0)
    assert torch.equal(found.sample(LABELS).codes, model.sample(LABELS, sampling={"guidance": 2.0}).codes)


@pytest.mark.parametrize(
    ("name", "parameters", "published"),
    [
        ("b", 259_276_288, 261),
        ("l", 459_471_872, 461),
        ("xl", 952_679_424, 955),
        ("xxl", 1_495_500_544, 1500),
    ],
)
def test_published_sizes(name, parameters, published):
    """With the rows of the publication's tables that nothing reads, they are the published millions."""
    card = cards().get(f"rar/{name}")
    with torch.device("meta"):
        model = build(card.described, card.file.sampling)
    assert sum(p.numel() for p in model.parameters()) == parameters
    unread = (1022 + 1024 + 98 + 1) * card.described.prior.width
    assert (parameters + unread) / 1e6 == pytest.approx(published, rel=2e-3)
