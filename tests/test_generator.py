"""A generator: what it takes and refuses at its border, whatever prior it holds."""

import pytest
import torch

from flexframe.models.generator import Generator
from flexframe.rng import Rng
from flexframe.store.load import load
from flexframe.tokens import Codes, Condition
from flexframe_registry import ConfigError, GeneratorConfig, SamplingConfig

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
        with pytest.raises(ValueError, match="give labels or texts, or a count"):
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


def test_continuous_tokens_are_in_the_tokenizers_range():
    model = {"length": 6, "dim": 2, "mean": [3.0, -40.0], "deviation": [0.5, 10.0], "prior": "toy-means"}
    generator = Generator(GeneratorConfig.read(model)).eval()
    torch.nn.init.zeros_(generator.prior.table)
    drawn = generator.sample(count=500, lengths=[6] * 499 + [2])
    values = drawn.codes[drawn.keep]
    assert (drawn.codes[~drawn.keep] == 0).all()
    torch.testing.assert_close(values.mean(0), torch.tensor([3.0, -40.0]), atol=0.6, rtol=0.01)
    torch.testing.assert_close(values.std(0), torch.tensor([0.5, 10.0]), atol=0, rtol=0.05)
    torch.testing.assert_close(generator(drawn)["values"].mean(), torch.tensor(1.0), atol=0.1, rtol=0)
    with pytest.raises(ValueError, match="models continuous tokens; these are integer codes"):
        generator(codes(torch.zeros(1, 6, 2, dtype=torch.long)))
    with pytest.raises(ValueError, match=r"shape \(1, 6, 1\); this generator's are b k 2 with k in 1\.\.6"):
        generator(codes(torch.zeros(1, 6, 1)))


def test_what_stands_in_absent_slots_is_not_looked_at(generator):
    keep = torch.tensor([[True] * 3 + [False] * 3])
    found = [generator(codes(torch.full((1, 6, 1), fill).masked_fill(keep[..., None], 1), keep)) for fill in (0, -9)]
    torch.testing.assert_close(*found)


def test_labels_of_training_are_checked_where_they_count(generator):
    given, labels = codes(torch.zeros(2, 6, 1, dtype=torch.long)), torch.tensor([0, 3])
    with pytest.raises(ValueError, match=r"labels span 0\.\.3"):
        generator(given, Condition(torch.tensor([False, False]), labels=labels))
    assert generator(given, Condition(torch.tensor([False, True]), labels=labels))["codes"].isfinite().all()


# --- texts -------------------------------------------------------------------------------------------------------

WORDED = {**MODEL, "classes": None, "conditioner": "toy"}


@pytest.fixture(params=["toy", "toy-frozen"])
def worded(request):
    torch.manual_seed(0)
    return Generator(GeneratorConfig.read({**WORDED, "conditioner": request.param})).eval()


def test_texts_are_of_rows_and_move_them_alone(worded):
    texts, strong = ["a red star", "a blue ring"], {"guidance": 100.0}
    both = worded.sample(texts=texts, sampling=strong).codes
    others = [worded.sample(texts=["a red star", word], sampling=strong).codes for word in ("zzz", "hi", "q", "mn")]
    assert any(not torch.equal(both, other) for other in others)
    for i, text in enumerate(texts):
        alone = worded.sample(texts=[text], rng=Rng(0, torch.tensor([i])), sampling=strong)
        assert torch.equal(alone.codes[0], both[i])
    assert torch.equal(worded.sample(count=2).codes, worded.sample(texts=["", ""]).codes)
    for given in ({"texts": texts, "count": 2}, {}):
        with pytest.raises(ValueError, match="give labels or texts, or a count"):
            worded.sample(**given)
    with pytest.raises(ValueError, match="of as many rows"):
        worded.sample(torch.tensor([0]), texts=texts)


def test_a_hidden_row_is_that_of_the_null_text(worded):
    null = torch.tensor([False, True, False])
    with torch.no_grad():
        given = worded.embedded(Condition(null, texts=("a red star", "a blue ring", None)), 3)
        free = worded.embedded(None, 3)
    hidden = given.hidden(torch.ones(3, dtype=torch.bool))
    for row, shown in ((1, given), (2, given), (0, hidden), (1, hidden)):
        here = shown.present[row]
        assert torch.equal(shown.embeddings[row][here], free.embeddings[row][free.present[row]])
    assert hidden.null.all()
    assert given.null.tolist() == null.tolist()


def test_texts_without_a_conditioner_are_refused(generator):
    with pytest.raises(ValueError, match="reads no texts"):
        generator.sample(texts=["a red star"])


def test_frozen_encoders_are_in_no_checkpoint_and_others_are(tmp_path):
    for name, held in (("toy", True), ("toy-frozen", False)):
        model = Generator(GeneratorConfig.read({**WORDED, "conditioner": name}))
        assert any(each.startswith("conditioner.") for each in model.state_dict()) == held
        model.save(tmp_path / f"{name}.safetensors")
        again = load(tmp_path / f"{name}.safetensors", kind="generator")
        texts = ["a red star", "a blue ring"]
        assert torch.equal(again.sample(texts=texts).codes, model.sample(texts=texts).codes)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"classes": 3}, "conditioner: is there beside classes; a prior is conditioned on one of the two"),
        ({"conditioner": "no"}, "conditioner: no conditioner named 'no'"),
    ],
)
def test_conditioners_that_are_refused(fields, told):
    with pytest.raises(ConfigError, match=told):
        GeneratorConfig.read({**WORDED, **fields})


def test_without_a_conditioner_nothing_says_so_in_what_decides():
    config = GeneratorConfig.read(MODEL)
    assert "conditioner" not in config.deciding()
    assert "conditioner" not in config.parts
    assert config.spec.text is None
