"""Optimizers: those of torch, Lion of timm, and Muon together with AdamW."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from inspect import unwrap
from typing import Any

import torch

from flexframe.train.optim import Group, Optimizer
from flexframe_standard.optimizers_config import AdamConfig, AdamWConfig, LionConfig, MuonConfig, SGDConfig


class AdamW(Optimizer[AdamWConfig]):
    """AdamW of torch."""

    def create(self, groups: Sequence[Group], *, fused: bool) -> torch.optim.Optimizer:
        own = self.config
        return bare(torch.optim.AdamW)(_with_betas(groups, own.betas), lr=own.lr, betas=own.betas, fused=fused)


class Adam(Optimizer[AdamConfig]):
    """Adam of torch."""

    def create(self, groups: Sequence[Group], *, fused: bool) -> torch.optim.Optimizer:
        own = self.config
        return bare(torch.optim.Adam)(_with_betas(groups, own.betas), lr=own.lr, betas=own.betas, fused=fused)


class SGD(Optimizer[SGDConfig]):
    """SGD of torch."""

    def create(self, groups: Sequence[Group], *, fused: bool) -> torch.optim.Optimizer:
        own, entries = self.config, [group.entry() for group in groups]
        return bare(torch.optim.SGD)(entries, lr=own.lr, momentum=own.momentum, nesterov=own.nesterov, fused=fused)


class Lion(Optimizer[LionConfig]):
    """Lion of timm."""

    def create(self, groups: Sequence[Group], *, fused: bool) -> torch.optim.Optimizer:
        from timm.optim.lion import Lion as TimmLion

        own = self.config
        return TimmLion(_with_betas(groups, own.betas), lr=own.lr, betas=own.betas)


class Muon(Optimizer[MuonConfig]):
    """Muon of torch for matrices, AdamW for all else."""

    def create(self, groups: Sequence[Group], *, fused: bool) -> torch.optim.Optimizer:
        own = self.config
        muons, others = [], []
        for group in groups:
            flat = [p for p in group.parameters if group.matrices and p.ndim == 2]
            known = {id(p) for p in flat}
            rest = [p for p in group.parameters if id(p) not in known]
            muons += [group.of(flat)] if flat else []
            others += [group.of(rest)] if rest else []
        both: list[torch.optim.Optimizer] = []
        if muons:
            entries = [group.entry() for group in muons]
            both.append(
                torch.optim.Muon(
                    entries, lr=own.lr, weight_decay=0.0, momentum=own.momentum, nesterov=own.nesterov,
                    adjust_lr_fn="match_rms_adamw",
                )
            )  # fmt: skip
        if others:
            both.append(torch.optim.AdamW(_with_betas(others, own.betas), lr=own.lr, betas=own.betas))
        return Together(both)


class Together(torch.optim.Optimizer):
    """Several optimizers as one: their groups one after the other, and one state of all their parameters."""

    def __init__(self, each: Sequence[torch.optim.Optimizer]) -> None:
        self.each = list(each)
        super().__init__([group for one in self.each for group in one.param_groups], {})
        self._share()

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Step each of them."""
        for one in self.each:
            one.step()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take a state as `state_dict` gives it."""
        super().load_state_dict(dict(state_dict))
        self._share()

    def _share(self) -> None:
        """Let each of them have this one's groups and state, which loading makes anew."""
        start = 0
        for one in self.each:
            stop = start + len(one.param_groups)
            one.param_groups, one.state, start = self.param_groups[start:stop], self.state, stop


@cache
def bare(kind: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """One of torch's optimizers without what it has around its methods for `torch.compile`, which loads the compiler,
    several times what torch itself takes to load, to keep it away from them. Nothing here compiles an optimizer."""
    methods = ("add_param_group", "zero_grad", "state_dict", "load_state_dict", "step")
    own = {name: unwrap(getattr(kind, name)) for name in methods}
    return type(kind.__name__, (kind,), {**own, "step": torch.no_grad()(own["step"])})


def _with_betas(groups: Sequence[Group], usual: tuple[float, float]) -> list[dict[str, Any]]:
    return [{**group.entry(), "betas": group.betas or usual} for group in groups]
