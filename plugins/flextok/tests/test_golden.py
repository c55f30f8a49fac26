"""Parity with the reference implementation's tensors (random weights, fp32, CPU)."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flexframe.rng import Rng
from flexframe.testing.golden import assert_parity, shared
from flexframe.testing.tables import TableRng
from flexframe.tokenizer import Tokenizer
from flexframe.tokens import Batch, Tokens, prefix
from flexframe_flextok import FlowSampling
from flexframe_flextok.flow import Guidance, mode_times
from flexframe_flextok.reference import rename, translate
from flexframe_registry import TokenizerConfig

GOLDEN = shared(Path(__file__)) / "golden" / "flextok_tiny"
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no golden tensors at {GOLDEN}")


@cache
def case(name):
    return load_file(GOLDEN / f"case_{name}.safetensors")


@cache
def tokenizer(max_timestep=1000.0):
    """The tiny reference model, read from its own config."""
    width = {"width": 128, "depth": 2, "patch": 2}
    config = TokenizerConfig.read(
        {
            "image_size": 64,
            "length": 16,
            "codec": {"type": "identity", "channels": 16, "downsample": 8, "range": None},
            "encoder": {"type": "registers", **width},
            "quantizer": "fsq",
            "masker": "pow2",
            "decoder": {"type": "flow", **width, "max_timestep": max_timestep, "null_dropout": 0.2},
        }
    )
    model = Tokenizer(config)
    model.load_state_dict(translate(load_file(GOLDEN / "model.safetensors")))
    return model.eval()


def encode(latents, keep=16):
    model = tokenizer()
    mask = torch.ones(len(latents), keep, dtype=torch.bool)
    with torch.no_grad():
        features = model.encoder(latents, mask)
        return model.quantizer(features, mask, rng=Rng(0, torch.arange(len(latents))))


def z_of(latents):
    model = tokenizer()
    keep = torch.ones(len(latents), 16, dtype=torch.bool)
    with torch.no_grad():
        return model.quantizer.project(model.encoder(latents, keep))


def tokens_of(values, keep_k):
    keep = prefix(torch.as_tensor(keep_k).expand(len(values)), 16)
    return Tokens(values, keep, torch.zeros(len(values), 16, 1, dtype=torch.long))


@torch.no_grad()
def velocity(x, times, tokens, null=None, model=None):
    decoder = (model or tokenizer()).decoder
    return decoder.velocity(x, times, decoder.registers(tokens, null), tokens.keep, frozenset({"block.1"}))


def test_encode():
    golden, blocks = case("encode"), []
    hooks = [b.register_forward_hook(lambda _m, _i, out: blocks.append(out)) for b in tokenizer().encoder.blocks]
    packed_in = []
    hooks.append(tokenizer().encoder.blocks[0].register_forward_pre_hook(lambda _m, args: packed_in.append(args[0])))
    quantized = encode(golden["vae_latents"])
    for hook in hooks:
        hook.remove()
    assert_parity("enc_packed_in", packed_in[0].reshape(1, 64, 128), golden["enc_packed_in"])
    for i in range(2):
        assert_parity(f"enc_block{i}_out", blocks[i].reshape(1, 64, 128), golden[f"enc_block{i}_out"])
    z = z_of(golden["vae_latents"])
    assert_parity("enc_z", z, golden["enc_z"])
    assert_parity("fsq_quants", quantized.values, golden["fsq_quants"])
    assert_parity("tokens", quantized.codes[..., 0], golden["tokens"])


def test_encoder_mask():
    from flexframe_flextok.encoder import causal_registers

    mask = case("encode")["enc_attn_mask"][:64, :64]
    ours = causal_registers(16, 16, torch.device("cpu"))
    assert_parity("enc_attn_mask", torch.block_diag(ours, ours).bool(), mask)


@pytest.mark.parametrize("keep", [1, 4, 16])
def test_velocity_at_each_length(keep):
    golden = case("decode")
    found, _ = velocity(golden["x_t"], golden["timesteps"], tokens_of(golden["fsq_quants"], keep))
    assert_parity(f"velocity_keep{keep}", found, golden[f"velocity_keep{keep}"])


@pytest.mark.parametrize("keep", [1, 4])
def test_velocity_of_truncated_tokens_is_that_of_masked_ones(keep):
    golden = case("decode")
    tokens = tokens_of(golden["fsq_quants"], keep).truncate(keep)
    found, _ = velocity(golden["x_t"], golden["timesteps"], tokens)
    assert_parity(f"velocity_keep{keep} (truncated)", found, golden[f"velocity_keep{keep}"])


def test_velocity_without_dropout_mixed_and_null():
    golden = case("decode")
    x, t, quants = golden["x_t"], golden["timesteps"], golden["fsq_quants"]
    found, features = velocity(x, t, tokens_of(quants, 16))
    assert_parity("velocity_no_keep_key", found, golden["velocity_no_keep_key"])
    assert_parity("repa_patches_no_keep_key", features["block.1"], golden["repa_patches_no_keep_key"])
    mixed, _ = velocity(x, t, tokens_of(quants, golden["keep_mixed"]))
    assert_parity("velocity_keep_mixed", mixed, golden["velocity_keep_mixed"])
    null, _ = velocity(x, t, tokens_of(quants, 16), torch.tensor([True, True]))
    assert_parity("velocity_null", null, golden["velocity_null"])
    null, _ = velocity(x, t, tokens_of(quants, 4), torch.tensor([True, False]))
    assert_parity("velocity_null_mixed", null, golden["velocity_null_mixed"])
    found, _ = velocity(x, t, tokens_of(quants, 16), model=tokenizer(1.0))
    assert_parity("velocity_no_keep_key_max_timestep_1", found, golden["velocity_no_keep_key_max_timestep_1"])


def test_time_embedding():
    golden, time = case("decode"), tokenizer().decoder.time
    assert_parity("temb_sinusoid", time.sinusoid(golden["timesteps"]), golden["temb_sinusoid"])
    with torch.no_grad():
        assert_parity("temb", time(golden["timesteps"]), golden["temb"])


def test_guidance():
    g = case("guidance")
    plain, projected = Guidance(FlowSampling()), Guidance(FlowSampling(apg=True))
    assert_parity("cfg3", plain(g["cond"], g["uncond"], 3.0), g["cfg3"])
    assert_parity("apg3_step1", projected(g["cond"], g["uncond"], 3.0), g["apg3_step1"])
    assert_parity("apg3_step2", projected(g["cond2"], g["uncond2"], 3.0), g["apg3_step2"])
    still = Guidance(FlowSampling(apg=True, apg_momentum=0.0))
    assert_parity("apg3_nomomentum", still(g["cond"], g["uncond"], 3.0), g["apg3_nomomentum"])


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("sample1_cfg1", {"steps": 1}),
        ("sample4_cfg1", {"steps": 4}),
        ("sample4_cfg3", {"steps": 4, "guidance": 3.0}),
        ("sample4_apg3", {"steps": 4, "guidance": 3.0, "apg": True}),
        ("sample4_cfgfn", {"steps": 4, "guidance": lambda t: 1 + 4 * t}),
        ("sample4_cfgfn", {"steps": 4, "guidance": ((0.0, 1.0), (1.0, 5.0))}),
    ],
)
@torch.no_grad()
def test_sample(name, settings):
    golden = case("sample")
    tokens = tokens_of(golden["fsq_quants"], golden["keep_k"])
    found = tokenizer().decoder.integrate(tokens, golden["init_noise"], FlowSampling(**settings))
    assert_parity(name, found, golden[name], atol=3e-5)


@torch.no_grad()
def test_detokenize():
    golden, model = case("sample"), tokenizer()
    tokens = model.tokens(golden["detok_tokens_padded0"], lengths=golden["keep_k"])
    rng = TableRng({"decoder/sample": golden["detok_noise"]}, 2)
    settings = FlowSampling(steps=4, guidance=3.0, apg=True)
    found = model.decoder.decode(tokens, condition=None, size=(8, 8), rng=rng, sampling=settings)
    assert_parity("detok_latents", found, golden["detok_latents"], atol=3e-5)


def test_mixed_sizes():
    golden = case("mixed_sizes")
    for i, side in enumerate("ab"):
        latents = golden[f"latents_{side}"]
        assert_parity(f"enc_z_{side}", z_of(latents), golden[f"enc_z_{side}"])
        quantized = encode(latents)
        assert_parity(f"tokens_{side}", quantized.codes[..., 0], golden[f"tokens_{side}"])
        tokens = tokens_of(quantized.values, golden["keep_k"][i : i + 1])
        found, _ = velocity(golden[f"x_t_{side}"], golden["timesteps"][i : i + 1], tokens)
        assert_parity(f"velocity_{side}", found, golden[f"velocity_{side}"])


def invert_mode(sigma, scale=0.25):
    """The uniform draw that mode sampling turns into sigma (it falls from 1 to 0), by bisection in float64."""
    low, high = torch.zeros(len(sigma), dtype=torch.float64), torch.ones(len(sigma), dtype=torch.float64)
    for _ in range(60):
        middle = (low + high) / 2
        above = mode_times(middle, scale) > sigma
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return ((low + high) / 2).float()


def test_training_step():
    golden, model = case("train"), tokenizer()
    rng = TableRng(
        {
            "masker/length": golden["keep_k"].float().log2().long(),
            "decoder/noise": golden["noise"],
            "decoder/time": invert_mode(golden["sigmas"]),
            "decoder/null": 1 - golden["null_dropped"].float(),  # dropped rows draw 0, the others 1
        },
        4,
    )
    seen = {}
    original = model.decoder.registers
    model.decoder.registers = lambda *args: seen.setdefault("registers", original(*args))
    model.train().zero_grad()
    try:
        out = model(Batch(torch.arange(4), latents=golden["vae_latents"]), rng=rng)
    finally:
        del model.decoder.registers
        model.eval()
    assert out.codes is not None
    assert_parity("tokens", out.codes.codes[..., 0], golden["tokens"])
    assert_parity("dec_registers_after_dropouts", seen["registers"].detach(), golden["dec_registers_after_dropouts"])
    loss = out.losses["decoder/flow"]
    assert_parity("loss_per_sample", loss.detach(), golden["loss_per_sample"])
    loss.mean().backward()
    assert_parity("loss", loss.mean().detach()[None], golden["loss"])
    grads = {name: p.grad for name, p in model.named_parameters()}
    for name, value in golden.items():
        if name.startswith("grad."):
            ours = grads[rename(name.removeprefix("grad."))]
            value = value[0, 0].T if "dec_registers_posemb" in name else value
            assert_parity(name.replace("module_dict.", ""), ours, value, atol=2e-6, rtol=1e-3)
    norms = json.loads((GOLDEN / "case_train_grad_norms.json").read_text())
    for name, norm in norms.items():
        ours = rename(name)
        if ours is not None and norm is not None:
            assert_parity(f"norm {ours}", grads[ours].norm(), torch.tensor(norm), atol=1e-6, rtol=1e-3)
    model.zero_grad()
