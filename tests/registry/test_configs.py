"""Configs: bare names, sizes, overrides, errors in one line, round trips, the widths that follow."""

import math
from typing import Literal

import pytest
from pydantic import ValidationError

from flexframe_registry import (
    ConfigError,
    LatentSpec,
    RunConfig,
    Spec,
    SuiteConfig,
    TokenizerConfig,
    TokenSpec,
    TrainConfig,
    cards,
    catalogue,
)
from flexframe_registry.kinds import KINDS

CARD = "flextok/digits-tiny"
MODEL = {
    "size": "tiny", "image_size": 16, "length": 8,
    "encoder": "registers", "quantizer": "fsq", "masker": "pow2", "decoder": "flow",
}  # fmt: skip


def read(**changes):
    return TokenizerConfig.read({**MODEL, **changes})


def train(*overrides):
    return cards().get(CARD).train(overrides)


# --- slots and sizes ---------------------------------------------------------------------------------------------


def test_a_bare_name_a_mapping_and_a_config_are_one():
    named = read()
    assert read(encoder={"type": "registers"}) == named
    assert read(encoder=named.encoder) == named


def test_sizes_fill_the_fields_that_are_not_given():
    found = read(decoder={"type": "flow", "depth": 5}).decoder
    assert (found.width, found.depth, found.patch) == (64, 5, 4)
    base = TokenizerConfig.read({**MODEL, "size": "base"}).decoder
    assert (base.width, base.depth) == (768, 12)


def test_without_a_size_a_part_has_its_own_defaults():
    config = TokenizerConfig.read({k: v for k, v in MODEL.items() if k != "size"})
    assert config.encoder == catalogue().get("encoder", "registers").config()


@pytest.mark.parametrize("decoder", catalogue().names("decoder"))
@pytest.mark.parametrize("quantizer", catalogue().names("quantizer"))
def test_a_swap_in_a_tiny_card_stays_tiny(quantizer, decoder):
    found = train(f"quantizer={quantizer}", f"decoder={decoder}", "length=16").model  # a 4 x 4 grid
    for kind, name in (("quantizer", quantizer), ("decoder", decoder)):
        assert getattr(found, kind) == catalogue().get(kind, name).config.sized("tiny")


def test_one_number_is_a_square():
    assert read(image_size=16).image_size == read(image_size=[16, 16]).image_size == (16, 16)


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
    found = train("decoder.depth=4", "decoder.null_dropout=0", "masker.type=uniform").model
    assert (found.decoder.type, found.decoder.depth, found.decoder.width) == ("flow", 4, 64)
    assert found.decoder.null_dropout == 0
    assert found.masker.type == "uniform"


def test_overrides_apply_in_order():
    found = train("decoder=vit", "decoder.depth=2", "decoder.depth=1").model.decoder
    assert (found.type, found.depth, found.width) == ("vit", 1, 64)


def test_another_type_leaves_the_settings_of_the_one_before_behind():
    found = train("quantizer.levels=[4, 4]", "quantizer.type=vq", "decoder.depth=5", "decoder.type=flow").model
    assert found.quantizer == catalogue().get("quantizer", "vq").config.sized("tiny")
    assert found.decoder.depth == 5


def test_a_value_may_be_a_mapping_or_a_list():
    found = train("quantizer={type: fsq, levels: [8, 8]}", "run.betas=[0.8, 0.9]")
    assert found.model.quantizer.levels == (8, 8)
    assert found.run.betas == (0.8, 0.9)


def test_run_and_model_may_be_named_in_full():
    assert train("model.length=4", "run.steps=7").model == train("length=4").model
    assert train("run.lr=1e-4").run.lr == 1e-4


# --- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("quantiser=vq", ["quantiser: there is no such setting", "Did you mean 'quantizer'?"]),
        ("quantizer=vqq", ["quantizer: no quantizer named 'vqq'", "Did you mean 'vq'?"]),
        ("quantizer=flow", ["no quantizer named 'flow'"]),
        ("decoder.depht=3", ["decoder.depht: there is no such setting", "Did you mean 'depth'?"]),
        ("decoder.depth=deep", ["decoder.depth: ", "valid integer", "(found 'deep')"]),
        ("decoder.depth=0", ["decoder.depth: ", "greater than or equal to 1", "(found 0)"]),
        ("encoder.patch=5", ["encoder: latents of 16 x 16 do not divide into patches of 5; change `patch`"]),
        ("length=6", ["masker: masker 'pow2' needs a length that is a power of two, not 6"]),
        ("encoder={width: 64}", ["encoder: needs a `type`, one of: ", "registers"]),
        ("encoder.type=3", ["encoder.type: is a name, not 3"]),
        ("encoder=3", ["encoder: ", "(found 3)"]),
        ("size=tny", ["size: ", "'tiny'", "(found 'tny')"]),
        ("run.objectives=[mse]", ["run.objectives.0: objective 'mse' needs reconstruction", "decoder 'flow'"]),
        ("run.objectives=[msee]", ["run.objectives.0: no objective named 'msee'", "Did you mean 'mse'?"]),
        ("run.stesp=3", ["run.stesp: there is no such setting", "Did you mean 'steps'?"]),
        ("run.steps=-1", ["run.steps: ", "(found -1)"]),
        ("run.lr=.nan", ["run.lr: "]),
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
        read(quantizer="vqq", decoder={"type": "flow", "depht": 3})
    assert [path for path, _ in error.value.problems] == ["quantizer", "decoder.depht"]


def test_the_path_starts_with_where_the_data_came_from():
    with pytest.raises(ConfigError, match=r"^here\.yaml\.length: "):
        TokenizerConfig.read({**MODEL, "length": 0}, "here.yaml")


# --- plain data --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("card", cards().names())
def test_a_model_survives_json(card):
    config = cards().get(card).described
    assert type(config).model_validate_json(config.model_dump_json()) == config
    assert type(config).read(config.model_dump(mode="json")) == config


def test_a_training_survives_json_with_settings_of_its_parts():
    config = train("decoder=vit", "quantizer.levels=[4, 4]", "run.objectives=[{type: l1, weight: 2}, mse]")
    again = TrainConfig.model_validate_json(config.model_dump_json())
    assert again == config
    assert again.objectives[0].weight == 2
    assert again.model.quantizer.levels == (4, 4)


def test_what_a_run_leaves_open_the_decoder_decides():
    assert train().objectives == ()
    assert [o.type for o in train("decoder=vit").objectives] == ["mse"]
    assert train("decoder=vit", "run.objectives=[]").objectives == ()


def test_a_suite_needs_data_and_metrics():
    with pytest.raises(ConfigError, match=r"data: is required.*metrics: is required"):
        SuiteConfig.read({})
    assert RunConfig.read({"data": "digits"}).data.split == "train"


# --- widths ------------------------------------------------------------------------------------------------------


def test_widths_follow_from_the_config():
    taps = {f"block.{i}": 64 for i in range(3)}
    assert read().spec == Spec(LatentSpec(3, 16, 16, (0.0, 1.0), True), 64, TokenSpec(8, 6, 1, 64_000, True), taps)
    vit = read(encoder="latent-tokens", quantizer="vq", masker="full", decoder="vit", image_size=[16, 32])
    assert vit.spec == Spec(LatentSpec(3, 16, 32, (0.0, 1.0), True), 64, TokenSpec(8, 8, 1, 64, False), taps)


def test_latents_come_from_the_codec():
    codec = {"type": "identity", "channels": 16, "downsample": 4, "range": None}
    assert read(codec=codec, image_size=64).spec.latents == LatentSpec(16, 16, 16, None)


def test_continuous_tokens_have_no_codebook():
    found = read(quantizer="none")
    assert found.spec.tokens.codebook_size is None
    assert found.bits_per_token is None


@pytest.mark.parametrize(
    ("masker", "budgets"),
    [
        ("full", (8,)),
        ("pow2", (1, 2, 4, 8)),
        ("uniform-pow2", (1, 2, 4, 8)),
        ("uniform", (1, 2, 3, 4, 5, 6, 7, 8)),
        ("tail-drop", (1, 2, 3, 4, 5, 6, 7, 8)),
    ],
)
def test_budgets_are_the_lengths_that_training_makes_usable(masker, budgets):
    assert read(masker=masker).budgets == budgets


def test_bits_count_every_codebook():
    assert read().bits_per_token == math.log2(64_000)
    residual = read(quantizer="residual-vq")
    assert residual.spec.tokens.codebooks > 1
    assert residual.bits_per_token == residual.spec.tokens.codebooks * math.log2(residual.spec.tokens.codebook_size)


def test_a_part_of_no_plugin_can_stand_in_a_slot_as_an_object():
    base = catalogue().get("masker", "pow2").config

    class Own(base):
        type: Literal["own"] = "own"

    assert read(masker=Own()).masker.type == "own"
