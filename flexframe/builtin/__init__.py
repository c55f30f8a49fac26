"""The old place of what ships with flexframe and is no method: now the plugin `standard`."""

from flexframe_registry.moved import moved

__getattr__ = moved(
    __name__,
    {
        "flexframe_standard": "DigitsConfig FolderConfig IdentityCodecConfig ImagesConfig ScenesConfig TarConfig",
    },
)
