"""Counter-based randomness: every draw is a pure function of (seed, purpose, step, sample index, position).

Row i of a draw depends on that sample's own index and on nothing else: not on the batch it is in, the number of
processes, or the device. Philox 4x32-10 (Salmon et al., SC 2011), written twice: in int64 tensor arithmetic, which is
exact on every device, and for the CPU in NumPy's uint64, tile by tile, in a fifth to two fifths of the time.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from zlib import crc32

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

_LOW = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_TILE = 16384
"""Counters at a time on a CPU: their words fit into a core's cache."""
_FROM_2_20 = (1023 + 20) << 52
"""Bits of the float64 2**20, whose last one stands for 2**-32."""
_UP = np.uint64(32)
_M0, _M1 = np.array(_MULTIPLIERS, np.uint64)
Half = NDArray[np.uint64]
_CONSTANTS = np.array(_MULTIPLIERS, np.uint64)[:, None, None]


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


@lru_cache(maxsize=8)
def _schedule(key: tuple[int, int]) -> NDArray[np.uint64]:
    """Keys of the rounds, shifted up by 32: [10, 2, 1, 1]."""
    rounds = [[((word + i * weyl) & _LOW) << 32 for word, weyl in zip(key, _WEYL, strict=True)] for i in range(10)]
    return np.array(rounds, np.uint64)[..., None, None]


class Grid:
    """Counters (position, name, index, occasion) on the CPU, whose words are those of `philox`. A row has its index
    and its name.

    Held as 64 bits that are words 0 and 1, or 2 and 3, the even one above. A round takes each half's even word times a
    constant into the other half, and its odd word above: an XOR of the product with the half shifted up by 32. In the
    first two rounds nothing depends on both position and index.

    Args:
        size: counters at a time, at the most.
    """

    def __init__(self, occasion: int, key: tuple[int, int], size: int) -> None:
        self.keys = _schedule(key)
        self.occasion = np.uint64(occasion << 32)
        self.held = np.empty((2, 2 * size), np.uint64)

    @staticmethod
    def rows(name: NDArray[np.uint64], index: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Rows as the other methods take them."""
        keyed: NDArray[np.uint64] = index * _M1 ^ (name << _UP)
        return keyed

    def halves(self, position: NDArray[np.uint64], rows: NDArray[np.uint64]) -> tuple[Half, Half]:
        """Words 0 and 1, 2 and 3, the even one above: [2, rows, positions], and room for as many, until the next
        call; both may be written over."""
        shape = len(rows), len(position)
        size = 2 * shape[0] * shape[1]
        halves, products = (held[:size].reshape(2, *shape) for held in self.held)
        first, second = self.keys[0, :, 0], self.keys[1, :, 0]
        by_index, by_position = rows ^ first[0], position * _M0 ^ (self.occasion ^ first[1])
        across = (by_position >> _UP) * _M1, (by_index >> _UP) * _M0
        above = (by_index << _UP) ^ second[0], (by_position << _UP) ^ second[1]
        np.bitwise_xor(across[0], above[0][:, None], out=halves[0])
        np.bitwise_xor(across[1][:, None], above[1], out=halves[1])
        for keys in self.keys[2:]:
            np.right_shift(halves, _UP, out=products)
            np.multiply(products, _CONSTANTS, out=products)
            np.left_shift(halves, _UP, out=halves)
            np.bitwise_xor(halves, keys, out=halves)
            np.bitwise_xor(halves, products[::-1], out=halves)
        return halves, products

    def words(self, position: NDArray[np.uint64], rows: NDArray[np.uint64]) -> NDArray[np.uint32]:
        """Words 0 to 3: [rows, positions, 4], until the next call; they may be written over."""
        halves, turned = self.halves(position, rows)
        np.right_shift(halves, _UP, out=turned)
        np.left_shift(halves, _UP, out=halves)
        np.bitwise_or(halves, turned, out=halves)  # the even word first, as a machine has them that is little-endian
        beside = turned.reshape(*halves.shape[1:], 2)
        beside[..., 0], beside[..., 1] = halves
        return beside.view(np.uint32)


class Rng:
    """Draws for a batch of samples.

    Args:
        seed: any integer of at most 64 bits.
        index: each row's sample number; rows of equal index draw equally.
        step: training step or any other occasion; other steps are other draws.

    Raises:
        ValueError: a seed that is no such number.
    """

    def __init__(self, seed: int, index: Int[Tensor, " b"], step: int = 0) -> None:
        if not isinstance(seed, int | np.integer) or not -(2**63) <= seed < 2**64:
            raise ValueError(f"a seed is a whole number of at most 64 bits, not {seed!r}")
        self.seed, self.index, self.step = int(seed), index, step

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
        return self._drawn((purpose,), shape, torch.float32, _Uniform())[0]

    def uniforms(self, purposes: Sequence[str], shape: Sequence[int] = ()) -> Float[Tensor, "p b ..."]:
        """`uniform` under each of these purposes, at little more than the cost of one."""
        return self._drawn(purposes, shape, torch.float32, _Uniform())

    def normal(self, purpose: str, shape: Sequence[int] = ()) -> Float[Tensor, b * shape]:
        """Standard normal, float32 (Box-Muller, in float64 where the device has it)."""
        return self._drawn((purpose,), shape, torch.float32, _Normal())[0]

    def integers(self, purpose: str, high: int, shape: Sequence[int] = ()) -> Int[Tensor, b * shape]:
        """Uniform integers in [0, high).

        Raises:
            ValueError: `high` is not in 1..2**31.
        """
        if not 0 < high <= 2**31:
            raise ValueError(f"integers are drawn below a bound in 1..2**31, not {high}")
        return self._drawn((purpose,), shape, torch.int64, _Integers(high))[0]

    def _drawn(self, purposes: Sequence[str], shape: Sequence[int], dtype: torch.dtype, kind: _Kind) -> Tensor:
        """Draws of a kind, four of each counter: the rows of each purpose."""
        names, batch, count = [crc32(purpose.encode()) for purpose in purposes], len(self.index), math.prod(shape)
        drawn = torch.empty(len(names) * batch, -(-count // 4), 4, dtype=dtype, device=self.index.device)
        index, occasion = self.index.long() & _LOW, self.step & _LOW
        key = (self.seed & _LOW, (self.seed >> 32) & _LOW)
        # what traces or counts operators gets operators
        if type(index) is not Tensor or index.device.type != "cpu" or torch.compiler.is_compiling():
            words = self._by_operators(names, drawn.shape[1], index, occasion, key)
            for word, draws in enumerate(kind.of(words)):  # one by one: torch is slow at a transpose of all
                drawn[..., word], drawn[..., word + 2] = draws
        else:
            numbers = index.numpy().astype(np.uint64)
            rows = Grid.rows(np.repeat(np.array(names, np.uint64), batch), np.tile(numbers, len(names)))
            _by_tiles(drawn, kind, rows, occasion, key)
        return drawn.flatten(1)[:, :count].reshape(len(names), batch, *shape)

    @staticmethod
    def _by_operators(names: list[int], blocks: int, index: Tensor, occasion: int, key: tuple[int, int]) -> Tensor:
        rows = index.repeat(len(names))[:, None]
        position = torch.arange(blocks, device=index.device).expand(len(rows), -1)
        name = torch.cat([torch.full_like(index, each) for each in names])[:, None].expand_as(position)
        constant = torch.full_like(position, occasion)
        c0, c1, c2, c3 = philox((position, name, rows.expand_as(position), constant), key)
        return torch.stack([c0, c2, c1, c3]).view(2, 2, *position.shape)


def _by_tiles(drawn: Tensor, kind: _Kind, rows: NDArray[np.uint64], occasion: int, key: tuple[int, int]) -> None:
    """Fill draws on the CPU, some rows and counters at a time."""
    positions = np.arange(drawn.shape[1], dtype=np.uint64)
    width = min(len(positions), _TILE)
    height = min(len(rows), _TILE // max(1, width))
    grid = Grid(occasion, key, width * height)
    for row in range(0, len(rows), max(1, height)):
        for first in range(0, len(positions), max(1, width)):
            some, part = slice(row, row + height), slice(first, first + width)
            kind.fill(drawn[some, part], grid, positions[part], rows[some])


class _Kind(ABC):
    """A kind of draw: of words by torch's operators, and of a grid on the CPU. Both give the same."""

    @abstractmethod
    def of(self, words: Tensor) -> Iterable[Tensor]:
        """Draws 0 and 2, then 1 and 3, of words 0 and 2, 1 and 3: [2, 2, rows, blocks], which may be written over."""

    @abstractmethod
    def fill(self, drawn: Tensor, grid: Grid, position: NDArray[np.uint64], rows: NDArray[np.uint64]) -> None:
        """Put the four draws of each counter into `drawn`: [rows, blocks, 4]."""


class _Uniform(_Kind):
    def of(self, words: Tensor) -> Iterable[Tensor]:
        return words.bitwise_right_shift_(8).float().mul_(2.0**-24)

    def fill(self, drawn: Tensor, grid: Grid, position: NDArray[np.uint64], rows: NDArray[np.uint64]) -> None:
        words = grid.words(position, rows)
        np.right_shift(words, np.uint32(8), out=words)
        drawn.copy_(torch.from_numpy(words.view(np.int32))).mul_(2.0**-24)


@dataclass(frozen=True, slots=True)
class _Integers(_Kind):
    high: int

    def of(self, words: Tensor) -> Iterable[Tensor]:
        return words.mul_(self.high).bitwise_right_shift_(32)

    def fill(self, drawn: Tensor, grid: Grid, position: NDArray[np.uint64], rows: NDArray[np.uint64]) -> None:
        drawn.copy_(torch.from_numpy(grid.words(position, rows)))
        drawn.mul_(self.high).bitwise_right_shift_(32)


class _Normal(_Kind):
    def of(self, words: Tensor) -> Iterable[Tensor]:
        if words.device.type == "mps":
            numbers = words.float().mul_(2.0**-32)
            return _box_muller(numbers[0].add_(2.0**-33), numbers[1])
        # as the last bits of a float64 from 2**20 on, words are times 2**-32; all of this is exact
        numbers = words.bitwise_or_(_FROM_2_20).view(torch.float64).sub_(2.0**20)
        return _box_muller(numbers[0].add_(2.0**-33), numbers[1])

    def fill(self, drawn: Tensor, grid: Grid, position: NDArray[np.uint64], rows: NDArray[np.uint64]) -> None:
        halves, above = grid.halves(position, rows)
        np.right_shift(halves, _UP, out=above)
        np.bitwise_or(above, np.uint64(_FROM_2_20), out=above)
        np.bitwise_and(halves, np.uint64(_LOW), out=halves)
        np.bitwise_or(halves, np.uint64(_FROM_2_20), out=halves)
        first, angle = (torch.from_numpy(each.view(np.float64)) for each in (above, halves))
        draws = torch.complex(
            *(each.float() for each in _box_muller(first.sub_(2.0**20 - 2.0**-33), angle.sub_(2.0**20)))
        )
        pairs = torch.view_as_complex(drawn.view(*drawn.shape[:2], 2, 2))
        pairs[..., 0], pairs[..., 1] = draws


def _box_muller(first: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Two normal draws of two uniform ones, the first above 0, which are written over."""
    radius = first.log_().mul_(-2).sqrt_()
    return torch.cos(angle.mul_(2 * math.pi)).mul_(radius), angle.sin_().mul_(radius)


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
    return Rng(0 if rng is None else rng, torch.arange(batch, device=device))
