"""Measuring tokenizers: `runner.run` makes the numbers, `table.print_table` and `report.write` show them.

The package is itself a call, which measures models: see `flexframe.bench.call.bench` (docs/adr/0023).
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Call(ModuleType):
    """A package that can be called, since `flexframe.bench` is both where benchmarks are and the verb for it."""

    def __call__(self, *given: Any, **named: Any) -> Any:
        from flexframe.bench.call import bench

        return bench(*given, **named)


sys.modules[__name__].__class__ = _Call
