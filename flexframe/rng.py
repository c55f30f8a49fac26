"""Counter-based randomness: every draw is a pure function of (seed, purpose, step, sample index, position).

Row i of a draw depends on that sample's own index and on nothing else: not on the batch it is in, the number of
processes, or the device. Philox 4x32-10 (Salmon et al., SC 2011), written in int64 tensor arithmetic so that it is
exact on every device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from zlib import crc32

import torch
from jaxtyping import Float, Int
from torch import Tensor

_LOW = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def philox(counter: Sequence[Tensor], key: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox 4x32-10: four 32-bit words for each counter, all held in int64 tensors of one shape."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # the products wrap modulo 2**64, whose bits are the ones wanted; the mask undoes the arithmetic shift's sign
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = ((p1 >> 32) & _LOW) ^ c1 ^ k0, p1 & _LOW, ((p0 >> 32) & _LOW) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return c0, c1, c2, c3


class Rng:
    """Draws for a batch of samples.

    Args:
        seed: any integer of at most 64 bits.
        index: each row's sample number; rows of equal index draw equally.
        step: training step or any other occasion; other steps are other draws.
    """

    def __init__(self, seed: int, index: Int[Tensor, " b"], step: int = 0) -> None:
        self.seed, self.index, self.step = seed, index, step

    def at(self, step: int) -> Rng:
        """The same samples at another step."""
        return Rng(self.seed, self.index, step)

    def rows(self, index: Int[Tensor, " b"]) -> Rng:
        """Other samples at the same step."""
        return Rng(self.seed, index, self.step)

    def shared(self) -> Rng:
        """One row for draws that the whole batch has in common, whatever samples are in it. On the CPU, where draws are
        the same: they decide shapes, and reading one from a device would wait for it."""
        return Rng(self.seed, torch.zeros(1, dtype=torch.long), self.step)

    def uniform(self, purpose: str, shape: Sequence[int] = ()) -> Float[Tensor, b * shape]:
        """Uniform on [0, 1), float32, of 24 bits."""
        return self._fill(torch.stack([(w >> 8).float() * 2.0**-24 for w in self._words(purpose, shape)], -1), shape)

    def normal(self, purpose: str, shape: Sequence[int] = ()) -> Float[Tensor, b * shape]:
        """Standard normal, float32 (Box-Muller, in float64 where the device has it)."""
        words = self._words(purpose, shape)
        dtype = torch.float32 if self.index.device.type == "mps" else torch.float64
        drawn: list[Tensor] = []
        for a, b in (words[:2], words[2:]):
            radius = torch.sqrt(-2 * torch.log((a.to(dtype) + 0.5) * 2.0**-32))
            angle = b.to(dtype) * (2 * math.pi * 2.0**-32)
            drawn += [radius * torch.cos(angle), radius * torch.sin(angle)]
        return self._fill(torch.stack(drawn, -1).float(), shape)

    def integers(self, purpose: str, high: int, shape: Sequence[int] = ()) -> Int[Tensor, b * shape]:
        """Uniform integers in [0, high).

        Raises:
            ValueError: `high` is not in 1..2**31.
        """
        if not 0 < high <= 2**31:
            raise ValueError(f"integers are drawn below a bound in 1..2**31, not {high}")
        return self._fill(torch.stack([(w * high) >> 32 for w in self._words(purpose, shape)], -1), shape)

    def _words(self, purpose: str, shape: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        blocks = -(-math.prod(shape) // 4)
        position = torch.arange(blocks, device=self.index.device).expand(len(self.index), -1)
        index = self.index.long()[:, None].expand(-1, blocks) & _LOW
        occasion = torch.full_like(position, self.step & _LOW)
        name = torch.full_like(position, crc32(purpose.encode()))
        return philox((position, name, index, occasion), (self.seed & _LOW, (self.seed >> 32) & _LOW))

    def _fill(self, blocks: Tensor, shape: Sequence[int]) -> Tensor:
        return blocks.flatten(1)[:, : math.prod(shape)].reshape(len(self.index), *shape)


def as_rng(rng: Rng | torch.Generator | int | None, batch: int, device: torch.device) -> Rng:
    """An `Rng` over rows 0..batch-1 of whatever a user passes at the border; None is seed 0.

    Raises:
        ValueError: an `Rng` of another number of rows.
    """
    if isinstance(rng, Rng):
        if len(rng.index) != batch:
            raise ValueError(f"the rng has {len(rng.index)} rows, the batch {batch}")
        return rng
    if isinstance(rng, torch.Generator):
        rng = int(torch.randint(2**62, (), generator=rng, device=rng.device))
    return Rng(rng or 0, torch.arange(batch, device=device))
