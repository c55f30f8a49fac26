"""The old place of `kinds`, `slots` and `TokenizerConfig`: one version long."""

from .kinds import *  # noqa: F403
from .kinds import KINDS, SIZES, Betas, Resize, Size
from .models import TokenizerConfig
from .slots import Slot, resolve

__all__ = ["KINDS", "SIZES", "Betas", "Resize", "Size", "Slot", "TokenizerConfig", "resolve"]
