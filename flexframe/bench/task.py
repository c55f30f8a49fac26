"""Tasks: what models are asked for beside a suite's images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from flexframe.bench.gallery import Gallery, Report
from flexframe.bench.lanes import Entrant
from flexframe.bench.metric import Metric
from flexframe.data.source import Source
from flexframe_registry import SuiteConfig


class Task(ABC):
    """A thing that models are asked for beside a suite's images: reconstructions of these, or samples.

    All else of a benchmark (the pass over the images, tallies, protocols, what an interruption leaves) is the runner's.
    """

    record: ClassVar[Mapping[str, str]]
    """Facts of it in every number's protocol."""
    rests_on: ClassVar[Mapping[str, str]] = {}
    """Facts that an interrupted run must agree in beside all that the runner names."""

    @abstractmethod
    def sizes(self) -> Sequence[tuple[str, tuple[int, int]]]:
        """Display names, and height and width of what each makes."""

    @abstractmethod
    def budgets(self, suite: SuiteConfig) -> Mapping[str, Sequence[int]]:
        """The token counts of each model that a suite measures.

        Raises:
            ConfigError: no model is offered at what the suite asks for.
        """

    @abstractmethod
    def entrants(self, device: torch.device) -> Sequence[Entrant]:
        """The models on a device and in evaluation mode, without lanes."""

    def see(self, source: Source) -> None:
        """See that what there is can be measured beside these images.

        Raises:
            ConfigError: it cannot.
        """

    def metrics(self, metrics: Sequence[Metric[Any]]) -> Sequence[Metric[Any]]:
        """A suite's metrics as they are for this task.

        Raises:
            ConfigError: one makes no sense of it.
        """
        return metrics

    def pictures(
        self, suite: SuiteConfig, source: Source, entrants: Sequence[Entrant], device: torch.device
    ) -> Mapping[str, Mapping[int, Tensor]]:
        """Pictures of a suite's first images, made once more: of models that stand in a result already."""
        return {}

    def further(
        self,
        suite: SuiteConfig,
        source: Source,
        entrants: Sequence[Entrant],
        device: torch.device,
        results: Mapping[str, Any],
    ) -> Gallery | None:
        """Pictures beside those of the first images."""
        return None

    def finish(self, report: Report, entrants: Sequence[Entrant]) -> None:
        """Write what belongs beside results.json."""
