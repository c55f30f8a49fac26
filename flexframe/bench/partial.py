"""The state that an interrupted benchmark leaves in `<out>/partial`, and how the next one goes on from it.

One file of plain data and tensors, replaced as a whole, so that a kill at any moment leaves a whole one; beside it the
folders of what metrics keep on disk (`Scratch`), whose rows are addressed by position and so may be ahead of it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from flexframe.bench.metric import Scratch
from flexframe.bench.protocol import short_id
from flexframe.files import BLANK, refuse_other, replaced, seal, sealed, sync
from flexframe_registry.files import CHANGED

FOLDER = "partial"
FILE = "state.safetensors"
LEAF = "__tensor__"
PLAIN = (str, int, float, type(None))  # bool is an int


class Partial:
    """The state of one benchmark on disk.

    Args:
        out: the benchmark's folder.
        rests_on: all that decides its numbers; the state of another one is refused.
        number: of the process, where several share the images: they have a state each, and one scratch.
        spans: the images of each.
    """

    def __init__(self, out: Path, rests_on: Mapping[str, Any], number: int = 0, spans: Sequence[range] = ()) -> None:
        self.folder, self.number, several = out / FOLDER, number, len(spans) > 1
        self.path = self.folder / (f"state-{number + 1}-of-{len(spans)}.safetensors" if several else FILE)
        self._out, self._all, self._spans = out, rests_on, spans
        span = {"images of this process": [spans[number].start, spans[number].stop]} if several else {}
        self.rests_on = json.loads(json.dumps({**rests_on, **span}))

    def other(self, number: int) -> Partial:
        """The state of another of the processes."""
        return Partial(self._out, self._all, number, self._spans)

    def scratch(self, entrant: int, budget: int, start: int = 0) -> Scratch:
        """The folders of one lane, for a tally whose first image is at `start`."""
        return Scratch(self.folder / f"model-{entrant}" / str(budget), self.folder / "originals", start)

    def read(self) -> dict[str, Any] | None:
        """The state that an interrupted run left, if one did.

        Raises:
            ValueError: it is another benchmark's, or of another version, or damaged, or of other processes.
        """
        remedy = f"give another folder by -o, or delete {self.folder} to lose it"
        if not self.path.is_file():
            others = sorted(path.name for path in self.folder.glob("state*.safetensors")) if self.number == 0 else []
            if any(_of(name) != _of(self.path.name) for name in others):
                told = f"{self.folder} holds an interrupted run of another number of processes ({others[0]})"
                raise ValueError(f"{told}; take as many to finish it, {remedy}")
            if self.number == 0 and not others:
                self.drop()  # rows without a state are of no use
            return None
        try:
            if not sealed(self.path):
                raise ValueError(CHANGED)
            with safe_open(self.path, "pt") as file:
                header = json.loads((file.metadata() or {})["state"])
                state: dict[str, Any] = thaw(header["state"], {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        except Exception as error:  # whatever is wrong with the file, the user decides
            raise ValueError(f"{self.path}, of an interrupted run, is damaged ({error}); {remedy}") from None
        told = "holds an interrupted run of another protocol"
        finish = f"run its command again to finish it, {remedy}"
        refuse_other(self.folder, told, header["rests_on"], self.rests_on, finish)
        return state

    def write(self, state: Mapping[str, Any]) -> None:
        """Replace the state. What metrics keep on disk is there before it says so."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.rglob("*"):
            if path.is_file() and path != self.path and not path.name.startswith("."):
                with suppress(FileNotFoundError):  # of another process, which replaces it
                    sync(path)
        tensors: dict[str, Tensor] = {}
        frozen = freeze(state, tensors)
        text = json.dumps({"rests_on": self.rests_on, "id": short_id(self.rests_on), "state": frozen})
        with replaced(self.path) as part:
            save_file(tensors, part, metadata={"state": text, **BLANK})
            seal(part)

    def drop(self) -> None:
        """Delete it: the run has ended."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _of(name: str) -> str:
    """The end of a state's name that says of how many processes it is one."""
    return name.partition("-of-")[2]


def freeze(value: Any, tensors: dict[str, Tensor], name: str = "") -> Any:
    """Nested plain data with tensors as JSON has it; tensors go into `tensors`.

    Raises:
        TypeError: anything else, by its place.
    """
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().clone().contiguous()  # no two may share memory
        return {LEAF: name}
    if isinstance(value, Mapping):
        if LEAF in value or not all(isinstance(key, str) for key in value):
            raise TypeError(f"state {name!r} is a mapping with other keys than names: {list(value)[:4]}")
        return {key: freeze(each, tensors, f"{name}/{key}") for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [freeze(each, tensors, f"{name}/{i}") for i, each in enumerate(value)]
    if type(value) is bool or type(value) in PLAIN:
        return value
    raise TypeError(f"state {name!r} is of {type(value).__name__}; it may hold numbers, text, tensors, lists, mappings")


def thaw(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Undo `freeze`; tuples come back as lists."""
    if isinstance(value, dict):
        if set(value) == {LEAF}:
            return tensors[value[LEAF]]
        return {key: thaw(each, tensors) for key, each in value.items()}
    return [thaw(each, tensors) for each in value] if isinstance(value, list) else value
