"""2D convolutional tokenizers and codecs: a grid of latents in row-major order as the token sequence."""

from __future__ import annotations

from collections.abc import Iterable

from flexframe_registry import Component, hookimpl


@hookimpl
def flexframe_components() -> Iterable[Component]:
    return []
