"""Gradients' norms, by part and by owner, and their clipping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from flexframe.train.sharding import whole
from flexframe.train.trainee import Learner
from flexframe_registry import ConfigError


def nothing_learns() -> ConfigError:
    """The error of a run whose losses do not depend on what is to learn."""
    text = "no loss reaches anything of the model that learns, so no step would change it"
    return ConfigError.at("run.objectives", f"{text}; name one that depends on the decoder's output")


class Gradients:
    """The gradients of a trainee's groups. Made once its parameters are where they stay."""

    def __init__(self, trainee: Learner, limit: float, device: torch.device) -> None:
        self.limit, self.device = limit, device
        self.owners: Mapping[str, Sequence[nn.Parameter]] = {
            owner: group.parameters for owner, group in trainee.groups().items()
        }
        self.part = {id(p): name for name, part in trainee.model.named_children() for p in part.parameters()}

    def reach(self) -> bool:
        """Tell whether any parameter of the model has a gradient, without waiting for the device."""
        return any(p.grad is not None for p in self.owners["model"])

    def clip(self) -> dict[str, Tensor]:
        """Scale each owner's gradients to the norm allowed. Returns the norms before: `grad_norm` of the model and
        `grad_norm/PART` of its parts, `grad_norm/OWNER` of others. The same on every process."""
        norms_before: dict[str, Tensor] = {}
        for owner, parameters in self.owners.items():
            with_gradient = [p for p in parameters if p.grad is not None]
            gradients = [p.grad for p in with_gradient if p.grad is not None]
            norms = torch._foreach_norm(gradients) if gradients else ()
            total = self._norm(norms)
            torch.nn.utils.clip_grads_with_norm_(with_gradient, self.limit, total)
            if owner != "model":
                norms_before[f"grad_norm/{owner}"] = total
                continue
            norms_before["grad_norm"] = total
            # a part that learns and has no gradient has a norm as well: 0, which tells that no loss reaches it
            parts: dict[str, list[Tensor]] = {self.part[id(p)]: [] for p in parameters}
            for p, norm in zip(with_gradient, norms, strict=True):
                parts.setdefault(self.part[id(p)], []).append(norm)
            norms_before |= {f"grad_norm/{name}": self._norm(each) for name, each in parts.items()}
        return norms_before

    def _norm(self, norms: Sequence[Tensor]) -> Tensor:
        if not norms:
            return torch.zeros((), device=self.device)
        return whole(torch.linalg.vector_norm(torch.stack(list(norms))))
