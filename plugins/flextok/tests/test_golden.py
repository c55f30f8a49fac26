"""Parity with the reference implementation's tensors (random weights, fp32, CPU), through the importer."""

import json
import shutil
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from flexframe import load
from flexframe.importing import Settings
from flexframe.importing.compare import cases
from flexframe.importing.verify import verify_folder
from flexframe.testing.golden import assert_parity, shared
from flexframe.testing.parity import check
from flexframe.testing.tables import TableRng
from flexframe.tokens import Tokens, prefix
from flexframe_flextok import FlowSampling
from flexframe_flextok.importer import tokenizer_config
from flexframe_flextok.reading import read_flextok
from flexframe_registry import ConfigError, TokenizerConfig, cards

GOLDEN = shared(Path(__file__)) / "golden"
TINY, VAE = GOLDEN / "flextok_tiny", GOLDEN / "flextok_tiny_vae"
pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(not TINY.is_dir(), reason=f"no golden tensors at {TINY}"),
]


@pytest.mark.slow
def test_a_tokenizer_gives_the_references_numbers():
    found = check("flextok_tiny", verify_folder(TINY))
    names = ("decode", "encode", "fsq", "guidance", "mixed_sizes", "sample", "train")
    assert cases(found) == [f"case_{name}" for name in names]
    assert len(found) == 136  # the tensors of the cases that are results, and the norms of all gradients
    for c in found:
        print(f"{c.case:<18} {c.tensor:<72} {c.error:.1e}")


@pytest.mark.slow
def test_a_vae_gives_the_references_numbers():
    found = check("flextok_tiny_vae", verify_folder(VAE))
    assert len(found) == 11
    for c in found:
        print(f"{c.case:<18} {c.tensor:<72} {c.error:.1e}")


@pytest.mark.slow
@torch.no_grad()
def test_images_to_images_as_a_user_does_it():
    golden, model = load_file(VAE / "case_vae.safetensors"), load(VAE)
    assert model.config.codec.sample_posterior
    draws = TableRng({"codec/posterior": golden["posterior_eps"], "decoder/sample": golden["detok_noise"]}, 2)
    images = (golden["images"] + 1) / 2
    assert torch.equal(model.encode(images, rng=draws).codes[..., 0], golden["tokens_sampled"])
    still = load(VAE, overrides=["codec.sample_posterior=false"])
    assert torch.equal(still.encode(images, rng=5).codes[..., 0], golden["tokens_mode"])
    tokens = model.tokens(golden["tokens_mode"], lengths=[4, 16])
    found = model.decode(tokens, rng=draws, sampling={"steps": 2, "guidance": 3.0, "apg": True})
    # the reference leaves images as they come; with random weights many pixels lie far outside
    assert_parity("detok_images (clamped)", found * 2 - 1, golden["detok_images"].clamp(-1, 1), atol=3e-5)


# --- what a comparison could hide --------------------------------------------------------------------------------


@pytest.fixture
def copied(tmp_path):
    """The golden folder, to be changed."""
    folder = Path(shutil.copytree(TINY, tmp_path / "flextok_tiny", copy_function=shutil.copyfile))
    folder.chmod(0o755)
    return folder


def only(folder, cases):
    """Leave out the cases that a test does not look at."""
    for path in folder.glob("case_*"):
        if not path.name.startswith(tuple(cases)):
            path.unlink()


def rewrite(path, change):
    state = load_file(path)
    change(state)
    save_file(state, path)


@pytest.mark.parametrize(
    ("tensor", "fails"),
    [
        ("encoder.module_dict.enc_transformer.blocks.1.mlp.fc2.weight", {"case_encode", "case_mixed_sizes"}),
        ("encoder.module_dict.enc_register_module.registers", {"case_encode", "case_mixed_sizes", "case_train"}),
        ("decoder.module_dict.dec_nested_dropout.dropout_mask_token", {"case_decode", "case_sample"}),
        ("decoder.module_dict.dec_latent_dropout.nullcond", {"case_decode", "case_sample", "case_train"}),
        ("decoder.module_dict.dec_time_embedder.mlp.0.bias", {"case_decode", "case_sample", "case_train"}),
        ("decoder.module_dict.dec_registers_posemb_module.posembs", {"case_decode", "case_sample", "case_train"}),
    ],
)
@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_another_weight_fails(copied, tensor, fails):
    only(copied, fails)
    rewrite(copied / "model.safetensors", lambda state: state[tensor].add_(0.01 * torch.randn_like(state[tensor])))
    # the metadata went with it; config.json stays
    assert fails == {c.case for c in verify_folder(copied) if not c.passed}


@pytest.mark.parametrize(
    ("path", "value", "fails"),
    [
        ("encoder.module_dict.enc_transformer.head_dim", 32, "case_encode"),
        ("decoder.module_dict.dec_transformer.head_dim", 128, "case_decode"),
        ("decoder.module_dict.dec_time_embedder.max_timestep", 100.0, "case_decode"),
        ("decoder.module_dict.dec_transformer.intermediate_layers", [0], "case_decode"),
        ("regularizer.levels", [8, 8, 8, 5, 5, 6], "case_encode"),
        ("flow_matching_noise_module.mode_scale", 0.5, None),  # undone on the way in, so that sigmas stay as they are
    ],
)
@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_another_setting_fails(copied, path, value, fails):
    if fails is not None:
        only(copied, {fails})
    found = verify_folder(copied, assume={path: value})
    failed = {c.case for c in found if not c.passed}
    assert failed == set() if fails is None else fails in failed


@pytest.mark.slow
def test_a_tensor_that_nothing_compares_is_told(copied):
    rewrite(copied / "case_fsq.safetensors", lambda state: state.update(surprise=torch.zeros(1)))
    with pytest.raises(ConfigError, match=r"case_fsq.safetensors: has tensors that nothing here compares: surprise"):
        verify_folder(copied)
    (copied / "case_fsq.safetensors").rename(copied / "case_surprise.safetensors")
    with pytest.raises(ConfigError, match=r"case_surprise.safetensors: is no case of FlexTok; known: case_encode"):
        verify_folder(copied)


@pytest.mark.slow
def test_a_case_without_its_inputs_is_told(copied):
    rewrite(copied / "case_encode.safetensors", lambda state: state.pop("vae_latents"))
    with pytest.raises(ConfigError, match="has no 'vae_latents', from which its results were computed"):
        verify_folder(copied)


def test_any_subset_of_cases_and_tensors_is_compared(copied):
    only(copied, {"case_decode"})
    rewrite(copied / "case_decode.safetensors", lambda state: [state.pop(n) for n in list(state) if "keep" in n])
    names = [c.tensor for c in verify_folder(copied)]
    assert names == ["velocity_null", "velocity_null_mixed", "temb_sinusoid", "temb"]


@pytest.mark.slow
def test_a_length_that_the_case_does_not_hold_is_found(copied):
    only(copied, {"case_decode"})

    def lengthen(state):
        model = load(copied)
        values, x, times = state["fsq_quants"], state["x_t"], state["timesteps"]
        keep = prefix(torch.tensor([7, 7]), 16)
        tokens = Tokens(values, keep, torch.zeros(2, 16, 1, dtype=torch.long))
        null = torch.tensor([True, False])
        registers = model.decoder.registers(tokens, null)
        with torch.no_grad():
            state["velocity_null_mixed"] = model.decoder.velocity(x, times, registers, keep)[0]

    rewrite(copied / "case_decode.safetensors", lengthen)
    found = {c.tensor: c for c in verify_folder(copied)}
    assert found["velocity_null_mixed"].passed
    assert "7], found by trying all" in found["velocity_null_mixed"].note
    rewrite(copied / "case_decode.safetensors", lambda state: state["velocity_null_mixed"].mul_(1.01))
    assert not next(c for c in verify_folder(copied) if c.tensor == "velocity_null_mixed").passed


@pytest.mark.slow
@pytest.mark.parametrize("null", [(False, True), (True, True), (False, False)], ids=str)
@pytest.mark.parametrize("length", [4, 7])
def test_any_mix_of_null_rows_is_found(copied, null, length):
    def mix(state):
        keep = prefix(torch.tensor([length, length]), 16)
        tokens = Tokens(state["fsq_quants"], keep, torch.zeros(2, 16, 1, dtype=torch.long))
        decoder, rows = load(copied).decoder, torch.tensor(null)
        with torch.no_grad():
            registers = decoder.registers(tokens, rows)
            state["velocity_null_mixed"] = decoder.velocity(state["x_t"], state["timesteps"], registers, keep)[0]

    path = copied / "case_decode.safetensors"
    rewrite(path, mix)
    rewrite(path, lambda state: [state.pop(name) for name in list(state) if "keep" in name or "temb" in name])
    for other in copied.glob("case*"):
        if other != path:
            other.unlink()
    assert all(c.passed for c in verify_folder(copied))
    rewrite(path, lambda state: state["velocity_null_mixed"][1].mul_(1.01))
    assert [c.tensor for c in verify_folder(copied) if not c.passed] == ["velocity_null_mixed"]


def test_a_training_step_is_at_the_cases_own_times(copied, monkeypatch):
    """Inverting a draw and drawing again loses the last bit, which frequencies up to 1000 amplify."""
    train = import_module("flexframe_flextok.golden.train")  # its name in the package is the function's
    original = train.invert_mode
    monkeypatch.setattr(train, "invert_mode", lambda times, scale: original(times, scale) + 1e-4)
    for path in copied.glob("case*.safetensors"):
        if path.stem != "case_train":
            path.unlink()
    assert [c.tensor for c in verify_folder(copied) if not c.passed] == ["timesteps"]


# --- the model, beyond the cases ---------------------------------------------------------------------------------


@cache
def tiny():
    return load(TINY)


@pytest.mark.parametrize("keep", [1, 4])
@torch.no_grad()
def test_velocity_of_truncated_tokens_is_that_of_masked_ones(keep):
    golden, decoder = load_file(TINY / "case_decode.safetensors"), tiny().decoder
    values = golden["fsq_quants"]
    tokens = Tokens(values, prefix(torch.tensor([keep, keep]), 16), torch.zeros(2, 16, 1, dtype=torch.long))
    short = tokens.truncate(keep)
    found, _ = decoder.velocity(golden["x_t"], golden["timesteps"], decoder.registers(short, None), short.keep)
    assert_parity(f"velocity_keep{keep} (truncated)", found, golden[f"velocity_keep{keep}"])


@torch.no_grad()
def test_a_schedule_of_knots_is_the_function_that_it_draws():
    golden, decoder = load_file(TINY / "case_sample.safetensors"), tiny().decoder
    tokens = Tokens(golden["fsq_quants"], prefix(golden["keep_k"], 16), torch.zeros(2, 16, 1, dtype=torch.long))
    settings = FlowSampling(steps=4, guidance=((0.0, 1.0), (1.0, 5.0)))
    found = decoder.integrate(tokens, golden["init_noise"], settings)
    assert_parity("sample4_cfgfn (knots)", found, golden["sample4_cfgfn"], atol=3e-5)


# --- configs and names -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["d12-d12", "d18-d18", "d18-d28"])
def test_a_card_is_what_the_reconstructed_config_says(name):
    path = GOLDEN / "configs_reconstructed" / f"flextok_{name.replace('-', '_')}.json"
    reading = read_flextok(Settings(json.loads(path.read_text())))
    card = cards().get(f"flextok/{name}").model
    raw = tokenizer_config(reading, card.codec.model_dump(mode="json"))
    assert TokenizerConfig.read(raw) == card
    assert reading.vae.channels == card.codec.channels


@pytest.mark.parametrize("folder", [TINY, VAE], ids=lambda folder: folder.name)
def test_the_names_of_a_config_are_the_files(folder):
    reading = read_flextok(Settings(json.loads((folder / "config.json").read_text())))
    stored = json.loads((folder / "state_dict_keys.json").read_text())
    expected = {name for name in stored if not name.startswith("vae.")}
    assert {*reading.tensors.values(), *reading.tables} == expected
    for name, table in reading.tables.items():
        assert tuple(stored[name][0]) == (1, table[2], *table[:2])
