"""The old place of `flexframe.models.modelfile`."""

from flexframe_registry.moved import moved

__getattr__ = moved(
    __name__,
    {
        "flexframe.models.modelfile": "FORMAT MAX_CONFIG header_of read save",
    },
)
