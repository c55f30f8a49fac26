"""The old place of `flexframe.store.hub`."""

from flexframe_registry.moved import moved

__getattr__ = moved(
    __name__,
    {
        "flexframe.store.hub": "CONFIGS fetch home record recorded",
    },
)
