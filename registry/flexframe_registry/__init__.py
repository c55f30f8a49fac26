"""Everything that can be known about a tokenizer without importing torch: names, configs, presets, provenance."""

from .cards import Card, Cards, cards, suite
from .catalogue import Broken, Catalogue, Component, UnknownName
from .configs import (
    AllocatorConfig,
    CodecConfig,
    ComponentConfig,
    Config,
    DecoderConfig,
    EncoderConfig,
    LatentSpec,
    MaskerConfig,
    MetricConfig,
    ObjectiveConfig,
    QuantizerConfig,
    SamplingConfig,
    SourceConfig,
    Spec,
    TokenizerConfig,
    TokenSpec,
)
from .errors import ConfigError
from .hookspecs import hookimpl, hookspec
from .manager import catalogue, create_manager, manager
from .runs import RunConfig, SuiteConfig, TrainConfig

__all__ = [
    "AllocatorConfig",
    "Broken",
    "Card",
    "Cards",
    "Catalogue",
    "CodecConfig",
    "Component",
    "ComponentConfig",
    "Config",
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
    "SuiteConfig",
    "TokenSpec",
    "TokenizerConfig",
    "TrainConfig",
    "UnknownName",
    "cards",
    "catalogue",
    "create_manager",
    "hookimpl",
    "hookspec",
    "manager",
    "suite",
]
