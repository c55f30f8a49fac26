"""Configs: bare names, sizes, overrides, errors in one line, round trips, the widths that follow."""

import math
from typing import Literal

import pytest
from pydantic import ValidationError

from flexframe_registry import (
    ConfigError,
    LatentSpec,
    RunConfig,
    SamplingConfig,
    Spec,
    SuiteConfig,
    TokenizerConfig,
    TokenSpec,
    TrainConfig,
    cards,
    catalogue,
)
from flexframe_registry.kinds import KINDS

CARD = "toy/digits-tiny"
MODEL = {
    "size": "tiny", "image_size": 16, "length": 8,
    "encoder": "toy", "quantizer": "toy", "masker": "toy", "decoder": "toy",
}  # fmt: skip


def read(**changes):
    return TokenizerConfig.read({**MODEL, **changes})


def train(*overrides):
    return cards().get(CARD).train(overrides)


# --- slots and sizes ---------------------------------------------------------------------------------------------


def test_a_bare_name_a_mapping_and_a_config_are_one():
    named = read()
    assert read(encoder={"type": "toy"}) == named
    assert read(encoder=named.encoder) == named


def test_sizes_fill_the_fields_that_are_not_given():
    found = read(decoder={"type": "toy", "depth": 5}).decoder
    assert (found.width, found.depth, found.patch) == (16, 5, 4)
    base = TokenizerConfig.read({**MODEL, "size": "base"}).decoder
    assert (base.width, base.depth) == (64, 12)


def test_without_a_size_a_part_has_its_own_defaults():
    config = TokenizerConfig.read({k: v for k, v in MODEL.items() if k != "size"})
    assert config.encoder == catalogue().get("encoder", "toy").config()


@pytest.mark.parametrize("decoder", ["toy", "toy-plain"])
@pytest.mark.parametrize("quantizer", ["toy", "toy-values"])
def test_a_swap_in_a_tiny_card_stays_tiny(quantizer, decoder):
    found = train(f"quantizer={quantizer}", f"decoder={decoder}").model
    for kind, name in (("quantizer", quantizer), ("decoder", decoder)):
        assert getattr(found, kind) == catalogue().get(kind, name).config.sized("tiny")


def test_one_number_is_a_square():
    assert read(image_size=16).image_size == read(image_size=[16, 16]).image_size == (16, 16)


@pytest.mark.parametrize("size", ["64x96", " 64 x 96 ", "64×96", "64, 96", [64, 96]])
def test_a_size_is_written_as_people_write_it_the_height_first(size):
    assert read(image_size=size).image_size == (64, 96)


@pytest.mark.parametrize("size", ["64", "64x", "axb", "64x96x3", "-64x96", True, 0, -16, "0x16", 10**7, [16], None, {}])
def test_what_is_no_size_is_told_with_how_to_write_one(size):
    with pytest.raises(ConfigError, match="image_size"):
        read(image_size=size)


def test_codec_and_masker_have_usual_values():
    found = TokenizerConfig.read({k: v for k, v in MODEL.items() if k != "masker"})
    assert (found.codec.type, found.masker.type) == ("identity", "full")


def test_configs_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        read().length = 4


def test_every_kind_has_the_contract_that_it_names():
    import importlib

    for kind, base in KINDS.items():
        module, _, name = base.contract.partition(":")
        assert isinstance(getattr(importlib.import_module(module), name), type), kind


# --- overrides ---------------------------------------------------------------------------------------------------


def test_dotted_overrides_go_through_a_part_given_as_a_bare_name():
    found = train("decoder.depth=4", "decoder.dropout=0", "masker.type=full").model
    assert (found.decoder.type, found.decoder.depth, found.decoder.width) == ("toy", 4, 16)
    assert found.decoder.dropout == 0
    assert found.masker.type == "full"


def test_overrides_apply_in_order():
    found = train("decoder=toy-plain", "decoder.depth=2", "decoder.depth=1").model.decoder
    assert (found.type, found.depth, found.width) == ("toy-plain", 1, 16)


def test_another_type_leaves_the_settings_of_the_one_before_behind():
    found = train("quantizer.levels=[4, 4]", "quantizer.type=toy-values", "decoder.depth=5", "decoder.type=toy").model
    assert found.quantizer == catalogue().get("quantizer", "toy-values").config.sized("tiny")
    assert found.decoder.depth == 5


def test_a_value_may_be_a_mapping_or_a_list():
    found = train("quantizer={type: toy, levels: [8, 8]}", "run.optimizer.betas=[0.8, 0.9]")
    assert found.model.quantizer.levels == (8, 8)
    assert found.run.optimizer.betas == (0.8, 0.9)


def test_run_and_model_may_be_named_in_full():
    assert train("model.length=4", "run.steps=7").model == train("length=4").model
    assert train("run.optimizer.lr=1e-4").run.optimizer.lr == 1e-4


# --- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("quantiser=toy", ["quantiser: there is no such setting", "Did you mean 'quantizer'?"]),
        ("quantizer=toyy", ["quantizer: no quantizer named 'toyy'", "Did you mean 'toy'?"]),
        ("quantizer=toy-plain", ["no quantizer named 'toy-plain'"]),
        ("decoder.depht=3", ["decoder.depht: there is no such setting", "Did you mean 'depth'?"]),
        ("decoder.depth=deep", ["decoder.depth: ", "valid integer", "(found 'deep')"]),
        ("decoder.depth=0", ["decoder.depth: ", "greater than or equal to 1", "(found 0)"]),
        ("encoder.patch=5", ["encoder: latents of 16 x 16 do not divide into patches of 5; change `patch`"]),
        ("length=6", ["masker: masker 'toy' needs a length that is a power of two, not 6"]),
        ("encoder={width: 64}", ["encoder: needs a `type`, one of: ", "toy"]),
        ("encoder.type=3", ["encoder.type: is a name, not 3"]),
        ("encoder=3", ["encoder: ", "(found 3)"]),
        ("size=tny", ["size: ", "'tiny'", "(found 'tny')"]),
        ("run.objectives=[mse]", ["run.objectives.0: objective 'mse' needs reconstruction", "decoder 'toy'"]),
        ("run.objectives=[msee]", ["run.objectives.0: no objective named 'msee'", "Did you mean 'mse'?"]),
        ("run.stesp=3", ["run.stesp: there is no such setting", "Did you mean 'steps'?"]),
        ("run.steps=-1", ["run.steps: ", "(found -1)"]),
        ("run.optimizer.lr=.nan", ["run.optimizer.lr: "]),
        ("run.optimizer=adamv", ["run.optimizer: no optimizer named 'adamv'. Did you mean 'adam'?"]),
        (
            "run.optimizer.parts={encodr: 0.1}",
            ["the model has no part 'encodr'. Did you mean 'encoder'?"],
        ),
        ("run.optimizer.parts={codec: 0.1}", ["run.optimizer.parts.codec: codec is frozen, so no rate is used"]),
        ("run.optimizer.parts={encoder: 0}", ["run.optimizer.parts.encoder: ", "greater than 0"]),
        ("run.optimizer={type: sgd, betas: [0.9, 0.9]}", ["run.optimizer.betas: there is no such setting"]),
        ("run.transforms=[flip, flip]", ["run.transforms.1: 'flip' is there already"]),
        ("run.observers=[tensorbord]", ["run.observers.0: no observer named", "Did you mean 'tensorboard'?"]),
        ("run.feed.wrokers=2", ["run.feed.wrokers: there is no such setting", "Did you mean 'workers'?"]),
        ("run.feed=tokens", ["run.feed: 'tokens' feeds a generator, and this trains a tokenizer; take one of: images"]),
        ("run.accumulate=3", ["accumulate: 3 does not divide batch_size 64"]),
        ("run.data=folder", ["run.data.path: is required and is not given"]),
        ("run.data.split=test", ["run.data.split: ", "'train' or 'val'", "(found 'test')"]),
        ("length.most=3", ["'length' is 8, which has no settings of its own"]),
        ("decoder", ["decoder: is not of the form key.path=value"]),
        ("=3", ["=3: is not of the form key.path=value"]),
        ("decoder={depth: [", ["decoder: cannot read '{depth: ['"]),
    ],
)
def test_a_mistake_is_one_line_that_names_the_right_word(override, words):
    with pytest.raises(ConfigError) as error:
        train(override)
    text = str(error.value)
    assert "\n" not in text
    assert len(error.value.problems) == 1, text
    for word in words:
        assert word in text


def test_a_missing_field_is_named():
    with pytest.raises(ConfigError) as error:
        TokenizerConfig.read({k: v for k, v in MODEL.items() if k not in ("length", "decoder")})
    assert error.value.problems == (
        ("length", "is required and is not given"),
        ("decoder", "is required and is not given"),
    )


def test_all_mistakes_are_told_at_once():
    with pytest.raises(ConfigError) as error:
        read(quantizer="toyy", decoder={"type": "toy", "depht": 3})
    assert [path for path, _ in error.value.problems] == ["quantizer", "decoder.depht"]


def test_of_many_mistakes_a_few_are_told_and_the_others_counted():
    with pytest.raises(ConfigError, match=r"^odd-0: there is no .*; odd-7: .*; and 32 problems more$") as told:
        TokenizerConfig.read({**MODEL, **{f"odd-{number}": 1 for number in range(40)}})
    assert len(told.value.problems) == 40


def test_the_path_starts_with_where_the_data_came_from():
    with pytest.raises(ConfigError, match=r"^here\.yaml\.length: "):
        TokenizerConfig.read({**MODEL, "length": 0}, "here.yaml")


# --- plain data --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("card", ["toy/digits-tiny", "toy/prior"])
def test_a_model_survives_json(card):
    config = cards().get(card).described
    assert type(config).model_validate_json(config.model_dump_json()) == config
    assert type(config).read(config.model_dump(mode="json")) == config


def test_a_training_survives_json_with_settings_of_its_parts():
    config = train("decoder=toy-plain", "quantizer.levels=[4, 4]", "run.objectives=[{type: l1, weight: 2}, mse]")
    again = TrainConfig.model_validate_json(config.model_dump_json())
    assert again == config
    assert again.objectives[0].weight == 2
    assert again.model.quantizer.levels == (4, 4)


def test_what_a_run_leaves_open_the_decoder_decides():
    assert train().objectives == ()
    assert [o.type for o in train("decoder=toy-plain").objectives] == ["mse"]
    assert train("decoder=toy-plain", "run.objectives=[]").objectives == ()


def test_a_suite_needs_data_and_metrics():
    with pytest.raises(ConfigError, match=r"data: is required.*metrics: is required"):
        SuiteConfig.read({})
    assert RunConfig.read({"data": "digits"}).data.split == "train"


# --- widths ------------------------------------------------------------------------------------------------------


def test_widths_follow_from_the_config():
    taps = {f"block.{i}": 16 for i in range(2)}
    square, wide = LatentSpec(3, 16, 16, (0.0, 1.0), True), LatentSpec(3, 16, 32, (0.0, 1.0), True)
    assert read().spec == Spec(square, 16, TokenSpec(8, 3, 1, 512, True), taps, (16, 16))
    other = read(encoder={"type": "toy", "width": 5}, masker="full", decoder="toy-plain", image_size=[16, 32])
    assert other.spec == Spec(wide, 5, TokenSpec(8, 3, 1, 512, False), taps, (16, 32))


def test_latents_come_from_the_codec():
    codec = {"type": "identity", "channels": 16, "downsample": 4, "range": None}
    assert read(codec=codec, image_size=64).spec.latents == LatentSpec(16, 16, 16, None)


def test_continuous_tokens_have_no_codebook():
    found = read(quantizer="toy-values")
    assert found.spec.tokens.codebook_size is None
    assert found.bits_per_token is None


@pytest.mark.parametrize(
    ("masker", "budgets"),
    [("full", (8,)), ("toy", (1, 2, 4, 8))],
)
def test_budgets_are_the_lengths_that_training_makes_usable(masker, budgets):
    assert read(masker=masker).budgets == budgets


def test_bits_count_every_codebook():
    assert read().bits_per_token == math.log2(512)
    several = read(quantizer={"type": "toy", "levels": [8, 8, 8], "split": True})
    assert several.spec.tokens.codebooks == 3
    assert several.bits_per_token == 3 * math.log2(8)


def test_a_part_of_no_plugin_can_stand_in_a_slot_as_an_object():
    base = catalogue().get("masker", "toy").config

    class Own(base):
        type: Literal["own"] = "own"

    assert read(masker=Own()).masker.type == "own"


def test_a_training_config_says_its_kind_and_reads_one_of_before_it_did():
    prior = {"length": 4, "codebook_size": 8, "fingerprint": "0" * 64, "prior": "toy"}
    data = {"model": prior, "run": {"data": "digits", "feed": {"type": "token-file", "path": "tokens.safetensors"}}}
    config = TrainConfig.read(data)
    assert config.kind == config.model.kind == "generator"
    assert config.model_dump(mode="json")["kind"] == "generator"
    assert TrainConfig.read({"kind": "generator", **data}) == TrainConfig(model=config.model, run=config.run) == config
    with pytest.raises(ConfigError, match=r"^model: is a codec by itself; train it as a tokenizer"):
        TrainConfig.read({"model": {"codec": "identity"}, "run": {"data": "digits"}})
    with pytest.raises(ConfigError, match=r"^model: .* has a prior; write `kind: generator`"):
        TrainConfig.read({"kind": "tokenizer", **data})


def test_a_size_within_a_part_is_a_setting_that_there_is_not():
    with pytest.raises(ConfigError, match=r"^encoder\.size: there is no such setting\. .*Known: type"):
        read(encoder={"type": "toy", "size": "tiny"})


def test_a_setting_where_there_are_none_is_told_to_be_left_out():
    with pytest.raises(
        ConfigError, match=r"^sampling\.steps: there is no such setting\. There are none here; leave it"
    ):
        SamplingConfig.read({"steps": 3}, "sampling")


def test_a_bare_word_where_a_list_stands_is_told_how_to_write_it():
    one = RunConfig.read({"data": "digits", "objectives": "mse"})
    assert one == RunConfig.read({"data": "digits", "objectives": ["mse"]})
    with pytest.raises(ConfigError, match=r"^metrics: is a list, as \[psnr\]$"):
        SuiteConfig.read({"data": {"type": "digits", "split": "val"}, "count": 1, "metrics": "psnr"})


def test_a_setting_that_may_be_several_things_is_one_problem():
    class Either(SamplingConfig):
        guidance: float | tuple[tuple[float, float], ...] = 1.0

    with pytest.raises(ConfigError) as refused:
        Either.read({"guidance": {0: 1}}, "sampling")
    assert refused.value.problems == (("sampling.guidance", "should be a valid number, or a list"),)
