"""Training objectives: losses that belong to a run, named with weight and start step in its config."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from flexframe_registry import Component, ObjectiveConfig, hookimpl


class MSEConfig(ObjectiveConfig):
    """Mean squared error of the reconstruction, in the codec's range."""

    type: Literal["mse"] = "mse"

    def needs(self) -> frozenset[str]:
        return frozenset({"reconstruction"})


class L1Config(ObjectiveConfig):
    """Mean absolute error of the reconstruction, in the codec's range."""

    type: Literal["l1"] = "l1"

    def needs(self) -> frozenset[str]:
        return frozenset({"reconstruction"})


class ProxyCodesConfig(ObjectiveConfig):
    """Cross-entropy of logits with the codes of another tokenizer (TiTok, stage 1, arXiv 2406.07550)."""

    type: Literal["proxy-codes"] = "proxy-codes"
    teacher: str | None = None
    """The tokenizer whose codes these are, as `flexframe.load` takes it: a card, a path, a published checkpoint. It
    encodes a batch's images where `batch.features["proxy_codes"]` does not hold their codes already."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of the target spread over all codes."""

    def needs(self) -> frozenset[str]:
        return frozenset({"logits"})


@hookimpl
def flexframe_components() -> Iterable[Component]:
    return [
        Component(MSEConfig, "flexframe_objectives.losses:MSE"),
        Component(L1Config, "flexframe_objectives.losses:L1"),
        Component(ProxyCodesConfig, "flexframe_objectives.losses:ProxyCodes"),
    ]
