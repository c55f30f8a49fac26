"""The classifier that ships with the scenes, and the metric that asks it."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from flexframe.bench.metric import Reconstructions
from flexframe.bench.runner import Head
from flexframe.tokens import Tokens
from flexframe_registry import Spec, SuiteConfig, catalogue
from flexframe_registry.kinds import LatentSpec, TokenSpec
from flexframe_standard.sources.scenes import VERSION, classifier
from flexframe_standard.sources.scenes_config import WORDS, ScenesConfig


def scenes(size=(64, 64), **fields):
    return catalogue().build(ScenesConfig(split="val", **fields), size)


def right(source, count):
    """Percent of the first images of which each attribute is read right."""
    samples = source.samples(range(count))
    found = source.classifier()(torch.stack([s.image for s in samples]))
    truth = {name: torch.tensor([s.attributes[name] for s in samples]) for name in found}
    return {name: 100 * float((found[name] == truth[name]).double().mean()) for name in found}


def facts():
    with safe_open(classifier.FILE, "pt") as file:
        return json.loads(file.metadata()["scenes"])


@pytest.mark.parametrize("level", range(5))
def test_it_reads_held_out_scenes_as_its_file_says(level):
    told = facts()["accuracy_percent"][str(level)]
    found = right(scenes(complexity=level), 200)
    assert set(found) == set(told) == set(ScenesConfig(complexity=level).chances())
    for name, percent in found.items():
        assert abs(percent - told[name]) < (3 if told[name] > 95 else 12)
    assert told["shape"] > 95


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


def tally(source):
    config = SuiteConfig.read({"data": "scenes", "metrics": ["classifier"]}).metrics[0]
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
