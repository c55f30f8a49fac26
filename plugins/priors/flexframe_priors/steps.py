"""A causal transformer at use: some positions at a time, with nothing made twice."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from copy import deepcopy
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
LINE = 64
"""Bytes of a line of a processor's memory."""
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


def laid(modules: ModuleT, rows: int, positions: int) -> ModuleT:
    """Modules to read so many positions of so many rows with: on a CPU and where it pays, a copy whose weights lie one
    behind the other in `room`; else the modules.

    A matrix lies input by input where there is one row, and output by output where there are more: that way a product
    takes 0.9 of the other's time with one row, and with two 0.8 (109 MB of weights, one core).
    """
    own = {id(p): p for p in modules.parameters()}
    first = next(iter(own.values()))
    if first.device.type != "cpu" or rows * positions < WORTH or any(p.dtype != first.dtype for p in own.values()):
        return modules
    line = LINE // first.element_size()
    sizes = [-(-p.numel() // line) * line for p in own.values()]
    parts = room(sum(sizes), first).split(sizes)
    copies = {}
    for (key, p), part in zip(own.items(), parts, strict=True):
        turned = rows == 1 and p.ndim == 2
        value = p.detach().T if turned else p.detach()
        copy = part[: p.numel()].view(value.shape).copy_(value)
        copies[key] = nn.Parameter(copy.T if turned else copy, requires_grad=False)
    return deepcopy(modules, copies)


class Layer(nn.Module):
    """A pre-norm block of causal attention and a SwiGLU feed-forward layer, by its weights."""

    def __init__(
        self,
        norm1: nn.RMSNorm,
        qkv: nn.Linear,
        proj: nn.Linear,
        norm2: nn.RMSNorm,
        fc1: nn.Linear,
        fc2: nn.Linear,
        reading: Reading | None = None,
    ) -> None:
        super().__init__()
        self.norm1, self.qkv, self.proj = norm1.weight, qkv.weight, proj.weight
        self.norm2, self.fc1, self.fc2 = norm2.weight, fc1.weight, fc2.weight
        self.reading = reading


class Steps:
    """Blocks that are given positions in their order, each once; keys and values stay in memory allocated once.

    Args:
        layers: of the blocks.
        own: they are a copy, and may be written to: norms' gains are folded into what reads them.
        positions: how many there can be.
        rotated: whether queries and keys are.
        compiled: these layers' step of one position, where it is compiled (`compiled_step`).
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        own: bool,
        heads: int,
        positions: int,
        rotated: bool = False,
        compiled: Callable[..., Tensor] | None = None,
    ) -> None:
        self.layers, self.heads, self.positions, self.rotated = tuple(layers), heads, positions, rotated
        self.compiled, self.done = compiled, 0
        self.kept: tuple[Tensor, ...] = ()
        self.turns: Tensor | None = None
        like = self.layers[0].qkv
        self.folded = own and like.device.type == "cpu" and like.dtype in (torch.float32, torch.float64)
        if self.folded:  # a norm of two calls is not divided by the root of the width
            for layer in self.layers:
                layer.qkv.mul_(layer.norm1 * like.shape[1] ** 0.5)
                layer.fc1.mul_(layer.norm2 * like.shape[1] ** 0.5)

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
        if not len(self.kept):
            self._room(x)
        if self.compiled is not None and count == 1 and start:
            return self.compiled(x, self.places, end, self.turns, self.kept, seen, list(known), present)
        if seen is None and start and count > 1:
            seen = torch.ones(count, end, dtype=torch.bool, device=x.device).tril(start)

        def keep(i: int, pair: Tensor) -> tuple[Tensor, Tensor]:
            every = self.kept[i][..., :end, :]
            every[..., start:, :].copy_(pair)
            return every[0], every[1]

        turn = None if self.turns is None else self.turns[..., start:end, :]
        x, normed = self._stream(x)
        return through(self.layers, self.heads, x, normed, turn, keep, seen, known, present)

    def _stream(self, x: Float[Tensor, "b n w"]) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The residual stream, to be added to, and its root mean square norm at any time.

        On a CPU each call counts, and torch's norm is seven. Beside the values stands one more, so that their norm has
        the epsilon in it.
        """
        if not self.folded:
            return stream(x)
        held = F.pad(x, (0, 1), value=(x.shape[-1] * EPSILON) ** 0.5)
        values = held[..., :-1]
        return values, lambda _: values / torch.linalg.vector_norm(held, dim=-1, keepdim=True)

    def _room(self, x: Float[Tensor, "b n w"]) -> None:
        """Memory of keys and values, a pair a layer, and the cosines and sines of all positions: of queries and keys,
        and of values 1 and 0, so that all three are turned at once."""
        width = len(self.layers[0].qkv) // 3 // self.heads
        shape = len(self.layers), 2, len(x), self.heads, self.positions, width
        self.kept = room(torch.Size(shape).numel(), x).view(shape).unbind(0)
        self.places = torch.arange(self.positions, device=x.device)
        if self.rotated:
            cosine, sine = turns(self.places, width, x.dtype)
            both = torch.stack([torch.cat([cosine, cosine], -1), torch.cat([-sine, sine], -1)])
            same = torch.stack([torch.ones_like(both[0]), torch.zeros_like(both[0])])
            self.turns = torch.stack([both, both, same], 1)[:, :, None, None]
        if self.compiled is not None:  # each by itself, or all are copied; what is masked is read, and must be finite
            self.kept = tuple(torch.zeros(each.shape, dtype=x.dtype, device=x.device) for each in self.kept)
        if self.compiled is not None and x.is_cuda:  # else a graph copies them at each step
            from torch._dynamo import mark_static_address  # loads the compiler

            for each in (*self.kept, self.places if self.turns is None else self.turns):
                mark_static_address(each, guard=False)


def stream(x: Float[Tensor, "b n w"]) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """A copy, to be added to, and its root mean square norm at any time, by the norm's gain."""
    x = x.clone()
    return x, lambda gain: F.rms_norm(x, gain.shape, gain, EPSILON)


def through(
    layers: Iterable[Layer],
    heads: int,
    x: Float[Tensor, "b n w"],
    normed: Callable[[Tensor], Tensor],
    turn: Float[Tensor, "2 3 1 1 n d"] | None,
    keep: Callable[[int, Tensor], tuple[Tensor, Tensor]],
    seen: Bool[Tensor, ...] | None,
    known: Sequence[Float[Tensor, "2 b h k d"]],
    present: Bool[Tensor, "b k"] | None,
) -> Float[Tensor, "b n w"]:
    """All blocks.

    Args:
        x: the residual stream; it is added to.
        normed: its norm at any time.
        turn: cosines and sines of these positions.
        keep: lays down a block's keys and values of these positions, and gives all that it has.
        seen: as `Steps` has it; None of several positions where they are the first.
    """
    count = x.shape[1]
    causal, shape = seen is None and count > 1, (len(x), count, 3, heads, -1)
    for i, layer in enumerate(layers):
        made = F.linear(normed(layer.norm1), layer.qkv).view(*shape).permute(2, 0, 3, 1, 4)
        if turn is not None:
            made = torch.addcmul(made * turn[0], made.roll(made.shape[-1] // 2, -1), turn[1])
        mixed = attend(made[0], *keep(i, made[1:]), seen, causal=causal)
        x += F.linear(mixed.transpose(1, 2).flatten(2), layer.proj)
        if layer.reading is not None and known and present is not None:
            x += layer.reading(x, known[i], present)
        gate, inner = F.linear(normed(layer.norm2), layer.fc1).chunk(2, -1)
        x += F.linear(F.silu(gate).mul_(inner), layer.fc2)
    return x


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
