"""The Gaussian bottleneck against the reference's numbers, and none at all."""

import torch

from flexframe.rng import Rng
from flexframe.testing.tables import TableRng
from flexframe_quantizers import KLConfig, UnquantizedConfig
from flexframe_registry import LatentSpec, Spec, catalogue


def build(config, features=16):
    torch.manual_seed(0)
    return catalogue().build(config, Spec(LatentSpec(3, 8, 8), features, config.tokens(8, features)))


ALL = torch.ones(2, 8, dtype=torch.bool)


def test_use_takes_the_mean_unless_asked_to_sample():
    values = torch.randn(2, 8, 16)
    rows = Rng(0, torch.arange(2))
    mean = build(KLConfig()).eval()(values, ALL, rng=rows).values
    drawn = build(KLConfig(sample=True)).eval()(values, ALL, rng=rows).values
    assert torch.equal(mean, build(KLConfig()).eval()(values, ALL, rng=rows.at(1)).values)
    assert torch.equal(drawn, build(KLConfig()).train()(values, ALL, rng=rows).values)
    assert not torch.equal(mean, drawn)


def test_a_fixed_variance_leaves_a_head_for_the_mean_alone():
    quantizer, values = build(KLConfig(dim=4, fixed_logvar=0.0, weight=1.0)).train(), torch.randn(2, 8, 16)
    assert quantizer.project.out_features == 4
    noise = torch.randn(2, 8, 4)
    out = quantizer(values, ALL, rng=TableRng({"quantizer/kl": noise}, 2))
    mean = quantizer.project(values)
    torch.testing.assert_close(out.values, mean + noise)
    torch.testing.assert_close(out.losses["kl"], 0.5 * mean.square().sum((1, 2)))


def test_the_log_variance_is_clamped():
    _, logvar = build(KLConfig(dim=1)).posterior(torch.tensor([[[0.0, 1e3], [0.0, -1e3]]]))
    assert logvar.flatten().tolist() == [20, -30]


def test_none_is_the_identity_or_a_linear_map():
    values, rows = torch.randn(2, 8, 16), Rng(0, torch.arange(2))
    plain, mapped = build(UnquantizedConfig()), build(UnquantizedConfig(dim=4))
    assert torch.equal(plain(values, ALL, rng=rows).values, values)
    assert mapped(values, ALL, rng=rows).values.shape == (2, 8, 4)
    assert not plain(values, ALL, rng=rows).losses
