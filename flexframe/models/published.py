"""The three verbs of models that are shared: from, to a folder, to the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from flexframe_registry.catalogue import attribute

M = TypeVar("M", bound="Published")
WORK = "flexframe.publishing"
"""Where the work is done: a module of a floor above, which is named as a component's is."""


class Published:
    """Methods as models of other libraries have them: `from_pretrained`, `save_pretrained`, `push_to_hub`."""

    @classmethod
    def from_pretrained(cls: type[M], where: str | Path, **settings: Any) -> M:
        """A trained model of this kind: `flexframe.publishing.from_pretrained`."""
        model: M = attribute(f"{WORK}:from_pretrained")(cls, where, **settings)
        return model

    def save_pretrained(self, folder: str | Path, **facts: Any) -> Path:
        """Write a folder as the hub holds it: `flexframe.publishing.save_pretrained`."""
        path: Path = attribute(f"{WORK}:save_pretrained")(self, folder, **facts)
        return path

    def push_to_hub(self, repo: str, **facts: Any) -> str:
        """Upload it to the hub: `flexframe.publishing.push_to_hub`."""
        url: str = attribute(f"{WORK}:push_to_hub")(self, repo, **facts)
        return url
