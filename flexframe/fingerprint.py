"""The old place of `flexframe.models.fingerprint`."""

from flexframe_registry.moved import moved

__getattr__ = moved(
    __name__,
    {
        "flexframe.models.fingerprint": "DECIDING codec_fingerprint fingerprint weights",
    },
)
