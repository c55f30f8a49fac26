"""The numbers of the published implementations, if they are there."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flexframe.testing.golden import assert_parity, shared
from flexframe.testing.tables import TableRng
from flexframe_quantizers import FSQConfig, KLConfig, LFQConfig
from flexframe_quantizers.codebooks import LearnedCodebook
from flexframe_registry import LatentSpec, Spec, catalogue

GOLDEN = shared(Path(__file__)) / "golden"
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no reference numbers at {GOLDEN}")
ALL = torch.ones(2, 8, dtype=torch.bool)


def build(config, features=16):
    return catalogue().build(config, Spec(LatentSpec(3, 8, 8), features, config.tokens(8, features)))


def test_fsq():
    case, quantizer = load_file(GOLDEN / "flextok_tiny/case_fsq.safetensors"), build(FSQConfig())
    quantized = quantizer.quantize(case["z"])
    assert_parity("bounded", quantizer.bounded(case["z"]), case["bounded"])
    assert_parity("quants", quantized, case["quants"])
    assert_parity("tokens", quantizer.ids(quantized), case["tokens"])
    assert_parity("ids_embedding", quantizer.lookup(case["ids"][None, :, None])[0], case["ids_embedding"])


def titok_codebook():
    weight = load_file(GOLDEN / "titok_tiny/vq_legacy/model.safetensors")["quantize.embedding.weight"]
    codebook = LearnedCodebook(*weight.shape, l2_norm=True, commitment=0.25)
    codebook.load_state_dict({"embedding.weight": weight})
    return codebook


@torch.no_grad()
def test_vq():
    case, codebook = load_file(GOLDEN / "titok_tiny/vq_legacy/case_eval.safetensors"), titok_codebook()
    matched = codebook(case["enc_z"][:, :, 0].mT, ALL)
    assert_parity("indices", matched.ids, case["indices"][:, 0])
    assert_parity("z_quantized", codebook.lookup(matched.ids).mT[:, :, None], case["z_quantized"])
    commitment, learned = (matched.losses[name].mean()[None] for name in ("commitment", "codebook"))
    assert_parity("commitment_loss", commitment, case["commitment_loss"])
    assert_parity("codebook_loss", learned, case["codebook_loss"])
    assert_parity("quantizer_loss", commitment + learned, case["quantizer_loss"])


def test_gradient_of_the_vq_codebook():
    features = load_file(GOLDEN / "titok_tiny/vq_legacy/case_eval.safetensors")["enc_z"]
    case, codebook = load_file(GOLDEN / "titok_tiny/vq_legacy/case_train_stage1.safetensors"), titok_codebook()
    codebook(features[:, :, 0].mT, ALL).losses["codebook"].mean().backward()
    assert_parity(
        "grad.quantize.embedding.weight", codebook.embedding.weight.grad, case["grad.quantize.embedding.weight"]
    )


@torch.no_grad()
def test_kl():
    case = load_file(GOLDEN / "titok_tiny/vae/case_eval.safetensors")
    tokens = {name: case[name][:, :, 0].mT for name in ("enc_z", "mean", "logvar", "eps", "z_sampled")}
    quantizer = build(KLConfig(weight=0.1), features=32).train()
    quantizer.project.weight.copy_(torch.eye(32))
    mean, logvar = quantizer.posterior(tokens["enc_z"])
    assert_parity("mean", mean, tokens["mean"])
    assert_parity("logvar", logvar, tokens["logvar"])
    out = quantizer(tokens["enc_z"], ALL, rng=TableRng({"quantizer/kl": tokens["eps"]}, 2))
    assert_parity("z_sampled", out.values, tokens["z_sampled"])
    # the reference's [2, 8] is summed over dims alone; its loss is the sum over tokens and the mean over samples
    divergence, expected = quantizer.divergence(mean, logvar, ALL), case["kl"].sum(1)
    assert_parity("kl, relative", divergence / expected, torch.ones(2), atol=2e-6)
    assert_parity("loss, relative", out.losses["kl"] / (0.1 * expected), torch.ones(2), atol=2e-6)


def test_lfq_of_two_codes_a_token():
    case = load_file(GOLDEN / "flowmo/tokenizer/case_quantizer.safetensors")
    weights = {"entropy": 0.0025, "commitment": 0.000625, "inv_temperature": 10}
    quantizer = build(LFQConfig(codebook_size=32, codebooks=2, pooled=True, entropy_floor=1e-5, **weights), 10).train()
    order = torch.arange(10).unflatten(0, (5, 2)).flip(0).mT.flatten()  # of FlowMo's channels: bit by bit, least first
    back = order.argsort()
    with torch.no_grad():
        quantizer.project.weight.copy_(torch.eye(10)[order])
    code, keep = case["code"].clone().requires_grad_(), torch.ones(3, 5, dtype=torch.bool)
    out = quantizer(code, keep, rng=TableRng({}, 3))
    assert torch.equal(out.codes.flatten(), case["indices"])
    values, losses = out.values[..., back], {name: loss.mean() for name, loss in out.losses.items()}
    assert_parity("quantized", values, case["quantized"])
    assert_parity("per_sample_entropy", losses["token_entropy"][None] / 0.0025, case["per_sample_entropy"])
    assert_parity("codebook_entropy", -losses["codebook_entropy"][None] / 0.0025, case["codebook_entropy"])
    loss = torch.stack(list(losses.values())).sum()
    assert_parity("quantizer_loss", loss[None], case["quantizer_loss"])
    (gradient,) = torch.autograd.grad((values.flatten() * torch.linspace(-1, 1, values.numel())).sum() + loss, code)
    assert_parity("code_grad", gradient, case["code_grad"])
