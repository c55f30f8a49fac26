"""A causal transformer at use: some positions at a time, with nothing made twice."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from flexframe.nn.attention import attend
from flexframe.nn.reading import Reading

HUGE = 2 << 20
"""Bytes of a huge page."""
WORTH = 128
"""Positions, of all rows, from which on weights are copied first: on one core that takes as long as some fifteen steps
of one row, and spares a quarter to a third of each (`benchmarks/speed/prior.py`)."""
EPSILON = 1e-5
"""Epsilon of all norms here."""

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def room(count: int, like: Tensor) -> Tensor:
    """Memory of so many values, uninitialised; on a CPU in huge pages, where the system has them.

    Weights are read once a step, and are larger than what a processor keeps: with pages of 4 KB much of the time goes
    into finding these.
    """
    size = count * like.element_size()
    if like.device.type != "cpu" or size < HUGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return like.new_empty(count)
    held = mmap.mmap(-1, size + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a system without them
        held.madvise(mmap.MADV_HUGEPAGE)
    whole = torch.frombuffer(held, dtype=torch.uint8)
    first = -whole.data_ptr() % HUGE
    return whole[first : first + size].view(like.dtype)


def laid(modules: ModuleT, positions: int) -> ModuleT:
    """Modules to read so many positions with, of all rows: on a CPU and where it pays, a copy whose weights lie one
    behind the other in `room`; else the modules."""
    own = {id(p): p for p in modules.parameters()}
    first = next(iter(own.values()))
    if first.device.type != "cpu" or positions < WORTH or any(p.dtype != first.dtype for p in own.values()):
        return modules
    sizes = [-(-p.numel() // 16) * 16 for p in own.values()]  # each begins a line of a processor's memory
    parts = room(sum(sizes), first).split(sizes)
    copies = {
        key: nn.Parameter(part[: p.numel()].view_as(p).copy_(p.detach()), requires_grad=False)
        for (key, p), part in zip(own.items(), parts, strict=True)
    }
    return deepcopy(modules, copies)


@dataclass(frozen=True, slots=True)
class Layer:
    """A pre-norm block of causal attention and a SwiGLU feed-forward layer, by its weights."""

    norm1: Float[Tensor, " w"]
    qkv: Float[Tensor, "x w"]
    proj: Float[Tensor, "w w"]
    norm2: Float[Tensor, " w"]
    fc1: Float[Tensor, "y w"]
    fc2: Float[Tensor, "w z"]
    reading: Reading | None = None


class Steps:
    """Blocks that are given positions in their order, each once; keys and values stay in memory allocated once.

    Args:
        layers: of the blocks.
        own: they are a copy, and may be written to: norms' gains are folded into what reads them.
        positions: how many there can be.
        rotated: whether queries and keys are.
    """

    def __init__(self, layers: Iterable[Layer], own: bool, heads: int, positions: int, rotated: bool = False) -> None:
        self.layers, self.heads, self.positions, self.rotated = tuple(layers), heads, positions, rotated
        self.done, self.kept = 0, torch.empty(0)
        like = self.layers[0].qkv
        self.folded = own and like.device.type == "cpu" and like.dtype in (torch.float32, torch.float64)
        if self.folded:
            for layer in self.layers:
                layer.qkv.mul_(layer.norm1 * len(layer.norm1) ** 0.5)
                layer.fc1.mul_(layer.norm2 * len(layer.norm2) ** 0.5)

    @torch.inference_mode()
    def __call__(
        self,
        x: Float[Tensor, "b n w"],
        seen: Bool[Tensor, "b 1 n m"] | None = None,
        known: Sequence[Float[Tensor, "2 b h k d"]] = (),
        present: Bool[Tensor, "b k"] | None = None,
    ) -> Float[Tensor, "b n w"]:
        """Compute the next n positions.

        Args:
            seen: True where a query may attend to a key, these among them; those before it and itself if None.
            known: keys and values of a text, by block, where blocks read one.
            present: which of these are.
        """
        count, start = x.shape[1], self.done
        self.done = end = start + count
        x, normed = self._stream(x)
        if seen is None and start and count > 1:
            seen = torch.ones(count, end, dtype=torch.bool, device=x.device).tril(start)
        causal, shape = seen is None and count > 1, (len(x), count, 3, self.heads, -1)
        for i, layer in enumerate(self.layers):
            made = F.linear(normed(layer.norm1), layer.qkv).view(*shape).permute(2, 0, 3, 1, 4)
            if not i:
                turn, new, kept = self._room(made, start, end)
            query, key, value = made.unbind(0)
            if turn is not None:
                both = made[:2]
                both = torch.addcmul(both * turn[0], both.roll(made.shape[-1] // 2, -1), turn[1])
                query, key = both.unbind(0)
            new[2 * i].copy_(key)
            new[2 * i + 1].copy_(value)
            mixed = attend(query, kept[2 * i], kept[2 * i + 1], seen, causal=causal)
            x += F.linear(mixed.transpose(1, 2).flatten(2), layer.proj)
            if layer.reading is not None and known and present is not None:
                x += layer.reading(x, known[i], present)
            gate, inner = F.linear(normed(layer.norm2), layer.fc1).chunk(2, -1)
            x += F.linear(F.silu(gate).mul_(inner), layer.fc2)
        return x

    def _stream(self, x: Float[Tensor, "b n w"]) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The residual stream, to be added to, and its root mean square norm at any time.

        On a CPU each call counts, and torch's norm is seven. Beside the values stands one more, so that their norm has
        the epsilon in it.
        """
        if not self.folded:
            x = x.clone()
            return x, lambda gain: F.rms_norm(x, gain.shape, gain, EPSILON)
        held = F.pad(x, (0, 1), value=(x.shape[-1] * EPSILON) ** 0.5)
        stream = held[..., :-1]
        return stream, lambda _: stream / torch.linalg.vector_norm(held, dim=-1, keepdim=True)

    def _room(
        self, made: Float[Tensor, "3 b h n d"], start: int, end: int
    ) -> tuple[list[Tensor] | None, list[Tensor], list[Tensor]]:
        """Cosines and sines of these positions, if they are rotated; keys and values, layer by layer, of these
        positions and of all so far."""
        if not len(self.kept):
            _, rows, heads, _, width = made.shape
            shape = 2 * len(self.layers), rows, heads, self.positions, width
            self.kept = room(torch.Size(shape).numel(), made).view(shape)
            if self.rotated:
                cosine, sine = turns(torch.arange(self.positions, device=made.device), width, made.dtype)
                self.turns = torch.stack([torch.cat([cosine, cosine], -1), torch.cat([-sine, sine], -1)])
        turn = list(self.turns[:, start:end].unbind(0)) if self.rotated else None
        return turn, list(self.kept[..., start:end, :].unbind(0)), list(self.kept[..., :end, :].unbind(0))


def turns(places: Int[Tensor, " n"], width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine by which each place rotates pairs of channels."""
    half = width // 2
    frequencies = 10_000.0 ** (-torch.arange(half, device=places.device, dtype=torch.float32) / half)
    angles = places[:, None] * frequencies
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Float[Tensor, "... n d"], cosine: Float[Tensor, "n e"], sine: Float[Tensor, "n e"]) -> Tensor:
    """Pairs of channels rotated."""
    one, two = x.chunk(2, -1)
    return torch.cat([one * cosine - two * sine, one * sine + two * cosine], -1)
