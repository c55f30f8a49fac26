"""MaskGIT's priors: masking, losses, sampling and guidance against what they are said to be."""

import math

import pytest
import torch
from torch.nn import functional as F

from flexframe.models.build import build
from flexframe.models.generator import Generator
from flexframe.rng import Rng
from flexframe.testing.tables import TableRng
from flexframe.tokens import Codes, Condition, prefix
from flexframe_registry import ConfigError, GeneratorConfig, cards
from flexframe_titok.maskgit import MASKED, Given
from flexframe_titok.maskgit_configs import MaskGITSampling

FORMS = ["maskgit-bert", "maskgit-uvit"]
LENGTH, CODES, CLASSES = 9, 20, 3
ROWS = torch.arange(4)


def generator(form, **prior):
    torch.manual_seed(3)
    raw = {
        "size": "tiny",
        "length": LENGTH,
        "codebook_size": CODES,
        "classes": CLASSES,
        "prior": {"type": form, **prior},
    }
    model = Generator(GeneratorConfig.read(raw)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


def watch(prior, monkeypatch):
    """The ids and classes of each evaluation."""
    seen, logits = [], prior.logits

    def watched(ids, given, keep, rng=None):
        seen.append((ids.clone(), given.classes.clone()))
        return logits(ids, given, keep, rng)

    monkeypatch.setattr(prior, "logits", watched)
    return seen


# --- training ----------------------------------------------------------------------------------------------------


def test_masks_follow_the_arc_cosine_and_keep_to_present_tokens():
    prior = generator("maskgit-bert").prior
    shares = torch.tensor([0.0, 0.5, math.cos(math.pi / 8), 0.9999999])  # u, of which arccos(u) / (pi / 2) is masked
    keep = prefix(torch.tensor([9, 9, 4, 9]), LENGTH)
    masked = prior.choose_masked(keep, rng=TableRng({"maskgit/share": shares}, 4))
    assert masked.sum(1).tolist() == [9, 6, 1, 1]
    assert not (masked & ~keep).any()


def test_the_mean_share_is_what_the_loss_is_divided_by():
    prior, rows = generator("maskgit-bert").prior, torch.arange(4000)
    masked = prior.choose_masked(torch.ones(4000, 64, dtype=torch.bool), rng=Rng(0, rows)).float()
    assert masked.mean().item() == pytest.approx(MASKED, abs=0.01)
    assert (masked.mean(0) - MASKED).abs().max() < 0.04  # no position is preferred


@pytest.mark.parametrize("form", FORMS)
def test_the_loss_is_the_smoothed_weighted_cross_entropy(form):
    model = generator(form, label_smoothing=0.2, unmasked_weight=0.3)
    prior, rng = model.prior, Rng(1, ROWS)
    ids = rng.integers("ids", CODES, (LENGTH,))
    keep = prefix(torch.tensor([9, 5, 1, 9]), LENGTH)
    condition = Condition(torch.tensor([False, True, False, False]), labels=torch.tensor([0, 1, 2, 0]))
    with torch.no_grad():
        found = model(Codes(ids[..., None], keep), condition, rng=rng)["codes"]
        masked = prior.choose_masked(keep, rng=rng)
        classes = torch.tensor([0, CLASSES, 2, 0])
        logits = prior.logits(torch.where(masked, CODES, ids), Given(classes), keep).log_softmax(-1)
    for i, length in enumerate(keep.sum(1).tolist()):
        total = 0.0
        for k in range(length):
            nll = -0.8 * logits[i, k, ids[i, k]] - 0.2 * logits[i, k].mean()
            total += nll * (1.0 if masked[i, k] else 0.3)
        expected = total / (length * (2 / math.pi + 0.3 * (1 - 2 / math.pi)))
        torch.testing.assert_close(found[i], expected, atol=1e-5, rtol=1e-5)


def test_over_a_large_batch_it_is_the_published_loss():
    """Which divides the batch's sum by the batch's weights."""
    prior, rows = generator("maskgit-uvit").prior, torch.arange(2000)
    rng, keep = Rng(2, rows), torch.ones(2000, LENGTH, dtype=torch.bool)
    ids = rng.integers("ids", CODES, (LENGTH,))
    with torch.no_grad():
        ours = prior(Codes(ids[..., None], keep), None, rng=rng)["codes"].mean()
        masked = prior.choose_masked(keep, rng=rng)
        classes = torch.full((2000,), CLASSES)
        logits = prior.logits(ids.masked_fill(masked, CODES), Given(classes), keep)
    losses = F.cross_entropy(logits.mT, ids, reduction="none", label_smoothing=0.1)
    weights = torch.where(masked, 1.0, 0.1)
    assert ours.item() == pytest.approx(float((losses * weights).sum() / weights.sum()), rel=0.02)


def test_training_hides_classes_and_evaluation_does_not(monkeypatch):
    model = generator("maskgit-uvit", class_dropout=0.5)
    rows = torch.arange(200)
    codes = Codes(torch.zeros(200, LENGTH, 1, dtype=torch.long), torch.ones(200, LENGTH, dtype=torch.bool))
    condition = Condition(torch.zeros(200, dtype=torch.bool), labels=rows % CLASSES)
    seen = watch(model.prior, monkeypatch)
    model(codes, condition, rng=Rng(0, rows))
    model.train()(codes, condition, rng=Rng(0, rows))
    (_, evaluated), (_, trained) = seen
    assert torch.equal(evaluated, rows % CLASSES)
    hidden = trained == CLASSES
    assert 60 < int(hidden.sum()) < 140
    assert torch.equal(trained[~hidden], (rows % CLASSES)[~hidden])


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_it_learns_which_class_has_which_codes(form):
    torch.manual_seed(0)
    raw = {"length": LENGTH, "codebook_size": CODES, "classes": CLASSES}
    prior = {"type": form, "width": 32, "depth": 2, "heads": 2, "hidden": 64}
    model = Generator(GeneratorConfig.read({**raw, "prior": prior})).train()
    wanted = Rng(1, torch.arange(CLASSES)).integers("wanted", CODES, (LENGTH,))
    rows = torch.arange(24)
    labels = rows % CLASSES
    codes = Codes(wanted[labels][..., None], torch.ones(24, LENGTH, dtype=torch.bool))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(200):
        loss = model(codes, Condition(labels < 0, labels=labels), rng=Rng(0, rows, step))["codes"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = model.eval().sample(torch.arange(CLASSES), sampling={"temperature": 0.5})
    assert (found.codes[..., 0] == wanted).float().mean() > 0.9


# --- sampling ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_one_step_without_guidance_takes_the_likeliest_codes(form):
    model = generator(form)
    labels = ROWS % CLASSES
    found = model.sample(labels, sampling={"steps": 1, "guidance": 0}).codes[..., 0]
    keep = torch.ones(4, LENGTH, dtype=torch.bool)
    with torch.no_grad():
        logits = model.prior.logits(torch.full((4, LENGTH), CODES), Given(labels), keep)
    assert torch.equal(found, logits[..., :CODES].argmax(-1))


def test_each_step_leaves_fewer_masked_and_never_takes_a_code_back(monkeypatch):
    model, told = generator("maskgit-uvit"), []
    seen = watch(model.prior, monkeypatch)
    settings = {"steps": 6, "guidance": 0}
    found = model.sample(ROWS % CLASSES, lengths=torch.tensor([9, 9, 4, 1]), sampling=settings, on_token=told.append)
    assert told == [1, 2, 3, 4, 5, 6]
    masked = [(ids == CODES)[:1].sum().item() for ids, _ in seen]
    assert masked == [9, *(max(1, math.floor(9 * math.acos(s / 6) / (math.pi / 2))) for s in range(1, 6))]
    for (before, _), (after, _) in zip(seen, [*seen[1:], (found.codes[..., 0], None)], strict=True):
        settled = (before != CODES) & found.keep
        assert torch.equal(before[settled], after[settled])


@pytest.mark.parametrize("schedule", ["constant", "linear", "power-cosine"])
def test_guidance_weighs_the_class_against_none(schedule, monkeypatch):
    model = generator("maskgit-uvit")
    seen = watch(model.prior, monkeypatch)
    settings = MaskGITSampling(steps=1, temperature=0, guidance=2.5, guidance_schedule=schedule)
    found = model.sample(ROWS % CLASSES, sampling=settings).codes[..., 0]
    keep, masks = torch.ones(4, LENGTH, dtype=torch.bool), torch.full((4, LENGTH), CODES)
    with torch.no_grad():
        given = model.prior.logits(masks, Given(ROWS % CLASSES), keep)
        free = model.prior.logits(masks, Given(torch.full((4,), CLASSES)), keep)
    excess = {"constant": 2.5, "linear": 0, "power-cosine": 0}[schedule]  # the other two start without
    assert len(seen[0][0]) == (8 if excess else 4)
    assert torch.equal(found, (given + excess * (given - free)).argmax(-1))


def test_guidance_schedules():
    linear = MaskGITSampling(guidance=4.0, guidance_schedule="linear")
    assert [linear.excess(s / 4) for s in range(4)] == [0, 1, 2, 3]
    cosine = MaskGITSampling(guidance=5.0, guidance_schedule="power-cosine", power=2)
    assert cosine.excess(0.0) == 0
    assert cosine.excess(1.0) == pytest.approx(4)
    assert cosine.excess(math.sqrt(0.5)) == pytest.approx(2)  # half way along the cosine
    assert MaskGITSampling(guidance=1.0, guidance_schedule="power-cosine").excess(0.7) == 0


def test_cost_is_told_by_kind_of_step():
    published = MaskGITSampling(steps=8, guidance=4.5, guidance_schedule="linear")
    (guided, often), (free, once) = published.by_step()
    assert (often, once) == (7, 1)
    assert (guided.steps, free.steps) == (1, 1)
    assert guided.excess(0.0) != 0 == free.excess(0.0)
    assert [n for _, n in MaskGITSampling(steps=3, guidance=0).by_step()] == [3]


def test_a_head_over_the_vocabulary_still_samples_codes():
    model = generator("maskgit-bert", head="vocabulary")
    with torch.no_grad():
        model.prior.head.bias[CODES:] = 100.0
    found = model.sample(ROWS % CLASSES, sampling={"temperature": 2.0})
    assert int(found.codes.max()) < CODES


def test_annealing_sharpens_the_last_steps():
    """Between 1.3 at the start and 0.5 at the end, as the logits' divisor; noise is what it competes with."""
    model = generator("maskgit-uvit")
    plain = model.sample(ROWS % CLASSES, sampling={"temperature": 3.0}).codes
    sharp = model.sample(ROWS % CLASSES, sampling={"temperature": 3.0, "softmax_annealing": True}).codes
    assert not torch.equal(plain, sharp)
    still = [model.sample(ROWS % CLASSES, sampling={"temperature": 0, "softmax_annealing": on}).codes for on in (0, 1)]
    assert torch.equal(*still)  # without noise a divisor changes no order


# --- configs and cards -------------------------------------------------------------------------------------------


def test_what_cannot_be_modelled_is_refused():
    with pytest.raises(ConfigError, match=r"^prior: models one code a token, and these tokens have 4"):
        GeneratorConfig.read({"length": 8, "codebook_size": 16, "codebooks": 4, "prior": "maskgit-bert"})
    with pytest.raises(ConfigError, match="width 50 is not divisible by its 4 heads"):
        generator("maskgit-bert", width=50, heads=4)
    with pytest.raises(ConfigError, match=r"depth: .*multiple of 2"):
        generator("maskgit-uvit", depth=3)


@pytest.mark.parametrize(("name", "parameters"), [("l-32", 177_201_664), ("b-64", 177_226_240), ("s-128", 294_990_848)])
def test_published_sizes(name, parameters):
    """Third parties give 177M for the first two, as here. For the third they give 287M; its 21 blocks and 10 merges are
    285.5M by themselves, the vocabulary and the head 9.4M."""
    card = cards().get(f"titok/maskgit-{name}")
    with torch.device("meta"):
        model = build(card.described, card.file.sampling)
    assert sum(p.numel() for p in model.parameters()) == parameters
