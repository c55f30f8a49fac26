"""Checks of quantizers."""

from __future__ import annotations

import torch
from torch import Tensor

from flexframe.tokens import Quantized, prefix
from flexframe_registry import Component

from . import part
from .materials import (
    BATCH,
    LENGTH,
    LENGTHS,
    Check,
    Fields,
    all_kept,
    assert_gradients,
    build,
    close,
    draw,
    own_draws,
    rng,
    scalar,
)  # fmt: skip


def check_quantizer_codes(component: Component, fields: Fields) -> None:
    """Codes are in range, and in evaluation values are exactly what `lookup` gives of them."""
    quantizer, spec = build(component, fields)
    values, keep = draw(BATCH, LENGTH, spec.features), all_kept()
    with torch.no_grad():
        quantized = quantizer(values, keep, rng=rng())
        assert quantized.values.shape == (BATCH, LENGTH, spec.tokens.dim) and quantized.values.isfinite().all()
        assert torch.equal(quantized.values, quantizer.lookup(quantized.codes)), "values are not lookup(codes)"
        if spec.tokens.codebook_size is None:
            assert quantized.codes.shape == quantized.values.shape and quantized.codes.is_floating_point()
        else:
            assert (
                quantized.codes.shape == (BATCH, LENGTH, spec.tokens.codebooks) and quantized.codes.dtype == torch.long
            )
            assert quantized.codes.min() >= 0 and quantized.codes.max() < spec.tokens.codebook_size
            assert len(quantized.codes.unique()) > 1, "random features all got one code"
        assert torch.equal(quantized.codes, quantizer(values, keep, rng=rng()).codes), "equal seeds gave unequal codes"


def check_quantizer_rows(component: Component, fields: Fields) -> None:
    """Check that in evaluation a row's codes do not depend on its batch, nor a token's on the other slots."""
    quantizer, spec = build(component, fields)
    values, keep = draw(BATCH, LENGTH, spec.features), all_kept()
    with torch.no_grad():
        whole = quantizer(values, keep, rng=rng()).codes
        one = quantizer(values[2:3], keep[2:3], rng=rng().rows(torch.tensor([2]))).codes
        short = quantizer(values[:, :3], keep[:, :3], rng=rng()).codes
    torch.testing.assert_close(one, whole[2:3])
    torch.testing.assert_close(short, whole[:, :3])


def check_quantizer_absent_slots(component: Component, fields: Fields) -> None:
    """Absent slots change in training no loss, no gradient and no statistic, whatever stands in them."""
    results, absent = [], list[float]()
    for fill in (0.0, 100.0):
        quantizer, spec = build(component, fields)
        quantizer.train()
        keep = prefix(torch.tensor(LENGTHS), LENGTH)
        features = torch.where(keep[..., None], draw(BATCH, LENGTH, spec.features), fill).requires_grad_()
        torch.manual_seed(0)
        before = torch.get_rng_state()
        quantized = quantizer(features, keep, rng=rng())
        own_draws(before, "training")
        total = scalar(quantized.losses) + (quantized.values * keep[..., None]).square().sum()
        torch.autograd.backward(total)
        assert features.grad is not None
        gradients = {n: p.grad for n, p in quantizer.named_parameters() if p.grad is not None}
        buffers = {n: v for n, v in quantizer.state_dict().items() if n not in gradients}
        results.append((total.detach(), features.grad[keep], gradients, buffers))
        absent.append(float(features.grad[~keep].abs().max()))
    close(results[0], results[1])
    assert not any(absent), (
        f"absent slots move losses or present values, by up to {max(absent):.1e} of a feature; what is absent has no "
        "weight at all: torch.where(keep, loss, 0), and count the present ones"
    )


def check_quantizer_gradients(component: Component, fields: Fields) -> None:
    """Gradients reach the features and every parameter, and zero features do no harm."""
    quantizer, spec = build(component, fields)
    keep, target = all_kept(), draw(BATCH, LENGTH, spec.tokens.dim, seed=1)
    features = draw(BATCH, LENGTH, spec.features).requires_grad_()

    def forward(step: int) -> Tensor:
        quantized: Quantized = quantizer(features, keep, rng=rng(step=step))
        return scalar(quantized.losses) + (quantized.values * target).sum()

    assert_gradients(quantizer, quantizer.config.unused(), forward)
    assert features.grad is not None and features.grad.any(), "no gradient reaches the encoder"
    zero = torch.zeros(BATCH, LENGTH, spec.features, requires_grad=True)
    quantized = quantizer(zero, keep, rng=rng())
    torch.autograd.backward(scalar(quantized.losses) + (quantized.values * target).sum())
    assert zero.grad is not None and zero.grad.isfinite().all(), "zero features give a gradient that is not finite"


CHECKS: tuple[Check, ...] = (
    *part.CHECKS, check_quantizer_codes, check_quantizer_rows, check_quantizer_absent_slots, check_quantizer_gradients,
)  # fmt: skip
