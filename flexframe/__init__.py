"""flexframe: a modular framework for 1D image tokenizers. This front door imports nothing until it is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flexframe.bench.call import bench
    from flexframe.store.listing import list_models
    from flexframe.store.load import load
    from flexframe.train.call import train
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
    "bench",
    "cards",
    "catalogue",
    "hookimpl",
    "list_models",
    "load",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'flexframe' has no attribute {name!r}")
    if name in ("bench", "train"):  # packages that can be called
        from importlib import import_module

        return import_module(f"flexframe.{name}")
    if name == "list_models":
        from flexframe.store.listing import list_models

        return list_models
    if name == "load":
        from flexframe.store.load import load

        return load
    import flexframe_registry

    return getattr(flexframe_registry, name)
