"""Quantizers that weigh all entries: against the published formulas written out, and known answers."""

import math

import pytest
import torch
from torch.nn import functional as F

from flexframe.rng import Rng
from flexframe.testing.tables import TableRng
from flexframe_quantizers import GumbelConfig, IBQConfig, SoftVQConfig
from flexframe_registry import LatentSpec, Spec, catalogue

ALL = torch.ones(2, 8, dtype=torch.bool)


def build(config):
    torch.manual_seed(0)
    quantizer = catalogue().build(config, Spec(LatentSpec(3, 8, 8), 16, config.tokens(8, 16)))
    torch.nn.init.normal_(quantizer.project.weight, std=0.3)
    return quantizer


def call(quantizer, values, rng=None):
    return quantizer(values, ALL, rng=rng or Rng(0, torch.arange(2)))


def entropies(logits, temperature):
    """Of each token's distribution, and of the mean one."""
    chance = torch.stack([(row / temperature).softmax(0) for row in logits.flatten(0, 1)])
    return -(chance * chance.log().clamp(min=-1e9)).sum(1).mean(), torch.distributions.Categorical(
        chance.mean(0)
    ).entropy()


def test_ibq_is_the_published_formula():
    quantizer = build(IBQConfig.sized("tiny", entropy=1, diversity=2, entropy_temperature=0.5)).train()
    values = torch.randn(2, 8, 16)
    table = quantizer.embedding.weight.detach().clone().requires_grad_()
    z = quantizer.project(values).detach().requires_grad_()
    towards = torch.randn(2, 8, 8)

    logits = torch.einsum("bkd,vd->bkv", z, table)
    soft = logits.softmax(-1)
    hard = F.one_hot(logits.argmax(-1), 64).float()
    token = (hard - soft.detach() + soft) @ table
    entry = hard @ table
    mean = (token - z).square().mean(), (entry.detach() - z).square().mean(), (entry - z.detach()).square().mean()
    of_token, of_batch = entropies(logits, 0.5)
    loss = mean[0] + mean[1] + 0.25 * mean[2] + of_token - 2 * of_batch + (token * towards).sum()
    expected = torch.autograd.grad(loss, (z, table))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantizer, "project", torch.nn.Identity())
        given = z.detach().clone().requires_grad_()
        out = call(quantizer, given)
    own = sum(value.mean() for value in out.losses.values()) + (out.values * towards).sum()
    assert torch.equal(out.codes[..., 0], logits.argmax(-1))
    torch.testing.assert_close(out.values, token)
    torch.testing.assert_close(own, loss)
    found = torch.autograd.grad(own, (given, quantizer.embedding.weight))
    torch.testing.assert_close(found, expected)
    assert (found[1].abs().sum(1) > 0).all(), "every entry learns from every batch"


@pytest.mark.parametrize("l2_norm", [True, False])
def test_softvq_is_a_mean_of_all_entries_under_a_softmax(l2_norm):
    quantizer, values = build(SoftVQConfig.sized("tiny", l2_norm=l2_norm, entropy=1)).train(), torch.randn(2, 8, 16)
    z, table = quantizer.project(values).detach(), quantizer.embedding.weight.detach()
    if l2_norm:
        z, table = z / z.norm(dim=-1, keepdim=True), table / table.norm(dim=-1, keepdim=True)
    out = call(quantizer, values)
    for row, token in ((0, 0), (1, 5)):
        weights = [math.exp(float(z[row, token] @ entry) / 0.07) for entry in table]
        expected = sum(weight * entry for weight, entry in zip(weights, table, strict=True)) / sum(weights)
        torch.testing.assert_close(out.values[row, token], expected, rtol=1e-4, atol=1e-5)
    of_token, of_batch = entropies(z @ table.mT, 0.01)
    torch.testing.assert_close(out.losses["token_entropy"].mean(), of_token, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out.losses["codebook_entropy"], -of_batch, rtol=1e-4, atol=1e-5)
    assert torch.equal(out.codes, out.values)


def test_softvq_teaches_entries_by_the_mean_and_not_by_the_weights():
    quantizer = build(SoftVQConfig.sized("tiny", l2_norm=False, entropy=1)).train()
    out = call(quantizer, torch.randn(2, 8, 16))
    table = quantizer.embedding.weight
    weight = torch.autograd.grad(out.values.sum(), table, retain_graph=True)[0]  # d values / d entry is its weight
    torch.testing.assert_close(weight.sum(), torch.tensor(2.0 * 8 * 8))
    assert torch.autograd.grad(out.losses["token_entropy"].sum(), table, allow_unused=True)[0] is None


def test_a_cold_softvq_is_its_nearest_entry():
    quantizer, values = build(SoftVQConfig.sized("tiny", tau=1e-4)).eval(), torch.randn(2, 8, 16)
    table = F.normalize(quantizer.embedding.weight, dim=-1)
    nearest = (F.normalize(quantizer.project(values), dim=-1) @ table.mT).argmax(-1)
    torch.testing.assert_close(call(quantizer, values).values, table[nearest], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("hard", [True, False])
def test_gumbel_is_the_published_formula(hard):
    quantizer = build(GumbelConfig.sized("tiny", hard=hard, temperature=0.7, kl=0.5)).train()
    values, uniform, towards = torch.randn(2, 8, 16), torch.rand(2, 8, 64), torch.randn(2, 8, 8)
    table = quantizer.embedding.weight.detach().clone().requires_grad_()
    logits = quantizer.project(values).detach().requires_grad_()
    soft = ((logits - torch.log(-torch.log(uniform))) / 0.7).softmax(-1)
    one_hot = F.one_hot(soft.argmax(-1), 64) - soft.detach() + soft if hard else soft
    token, chance = one_hot @ table, logits.softmax(-1)
    loss = (token * towards).sum() + 0.5 * (chance * (chance * 64).log()).sum(-1).mean()
    expected = torch.autograd.grad(loss, (logits, table))
    quantizer.project = torch.nn.Identity()
    given = logits.detach().clone().requires_grad_()
    out = call(quantizer, given, TableRng({"quantizer/gumbel": uniform}, 2))
    own = (out.values * towards).sum() + out.losses["kl"].mean()
    assert torch.equal(out.codes[..., 0], soft.argmax(-1))
    torch.testing.assert_close(out.values, token)
    torch.testing.assert_close(own, loss)
    torch.testing.assert_close(torch.autograd.grad(own, (given, quantizer.embedding.weight)), expected)


def test_gumbel_draws_by_the_softmax_and_uses_the_likeliest():
    quantizer = build(GumbelConfig(codebook_size=3, dim=2)).train()
    quantizer.project = torch.nn.Identity()
    chance = torch.tensor([0.2, 0.7, 0.1])
    values, rows = chance.log().expand(500, 8, 3), Rng(0, torch.arange(500))
    keep = torch.ones(500, 8, dtype=torch.bool)
    drawn = quantizer(values, keep, rng=rows).codes.flatten().bincount(minlength=3) / 4000
    torch.testing.assert_close(drawn, chance, rtol=0, atol=0.03)
    assert (quantizer.eval()(values, keep, rng=rows).codes == 1).all()


def test_gumbels_temperature_falls_by_a_cosine_of_the_step():
    quantizer = build(GumbelConfig.sized("tiny", temperature=1, final_temperature=0.2, anneal_steps=100))
    assert [round(quantizer.temperature(step), 4) for step in (0, 50, 100, 500)] == [1.0, 0.6, 0.2, 0.2]
    assert build(GumbelConfig.sized("tiny")).temperature(10**6) == 1.0
