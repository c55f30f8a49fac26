"""The old place of the sources of image files: now the plugin `standard`."""

from flexframe_registry.moved import moved

__getattr__ = moved(
    __name__,
    {"flexframe_standard.sources.files": "Folder Images Tar", "flexframe_standard.sources.reading": "Files"},
)
