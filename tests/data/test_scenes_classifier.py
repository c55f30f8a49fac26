"""The classifiers that ship with the scenes, and the metrics that ask them."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from flexframe.bench.explain import _differences
from flexframe.bench.metric import Reconstructions
from flexframe.bench.passes import Head
from flexframe.tokens import Tokens
from flexframe_registry import ConfigError, Spec, SuiteConfig, catalogue, suite
from flexframe_registry.widths import LatentSpec, TokenSpec
from flexframe_standard.metrics.classifier_config import ClassifierConfig
from flexframe_standard.sources.scenes import VERSION, classifier
from flexframe_standard.sources.scenes_config import WORDS, ScenesConfig


def scenes(size=(64, 64), **fields):
    return catalogue().build(ScenesConfig(split="val", **fields), size)


LEVELS = [pytest.param(level, marks=() if level == 1 else pytest.mark.slow) for level in range(5)]
"""Of complexity; the models that ship are of the second."""


def right(source, count, judge=None):
    """Percent of the first images of which each attribute is read right."""
    samples = source.samples(range(count))
    found = (judge or source.classifier())(torch.stack([s.image for s in samples]))
    truth = {name: torch.tensor([s.attributes[name] for s in samples]) for name in found}
    return {name: 100 * float((found[name] == truth[name]).double().mean()) for name in found}


def facts(path=classifier.FILE):
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["scenes"])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("path", [classifier.FILE, classifier.SECOND], ids=["first", "second"])
def test_it_reads_held_out_scenes_as_its_file_says(path, level):
    told, source = facts(path)["accuracy_percent"][str(level)], scenes(complexity=level)
    found = right(source, 200, classifier.shipped(path, source))
    assert set(found) == set(told) == set(ScenesConfig(complexity=level).chances())
    for name, percent in found.items():
        assert abs(percent - told[name]) < (3 if told[name] > 95 else 12)
    assert told["shape"] > (95 if path == classifier.FILE or level < 2 else 80)


@pytest.mark.slow
def test_sizes_and_places_are_read_off_pixels():
    """As metric `asked` counts them: right of the scenes themselves, and wrong where something else was asked."""
    source = scenes(complexity=1)
    reader, images = source.caption_reader(), torch.stack([s.image for s in source.samples(range(120))])
    truth = reader.truth(range(120))

    def share(name, asked):
        known = [row[name] for row, facts in zip(reader.shown(images, asked), asked, strict=True) if name in facts]
        return sum(known) / len(known)

    for name, least in (("size", 0.97), ("other side", 0.85), ("other colour", 0.85), ("other size", 0.8)):
        assert share(name, truth) >= least
    for name, value in (("size", "small"), ("other side", "nowhere"), ("other size", "large")):
        assert share(name, [facts if name not in facts else {**facts, name: value} for facts in truth]) < 0.05


def test_the_second_shares_nothing_with_the_first():
    """What teaches must not judge: another architecture, another seed, and as good where models are measured."""
    first, second = (classifier.load(path) for path in (classifier.FILE, classifier.SECOND))
    assert second[1]["architecture"] == "transformer"
    assert second[1]["seed"] == 1
    assert second[1]["renderer"] == first[1]["renderer"]
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in second[0].modules())
    assert min(second[1]["accuracy_percent"]["1"].values()) >= 97
    assert classifier.SECOND.stat().st_size < 2_000_000


@pytest.mark.parametrize("side", [48, 128, 256])
def test_it_reads_pictures_of_other_sizes(side):
    found = right(scenes((side, side), complexity=1), 48)
    assert min(found.values()) > 80
    assert found["shape"] > 90


def test_it_is_small_and_knows_its_renderer():
    assert classifier.FILE.stat().st_size < 1_000_000
    assert facts()["renderer"] == VERSION
    net, told = classifier.load(classifier.FILE)
    assert len(told["sha256"]) == 64
    assert {name: head.out_features for name, head in net.heads.items()} == {n: len(w) for n, w in WORDS.items()}


def test_it_is_refused_for_scenes_drawn_otherwise(monkeypatch, tmp_path):
    path = tmp_path / "old.safetensors"
    save_file(load_file(classifier.FILE), path, {"scenes": json.dumps({**facts(), "renderer": VERSION - 1})})
    monkeypatch.setattr(classifier, "FILE", path)
    told = f"scenes of renderer {VERSION - 1}, and these are of renderer {VERSION}; train it anew with tools/"
    with pytest.raises(ValueError, match=told):
        scenes().classifier()
    assert told in tally(scenes(count=4)).unavailable()


def test_oblong_pictures_are_refused():
    with pytest.raises(ValueError, match="reads square pictures, not 32 x 48"):
        scenes((32, 48)).classifier()


# --- the metric --------------------------------------------------------------------------------------------------


def tally(source, **metric):
    config = SuiteConfig.read({"data": "scenes", "metrics": [{"type": "classifier", **metric}]}).metrics[0]
    return catalogue().build(config, source).start(Spec(LatentSpec(3, 64, 64), 4, TokenSpec(4, 2, 1, 8)))


def reconstructions(source, fake=None):
    samples = source.samples(range(len(source)))
    real = torch.stack([s.image for s in samples])
    fake = real if fake is None else fake(real)
    n = len(real)
    tokens = Tokens(torch.zeros(n, 4, 2), torch.ones(n, 4, dtype=torch.bool), torch.zeros(n, 4, 1, dtype=torch.long))
    labels, attributes = [s.label for s in samples], [s.attributes for s in samples]
    return Reconstructions(real, fake, fake.float() / 255, labels, tokens, attributes)


def test_the_metric_gives_a_number_for_each_attribute():
    source = Head(scenes(complexity=1), 100)
    found = tally(source)
    assert found.unavailable() is None
    found.update(reconstructions(source))
    numbers, expected = found.compute(), right(source, 100)
    assert numbers["agreement"] == 100
    assert numbers["accuracy"] == pytest.approx(expected.pop("shape"))
    assert {name: numbers[f"accuracy_{name}"] for name in expected} == pytest.approx(expected)
    assert set(numbers) == {m.name for m in found.metric.measures()}
    protocol = found.protocol()
    assert protocol["label_is"] == "shape"
    assert protocol["renderer"] == VERSION
    assert protocol["values"] == {"palette": 8, "background": 3, "light": 5, "colour": 8, "count": 2}
    assert protocol["accuracy_on_originals_percent"]["shape"] == numbers["accuracy"]
    json.dumps(protocol)


@pytest.mark.slow
def test_what_is_lost_is_missed():
    """Grey pictures keep the shape and lose the colour; other scenes' pictures are read at about chance."""
    source = Head(scenes(complexity=1), 200)
    grey = tally(source)
    grey.update(reconstructions(source, lambda x: x.float().mean(1, keepdim=True).expand_as(x).byte()))
    assert grey.compute()["accuracy_colour"] < 50 < 70 < grey.compute()["accuracy"]
    other = tally(source)
    other.update(reconstructions(source, lambda x: x.roll(1, 0)))
    assert other.compute()["accuracy"] < 25
    assert other.compute()["accuracy_palette"] < 30


def test_without_a_classifier_of_the_source_it_asks_for_images():
    source = catalogue().build(catalogue().get("source", "digits").config(), (16, 16))
    assert "name labelled images to train one on as `data`" in tally(source).unavailable()


def test_the_second_judge_has_numbers_of_its_own():
    source = Head(scenes(complexity=1), 60)
    first, second = tally(source), tally(source, judge="second")
    for each in (first, second):
        values = each.update(reconstructions(source))
        assert set(values) == set(each.compute()) == {m.name for m in each.metric.measures()}
    assert set(second.compute()) == {f"second_{name}" for name in first.compute() if name != "agreement"}
    for judge, which, made in (("first", first, "convolutional"), ("second", second, "transformer")):
        assert {m.label for m in which.metric.measures()} >= {
            f"Shape right, {judge} judge",
            f"Count right, {judge} judge",
        }
        assert {m.by for m in which.metric.measures()} == {f"{judge} judge"}
        (who,) = {m.who for m in which.metric.measures()}
        assert who.startswith(f"a classifier that ships with the images (scenes, {made}) trained on ")
    assert who.endswith("it must teach no model")
    assert {m.name: round(m.chance, 1) for m in first.metric.measures() if m.chance} == {
        "accuracy": 10.0, "accuracy_palette": 12.5, "accuracy_background": 33.3, "accuracy_light": 20.0,
        "accuracy_colour": 12.5, "accuracy_count": 50.0,
    }  # fmt: skip
    originals = {name: told["original"] for name, told in second.details().items()}
    assert set(originals) == set(second.compute())  # the same pictures here: what is read off one is read off both
    assert originals == pytest.approx(second.compute())
    one, other = first.protocol(), second.protocol()
    assert one["classifier"] == "scenes, convolutional"
    assert other["classifier"] == "scenes, transformer"
    assert one["sha256"] != other["sha256"]
    assert other["seed"] == 1
    json.dumps(other)


def test_a_number_of_before_is_that_of_the_first_judge():
    """A protocol that says no judge is as one of the first: files of before compare."""
    was = {"metric": {"type": "classifier", "data": None, "limit": 5000, "c": 10.0}}
    now = {"metric": ClassifierConfig().model_dump(mode="json")}
    assert _differences({"measure": was, "use": {}}, {"measure": now, "use": {}}, None) == []
    now = {"metric": ClassifierConfig(judge="second").model_dump(mode="json")}
    assert _differences({"measure": was, "use": {}}, {"measure": now, "use": {}}, None)


def test_a_judge_of_the_source_is_not_trained():
    with pytest.raises(ConfigError, match=r"judge: is of the suite's source"):
        ClassifierConfig.read({"judge": "second", "data": "digits"})


# --- plausible ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("judge", [None, "second"])
def test_real_scenes_are_plausible_and_mixtures_are_not(judge, monkeypatch):
    monkeypatch.setattr(classifier, "CALIBRATION", 200)
    source = Head(scenes(complexity=1), 100)
    shares = {}
    for name, made in {
        "real": None,
        "two scenes in one": lambda x: ((x.float() + x.roll(1, 0).float()) / 2).byte(),
        "the mean": lambda x: x.float().mean(0, keepdim=True).expand_as(x).byte(),
    }.items():
        found = tally(source, type="plausible", judge=judge)
        assert found.unavailable() is None
        (values,) = found.update(reconstructions(source, made)).values()
        called = "plausible" if judge is None else "second_plausible"
        shares[name] = found.compute()[called]
        assert name != "real" or found.details() == {called: {"original": shares[name]}}
        assert shares[name] == pytest.approx(float(values.double().mean()))
    assert shares["real"] > 75
    assert shares["two scenes in one"] < 25
    assert shares["the mean"] == 0
    protocol = found.protocol()
    assert protocol["percentile"] == 10
    assert 0.5 < protocol["threshold"] < 1
    assert "seed 7654321" in protocol["calibrated_on"]  # none of the suite's scenes, which are of seed 0
    json.dumps(protocol)


@pytest.mark.slow
@pytest.mark.parametrize("judge", [None, "second"])
def test_the_threshold_of_the_shipped_suite_is_known_and_right(judge, monkeypatch):
    source = catalogue().build(suite("scenes-64").data, (64, 64), place="data")
    of = source.classifier() if judge is None else source.second_classifier()
    known = json.loads(classifier.THRESHOLDS.read_text())
    assert known[of.calibrated_on()] == of.calibrate()
    monkeypatch.setattr(classifier.SceneClassifier, "calibrate", lambda self: 1 / 0)
    assert of.threshold == known[of.calibrated_on()]
    with pytest.raises(ZeroDivisionError):  # of other scenes it is measured
        _ = scenes(complexity=1, seed=5).classifier().threshold


def test_measures_of_one_batch_share_a_judges_pass(monkeypatch):
    source, passes = scenes(complexity=1), []
    images = torch.stack([sample.image for sample in source.samples(range(4))])
    logits = classifier.SceneClassifier.logits
    monkeypatch.setattr(classifier.SceneClassifier, "logits", lambda self, x: passes.append(len(x)) or logits(self, x))
    first, second = source.classifier(), source.classifier()  # a metric each
    read, sure = first(images), second.confidence(images)
    for _ in range(2):  # models' pictures come and go, the originals stay
        second(images.clone())
        first(images)
    assert len(passes) == 3
    assert torch.equal(sure, second.confidence(images.clone()))
    images.zero_()
    assert not torch.equal(first(images)["background"], read["background"])
    source.second_classifier()(images)
    assert len(passes) == 6


def test_plausible_needs_a_classifier_that_tells_its_confidence():
    source = catalogue().build(catalogue().get("source", "digits").config(), (16, 16))
    assert "come with no classifier" in tally(source, type="plausible").unavailable()
    assert "no second classifier; leave this metric out" in tally(source, judge="second").unavailable()
