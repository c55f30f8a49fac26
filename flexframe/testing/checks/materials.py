"""Materials that the checks are made of: parts at their tiny size, the widths around them, and what is fed to them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

import torch
from torch import Tensor, nn

from flexframe.nn.init import redraw_zeros
from flexframe.parts import Decoder, OnStep
from flexframe.rng import Rng
from flexframe.tokens import Tokens, prefix
from flexframe_registry import Component, LatentSpec, Spec, TokenizerConfig, TokenSpec, catalogue
from flexframe_registry.config import ComponentConfig, SamplingConfig
from flexframe_registry.kinds import (
    OUTPUTS,
    CodecConfig,
    DecoderConfig,
    EncoderConfig,
    ObjectiveConfig,
    PriorConfig,
    QuantizerConfig,
)

Fields = Mapping[str, Any]
"""Fields that a config has no default for."""
Check = Callable[[Component, Fields], None]

BATCH, LENGTH, CODES, TAP = 4, 8, 64, 20
LENGTHS = (1, 3, 5, LENGTH)
"""A number of tokens for each row of a batch."""
SIZE = (8, 16)
"""Height and width of images: not square, and as many cells of 4 x 4 as there are tokens, for parts with a grid."""
LATENTS = LatentSpec(3, *SIZE, (0.0, 1.0), images=True)
ATTEMPTS = 24
"""Training passes within which every dropout branch must have been drawn."""


def tiny(component: Component, fields: Fields) -> Any:
    """The component's config at its tiny size."""
    return component.config.sized("tiny", **fields)


def spec_of(config: ComponentConfig, masked: bool = True) -> Spec:
    """Widths around one part, chosen so that none equals another by accident.

    Raises:
        ValueError: the part cannot work with them.
    """
    features = config.features() if isinstance(config, EncoderConfig) else 24
    tokens = TokenSpec(LENGTH, 6, 1, CODES)
    if isinstance(config, QuantizerConfig):
        tokens = config.tokens(LENGTH, features)
    latents = config.latents(*SIZE) if isinstance(config, CodecConfig) else LATENTS
    taps = dict[str, int]()
    if isinstance(config, ObjectiveConfig):
        taps = dict.fromkeys(config.needs() - OUTPUTS, TAP)
    if isinstance(config, DecoderConfig):
        tokens = dataclasses.replace(tokens, dim=config.token_dim(latents) or tokens.dim)
    spec = Spec(latents, features, dataclasses.replace(tokens, masked=masked), taps)
    config.check(spec)
    return spec


def build(component: Component, fields: Fields, masked: bool = True) -> tuple[Any, Spec]:
    """The part at its tiny size, zero-initialised tensors redrawn so that nothing is invisible; and its widths."""
    config = tiny(component, fields)
    spec = spec_of(config, masked)
    torch.manual_seed(0)
    part = component.load()(config, spec)
    redraw_zeros(part)
    return part.eval(), spec


def small_model() -> TokenizerConfig:
    """A tiny tokenizer of the first installed part of each kind, and of the masker of most budgets.

    Raises:
        LookupError: nothing is installed of one of the kinds.
    """
    known = catalogue()
    missing = [kind for kind in ("encoder", "quantizer", "decoder", "masker") if not known.names(kind)]
    if missing:
        raise LookupError(f"this is checked with a tokenizer, and no {missing[0]} is installed; install one")
    any_width = [c.name for c in known if c.kind == "decoder" and tiny(c, {}).token_dim(LATENTS) is None]
    parts = {kind: known.names(kind)[0] for kind in ("encoder", "quantizer")} | {"decoder": min(any_width)}
    raw = {"size": "tiny", "image_size": SIZE, "length": LENGTH, **parts}
    models = [TokenizerConfig.read({**raw, "masker": name}) for name in known.names("masker")]
    return max(models, key=lambda model: len(model.budgets))


def rng(batch: int = BATCH, step: int = 0) -> Rng:
    """The draws of a batch of the first samples."""
    return Rng(1, torch.arange(batch), step)


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal values."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def images() -> Tensor:
    """A batch of images in [0, 1], `b 3 h w` of `SIZE`."""
    return torch.sigmoid(draw(BATCH, 3, *SIZE))


def all_kept() -> Tensor:
    """`keep` of a batch in which every token is present."""
    return torch.ones(BATCH, LENGTH, dtype=torch.bool)


def tokens(spec: Spec, lengths: Sequence[int] = LENGTHS, seed: int = 0) -> Tokens:
    """Random tokens, of `lengths[i]` in row i."""
    keep = prefix(torch.tensor(lengths), spec.tokens.length)
    codes = torch.zeros(len(lengths), spec.tokens.length, 1, dtype=torch.long)
    return Tokens(draw(len(lengths), spec.tokens.length, spec.tokens.dim, seed=seed), keep, codes)


def sampling(config: DecoderConfig | PriorConfig) -> SamplingConfig:
    """A part's settings of use for a quick check."""
    return config.sampling.quick()


def assert_not_clamped(values: Tensor, what: str) -> None:
    """Fail where several values are exactly at a bound of [0, 1] or [-1, 1]."""
    for bound in (-1.0, 0.0, 1.0):
        count = int((values == bound).sum())
        assert count < max(3, values.numel() // 100), (
            f"{count} of {values.numel()} {what} are exactly {bound:g}: they are clamped, and only the tokenizer "
            "clamps, for a clamp has no gradient: look for clamp, clip and hardtanh in `decode`"
        )


def decode(decoder: Decoder, values: Tokens, draws: Rng, on_step: OnStep | None = None, graph: bool = False) -> Tensor:
    """Latents of the size that the decoder was built for; one without `on_step` is called without it."""
    size = (decoder.spec.latents.height, decoder.spec.latents.width)
    settings = sampling(decoder.config)
    told = {} if on_step is None else {"on_step": on_step}
    with torch.set_grad_enabled(graph):
        return decoder.decode(values, condition=None, size=size, rng=draws, sampling=settings, **told)


def close(actual: Any, expected: Any) -> None:
    """Fail unless tensors, or mappings of them, are equal to what fp32 keeps of a different order of summing."""
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=1e-4)


def reached(part: nn.Module) -> set[str]:
    """Names of the parameters that have a gradient which is not zero throughout; fails where one is not finite."""
    gradients = {name: p.grad for name, p in part.named_parameters() if p.grad is not None}
    norms = torch._foreach_norm([*gradients.values()], ord=torch.inf) if gradients else ()
    largest = {name: float(norm) for name, norm in zip(gradients, norms, strict=True)}
    for name, size in largest.items():
        assert size < torch.inf, f"the gradient of {name} is not finite"
    return {name for name, size in largest.items() if size > 0}


def assert_gradients(
    part: nn.Module, unused: Sequence[str], forward: Callable[[int], Tensor], met: Set[str] = frozenset()
) -> None:
    """Every trainable parameter but the unused gets a finite, non-zero gradient within a few passes.

    Args:
        met: parameters that a gradient has reached before.
    """
    wanting = {name for name, p in part.named_parameters() if p.requires_grad}
    unknown = set(unused) - wanting
    assert not unknown, f"declared unused, but there is no such parameter: {sorted(unknown)}"
    wanting -= met
    part.train()
    for step in range(ATTEMPTS):
        if (step or met) and wanting <= set(unused):
            break
        part.zero_grad(set_to_none=True)
        total = forward(step)
        if total.requires_grad:  # of a part without parameters it need not
            torch.autograd.backward(total)
        wanting -= reached(part)
    assert wanting <= set(unused), (
        f"no gradient reaches {sorted(wanting - set(unused))}; declare it in `unused`, or use it"
    )
    assert set(unused) <= wanting, f"declared unused, but a gradient reaches {sorted(set(unused) - wanting)}"


def own_draws(before: Tensor, what: str) -> None:
    """Fail where torch's global generator has moved since its state was `before`."""
    assert torch.equal(torch.get_rng_state(), before), (
        f"{what} drew from torch's global generator; every draw is to come from the rng handed in, under a purpose of "
        "its own (rng.uniform, rng.normal, rng.integers): look for dropout, torch.rand*, and libraries that draw"
    )


def a_value_a_sample(losses: Mapping[str, Tensor]) -> None:
    """Fail unless each loss is a value a sample."""
    for name, loss in losses.items():
        assert loss.shape == (BATCH,), (
            f"loss {name!r} has shape {tuple(loss.shape)}, not ({BATCH},): a value a sample, whose mean the loop takes"
        )


def scalar(losses: Mapping[str, Tensor]) -> Tensor:
    """The sum of the losses' means; fails unless each is finite and a value a sample, or one of the batch."""
    for name, loss in losses.items():
        assert loss.shape in ((BATCH,), ()), (
            f"loss {name!r} has shape {tuple(loss.shape)}; a value a sample, or a scalar"
        )
        assert loss.isfinite().all(), f"loss {name!r} is not finite"
    return sum((loss.mean() for loss in losses.values()), start=torch.zeros(()))
