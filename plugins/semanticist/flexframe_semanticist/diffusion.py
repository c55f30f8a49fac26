"""The diffusion that the decoder is trained in, and the steps of it that sampling takes."""

from __future__ import annotations

from collections.abc import Sequence

from flexframe.nn.diffusion import Diffusion, evenly, linear_betas

from . import TIMES, DDPMSampling


def process(steps: Sequence[int] = range(TIMES)) -> Diffusion:
    """The process over some of its steps, all of them by default."""
    return Diffusion(linear_betas(), steps)


def taken(sampling: DDPMSampling) -> list[int]:
    """The steps of the trained diffusion that sampling goes through, rising."""
    if sampling.spacing == "stride":
        stride = next(n for n in range(1, TIMES) if len(range(0, TIMES, n)) == sampling.steps)
        return list(range(0, TIMES, stride))
    return evenly(sampling.steps)
