"""flexframe: a modular framework for 1D image tokenizers. This front door imports no torch until something is built."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flexframe_registry import (
    AllocatorConfig,
    CodecConfig,
    Component,
    ConfigError,
    DecoderConfig,
    EncoderConfig,
    LatentSpec,
    MaskerConfig,
    MetricConfig,
    ObjectiveConfig,
    QuantizerConfig,
    RunConfig,
    SamplingConfig,
    SourceConfig,
    Spec,
    StepConfig,
    SuiteConfig,
    TokenizerConfig,
    TokenSpec,
    TrainConfig,
    UnknownName,
    cards,
    catalogue,
    hookimpl,
)

if TYPE_CHECKING:
    from flexframe.store.load import load

__version__ = "0.1.0"

__all__ = [
    "AllocatorConfig",
    "CodecConfig",
    "Component",
    "ConfigError",
    "DecoderConfig",
    "EncoderConfig",
    "LatentSpec",
    "MaskerConfig",
    "MetricConfig",
    "ObjectiveConfig",
    "QuantizerConfig",
    "RunConfig",
    "SamplingConfig",
    "SourceConfig",
    "Spec",
    "StepConfig",
    "SuiteConfig",
    "TokenSpec",
    "TokenizerConfig",
    "TrainConfig",
    "UnknownName",
    "cards",
    "catalogue",
    "hookimpl",
    "load",
]


def __getattr__(name: str) -> Any:
    if name == "load":
        from flexframe.store.load import load

        return load
    raise AttributeError(f"module 'flexframe' has no attribute {name!r}")
