"""Training. The package is itself a call, which trains a card: see `flexframe.train.call.train` (docs/adr/0023)."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Call(ModuleType):
    """A package that can be called, since `flexframe.train` is both where training is and the verb for it."""

    def __call__(self, *given: Any, **named: Any) -> Any:
        from flexframe.train.call import train

        return train(*given, **named)


sys.modules[__name__].__class__ = _Call
