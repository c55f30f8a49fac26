"""The importer on configs that this folder makes itself: what is honoured, what is asked for, what is refused."""

import copy
import json
import os
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from flexframe import load
from flexframe.importing import Settings, importer_of, open_foreign, understood
from flexframe.store import hub
from flexframe.testing.refusals import parametrize_refusals
from flexframe_flextok.blocks import stored_table, stretched
from flexframe_flextok.reading import read_flextok
from flexframe_registry import ConfigError

ENCODER, DECODER = "encoder.module_dict", "decoder.module_dict"
MISSING = object()


def at(config, path):
    """The mapping that holds a path's last key, and that key."""
    *above, last = path.split(".")
    for key in above:
        config = config[key]
    return config, last


@pytest.fixture
def changed(maker):
    """A config with settings changed, by path; `MISSING` takes one out."""

    def change(settings=(), **shape):
        config = maker.config_of(maker.Shape(**shape))
        for path, value in dict(settings).items():
            inner, last = at(config, path)
            if value is MISSING:
                del inner[last]
            else:
                inner[last] = value
        return config

    return change


def read(config):
    return read_flextok(Settings(config))


def refused(config, *words):
    """The config is refused, with all of these words."""
    with pytest.raises(ConfigError) as told:
        read(config)
    for word in words:
        assert word in str(told.value), f"{word!r} is not in {told.value}"
    return told.value


def moved(config, side, name, index):
    """The modules of a side with one of them at another place."""
    modules = config[side]["module_dict"]
    names = [n for n in modules if n != name]
    names.insert(index, name)
    config[side]["module_dict"] = {n: modules[n] for n in names}
    return config


# --- recognition -------------------------------------------------------------------------------------------------


def test_it_recognises_its_own_by_names_alone(maker, tmp_path):
    importer = importer_of(open_foreign(maker.folder()), "flextok")
    assert importer.recognises(open_foreign(maker.folder()))
    broken = maker.config_of(maker.Shape())
    broken["encoder"] = 5
    assert importer.recognises(open_foreign(maker.folder(broken)))
    for name in ("encoder.class_embedding", "encoder.conv_in.weight", "transformer.blocks.0.attn.wq.weight"):
        folder = tmp_path / name
        folder.mkdir()
        save_file({name: torch.zeros(2)}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"model": {"encoder": {}, "decoder": {}}}))
        assert not importer.recognises(open_foreign(folder))
    assert importer_of(open_foreign(maker.folder())).config.type == "flextok"


# --- what is honoured --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beginning", ["model.", "tokenizer.net."])
def test_a_word_before_all_names_is_left_out_though_the_config_is_known(maker, beginning):
    folder = maker.folder()
    path = folder / "model.safetensors"
    save_file({f"{beginning}{name}": value for name, value in load_file(path).items()}, path)
    source, importer = understood(open_foreign(folder))
    assert importer.config.type == "flextok"
    assert all(name.startswith((ENCODER, DECODER)) for name in source.tensors)


def test_a_config_becomes_ours(maker):
    found = read(maker.config_of(maker.Shape()))
    assert found.length == 12
    assert found.latents == (10, 14)
    assert found.parts == {
        "encoder": {
            "type": "registers", "width": 64, "depth": 2, "head_dim": 32, "patch": 2, "positions": "absolute",
            "grid": [5, 7],
        },
        "quantizer": {
            "type": "fsq", "levels": [5, 5, 5], "drop_quant_p": 0.0, "corrupt_tokens_p": 0.0,
            "min_corrupt_tokens_p": 0.0, "apply_corrupt_tokens_p": 0.2,
        },
        "masker": "uniform",
        "decoder": {
            "type": "flow", "width": 96, "depth": 3, "head_dim": 32, "patch": 2, "positions": "absolute",
            "grid": [5, 7], "null_dropout": 0.25, "single_null": False, "max_timestep": 250.0,
            "time_sampling": "mode", "mode_scale": 0.5,
        },
    }  # fmt: skip
    assert found.inner_layers == (1,)


@pytest.mark.parametrize(
    ("path", "value", "part", "name", "ours"),
    [
        (f"{ENCODER}.trunk.head_dim", 16, "encoder", "head_dim", 16),
        (f"{ENCODER}.trunk.head_dim", MISSING, "encoder", "head_dim", 64),
        (f"{ENCODER}.trunk.mlp_ratio", 4.0, "encoder", "depth", 2),
        (f"{ENCODER}.places.posemb_scaling", "interpolate", "encoder", "positions", "interpolate"),
        (f"{DECODER}.places.max_sizes", [9, 8], "decoder", "grid", [9, 8]),
        (f"{DECODER}.clock.max_timestep", 1, "decoder", "max_timestep", 1.0),
        (f"{DECODER}.null.dropout_prob", 0, "decoder", "null_dropout", 0.0),
        (f"{DECODER}.null.replace_with_single_token", True, "decoder", "single_null", True),
        ("flow_matching_noise_module.ln", True, "decoder", "time_sampling", "logit-normal"),
        ("flow_matching_noise_module.mode_scale", 1, "decoder", "mode_scale", 1.0),
        ("regularizer.drop_quant_p", 0.3, "quantizer", "drop_quant_p", 0.3),
        ("regularizer.corrupt_tokens_p", 0.5, "quantizer", "corrupt_tokens_p", 0.5),
        ("regularizer.min_corrupt_tokens_p", 0.1, "quantizer", "min_corrupt_tokens_p", 0.1),
        ("regularizer.apply_corrupt_tokens_p", 0.4, "quantizer", "apply_corrupt_tokens_p", 0.4),
        ("regularizer.levels", [8, 8, 2], "quantizer", "levels", [8, 8, 2]),
    ],
)
def test_settings_that_matter_are_taken_over(changed, path, value, part, name, ours):
    assert read(changed({path: value})).parts[part][name] == ours


@pytest.mark.parametrize(
    ("draw", "length", "masker", "notes"),
    [
        ("uniform", 12, "uniform", 0),
        ("pow2", 16, "pow2", 0),
        ("uniform_pow2", 16, "uniform-pow2", 0),
        ("pow2", 12, "uniform", 1),
        ("uniform_pow2", 12, "uniform", 1),
    ],
)
def test_nested_dropout_is_our_masker(changed, draw, length, masker, notes):
    found = read(changed(draw=draw, length=length))
    assert found.parts["masker"] == masker
    assert len([note for note in found.notes if "no power of two" in note]) == notes


def test_the_image_size_follows_from_the_tables(maker):
    config = maker.config_of(maker.Shape(grid=(5, 7), patch=2))
    config["decoder"]["module_dict"]["places"]["max_sizes"] = [6, 4]
    assert read(config).latents == (10, 8)
    state = maker.state_of(maker.Shape(), stored_table)
    state[f"{DECODER}.places.posembs"] = stored_table(6, 4, 96).permute(2, 0, 1)[None]
    model = load(maker.folder(config, state))
    assert model.config.image_size == (80, 64)
    assert model.spec.latents.channels == 6


def test_at_another_image_size_positions_are_stretched_over_the_pretraining_grid(maker):
    folder = maker.folder()
    with pytest.raises(ConfigError, match=r"10 x 14 patches have no positions in `grid` 5 x 7; set `positions: interp"):
        load(folder, overrides=["image_size=[160, 224]"])
    stretch = [f"{side}.positions=interpolate" for side in ("encoder", "decoder")]
    model = load(folder, overrides=["image_size=[160, 224]", *stretch])
    assert model.encoder.config.grid == (5, 7)
    assert torch.equal(model.encoder.patches.positions, stretched(stored_table(5, 7, 64), 10, 14))
    usual = load(folder)
    assert torch.equal(model.encoder.patches.place(5, 7, 64), usual.encoder.patches.positions)


def test_more_positions_of_tokens_than_tokens(maker):
    shape = maker.Shape()
    config, state = maker.config_of(shape), maker.state_of(maker.Shape(length=20), stored_table)
    state[f"{ENCODER}.learned.registers"] = state[f"{ENCODER}.learned.registers"][:12]
    order = config["decoder"]["module_dict"]["order"]
    order["max_sizes"] = [20]
    model = load(maker.folder(config, state))
    assert torch.equal(model.decoder.positions, state[f"{DECODER}.order.posembs"][0, 0, :, :12].T)
    assert any("the first 12 positions" in note for note in read(config).notes)
    order["posemb_scaling"] = "interpolate"
    refused(config, f"{DECODER}.order.max_sizes: is [20] under 'interpolate' positions, for 12 registers")
    order |= {"posemb_scaling": "absolute", "max_sizes": [8]}
    refused(config, f"{DECODER}.order.max_sizes: is [8]")


def test_what_changes_no_number_is_accepted(changed):
    plain = read(changed())
    given = {
        f"{ENCODER}.trunk.use_act_checkpoint": False,
        f"{ENCODER}.pack.pad_to_multiple": 64,
        f"{ENCODER}.pack.per_subseq_embs": False,
        f"{ENCODER}.head.weight_init_style": "xavier",
        f"{ENCODER}.head.dtype_override": None,
        f"{ENCODER}.learned.size_sampling_mode": "powers_of_two",
        f"{DECODER}.trunk.some_new_write_key": "nowhere",
        f"{DECODER}.trunk.context_read_key": None,
        f"{DECODER}.trunk.drop_path": 0.0,
        f"{DECODER}.pack.return_materialized_mask": True,
        f"{DECODER}.null.eval_dropout_mask_read_key": "unguided",
        f"{DECODER}.project._partial_": False,
        "regularizer.packed_call": True,
        "flow_matching_noise_module.stratisfied": True,  # of normal draws, of which there are none
        "pipeline.target_sizes_read_key": None,
        "vae.force_vae_encode": False,
        "vae.vae_kl_loss_write_key": "kl",
    }
    assert read(changed(given)) == plain


# --- the wiring --------------------------------------------------------------------------------------------------


def renamed(value, names):
    if isinstance(value, dict):
        return {names.get(key, key): renamed(inner, names) for key, inner in value.items()}
    if isinstance(value, list):
        return [renamed(inner, names) for inner in value]
    return names.get(value, value) if isinstance(value, str) else value


def test_data_keys_and_modules_may_have_any_name(maker):
    config = maker.config_of(maker.Shape())
    keys = ["latents_in", "latents_last", "registers", "quantized", "condition", "noised", "packed", "mask", "time"]
    others = renamed(config, {key: f"other_{i}" for i, key in enumerate(keys)})
    assert read(others).parts == read(config).parts
    modules = {"trunk": "dec_transformer", "shorten": "dec_nested_dropout"}
    config["decoder"]["module_dict"] = renamed(config["decoder"]["module_dict"], modules)
    found = read(config)
    assert found.tensors["decoder.mask_token"] == f"{DECODER}.dec_nested_dropout.dropout_mask_token"
    assert found.tensors["decoder.blocks.2.attn.wq.weight"] == f"{DECODER}.dec_transformer.blocks.2.attn.wq.weight"


def test_the_library_may_be_ordered_otherwise_within_itself(changed):
    assert read(changed({f"{DECODER}.trunk._target_": "flextok.nn.trunk.FlexTransformer"})).parts
    for name in (
        "FlexTransformer",
        "notflextok.FlexTransformer",
        "flextok..FlexTransformer",
        "flextok FlexTransformer",
    ):
        refused(changed({f"{DECODER}.trunk._target_": name}), f"{DECODER}.trunk._target_: {name!r} is no module")
    refused(
        changed({f"{DECODER}.trunk._target_": "flextok.FlexTransformerTurbo"}),
        f"'flextok.FlexTransformerTurbo' is not known here; --drop {DECODER}.trunk to go without it",
    )


@pytest.mark.parametrize("index", range(10, 14))
def test_features_for_objectives_may_be_unpacked_anywhere_after_the_trunk(maker, index):
    config = maker.config_of(maker.Shape())
    config["decoder"]["module_dict"]["repa"] = maker.unpacker("repa_patches", "repa_registers", "inner")
    assert read(moved(config, "decoder", "repa", index)).parts == read(maker.config_of(maker.Shape())).parts


def test_they_are_not_unpacked_before_it(maker):
    config = maker.config_of(maker.Shape())
    config["decoder"]["module_dict"]["repa"] = maker.unpacker("repa_patches", "repa_registers", "inner")
    refused(moved(config, "decoder", "repa", 9), f"{DECODER}.repa.packed_seq_read_key: reads 'inner'", "nothing before")


def test_steps_that_do_not_depend_on_each_other_may_swap(maker):
    plain = read(maker.config_of(maker.Shape())).parts
    assert read(moved(maker.config_of(maker.Shape()), "decoder", "clock", 0)).parts == plain
    assert read(moved(maker.config_of(maker.Shape()), "encoder", "learned", 2)).parts == plain


WIRINGS = {
    "positions on the registers": (
        {f"{ENCODER}.places.read_key": "registers"},
        f"{ENCODER}.places.read_key: reads 'registers', which nothing before it writes; expected patches",
    ),
    "registers first": (
        {f"{ENCODER}.pack.input_list_read_keys": ["registers", "patches"]},
        f"{ENCODER}.pack.input_list_read_keys: is 'registers' (registers), 'patches' (patches with positions); exp",
    ),
    "no positions on the patches": (
        {f"{ENCODER}.places.write_key": "elsewhere"},
        "'patches' (patches), 'registers' (registers); expected patches with positions, then registers",
    ),
    "tokens straight from the quantizer": (
        {f"{DECODER}.pack.input_list_read_keys": ["patches", "quantized"]},
        "'quantized' (quantized tokens); expected patches with positions, then tokens after null dropout",
    ),
    "an unknown data key": (
        {f"{DECODER}.project.read_key": "enc_registers_quant"},
        f"{DECODER}.project.read_key: reads 'enc_registers_quant', which nothing before it writes; expected quantized",
    ),
    "the clean latents": (
        {f"{DECODER}.last.read_key": "latents_in"},
        f"{DECODER}.last.read_key: reads 'latents_in', which nothing before it writes; expected latents",
    ),
    "registers shown as patches": (
        {f"{DECODER}.head.read_key": "rest"},
        f"{DECODER}.head.read_key: reads 'rest', which holds registers after the transformer; expected patches after",
    ),
    "the encoder's patches quantized": (
        {"regularizer.latents_read_key": "patches"},
        "regularizer.latents_read_key: reads 'patches', which holds patches after the transformer; expected token val",
    ),
    "another result": (
        {"vae.vae_latents_read_key": "patches"},
        "vae.vae_latents_read_key: reads 'patches', which holds the velocity with channels last; expected the velocity",
    ),
    "another attention": (
        {f"{ENCODER}.pack.mask_mode": "full"},
        f"{ENCODER}.pack.mask_mode: is 'full', which is not supported. Supported: 'causal_last'",
    ),
    "no mask": ({f"{ENCODER}.trunk.block_mask_read_key": None}, f"{ENCODER}.trunk.block_mask_read_key: is None; exp"),
    "a modulated encoder": (
        {f"{ENCODER}.trunk.adaLN_emb_read_key": "registers"},
        f"{ENCODER}.trunk.adaLN_emb_read_key: is 'registers', which is not supported. Supported: None",
    ),
    "one modulation for both": (
        {f"{DECODER}.trunk.adaLN_expansion": 1},
        f"{DECODER}.trunk.adaLN_expansion: is 1, which is not supported. Supported: 2",
    ),
    "modulation by sample": (
        {f"{DECODER}.pack.per_subseq_embs": False},
        f"{DECODER}.pack.per_subseq_embs: is False, which is not supported. Supported: True",
    ),
    "another pipeline": (
        {"pipeline.latents_read_key": "tokens"},
        "pipeline.latents_read_key: is 'tokens'; expected 'quantized', what the regularizer writes",
    ),
    "noise on something else": (
        {"flow_matching_noise_module.clean_images_read_key": "rgb"},
        "flow_matching_noise_module.clean_images_read_key: is 'rgb'; expected 'latents_in', what the VAE writes",
    ),
    "shapes of another packer": (
        {f"{ENCODER}.unpack.inner_packed_shapes_read_key": "outer_shapes"},
        "reads 'outer_shapes', which holds outer shapes; expected inner shapes",
    ),
    "a module's other output": (
        {f"{ENCODER}.pack.input_list_read_keys": ["count", "registers"]},
        f"'count' (the n_patches of {ENCODER}.patches)",
    ),
}


@pytest.mark.parametrize("case", WIRINGS)
def test_a_wiring_of_another_meaning_is_refused_where_it_departs(changed, case):
    settings, words = WIRINGS[case]
    refused(changed(settings), words)


@pytest.mark.parametrize(
    ("side", "name", "index", "words"),
    [
        ("decoder", "null", 2, f"{DECODER}.null.read_write_key: reads 'condition', which holds tokens with positions"),
        ("decoder", "order", 2, f"{DECODER}.shorten.read_write_key: reads 'condition', which holds tokens at the dec"),
        ("decoder", "shorten", 3, f"{DECODER}.null.read_write_key: reads 'condition', which holds tokens with posit"),
        (
            "encoder",
            "head",
            4,
            f"{ENCODER}.head.read_key: reads 'registers', which holds registers; expected registers",
        ),
        ("encoder", "learned", 6, f"{ENCODER}.pack.input_list_read_keys: is 'patches' (patches with positions), 'reg"),
    ],
)
def test_an_order_of_another_meaning_is_refused(maker, side, name, index, words):
    refused(moved(maker.config_of(maker.Shape()), side, name, index), words)


@pytest.mark.parametrize("name", ["patches", "places", "learned", "pack", "trunk", "unpack", "head"])
def test_no_module_may_be_missing(changed, name):
    refused(changed({f"{ENCODER}.{name}": MISSING}), "expected")


@pytest.mark.parametrize("name", ["project", "order", "shorten", "null", "last", "pack", "clock", "trunk", "first"])
def test_nor_in_the_decoder(changed, name):
    refused(changed({f"{DECODER}.{name}": MISSING}), "expected")


def test_a_second_module_is_refused(maker):
    config = maker.config_of(maker.Shape())
    modules = config["decoder"]["module_dict"]
    modules["again"] = copy.deepcopy(modules["trunk"])
    refused(config, f"{DECODER}.again: is a second FlexTransformer after {DECODER}.trunk; a FlexTok has one")
    del modules["again"]
    config["encoder"]["module_dict"]["twice"] = copy.deepcopy(config["encoder"]["module_dict"]["places"])
    config = moved(config, "encoder", "twice", 3)
    refused(config, f"{ENCODER}.twice.read_key: reads 'patches', which holds patches with positions; expected patches")


# --- what is refused ---------------------------------------------------------------------------------------------

SETTINGS = {
    f"{ENCODER}.patches.patch_sizes": ([2, 4], "is [2, 4]; expected two equal sizes: square patches"),
    f"{ENCODER}.patches.flatten_patches": (True, "is True, which is not supported"),
    f"{ENCODER}.places.posemb_type": ("learnable_sum", "is 'learnable_sum', which is not supported. Supported: 'sinc"),
    f"{DECODER}.order.posemb_type": ("sincos", "is 'sincos', which is not supported. Supported: 'learnable_sum'"),
    f"{ENCODER}.places.max_sizes": ([5], "is [5]; expected two sizes"),
    f"{ENCODER}.learned.n_min": (1, "is 1 and n_max 12: registers whose number is drawn in training"),
    f"{ENCODER}.learned.ordering_mode": ("avg_pool", "is 'avg_pool', which is not supported"),
    f"{ENCODER}.trunk.mlp_ratio": (2, "is 2, which is not supported. Supported: 4"),
    f"{ENCODER}.trunk.depth": ("2", "is '2'; expected int"),
    f"{ENCODER}.trunk.dim": (64.0, "is 64.0; expected int"),
    f"{ENCODER}.trunk.drop_path": (0.1, "is 0.1, which is not supported. Supported: 0"),
    f"{ENCODER}.head.use_mup_readout": (True, "is True, which is not supported"),
    f"{ENCODER}.head.dtype_override": ("bf16", "is 'bf16', which is not supported"),
    f"{ENCODER}.head.dim": (96, f"is 96, but {ENCODER}.patches.dim is 64; they must agree"),
    f"{ENCODER}.head.dim_out": (6, "is 6; regularizer.levels, [5, 5, 5], are 3 dimensions"),
    f"{DECODER}.project.dim_in": (4, "is 4; regularizer.levels"),
    f"{DECODER}.patches.channels_in": (4, f"{DECODER}.head.channels_out: is 6, but {DECODER}.patches.channels_in is 4"),
    f"{DECODER}.shorten.size_sampling_mode": ("log", "is 'log', which is not supported"),
    f"{DECODER}.null.dropout_prob": (1.5, "is 1.5; expected a probability below 1"),
    f"{DECODER}.clock.max_timestep": (-1.0, "is -1.0; expected a number above 0"),
    f"{DECODER}.clock.frequency_embedding_size": (128, "is 128, which is not supported. Supported: 256"),
    f"{DECODER}.trunk.intermediate_layers": ([3], "is [3]; expected layers in 0..2"),
    f"{DECODER}.project._partial_": (True, "is True, which is not supported. Supported: False"),
    f"{DECODER}.trunk.rotary": (
        True,
        f"{DECODER}.trunk.rotary: True is unknown here, so what it changes is too; --drop",
    ),
    f"{DECODER}.trunk.context_read_key": ("text", "'text' is unknown here"),
    f"{DECODER}.trunk._args_": ([1], "[1] is unknown here"),
    "regularizer.levels": ([5, "5", 5], "expected whole numbers above 0"),
    "regularizer.drop_quant_p": (2.0, "is 2.0; expected a probability"),
    "regularizer.entropy_weight": (0.1, "0.1 is unknown here"),
    "pipeline.out_channels": (3, "is 3; the VAE's latents have 6"),
    "pipeline.eta": (1.0, "1.0 is unknown here"),
    "vae.dtype_override": ("bf16", "is 'bf16', which is not supported"),
    "vae.frozen": (False, "is False, which is not supported. Supported: True"),
    "vae.shift_factor": (0.1, "is 0.1, which is not supported"),
    "vae.sample_posterior": ("yes", "is 'yes'; expected bool"),
    "vae.latent_channels": (4, "is 6; the VAE's latents have 4 channels (vae.latent_channels)"),
    "ema": ({"decay": 0.999}, "ema: {'decay': 0.999} is unknown here"),
}


@pytest.mark.parametrize("path", SETTINGS)
def test_a_setting_that_cannot_be_honoured_is_refused_with_its_path(changed, path):
    value, words = SETTINGS[path]
    assert path in str(refused(changed({path: value}), words))


def test_all_unknown_settings_are_told_at_once(changed):
    error = refused(changed({f"{ENCODER}.trunk.rotary": 1, f"{DECODER}.clock.phase": 2, "vae.tiling": True}))
    assert [path for path, _ in error.problems] == ["vae.tiling", f"{ENCODER}.trunk.rotary", f"{DECODER}.clock.phase"]


def test_times_spread_over_a_batch_are_refused_with_what_to_say(changed):
    config = changed({"flow_matching_noise_module.ln": True, "flow_matching_noise_module.stratisfied": True})
    refused(config, "--assume flow_matching_noise_module.stratisfied=false")


ASKED = [
    f"{DECODER}.clock.max_timestep",
    f"{DECODER}.shorten.size_sampling_mode",
    f"{DECODER}.null.dropout_prob",
    f"{ENCODER}.places.posemb_scaling",
    f"{ENCODER}.head.use_mup_readout",
    "regularizer.levels",
    "flow_matching_noise_module.mode_scale",
]


@pytest.mark.parametrize("path", ASKED)
def test_a_missing_setting_is_asked_for_and_may_be_assumed(maker, changed, path):
    inner, last = at(maker.config_of(maker.Shape()), path)
    folder = maker.folder(changed({path: MISSING}))
    with pytest.raises(ConfigError) as told:
        load(folder)
    assert str(told.value) == f"{path}: is not given; if you know it, say --assume {path}=VALUE"
    assert load(folder, assume={path: inner[last]}).config == load(maker.folder()).config


def test_an_unknown_setting_may_be_dropped(maker, changed):
    path = f"{DECODER}.trunk.rotary"
    folder = maker.folder(changed({path: True}))
    with pytest.raises(ConfigError, match=f"--drop {path}"):
        load(folder)
    assert load(folder, drop=[path]).config == load(maker.folder()).config


@pytest.mark.parametrize("name", ["MLPHead", "DictKeyFilter", "ZeroNullCond"])
def test_modules_of_no_tokenizer_go_with_their_tensors(maker, name):
    config, state = maker.config_of(maker.Shape()), maker.state_of(maker.Shape(), stored_table)
    config["decoder"]["module_dict"]["repa_head"] = {
        "_target_": f"flextok.model.{name}",
        "read_key": "inner",
        "dim": 96,
    }
    state[f"{DECODER}.repa_head.fc1.weight"] = torch.zeros(2, 2)
    folder, path = maker.folder(config, state), f"{DECODER}.repa_head"
    words = f"is a {name}, which is no part of a FlexTok tokenizer; --drop {path} to go without it and its tensors"
    with pytest.raises(ConfigError, match=words):
        load(folder)
    assert load(folder, drop=[path]).config == load(maker.folder()).config


# --- tensors -----------------------------------------------------------------------------------------------------


def test_missing_and_left_over_tensors_are_all_listed(maker):
    state = maker.state_of(maker.Shape(), stored_table)
    gone = [f"{DECODER}.null.nullcond", f"{ENCODER}.trunk.blocks.0.mlp.fc2.weight"]
    for name in gone:
        del state[name]
    state["decoder.extra"] = torch.zeros(1)
    state[f"{ENCODER}.head.scale"] = torch.zeros(1)
    state[f"{DECODER}.shorten.dropout_mask_token"] = torch.zeros(95)
    with pytest.raises(ConfigError) as told:
        load(maker.folder(state=state))
    for words in (
        f"missing decoder.null_condition (there {DECODER}.null.nullcond)",
        f"missing encoder.blocks.0.mlp.fc2.weight (there {ENCODER}.trunk.blocks.0.mlp.fc2.weight)",
        "left over decoder.extra",
        f"left over {ENCODER}.head.scale",
        f"decoder.mask_token (there {DECODER}.shorten.dropout_mask_token) is (95,), not (96,)",
    ):
        assert words in str(told.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"levels": (5, 5, 5, 5)},
            r"regularizer.levels: is \[5, 5, 5, 5\], 4 dim.*; .*head.proj.weight is \(3, 64\)",
        ),
        ({"length": 16}, rf"{ENCODER}.learned.n_max: is 16; {ENCODER}.learned.registers is \(12, 64\)"),
        ({"depth": (2, 4)}, rf"{DECODER}.trunk.depth: is 4; the file has 3 blocks"),
        ({"depth": (1, 3)}, rf"{ENCODER}.trunk.depth: is 1; the file has 2 blocks"),
        ({"width": (96, 96)}, rf"{ENCODER}.trunk.dim: is 96; .*attn.wq.weight is \(64, 64\)"),
        ({"grid": (7, 5)}, rf"{ENCODER}.places.posembs: is \(1, 64, 5, 7\); its config says \(1, 64, 7, 5\)"),
        ({"width": (64, 1 << 20)}, rf"{DECODER}.project.dim: is 1048576; expected at most 65536"),
        ({"depth": (10**9, 3)}, rf"{ENCODER}.trunk.depth: is 1000000000; expected at most 65536"),
        ({"grid": (5, 10**9)}, rf"{ENCODER}.places.max_sizes: is \[5, 1000000000\]; expected two sizes up to 4096"),
    ],
)
def test_sizes_that_are_not_the_tensors_are_told_before_anything_is_built(maker, fields, words):
    config = maker.config_of(maker.Shape(**fields))
    with pytest.raises(ConfigError, match=words):
        load(maker.folder(config, maker.state_of(maker.Shape(), stored_table)))


def test_without_a_config_it_says_so(maker):
    folder = maker.folder()
    (folder / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"has no config: neither config.json beside it nor one in its metadata"):
        load(folder)


def test_without_its_vae_a_checkpoint_works_on_latents(maker, caplog):
    model = load(maker.folder())
    assert "holds no VAE, so it takes and gives latents, not images: 6 channels, scaled by 0.5" in caplog.text
    assert model.config.codec.type == "identity"
    assert model.config.image_size == (80, 112)
    with pytest.raises(ValueError, match="works on 6-channel latents and has no codec"):
        model.encode(torch.zeros(1, 3, 80, 112))
    config = maker.config_of(maker.Shape())
    config["vae"] |= {"hf_hub_path": "EPFL-VILAB/flextok_vae_c16", "scaling_factor": None}
    source = open_foreign(maker.folder(config))
    note = importer_of(source).convert(source).notes[0]
    assert "(its config names EPFL-VILAB/flextok_vae_c16)" in note
    assert "by a factor it does not give" in note


# --- the hub -----------------------------------------------------------------------------------------------------


def test_a_name_of_the_hub_finds_its_card_and_the_checkpoints_own_config_counts(maker, monkeypatch, caplog):
    asked = []
    folder = maker.folder()
    monkeypatch.setattr(hub, "fetch", lambda *args: asked.append(args) or (folder, "c0ffee"))
    model = load("EPFL-VILAB/flextok_d12_d12_in1k")
    assert asked[0][:2] == ("EPFL-VILAB/flextok_d12_d12_in1k", "fe24b9794f32cc5c002781d25dd81a7768bed71c")
    assert model.id == "flextok/d12-d12"
    assert (model.sampling.steps, model.sampling.guidance, model.sampling.apg) == (25, 15.0, True)
    assert model.config.length == 12
    assert "its config is not the card's, and counts: " in caplog.text
    assert "decoder.max_timestep 250.0 (card: 1000.0)" in caplog.text


# --- hostile -----------------------------------------------------------------------------------------------------


@parametrize_refusals()
def test_what_is_broken_or_hostile_is_refused(refusal, maker):
    refusal(maker.folder())


PLACES = [
    "vae._target_",
    "encoder._target_",
    f"{ENCODER}.trunk._target_",
    f"{ENCODER}.last.per_sample_op._target_",
    f"{DECODER}.head._target_",
    "regularizer._target_",
    "flow_matching_noise_module._target_",
    "pipeline._target_",
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("metadata", [False, True])
def test_nothing_that_a_config_names_is_run(maker, changed, place, metadata, monkeypatch):
    ran = []
    monkeypatch.setattr(os, "system", ran.append)
    folder = maker.folder(changed({place: "os.system"}), metadata=metadata)
    with pytest.raises(ConfigError) as told:
        load(folder)
    assert f"{place}: 'os.system' is no module of FlexTok's; nothing that a file names is ever" in str(told.value)
    assert not ran


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        ("_target_", "os.system", "_target_"),
        (f"{ENCODER}.head.weight_init_style", {"_target_": "os.system", "command": "x"}, "weight_init_style._target_"),
        (f"{DECODER}.trunk.intermediate_layers", [{"_target_": "os.system"}], "intermediate_layers.0._target_"),
        ("vae.images_read_key", {"deep": [{"_target_": "builtins.eval"}]}, "vae.images_read_key.deep.0._target_"),
        ("regularizer._target_", ["os", "system"], "regularizer._target_: ['os', 'system'] is no module"),
        ("regularizer._target_", "flextok.os.system", "'flextok.os.system' is not known here"),
        ("regularizer._target_", "flextok.regularizers.FSQ; import os", "is no module of FlexTok's"),
        ("regularizer._target_", "flextok.regularizers.FSQ\n", "is no module of FlexTok's"),
    ],
)
def test_not_even_where_nobody_looks(changed, path, value, where):
    refused(changed({path: value}), where)


def test_all_foreign_names_are_told_at_once(changed):
    error = refused(changed(dict.fromkeys(PLACES, "os.system")))
    assert sorted(path for path, _ in error.problems) == sorted(PLACES)


def test_no_module_of_a_file_is_imported(maker, changed, tmp_path, monkeypatch):
    (tmp_path / "flextok").mkdir()
    (tmp_path / "flextok" / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    load(maker.folder())
    assert "flextok" not in sys.modules


def test_the_lines_of_a_commands_answer_are_not_huge(changed):
    error = refused(changed({f"{DECODER}.trunk.note": "x" * 100_000, "regularizer._target_": "y" * 100_000}))
    assert len(str(error)) < 500
