"""Everything that can be known about a tokenizer without importing torch: names, configs, presets, provenance."""

from . import lost
from .cards import Card, Cards, cards
from .catalogue import Broken, Catalogue, Component
from .config import ComponentConfig, Config, SamplingConfig
from .errors import ConfigError, UnknownName
from .hookspecs import hookimpl, hookspec
from .kinds import (
    AllocatorConfig,
    Cause,
    CodecConfig,
    ConditionerConfig,
    DecoderConfig,
    EncoderConfig,
    FeedConfig,
    ImporterConfig,
    MaskerConfig,
    MetricConfig,
    ObjectiveConfig,
    ObserverConfig,
    OptimizerConfig,
    PictureObjectiveConfig,
    PriorConfig,
    QuantizerConfig,
    SourceConfig,
    StepConfig,
    TransformConfig,
)
from .manager import catalogue, create_manager, manager
from .models import CodecModelConfig, GeneratorConfig, ModelConfig, TokenizerConfig
from .runs import RunConfig, TrainConfig
from .suites import SuiteConfig, suite
from .widths import (
    CodesSpec,
    LatentSpec,
    Spec,
    TargetSpec,
    TextSpec,
    TokenSpec,
)

__all__ = [
    "AllocatorConfig",
    "Broken",
    "Card",
    "Cards",
    "Catalogue",
    "Cause",
    "CodecConfig",
    "CodecModelConfig",
    "CodesSpec",
    "Component",
    "ComponentConfig",
    "ConditionerConfig",
    "Config",
    "ConfigError",
    "DecoderConfig",
    "EncoderConfig",
    "FeedConfig",
    "GeneratorConfig",
    "ImporterConfig",
    "LatentSpec",
    "MaskerConfig",
    "MetricConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "ObserverConfig",
    "OptimizerConfig",
    "PictureObjectiveConfig",
    "PriorConfig",
    "QuantizerConfig",
    "RunConfig",
    "SamplingConfig",
    "SourceConfig",
    "Spec",
    "StepConfig",
    "SuiteConfig",
    "TargetSpec",
    "TextSpec",
    "TokenSpec",
    "TokenizerConfig",
    "TrainConfig",
    "TransformConfig",
    "UnknownName",
    "cards",
    "catalogue",
    "create_manager",
    "hookimpl",
    "hookspec",
    "lost",
    "manager",
    "suite",
]
