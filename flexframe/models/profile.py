"""The cost of a model: parameters by part, FLOPs and memory. Nothing is allocated, whatever the model's size.

Parts are built on the meta device and run on fake tensors: meta tensors that say they are on the CPU, so that what
runs is the code that runs at use (autocast and fused attention included), and each tensor has only a shape.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry, shape_wrapper

from flexframe.rng import Rng
from flexframe.tokens import Batch, Condition, Tokens
from flexframe_registry import SamplingConfig, Spec, TokenizerConfig, catalogue
from flexframe_registry.models import PARTS

PRECISIONS = ("fp32", "bf16")
USES = ("pass", "encode", "decode", "train")
Shape = Sequence[int]
_READ = torch.ops.aten._local_scalar_dense.default
_ASKED = frozenset({torch.ops.prim.device.default})
"""Operators that make nothing."""


def fake_tensors() -> FakeTensorMode:
    """Fake tensors, and real ones beside them.

    The mode claims GPUs that are not there, and the first backward pass of a process starts a thread for each device;
    a fork of a process with such threads can run no backward pass (torch 2.11 to 2.14). So one is run before.
    """
    torch.autograd.backward(torch.zeros((), requires_grad=True))
    return FakeTensorMode(allow_non_fake_inputs=True)


@dataclass(frozen=True, slots=True)
class PartSize:
    """Numbers that a part holds, and their bytes as they are stored and with floats in bfloat16."""

    kind: str
    name: str
    parameters: int = 0
    trainable: int = 0
    buffers: int = 0
    """Numbers that are no parameters: tables, running means."""
    stored: int = 0
    halved: int = 0
    exported: int = 0
    """Bytes of what a model file holds."""
    missing: str = ""
    """Why the part cannot be built here; all numbers are then 0."""


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one use of a model. `failed` says why it could not be measured; all numbers are then 0."""

    flops: Mapping[str, float]
    """For one image, by part; a multiply and an add are two."""
    peak: int
    """Most bytes of tensors alive at once for the batch, beyond weights and buffers."""
    kept: int = 0
    """Bytes alive as a training forward ends."""
    guessed: int = 0
    """Numbers that the code reads from data, which are not there: each was taken as 0."""
    without: str = ""
    """Why the codec is not in it."""
    failed: str = ""


@dataclass(frozen=True, slots=True)
class Profile:
    """A tokenizer's sizes, and its costs by (use, precision). `pass` is the decoder's network once."""

    parts: tuple[PartSize, ...]
    batch_size: int
    costs: Mapping[tuple[str, str], Cost]

    @property
    def weights(self) -> int:
        """Bytes of parameters and buffers."""
        return sum(part.stored for part in self.parts)

    def training(self, precision: str) -> dict[str, int]:
        """Bytes in a training step by what they are for; `at once` is the most that is alive together."""
        cost, trainable = self.costs["train", precision], sum(part.trainable for part in self.parts) * 4
        averaged = sum(part.exported for part in self.parts)
        held = {"weights and buffers": self.weights, "Adam's moments": 2 * trainable, "weight average": averaged}
        passing = {"gradients": trainable, "activations after the forward pass": cost.kept}
        return {**held, **passing, "at once": sum(held.values()) + max(cost.peak, trainable)}


def measure(
    config: TokenizerConfig,
    sampling: Mapping[str, Any] | None = None,
    *,
    batch_size: int = 1,
    frozen: Sequence[str] = (),
    uses: Sequence[str] = USES,
    precisions: Sequence[str] = PRECISIONS,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> Profile:
    """Sizes and costs of a tokenizer. Where counting itself does not work, each cost says so in `failed`.

    Args:
        sampling: the decoder's settings, over its defaults.
        batch_size: images at a time; memory is for all of them, FLOPs for one.
        frozen: parts, or modules within them by dotted name, that a run does not train.
        uses: which of `pass`, `encode`, `decode` and `train` are measured.
        precisions: `fp32`, `bf16` or both; the network's pass is measured in fp32 alone.
        on_stage: told what is measured next.
    """
    settings = config.decoder.sampling.read(dict(sampling or {}), "sampling")
    broken = trial()
    ways: dict[str, tuple[Callable[[Uses, Meter], None], Sequence[str]]] = {
        "pass": (Uses.once, ("decoder",)),
        "encode": (Uses.encode, ("encoder", "quantizer")),
        "decode": (partial(Uses.decode, sampling=settings), ("decoder",)),
        "train": (Uses.train, ("encoder", "quantizer", "decoder")),
    }
    on_stage("parameters")
    parts, sizes = build(config, frozen)
    still = "" if any(size.trainable or size.missing for size in sizes) else "there is nothing to train"
    costs = {}
    with fake_tensors():
        for part in parts.values():
            part.to_empty(device="cpu")
        run = Uses(config, parts, {s.kind: s.missing for s in sizes if s.missing}, batch_size, frozen).run
        for use, precision in product(uses, precisions):
            if (use, precision) != ("pass", "bf16"):  # its FLOPs are the same, and its memory is in `decode`
                on_stage(f"{use}, {precision}")
                told = Cost({}, 0, failed=broken or (still if use == "train" else ""))
                costs[use, precision] = told if told.failed else run(*ways[use], bf16=precision == "bf16")
    return Profile(tuple(sizes), batch_size, costs)


# --- parts -------------------------------------------------------------------------------------------------------


def build(config: TokenizerConfig, frozen: Sequence[str] = ()) -> tuple[dict[str, nn.Module], list[PartSize]]:
    """A tokenizer's parts on the meta device, without those whose libraries are missing, and the sizes of all."""
    parts: dict[str, nn.Module] = {}
    sizes = []
    for kind in PARTS:
        chosen = getattr(config, kind)
        try:
            with torch.device("meta"):
                part = catalogue().build(chosen, config.spec)
        except ImportError as error:
            sizes.append(PartSize(kind, chosen.type, missing=str(error)))
            continue
        if kind == "codec":
            part.requires_grad_(False)
        for name in frozen:
            if name.partition(".")[0] == kind:
                part.get_submodule(name.partition(".")[2]).requires_grad_(False)
        parts[kind] = part
        sizes.append(size_of(kind, chosen.type, part))
    return parts, sizes


def size_of(kind: str, name: str, part: nn.Module) -> PartSize:
    """The sizes of a built part, on any device."""
    parameters, tensors = list(part.parameters()), [*part.parameters(), *part.buffers()]
    return PartSize(
        kind,
        name,
        sum(p.numel() for p in parameters),
        sum(p.numel() for p in parameters if p.requires_grad),
        sum(b.numel() for b in part.buffers()),
        sum(t.nbytes for t in tensors),
        sum(t.numel() * (2 if t.is_floating_point() else t.element_size()) for t in tensors),
        sum(t.nbytes for t in part.state_dict().values()),
    )


# --- uses --------------------------------------------------------------------------------------------------------


class Uses:
    """The ways in which a tokenizer is used, each run once on fake tensors, at the full token count."""

    def __init__(
        self,
        config: TokenizerConfig,
        parts: Mapping[str, nn.Module],
        missing: Mapping[str, str],
        batch: int,
        frozen: Sequence[str] = (),
    ) -> None:
        self.config, self.parts, self.missing, self.batch = config, parts, missing, batch
        self.still = [name.partition(".") for name in ("codec", *frozen)]
        self.spec: Spec = config.spec
        self.latents = (batch, self.spec.latents.channels, self.spec.latents.height, self.spec.latents.width)

    def run(self, use: Callable[[Uses, Meter], None], needs: Sequence[str], *, bf16: bool) -> Cost:
        """The cost of a use. What a part raises is told in its place: the other uses go on."""
        meter = Meter(self.parts.values(), self.batch, bf16)
        for part in self.parts.values():
            part.eval().zero_grad(set_to_none=True)
        lacking = "; ".join(f"{kind}: {self.missing[kind]}" for kind in needs if kind in self.missing)
        if not lacking:
            try:
                with meter.counter:
                    use(self, meter)
            except Exception as error:  # a stranger's part may raise anything
                lacking = _told(error)
        return meter.cost(lacking)

    def encode(self, meter: Meter) -> None:
        """Images to tokens."""
        with torch.no_grad(), meter.autocast():
            rng = self._rng()
            given = self._images() if self.config.encoder.reads == "images" else self._encoded(meter, rng)
            meter.mark("codec")
            features = self.parts["encoder"](given, self._keep())
            meter.mark("encoder")
            self.parts["quantizer"](features, self._keep(), rng=rng)
            meter.mark("quantizer")

    def decode(self, meter: Meter, sampling: SamplingConfig) -> None:
        """Tokens to images."""
        with torch.no_grad(), meter.autocast():
            rng, tokens, told = self._rng(), self._tokens(), self._condition()
            decoder: Any = self.parts["decoder"]
            for step, count in sampling.by_step():
                latents = decoder.decode(tokens, condition=told, size=self.latents[2:], rng=rng, sampling=step)
                meter.mark("decoder", count)
            self._decoded(meter, latents)
            meter.mark("codec")

    def once(self, meter: Meter) -> None:
        """The decoder's network, once."""
        with torch.no_grad(), meter.autocast():
            batch = Batch(self._rng().index, condition=self._condition(), latents=torch.empty(self.latents))
            self.parts["decoder"](self._tokens(), batch, taps=frozenset(), rng=self._rng())
            meter.mark("decoder")

    def train(self, meter: Meter) -> None:
        """Forward and backward of all that the model itself can lose; a run's objectives are not counted."""
        for part in self.parts.values():
            part.train()
        for kind, _, inner in self.still:
            if kind in self.parts:
                self.parts[kind].get_submodule(inner).eval()
        rng = self._rng()
        with meter.autocast():  # as the training loop has it: the backward pass is outside
            with torch.no_grad():
                latents = self._encoded(meter, rng)
            given = self._images() if self.config.encoder.reads == "images" else latents
            encoder: Any = self.parts["encoder"]
            quantized = self.parts["quantizer"](encoder.taught(given, self._keep(), rng=rng), self._keep(), rng=rng)
            tokens = Tokens(quantized.values, self._keep(), quantized.codes)
            batch = Batch(rng.index, latents=latents, condition=self._condition())
            out = self.parts["decoder"](tokens, batch, taps=frozenset(), rng=rng)
            losses = [loss.float().mean() for loss in [*quantized.losses.values(), *out.losses.values()]]
            answers = [each.float().square().mean() for each in (out.reconstruction, out.logits) if each is not None]
            total = torch.stack([*losses, *answers]).sum()
        meter.kept = meter.counter.now
        meter.mark("forward")
        torch.autograd.backward(total)
        meter.mark("backward")

    def _encoded(self, meter: Meter, rng: Rng) -> Tensor:
        return self._by_codec(meter, lambda codec: codec.encode(self._images(), rng=rng), torch.empty(self.latents))

    def _images(self) -> Tensor:
        return torch.empty(self.batch, 3, *self.config.image_size)

    def _decoded(self, meter: Meter, latents: Tensor) -> None:
        self._by_codec(meter, lambda codec: codec.decode(latents).clamp(0, 1), latents)

    def _by_codec(self, meter: Meter, use: Callable[[Any], Tensor], otherwise: Tensor) -> Tensor:
        """The tensor that the codec makes; `otherwise` where it is missing or says that it takes no images."""
        meter.without = self.missing.get("codec", "")
        if not meter.without:
            try:
                return use(self.parts["codec"])
            except ValueError as error:
                meter.without = str(error)
        return otherwise

    def _tokens(self) -> Tokens:
        tokens = self.spec.tokens
        values = torch.empty(self.batch, tokens.length, tokens.dim)
        codes = torch.empty(self.batch, tokens.length, tokens.codebooks, dtype=torch.long)
        return Tokens(values, self._keep(), values if tokens.codebook_size is None else codes)

    def _condition(self) -> Condition | None:
        """The longest text a row, where the decoder reads texts."""
        read = self.config.decoder.texts()
        if read is None:
            return None
        embeddings, null = torch.empty(self.batch, read.length, read.width), torch.zeros(self.batch, dtype=torch.bool)
        pooled = None if read.pooled is None else torch.empty(self.batch, read.pooled)
        return Condition(null, embeddings=embeddings, pooled=pooled)

    def _keep(self) -> Tensor:
        return torch.ones(self.batch, self.spec.tokens.length, dtype=torch.bool)

    def _rng(self) -> Rng:
        return Rng(0, torch.arange(self.batch))


# --- counting ----------------------------------------------------------------------------------------------------


def attention_flops(query: Shape, key: Shape, value: Shape, *rest: Any, **named: Any) -> int:
    """FLOPs of attention: two products, scores `q k^T` and mixture `scores v`; a multiply and an add are two.

    Shapes are `b h n d`: as many heads are counted as queries have. The softmax is not counted, nor what a mask
    could spare. So are torch's formulas for its GPU kernels; for those of the CPU it has none.
    """
    batch, heads, queries, width = query
    return 2 * batch * heads * queries * key[-2] * (width + value[-1])


def attention_backward_flops(grad: Shape, query: Shape, key: Shape, value: Shape, *rest: Any, **named: Any) -> int:
    """FLOPs of attention's backward pass: five products, for the scores once more and four gradients.

    The kernel stores no scores and computes them again: `q k^T`. The gradients are of scores and values, each as
    large as `scores v`, and of queries and keys, each as large as `q k^T`.
    """
    batch, heads, queries, width = query
    return 2 * batch * heads * queries * key[-2] * (3 * width + 2 * value[-1])


_FORMULAS: Mapping[Any, Callable[..., int]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward_flops,
}


def trial() -> str:
    """Cause for which nothing can be counted with this torch, whatever the model; empty where counting works.

    A layer and an attention over it, of known cost, are run forward and backward in each precision. Takes milliseconds.
    """
    rows, width = 4, 8
    layer, attention = 2 * rows * width**2, 2 * rows**2 * width
    wanted = {"forward": layer + 2 * attention, "backward": layer + 5 * attention}
    told = f"counting does not work with torch {torch.__version__}, whatever the model"
    for precision in PRECISIONS:
        try:
            with fake_tensors():
                inputs, weight = torch.empty(1, 1, rows, width), torch.empty(width, width, requires_grad=True)
                meter = Meter((), 1, precision == "bf16")
                with meter.counter:
                    with meter.autocast():
                        mixed = nn.functional.linear(inputs, weight)
                        mixed = nn.functional.scaled_dot_product_attention(mixed, mixed, mixed)
                    meter.mark("forward")
                    torch.autograd.backward(mixed.float().sum())
                    meter.mark("backward")
        except Exception as error:  # of torch's own, of whatever type
            return f"{told}: {_told(error)}"
        if meter.flops != wanted:
            return f"{told}: a layer and an attention in {precision} count as {meter.flops} FLOPs and are {wanted}"
        least = 2 * rows * width * (2 if meter.bf16 else 4)
        if meter.counter.peak < least:
            return f"{told}: results of {least} bytes in {precision} count as {meter.counter.peak}"
    return ""


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types for it
    """FLOPs of all that runs inside, and bytes of all storages alive that were made there; `known` ones do not count.

    One mode for both, and without a record of modules: torch's own counter, in a second one, takes twice the time.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # see the class
        self.flops = self.now = self.peak = self.guessed = 0
        wrapped: Callable[[Any], Any] = shape_wrapper
        self._formulas = {**flop_registry, **{op: wrapped(formula) for op, formula in _FORMULAS.items()}}
        self._whole: set[Any] = set(_ASKED)
        self._alive: dict[int, weakref.ref[Any]] = {}
        self._known = {tensor.untyped_storage()._cdata: tensor for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _READ and isinstance(args[0], FakeTensor):
            self.guessed += 1
            return 0.0 if args[0].is_floating_point() else False if args[0].dtype == torch.bool else 0
        named = kwargs or {}
        formula = self._formulas.get(func._overloadpacket)
        if formula is None and func not in self._whole:
            with self:  # one made of others, as they arrive here in inference mode: those are counted
                out = func.decompose(*args, **named)
            if out is not NotImplemented:
                return out
            self._whole.add(func)
        out = func(*args, **named)
        if formula is not None:
            self.flops += formula(*args, **named, out_val=out)
        if func not in _ASKED:
            for each in (out,) if isinstance(out, Tensor) else tree_iter(out):
                if isinstance(each, Tensor):
                    self._see(each.untyped_storage())
        return out

    def _see(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._alive and key not in self._known:
            self._alive[key] = weakref.ref(storage, lambda _: self._forget(key, size))
            self.now += size
            self.peak = max(self.peak, self.now)

    def _forget(self, key: int, size: int) -> None:
        del self._alive[key]
        self.now -= size


class Meter:
    """A meter of what runs between `with counter` and each `mark`."""

    def __init__(self, parts: Iterable[nn.Module], batch: int, bf16: bool) -> None:
        self.counter = Counter(tensor for part in parts for tensor in (*part.parameters(), *part.buffers()))
        self.batch, self.bf16 = batch, bf16
        self.flops: dict[str, float] = {}
        self.kept, self._before, self.without = 0, 0, ""

    def autocast(self) -> Any:
        return torch.autocast("cpu", torch.bfloat16) if self.bf16 else nullcontext()

    def mark(self, name: str, times: int = 1) -> None:
        """Count what came since the last mark as `name`'s, `times` over."""
        now = self.counter.flops
        self.flops[name] = self.flops.get(name, 0) + times * (now - self._before) / self.batch
        self._before = now

    def cost(self, failed: str) -> Cost:
        """The cost that was counted, or why none could be."""
        if failed:
            return Cost({}, 0, failed=failed)
        return Cost(self.flops, self.counter.peak, self.kept, self.counter.guessed, self.without)
