"""Everything that can be known about a tokenizer without importing torch: names, configs, presets, provenance."""

from .cards import Card, Cards, cards
from .catalogue import Broken, Catalogue, Component
from .errors import ConfigError, UnknownName
from .hookspecs import hookimpl, hookspec
from .kinds import (
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
    TargetSpec,
    TokenSpec,
)
from .manager import catalogue, create_manager, manager
from .models import CodecModelConfig, GeneratorConfig, ModelConfig, TokenizerConfig
from .runs import RunConfig, TrainConfig
from .suites import SuiteConfig, suite

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
    "TargetSpec",
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
