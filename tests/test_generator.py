"""A generator: what it takes and refuses at its border, whatever prior it holds."""

import pytest
import torch

from flexframe.models.generator import Generator
from flexframe.tokens import Codes, Condition
from flexframe_registry import GeneratorConfig, SamplingConfig

MODEL = {"size": "tiny", "length": 6, "codebook_size": 16, "classes": 3, "prior": "toy"}


@pytest.fixture
def generator():
    torch.manual_seed(0)
    return Generator(GeneratorConfig.read(MODEL), {"temperature": 2.0}).eval()


def codes(values, keep=None):
    values = torch.as_tensor(values)
    return Codes(values, torch.ones(values.shape[:2], dtype=torch.bool) if keep is None else keep)


def test_labels_or_a_count(generator):
    assert generator.sample(torch.tensor([0, 2])).codes.shape == (2, 6, 1)
    assert generator.sample(count=3).codes.shape == (3, 6, 1)
    for given in ({}, {"labels": torch.tensor([0]), "count": 1}):
        with pytest.raises(ValueError, match="give labels, or a count"):
            generator.sample(**given)
    with pytest.raises(ValueError, match=r"labels span 1\.\.3; this generator's are 0\.\.2"):
        generator.sample(torch.tensor([1, 3]))
    with pytest.raises(ValueError, match=r"labels span -1\.\.1"):
        generator.sample(torch.tensor([1, -1]))


@pytest.mark.parametrize("lengths", [4, [4, 2], torch.tensor([4, 2]), torch.tensor(4)])
def test_lengths(generator, lengths):
    found = generator.sample(torch.tensor([0, 1]), lengths=lengths)
    assert found.keep.sum(1).tolist() == torch.as_tensor(lengths).expand(2).tolist()
    assert found.keep.shape == (2, 4)


@pytest.mark.parametrize(
    ("lengths", "told"),
    [
        (0, r"span 0\.\.0; they must lie in 1\.\.6"),
        ([3, 7], r"span 3\.\.7"),
        ([3], "for each of 2 rows"),
        (2.5, "whole"),
    ],
)
def test_lengths_that_are_refused(generator, lengths, told):
    with pytest.raises(ValueError, match=told):
        generator.sample(torch.tensor([0, 1]), lengths=torch.tensor(lengths))


def test_settings_are_laid_on_its_own(generator):
    labels = torch.tensor([0, 1])
    own = generator.sample(labels).codes
    assert torch.equal(own, generator.sample(labels, sampling={"temperature": 2.0}).codes)
    assert torch.equal(own, generator.sample(labels, rng=0, sampling=generator.sampling).codes)
    assert not torch.equal(own, generator.sample(labels, rng=1).codes)
    with pytest.raises(ValueError, match="settings of use are ToyPriorSampling, not SamplingConfig; give those"):
        generator.sample(labels, sampling=SamplingConfig())


def test_progress_is_told(generator):
    told = []
    generator.sample(count=1, on_token=told.append)
    assert told == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (torch.zeros(2, 6, 1), "a continuous quantizer's values"),
        (torch.zeros(2, 7, 1, dtype=torch.long), r"shape \(2, 7, 1\); this generator's are b k 1 with k in 1\.\.6"),
        (torch.zeros(2, 6, 2, dtype=torch.long), r"shape \(2, 6, 2\)"),
        (torch.full((2, 6, 1), 16), r"codes span 16\.\.16; this generator's are 0\.\.15"),
    ],
)
def test_codes_that_are_refused(generator, given, told):
    with pytest.raises(ValueError, match=told):
        generator(codes(given))


def test_what_stands_in_absent_slots_is_not_looked_at(generator):
    keep = torch.tensor([[True] * 3 + [False] * 3])
    found = [generator(codes(torch.full((1, 6, 1), fill).masked_fill(keep[..., None], 1), keep)) for fill in (0, -9)]
    torch.testing.assert_close(*found)


def test_labels_of_training_are_checked_where_they_count(generator):
    given, labels = codes(torch.zeros(2, 6, 1, dtype=torch.long)), torch.tensor([0, 3])
    with pytest.raises(ValueError, match=r"labels span 0\.\.3"):
        generator(given, Condition(torch.tensor([False, False]), labels=labels))
    assert generator(given, Condition(torch.tensor([False, True]), labels=labels))["codes"].isfinite().all()
