"""Everything that can be known about a tokenizer without importing torch: names, configs, presets, provenance."""

from .cards import Card, Cards, cards, suite
from .catalogue import Broken, Catalogue, Component, UnknownName
from .configs import (
    AllocatorConfig,
    CodecConfig,
    CodesSpec,
    ComponentConfig,
    Config,
    DecoderConfig,
    EncoderConfig,
    ImporterConfig,
    LatentSpec,
    MaskerConfig,
    MetricConfig,
    ObjectiveConfig,
    PriorConfig,
    QuantizerConfig,
    SamplingConfig,
    SourceConfig,
    Spec,
    StepConfig,
    TokenizerConfig,
    TokenSpec,
)
from .errors import ConfigError
from .hookspecs import hookimpl, hookspec
from .manager import catalogue, create_manager, manager
from .models import CodecModelConfig, GeneratorConfig, ModelConfig
from .runs import RunConfig, SuiteConfig, TrainConfig

__all__ = [
    "AllocatorConfig",
    "Broken",
    "Card",
    "Cards",
    "Catalogue",
    "CodecConfig",
    "CodecModelConfig",
    "CodesSpec",
    "Component",
    "ComponentConfig",
    "Config",
    "ConfigError",
    "DecoderConfig",
    "EncoderConfig",
    "GeneratorConfig",
    "ImporterConfig",
    "LatentSpec",
    "MaskerConfig",
    "MetricConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "PriorConfig",
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
    "create_manager",
    "hookimpl",
    "hookspec",
    "manager",
    "suite",
]
