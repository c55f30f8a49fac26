"""The models of drawn scenes that ship: as good as their cards say, and compared by `flexframe demo`."""

import json
from functools import cache

import pytest
import torch

import flexframe
from flexframe.bench import call  # noqa: F401 - has the suites' function before a test puts another in its place
from flexframe.commands import demo
from flexframe.rng import Rng
from flexframe_registry import cards, catalogue, suite
from flexframe_registry.cards import card
from flexframe_standard.sources.scenes_config import WORDS

pytestmark = pytest.mark.slow

COUNT = 24
SUITE = "scenes-64"
MODELS = ["flextok/scenes-64", "titok/scenes-64-16", "titok/scenes-64-4", "grid/scenes-64"]
DIGITS = ["flextok/digits-tiny", "titok/digits-tiny"]


@cache
def held_out():
    """The suite's first scenes, and its classifier."""
    source = catalogue().build(suite(SUITE).data, (64, 64))
    samples = source.samples(range(COUNT))
    truth = {name: torch.tensor([s.attributes[name] for s in samples]) for name in samples[0].attributes}
    return torch.stack([s.image for s in samples]), truth, source.classifier()


@cache
def quality(name, budget):
    """PSNR of each image in dB, and the share of images of which each attribute is read right."""
    images, truth, classifier = held_out()
    tokenizer, rng = flexframe.load(name), Rng(0, torch.arange(COUNT))
    decoded = tokenizer.decode(tokenizer.encode(images / 255, rng=rng).truncate(budget), rng=rng)
    psnr = -10 * torch.log10((decoded - images / 255).square().mean((1, 2, 3)))
    read = classifier(decoded.mul(255).round().byte())
    return psnr, {name: float((found == truth[name]).double().mean()) for name, found in read.items()}


def test_flextok_is_close_with_all_tokens_and_better_with_more():
    psnr, means = {}, {}
    for budget in (1, 4, 32):
        psnr[budget], _ = quality("flextok/scenes-64", budget)
        means[budget] = float(psnr[budget].mean())
    told = {int(k): db for k, db in cards().get("flextok/scenes-64").file.metrics["psnr_by_tokens"].items()}
    assert all(abs(means[budget] - told[budget]) < 1 for budget in means), (means, told)  # of 24 images, not 256
    assert means[1] + 2 < means[4] < means[32] - 3
    assert means[32] >= 24
    assert float((psnr[32] > psnr[4]).double().mean()) > 0.95


def test_one_token_of_flextok_tells_colour_and_what_fills_the_picture():
    _, accuracy = quality("flextok/scenes-64", 1)
    assert all(accuracy[name] > 0.8 for name in ("palette", "background", "light", "colour")), accuracy


@pytest.mark.parametrize("name", [name for name in MODELS if name != "flextok/scenes-64"])
def test_fixed_lengths_are_as_good_as_their_cards_say(name):
    told = cards().get(name).file.metrics["psnr_by_tokens"]
    assert len(told) == 1
    for budget, db in told.items():
        assert abs(float(quality(name, int(budget))[0].mean()) - db) < 1  # of 24 images, where the card has 256


def test_cards_tell_a_number_for_every_length():
    for name in MODELS:
        told = cards().get(name).file.metrics["psnr_by_tokens"]
        assert tuple(int(k) for k in told) == cards().get(name).model.budgets
        assert list(told.values()) == sorted(told.values())


def test_recipes_train_the_cards_on_the_scenes_of_the_suite(request):
    folder = request.config.rootpath / "benchmarks" / "recipes" / "scenes-64"
    measured = suite(SUITE).data
    for file in sorted(folder.glob("*.yaml")):
        found = card(str(file)).run.data
        assert (found.split, measured.split) == ("train", "val")
        assert found.model_copy(update={"split": "val", "count": 256}) == measured


def test_a_prior_draws_the_class_that_it_is_asked_for():
    prior, tokenizer = (flexframe.load(name, kind=None) for name in ("gpt/scenes-64-flextok", "flextok/scenes-64"))
    labels, rng = torch.arange(40) % 10, Rng(0, torch.arange(40))
    pictures = tokenizer.decode(tokenizer.tokens(prior.sample(labels, rng=rng).codes), rng=rng)
    read = held_out()[2](pictures.mul(255).round().byte())["shape"]
    assert float((read == labels).double().mean()) > 0.25  # by chance 0.1; the card's number is of 500 pictures


def test_a_prior_draws_the_colour_and_the_background_that_a_text_asks_for():
    prior, tokenizer = (flexframe.load(name, kind=None) for name in ("gpt/scenes-64-text", "flextok/scenes-64"))
    colours = WORDS["colour"] * 2
    texts = [
        f"a large {colour} circle alone, before a wall with a floor in day colours, lit from above"
        for colour in colours
    ]
    rng = Rng(0, torch.arange(len(texts)))
    codes = prior.sample(texts=texts, lengths=4, rng=rng).codes
    read = held_out()[2](tokenizer.decode(tokenizer.tokens(codes), rng=rng).mul(255).round().byte())
    wanted = torch.tensor([WORDS["colour"].index(colour) for colour in colours])
    assert float((read["colour"] == wanted).double().mean()) > 0.6  # by chance 1 in 8
    assert float((read["background"] == WORDS["background"].index("horizon")).double().mean()) > 0.6


# --- the demo ----------------------------------------------------------------------------------------------------


def test_the_demo_compares_what_ships(command, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # where no weights of others are
    few = suite(SUITE).data.model_copy(update={"count": 2})
    small = suite(SUITE).model_copy(update={"data": few, "count": None, "show": 1})
    monkeypatch.setattr("flexframe_registry.suite", {SUITE: small}.__getitem__)
    answer = command("demo", "-o", tmp_path / "demo", "--device", "cpu")
    assert answer.code == 0, answer.err
    results = json.loads((tmp_path / "demo" / "results.json").read_text())
    assert list(results["models"]) == MODELS
    assert results["budgets"] == [1, 2, 4, 8, 16, 32, 64]
    assert "psnr" in results["measures"]
    missing = "weights squeezenet1_1-b8a52dc0.pth are not on this machine, and could not be fetched: the demo uses no"
    assert f"LPIPS: not measured. {missing} network" in " ".join(answer.out.split())
    assert "download https://" in answer.out
    assert "report.html" in answer.out
    page = (tmp_path / "demo" / "report.html").read_text()
    assert "LPIPS: not measured" in page
    assert "1,216,000" in page  # images that a model was trained on, as its card says


def test_the_demo_needs_nothing_that_is_not_there():
    for name in MODELS:
        weights = cards().get(name).file.weights
        assert (cards().files[name].parent / weights.path).is_file()
        assert cards().get(name).model.image_size == (64, 64)


def test_demo_train_trains_small_models(command, tmp_path, monkeypatch):
    """What is trained, on which suite, is asked of `train` and `measure`; both have tests of their own."""
    trained, measured = [], []
    monkeypatch.setattr(demo, "train", lambda *given, **settings: trained.append(given))
    monkeypatch.setattr(demo, "measure", lambda name, suite, models, *rest, **settings: measured.append((name, models)))
    answer = command("demo", "--train", "-o", tmp_path)
    assert answer.code == 0, answer.err
    folders = [tmp_path / name.replace("/", "-") for name in DIGITS]
    assert [(given[0], given[2]) for given in trained] == list(zip(DIGITS, folders, strict=True))
    assert measured == [("digits", [str(folder) for folder in folders])]
    assert "minutes on a CPU core" in answer.out
    (tmp_path / "results.json").write_text("{}")
    refused = command("demo", "--train", "-o", tmp_path)  # before anything is trained
    assert refused.code == 2
    assert "holds the results of another benchmark; choose another folder by -o" in refused.err
    assert len(trained) == 2


def test_a_gpu_that_is_not_there_is_one_clear_error(command, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    answer = command("demo", "-o", "out", "--device", "cuda")
    assert answer.code == 2
    (line,) = answer.err.splitlines()
    assert "--device: 'cuda' cannot be used here: torch" in line
    assert line.endswith("Usable here: cpu")
    assert list(tmp_path.iterdir()) == []
