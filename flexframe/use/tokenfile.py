"""The old place of `flexframe.data.tokenfile`."""

from flexframe_registry.moved import moved

__getattr__ = moved(
    __name__,
    {
        "flexframe.data.tokenfile": (
            "About DTYPES FORMAT LABELS MAX_ABOUT Row Rows SHAPES SLICE Stream Table TokenFile write"
        ),
    },
)
