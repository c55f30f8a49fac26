"""The contract of importers: readers of one code base's checkpoints."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Generic

from typing_extensions import TypeVar

from flexframe_registry.kinds import ImporterConfig

if TYPE_CHECKING:
    from flexframe.importing import Foreign, Imported
    from flexframe.importing.compare import Comparison
    from flexframe.models.build import Model


ImporterC = TypeVar("ImporterC", bound=ImporterConfig, default=ImporterConfig)


class Importer(ABC, Generic[ImporterC]):
    """Reads checkpoints of one published format. Built as `(config,)`; holds no state.

    What it may use of a checkpoint is a whitelist: it reads plain settings and tensors, and refuses what it does not
    know. It never imports, calls or builds anything that a checkpoint names.
    """

    def __init__(self, config: ImporterC) -> None:
        self.config = config

    @abstractmethod
    def recognises(self, source: Foreign) -> bool:
        """True where the checkpoint is of this format, judged by names only; it may still be broken."""

    @abstractmethod
    def convert(self, source: Foreign) -> Imported:
        """The checkpoint as one of our configs and its state; `ConfigError` lists what cannot be taken over."""

    def compare(self, source: Foreign, model: Model) -> Iterable[Comparison]:
        """Run the golden cases that lie beside a checkpoint (`case*.safetensors`) on the model made from it."""
        return ()
