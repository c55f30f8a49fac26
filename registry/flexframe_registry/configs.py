"""The old place of the kinds' config bases, of slots and of a tokenizer's config."""

from flexframe_registry.moved import moved

__getattr__ = moved(
    __name__,
    {
        "flexframe_registry.kinds": (
            "AllocatorConfig Betas CodecConfig DecoderConfig EncoderConfig ImporterConfig KINDS MaskerConfig "
            "MetricConfig ObjectiveConfig PriorConfig QuantizerConfig Resize SourceConfig StepConfig"
        ),
        "flexframe_registry.config": "ComponentConfig Config SIZES SamplingConfig Size",
        "flexframe_registry.widths": "CodesSpec LatentSpec Spec TokenSpec",
        "flexframe_registry.slots": "Slot resolve",
        "flexframe_registry.models": "TokenizerConfig",
    },
)
