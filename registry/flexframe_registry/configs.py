"""The old place of the kinds' config bases, of slots and of a tokenizer's config."""

from flexframe_registry.moved import moved

__getattr__ = moved(
    __name__,
    {
        "flexframe_registry.kinds": (
            "AllocatorConfig Betas CodecConfig CodesSpec ComponentConfig Config DecoderConfig EncoderConfig "
            "ImporterConfig KINDS LatentSpec MaskerConfig MetricConfig ObjectiveConfig PriorConfig "
            "QuantizerConfig Resize SIZES SamplingConfig Size SourceConfig Spec StepConfig TokenSpec"
        ),
        "flexframe_registry.slots": "Slot resolve",
        "flexframe_registry.models": "TokenizerConfig",
    },
)
