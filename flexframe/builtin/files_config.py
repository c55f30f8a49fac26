"""The old place of the configs of folders and shards: now the plugin `standard`."""

from flexframe_registry.moved import moved

__getattr__ = moved(
    __name__,
    {"flexframe_standard.sources.files_config": "FilesConfig FolderConfig ImagesConfig TarConfig"},
)
