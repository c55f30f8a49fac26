"""What allocators choose, against rules worked out here from every reconstruction."""

import itertools
from dataclasses import replace

import pytest
import torch

import flexframe
from flexframe.rng import Rng
from flexframe_lengths import LearnedConfig, PsnrConfig, RateDistortionConfig
from flexframe_lengths.learned import chosen, fit, read, save_head, train
from flexframe_registry import ConfigError, catalogue
from flexframe_standard import DigitsConfig

MODEL = "flextok/digits-tiny"
BUDGETS = (1, 2, 4, 8)
QUICK = {"steps": 4, "guidance": 1.0}


@pytest.fixture(scope="module")
def model():
    if MODEL not in flexframe.cards().files:
        pytest.skip(f"needs the model {MODEL}")
    return flexframe.load(MODEL)


@pytest.fixture(scope="module")
def images():
    held_out = catalogue().build(DigitsConfig(split="val"), (16, 16))
    return torch.stack([held_out[i].image for i in range(8)]) / 255


@pytest.fixture(scope="module")
def errors(model, images):
    """Mean squared error in 8-bit steps, by image and budget, each image decoded alone."""
    rows = []
    for i in range(len(images)):
        rng = Rng(5, torch.tensor([i]))
        tokens = model.encode(images[i : i + 1], rng=rng)
        fakes = [model.decode(tokens.truncate(k), rng=rng, sampling=QUICK) for k in BUDGETS]
        rows.append([float(((f * 255).round() - images[i] * 255).square().mean()) for f in fakes])
    return torch.tensor(rows)


def choose(config, model, images):
    allocator = catalogue().build(config, model.spec)
    return allocator.choose(model, images, rng=Rng(5, torch.arange(len(images)))).tolist()


@pytest.mark.slow
def test_psnr_takes_the_first_budget_that_reaches_the_target_else_the_last(model, images, errors):
    psnr = 10 * torch.log10(255**2 / errors)
    target = 19.0
    expected = [next((k for k, value in zip(BUDGETS, row, strict=True) if value >= target), 8) for row in psnr]
    assert choose(PsnrConfig(target=target, sampling=QUICK), model, images) == expected
    assert len(set(expected)) >= 3  # else this shows little
    assert (psnr[:, 3] < target).any() or 8 in expected


def test_psnr_at_its_ends(model, images):
    assert choose(PsnrConfig(target=-1, sampling=QUICK), model, images) == [1] * 8
    assert choose(PsnrConfig(target=99, sampling=QUICK), model, images) == [8] * 8


def test_rate_distortion_takes_the_least_sum(model, images, errors):
    seen = set()
    for price in (60.0, 100.0):
        expected = [BUDGETS[i] for i in (errors + price * torch.tensor(BUDGETS)).argmin(1)]
        assert choose(RateDistortionConfig(price=price, sampling=QUICK), model, images) == expected
        assert len(set(expected)) >= 2  # else this shows little
        seen |= set(expected)
    assert len(seen) >= 3


def test_a_higher_price_never_buys_more_tokens(model, images):
    found = [choose(RateDistortionConfig(price=p, sampling=QUICK), model, images) for p in (0, 50, 200, 1e9)]
    for cheap, dear in itertools.pairwise(found):
        assert all(a >= b for a, b in zip(cheap, dear, strict=True))
    assert found[-1] == [1] * 8


def test_budgets_may_be_given(model, images):
    assert set(choose(PsnrConfig(target=99, budgets=(3, 1), sampling=QUICK), model, images)) == {3}
    found = choose(RateDistortionConfig(price=0, budgets=(2, 5), sampling=QUICK), model, images)
    assert set(found) <= {2, 5}


def test_budgets_beyond_the_model_are_refused(model):
    with pytest.raises(ValueError, match="a budget of 9 tokens; the model has at most 8"):
        PsnrConfig(budgets=(9,)).check(model.spec)
    with pytest.raises(ConfigError, match="at least 1"):
        PsnrConfig.read({"budgets": [0, 2]})
    with pytest.raises(ConfigError, match="at least one"):
        PsnrConfig.read({"budgets": []})


def test_settings_of_another_decoder_are_refused(model, images):
    with pytest.raises(ConfigError, match=r"stepps.*Did you mean 'steps'"):
        choose(PsnrConfig(sampling={"stepps": 3}), model, images)


@pytest.mark.parametrize(
    "config", [PsnrConfig(target=99, sampling=QUICK), RateDistortionConfig(price=0, sampling=QUICK)]
)
def test_where_tokens_hang_on_how_many_are_kept_images_are_encoded_for_each_budget(config, model, images, monkeypatch):
    asked, plain = [], type(model).tokenized

    def tokenized(self, images, *, lengths=None, rng=None):
        asked.append(lengths)
        return plain(self, images, lengths=lengths, rng=rng)

    monkeypatch.setattr(type(model), "tokenized", tokenized)
    monkeypatch.setattr(type(model.config.encoder), "prefixes", lambda self: False)
    choose(config, model, images[:2])
    assert set(BUDGETS[:-1]) <= {*asked}


# --- learned ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_head_learns_lengths_that_its_inputs_tell():
    inputs = torch.randn(400, 6, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor(BUDGETS)[(inputs[:, 0] * 1.5 + 2).long().clamp(0, 3)]
    head, right = fit(inputs, lengths, BUDGETS, epochs=60)
    assert right > 0.8  # a quarter to two fifths by chance
    logits = head(inputs)
    assert (logits[:, 1:] >= logits[:, :-1]).all()  # once it has stopped, it would have stopped later too
    shorter, longer = (chosen(head, inputs, BUDGETS, stop) for stop in (0.2, 0.8))
    assert (longer >= shorter).all()
    assert (longer > shorter).any()
    again, _ = fit(inputs, lengths, BUDGETS, epochs=60)
    assert all(torch.equal(a, b) for a, b in zip(head.state_dict().values(), again.state_dict().values(), strict=True))


@pytest.fixture(scope="module")
def trained(model, images, tmp_path_factory):
    """The file of a head for the model, of a few images."""
    rule = PsnrConfig(target=19, budgets=BUDGETS, sampling={"steps": 1, "guidance": 1.0})
    head, about = train(model, iter(((images * 255).byte(),) * 2), rule, source={"type": "digits"})
    path = tmp_path_factory.mktemp("heads") / "head.safetensors"
    save_head(head, about, path)
    return path


def test_a_trained_head_is_chosen_by_config_and_decodes_nothing(trained, model, images, monkeypatch):
    allocator = catalogue().build(LearnedConfig(head=str(trained)), model.spec)
    assert allocator.about.images == 16
    assert allocator.about.rule.target == 19
    expected = chosen(allocator.head, read(model, images, Rng(5, torch.arange(8))), BUDGETS).tolist()
    monkeypatch.setattr(type(model), "decode", None)
    assert choose(LearnedConfig(head=str(trained)), model, images) == expected
    assert choose(LearnedConfig(head=str(trained), stop=1 - 1e-9), model, images) == [8] * 8
    assert allocator.rests_on()["head_sha256"]


def test_heads_of_other_models_or_of_damaged_files_are_refused(trained, model, images, tmp_path):
    config = LearnedConfig(head=str(trained))
    other = flexframe.load(MODEL)
    other.encoder.registers.data.add_(0.1)
    with pytest.raises(ConfigError, match=r"was trained for flextok/digits-tiny.*python -m flexframe_lengths"):
        choose(config, other, images)
    short = replace(model.spec, tokens=replace(model.spec.tokens, length=4))
    with pytest.raises(ConfigError, match="of lengths up to 8, and the model has 4 tokens"):
        catalogue().build(config, short)
    whole = trained.read_bytes()
    for content, words in (
        (whole[:-20], "head.safetensors"),
        (whole[:-1] + b"\0", "checksum|cannot be read"),
        (b"x" * 99, "cannot be read"),
    ):
        (tmp_path / "head.safetensors").write_bytes(content)
        with pytest.raises(ConfigError, match=words):
            catalogue().build(LearnedConfig(head=str(tmp_path / "head.safetensors")), model.spec)
    with pytest.raises(ConfigError, match="there is no such file; train one"):
        catalogue().build(LearnedConfig(head=str(tmp_path / "none.safetensors")), model.spec)


def test_what_gives_a_head_nothing_to_learn_is_refused(model, images):
    with pytest.raises(ConfigError, match="gives all 8 images 1 tokens"):
        train(model, iter([(images * 255).byte()]), PsnrConfig(target=-1, sampling=QUICK))
