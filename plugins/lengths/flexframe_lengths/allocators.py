"""Lengths chosen for each image by decoding it at several of them. See the configs for the rules."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flexframe.models.allocator import Allocator
from flexframe.models.tokenizer import Tokenizer
from flexframe.rng import Rng
from flexframe.tokens import Tokens


class ByReconstruction(Allocator):
    """Decodes images at each number of tokens, with the draws that a later decoding by the same `rng` makes."""

    def budgets(self, tokenizer: Tokenizer) -> tuple[int, ...]:
        return self.config.budgets or tokenizer.config.budgets

    def error(
        self, tokenizer: Tokenizer, images: Float[Tensor, "b 3 h w"], tokens: Tokens, budget: int, rng: Rng
    ) -> Float[Tensor, " b"]:
        """Mean squared error of each image's 8-bit reconstruction from `budget` tokens, in squared 8-bit steps."""
        short = tokenizer.shortened(tokens, images, budget, rng=rng)
        decoded = tokenizer.decode(short, rng=rng, sampling=self.config.sampling)
        return ((decoded.float() * 255).round() - images.float() * 255).square().mean((1, 2, 3))


class Psnr(ByReconstruction):
    """The allocator of `PsnrConfig`."""

    def choose(self, tokenizer: Tokenizer, images: Float[Tensor, "b 3 h w"], *, rng: Rng) -> Int[Tensor, " b"]:
        budgets, tokens = self.budgets(tokenizer), tokenizer.encode(images, rng=rng)
        lengths = torch.full((len(images),), budgets[-1], device=images.device)
        most = 255.0**2 / 10 ** (self.config.target / 10)
        rows = torch.arange(len(images), device=images.device)
        for budget in budgets[:-1]:  # the last is taken whether it reaches the target or not
            reached = self.error(tokenizer, images[rows], tokens[rows], budget, rng.rows(rng.index[rows])) <= most
            lengths[rows[reached]] = budget
            rows = rows[~reached]
            if not len(rows):
                break
        return lengths


class RateDistortion(ByReconstruction):
    """The allocator of `RateDistortionConfig`."""

    def choose(self, tokenizer: Tokenizer, images: Float[Tensor, "b 3 h w"], *, rng: Rng) -> Int[Tensor, " b"]:
        budgets, tokens = self.budgets(tokenizer), tokenizer.encode(images, rng=rng)
        costs = [self.error(tokenizer, images, tokens, k, rng) + self.config.price * k for k in budgets]
        best = torch.stack(costs).argmin(0)  # the first of equals is the shortest
        return torch.tensor(budgets, device=images.device)[best]
