"""A model over several processes: gradients averaged (DDP), or everything in shards (FSDP2); and back to one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from flexframe.parts import Codec, Objective, Part, Quantizer
from flexframe.train.trainee import Learner
from flexframe_registry import ConfigError, RunConfig


def blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The repeated layers that a model mostly is: entries of lists, with modules of their own, of what learns in depth.

    They are what is compiled, recomputed and sharded one by one, so they are used by calling them alone. A quantizer's
    tables are read in other ways, and a codec is frozen: neither has blocks.
    """
    for part in model.children():
        if isinstance(part, Codec | Quantizer):
            continue
        for module in part.modules():
            if isinstance(module, nn.ModuleList):
                yield from (block for block in module if any(True for _ in block.children()))


def recompute(model: nn.Module) -> None:
    """Keep of each block's activations its input alone, and compute the rest again in the backward pass.

    Before `compiled`, which then compiles both passes.
    """
    for block in blocks(model):
        block.forward = _recomputed(block.forward)


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def again(*args: Any, **named: Any) -> Any:
        # a frame of our own: the compiler leaves out calls that lead into torch at once, and compiles nothing
        return checkpoint(forward, *args, use_reentrant=False, **named)

    return again


def compiled(model: nn.Module, backend: str = "inductor") -> None:
    """Compile each block when it is first called. Equal blocks share what is made for one of them."""
    for block in blocks(model):
        block.compile(backend=backend)


def spread(trainee: Learner, run: RunConfig, device: torch.device) -> nn.Module:
    """Wrap a trainee for several processes. The wrapper is called in its place; its parameters keep their names."""
    if run.parallel == "fsdp":
        return _shard(trainee, device)
    parts = [part for part in trainee.modules() if isinstance(part, Part)]
    late = any(part.config.start for part in parts if isinstance(part, Objective))
    replaced = any(part.config.replaces for part in parts if isinstance(part, Objective))
    # asked for only then: it walks the graph each step
    unused = late or replaced or any(part.config.unused() for part in parts)
    settings: dict[str, Any] = {"find_unused_parameters": unused, "gradient_as_bucket_view": True}
    # buffers are equal by how they are made; torch 2.15 has another name for saying so
    names = signature(DistributedDataParallel).parameters
    settings["forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"] = False
    return DistributedDataParallel(trainee, **settings)


def _shard(trainee: Learner, device: torch.device) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    scalars = [name for name, p in trainee.named_parameters() if p.ndim == 0]
    if scalars:
        raise ConfigError.at("run.parallel", f"fsdp cannot shard parameters without a dimension: {', '.join(scalars)}")
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for block in blocks(trainee.model):
        fully_shard(block, mesh=mesh)
    fully_shard(trainee, mesh=mesh)
    register_fsdp_forward_method(trainee, "probe")  # weights come together for it as for a forward pass
    return trainee


def sharded(value: Tensor) -> bool:
    """Tell whether a tensor is in shards. Those of torch's two own classes are not, and nothing is imported for them:
    what shards takes seconds."""
    if type(value) in (Tensor, nn.Parameter):
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(value, DTensor)


def whole(value: Tensor) -> Tensor:
    """All of a tensor, from its shards on all processes. Every process calls this, in the same order."""
    full: Tensor = value.full_tensor() if sharded(value) else value  # type: ignore[attr-defined]
    return full


def local(value: Tensor) -> Tensor:
    """This process's shard; what is done to it in place is done to the tensor."""
    own: Tensor = value.to_local() if sharded(value) else value  # type: ignore[attr-defined]
    return own


def like(value: Tensor, reference: Tensor) -> Tensor:
    """A whole tensor, sharded as the reference is. Nothing is sent: each process has all of it and keeps its part."""
    value = value.to(reference.device)
    if not sharded(reference) or value.shape != reference.shape:
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(reference, DTensor)
    return distribute_tensor(value.detach(), reference.device_mesh, reference.placements, src_data_rank=None)


def gathered(state: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """A state's whole tensors: its own, and where they were sharded those that come to the CPU one by one, and go again
    where they are not kept."""
    kept = {}
    for name, value in state.items():
        full = whole(value.detach())
        if keep:
            kept[name] = full.cpu() if sharded(value) else full
    return kept
