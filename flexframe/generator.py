"""The old place of the models beside the tokenizer."""

from flexframe_registry.moved import moved

__getattr__ = moved(
    __name__,
    {
        "flexframe.models.generator": "Generator",
        "flexframe.models.codec": "CodecModel",
    },
)
