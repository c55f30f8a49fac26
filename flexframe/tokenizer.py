"""The old place of `flexframe.models.tokenizer`."""

from flexframe_registry.moved import moved

__getattr__ = moved(
    __name__,
    {
        "flexframe.models.tokenizer": "Lengths Random SLACK Tokenizer",
    },
)
