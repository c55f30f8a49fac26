"""MaskGen: parity through the importer, what its transformer sees, and checkpoints that this file makes itself."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flexframe.importing.verify import verify_folder
from flexframe.models.generator import Generator
from flexframe.rng import Rng
from flexframe.store.load import load
from flexframe.testing.golden import shared
from flexframe.testing.parity import check
from flexframe.tokens import Condition, Text
from flexframe_registry import CodesSpec, ConfigError, GeneratorConfig, TextSpec, catalogue
from flexframe_titok.maskgen_configs import MaskGenKLConfig, MaskGenVQConfig, MaskGenVQSampling

GOLDEN = shared(Path(__file__)) / "golden" / "maskgen"
GIVEN = re.compile(
    r"ids|tokens|mask|text|text_pooled|null_text\w*|aesthetic|orders.*|noise.*|t|\w+_uniform.*|posterior_\w+|head_[txz]"
)
"""What results were computed from, but for `mask` of a step on codes and the samples of `case_generate`."""
ROWS = torch.arange(3)


@pytest.mark.parity
@pytest.mark.parametrize("form", ["vq", "kl"])
def test_every_tensor_of_every_case(form):
    folder = GOLDEN / form
    if not folder.is_dir():
        pytest.skip(f"no golden tensors at {folder}; set FLEXFRAME_SHARED")
    found = check(f"maskgen/{form}", verify_folder(folder))
    compared = {(c.case, c.tensor) for c in found}
    for path in folder.glob("case*.safetensors"):
        wanted = {(path.stem, name) for name in load_file(path) if not GIVEN.fullmatch(name)}
        assert not wanted - compared
    assert {name for case, name in compared if case == "case_generate"} == {
        "vq": {"ids_cosine", "ids_linear_temp2", "ids_none"},
        "kl": {"tokens_cfg1", "tokens_cfg3_linear", "tokens_cfg3_constant_temp0.8"},
    }[form]


# --- by itself ---------------------------------------------------------------------------------------------------


TEXT = TextSpec(5, 12, 10)


def prior_of(config, text=TEXT, classes=None):
    torch.manual_seed(0)
    codes, dim = (None, 3) if config.continuous else (20, None)
    prior = catalogue().build(config, CodesSpec(6, codes, 1, classes, text, dim))
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.normal_(std=0.2)
    return prior.eval()


def texts(pooled=10):
    draws = Rng(3, ROWS)
    vectors, whole = draws.normal("vectors", (5, 12)), draws.normal("pooled", (10,)) if pooled else None
    present = torch.arange(5) < torch.tensor([[5], [3], [1]])
    nothing = Text(torch.zeros(1, 5, 12), torch.arange(5)[None] < 1, torch.zeros(1, 10) if pooled else None)
    return Condition(torch.zeros(3, dtype=torch.bool), None, vectors, present, whole, None, nothing)


@pytest.mark.parametrize("config", [MaskGenVQConfig, MaskGenKLConfig])
def test_scores_and_guidance_move_samples_and_guidance_of_none_does_not(config):
    prior = prior_of(config.sized("tiny", score_width=8))
    lengths = torch.tensor([6, 4, 1])

    def drawn(**given):
        none = 0.0 if config is MaskGenVQConfig else 1.0
        sampling = config.sampling(**{"guidance": none, "guidance_schedule": "constant", "steps": 4, **given})
        return prior.sample(texts(), lengths, rng=Rng(0, ROWS), sampling=sampling).codes

    plain = drawn()
    near = drawn(guidance=1e-9) if config is MaskGenVQConfig else drawn(guidance=1 + 1e-9)
    torch.testing.assert_close(near, plain, atol=1e-5 * float(plain.abs().max()), rtol=1e-4)
    assert not torch.equal(drawn(guidance=6.0), plain)
    assert not torch.equal(drawn(score=2.0), plain)


def test_without_a_pooled_vector_the_mean_of_those_present_stands_in():
    prior = prior_of(MaskGenKLConfig.sized("tiny"), TextSpec(5, 12))
    condition = texts(pooled=0)
    with torch.no_grad():
        said = prior.reader.read(condition, torch.ones(3))
        mean = condition.embeddings[1, :3].mean(0)
        torch.testing.assert_close(said.pooled[1], prior.reader.pooled(mean))


def test_texts_are_asked_for():
    prior = prior_of(MaskGenVQConfig.sized("tiny"))
    with pytest.raises(ValueError, match="conditioned on texts; give their embeddings"):
        prior.sample(None, torch.tensor([6]), rng=Rng(0, ROWS[:1]), sampling=MaskGenVQSampling(steps=2))


def test_the_cosine_goes_from_1_to_the_guidance_by_the_steps_taken():
    sampling = MaskGenVQSampling(steps=4, guidance=5.0)
    assert [round(sampling.excess(i / 4), 3) for i in range(4)] == [1.586, 3.0, 4.414, 5.0]
    linear = sampling.model_copy(update={"guidance_schedule": "linear"})
    assert [linear.excess(i / 4) for i in range(4)] == [1.25, 2.5, 3.75, 5.0]


# --- checkpoints -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no golden tensors at {GOLDEN}; set FLEXFRAME_SHARED")
@pytest.mark.parametrize(
    ("form", "place", "value", "told"),
    [
        ("vq", ("vq_model", "codebook_size"), 61, r"codebook_size: is 61, and the table's rows are 72"),
        ("vq", ("vq_model", "quantize_mode"), "vae", "quantize_mode: is 'vae', which is not supported"),
        ("kl", ("vq_model", "token_size"), 7, "token_size"),
        ("kl", ("maskgen", "decoder_depth"), 3, "decoder_depth"),
        ("kl", ("maskgen", "rope"), True, "rope"),
    ],
)
def test_settings_that_disagree_are_refused(form, place, value, told, tmp_path):
    config = json.loads((GOLDEN / form / "config.json").read_text())
    config["model"][place[0]][place[1]] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").symlink_to(GOLDEN / form / "model.safetensors")
    with pytest.raises(ConfigError, match=told):
        load(tmp_path, kind="generator")


@pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no golden tensors at {GOLDEN}; set FLEXFRAME_SHARED")
def test_an_imported_one_is_saved_read_and_draws_in_the_tokenizers_range(tmp_path):
    found = load(GOLDEN / "kl", kind="generator")
    assert found.config.deviation == pytest.approx((1 / 0.7525,))
    assert (found.sampling.passes, found.sampling.steps, found.sampling.score) == (4, 8, 6.5)
    found.save(tmp_path / "it")
    again = load(tmp_path / "it", kind="generator")
    assert isinstance(again, Generator)
    assert again.config == found.config
    assert (again.config.conditioner.form, again.config.conditioner.length) == ("-penultimate-projected-padded", 77)
    assert GeneratorConfig.read(again.config.model_dump(mode="json")) == found.config
