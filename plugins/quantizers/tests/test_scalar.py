"""FSQ and its residual form: known answers, the reference's numbers, and the two kinds of noise."""

import pytest
import torch
from vector_quantize_pytorch import FSQ as Grid

from flexframe.rng import Rng
from flexframe_quantizers import FSQConfig, ResidualFSQConfig
from flexframe_registry import LatentSpec, Spec, catalogue


def build(config, length=8, features=16):
    torch.manual_seed(0)
    return catalogue().build(config, Spec(LatentSpec(3, 8, 8), features, config.tokens(length, features)))


def test_a_new_head_gives_the_middle_code_everywhere():
    quantizer = build(FSQConfig()).eval()
    out = quantizer(torch.randn(2, 8, 16), torch.ones(2, 8, dtype=torch.bool), rng=Rng(0, torch.arange(2)))
    assert (out.codes == 32036).all()
    assert (out.values == 0).all()


def test_known_ids():
    quantizer = build(FSQConfig())
    ends = torch.tensor([0.75, 0.75, 0.75, 1, 1, 1])
    for z, code, values in (
        (torch.zeros(6), 32036, torch.zeros(6)),
        (torch.tensor([0.1, -0.2, 0.3, -0.4, 0.5, -0.6]), 21340, torch.tensor([0, -0.25, 0.25, -0.5, 0.5, -0.5])),
        (torch.full((6,), 9.0), 63999, ends),
        (torch.full((6,), -9.0), 0, -torch.ones(6)),
    ):
        quantized = quantizer.quantize(z)
        assert torch.allclose(quantized, values, rtol=0, atol=1e-6)
        assert int(quantizer.ids(quantized)) == code
    assert torch.equal(quantizer.lookup(torch.tensor([[[1]]]))[0, 0], torch.tensor([-0.75, -1, -1, -1, -1, -1]))


def test_every_id_returns_to_itself():
    quantizer = build(FSQConfig())
    codes = torch.arange(64000)[None, :, None]
    assert torch.equal(quantizer.ids(quantizer.lookup(codes))[..., None], codes)


@pytest.mark.parametrize("levels", [(3, 4, 7, 16), (8, 8, 8, 5, 5, 5)])
def test_grid_and_ids_are_the_librarys_to_the_bit(levels):
    quantizer, grid = build(FSQConfig(levels=levels)), Grid(list(levels), return_indices=False)
    own, theirs = (3 * torch.randn(2, 500, len(levels), generator=torch.manual_seed(1)) for _ in range(2))
    values, expected = quantizer.quantize(own.requires_grad_()), grid.quantize(theirs.requires_grad_())
    assert torch.equal(values, expected)
    codes = quantizer.ids(values)
    assert torch.equal(codes, grid.codes_to_indices(expected).long())
    assert torch.equal(quantizer.lookup(codes[..., None]), grid.indices_to_codes(codes))
    (values**2).sum().backward()
    (expected**2).sum().backward()
    assert torch.equal(own.grad, theirs.grad)


def test_bounded_rounds_to_half_widths():
    quantizer = build(FSQConfig(levels=(3, 4, 7, 16)))
    z = 3 * torch.randn(1000, 4)
    expected = quantizer.bounded(z).round() / quantizer.half_width
    torch.testing.assert_close(quantizer.quantize(z), expected, rtol=0, atol=1e-6)


def noisy(rows=2000, step=0, **fields):
    quantizer = build(FSQConfig(**fields)).train()
    torch.nn.init.normal_(quantizer.project.weight, std=0.5)
    values, keep = torch.randn(rows, 8, 16), torch.ones(rows, 8, dtype=torch.bool)
    clean = quantizer.eval()(values, keep, rng=Rng(0, torch.arange(rows)))
    out = quantizer.train()(values, keep, rng=Rng(0, torch.arange(rows), step))
    return quantizer, clean, out


def test_dropped_samples_keep_their_codes_and_lose_their_rounding():
    quantizer, clean, out = noisy(drop_quant_p=0.3)
    unrounded = (out.values - quantizer.lookup(out.codes)).abs().amax((1, 2)) > 1e-4
    assert torch.equal(out.codes, clean.codes)
    assert abs(float(unrounded.float().mean()) - 0.3) < 0.05


def test_corruption_follows_its_three_rates_and_values_follow_the_codes():
    quantizer, clean, out = noisy(corrupt_tokens_p=0.8, min_corrupt_tokens_p=0.4, apply_corrupt_tokens_p=0.25)
    changed = (out.codes != clean.codes)[..., 0].float()
    touched = changed.amax(1)
    assert abs(float(touched.mean()) - 0.25) < 0.05
    assert abs(float(changed[touched.bool()].mean()) - 0.6) < 0.05
    torch.testing.assert_close(out.values, quantizer.lookup(out.codes), rtol=0, atol=1e-6)
    assert 28000 < float(out.codes[changed.bool()].float().mean()) < 36000


def test_noise_differs_from_step_to_step_and_not_within_one():
    first, again, later = (noisy(rows=50, step=step, corrupt_tokens_p=1.0)[2].codes for step in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, later)


def test_residual_steps_come_ever_closer():
    z = torch.randn(4, 8, 16)
    errors = []
    for steps in (1, 2, 3):
        quantizer = build(ResidualFSQConfig(levels=(5, 5, 5), num_quantizers=steps))
        torch.nn.init.normal_(quantizer.project.weight, std=0.1)
        with torch.no_grad():
            clamp = quantizer.grids.soft_clamp_input_value
            inner = (quantizer.project(z) / clamp).tanh() * clamp
            out = quantizer.eval()(z, torch.ones(4, 8, dtype=torch.bool), rng=Rng(0, torch.arange(4)))
        assert out.codes.shape == (4, 8, steps)
        errors.append(float((out.values - inner).square().mean()))
    assert errors[0] > 4 * errors[1] > 16 * errors[2]
