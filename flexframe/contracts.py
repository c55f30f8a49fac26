"""The old place of the contracts, which now stand on the floors that use them."""

from flexframe_registry.moved import moved

__getattr__ = moved(
    __name__,
    {
        "flexframe.parts": "Codec Decoder Encoder LengthMasker LikelihoodPrior Objective Part Prior Quantizer",
        "flexframe.bench.metric": "Measure Reconstructions Scratch Metric=LegacyMetric",
        "flexframe.data.source": "AttributeClassifier Sample Source",
        "flexframe.importing.importer": "Importer",
        "flexframe.models.allocator": "Allocator",
        "flexframe.tokens": "Batch Codes Condition Kept Losses Outputs Quantized Tokens prefix",
        "flexframe.rng": "Rng",
        "flexframe_registry.kinds": (
            "AllocatorConfig CodecConfig CodesSpec ComponentConfig DecoderConfig EncoderConfig ImporterConfig "
            "MaskerConfig MetricConfig ObjectiveConfig PriorConfig QuantizerConfig SamplingConfig SourceConfig "
            "Spec"
        ),
        "flexframe_registry.models": "TokenizerConfig",
    },
)
