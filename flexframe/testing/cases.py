"""Golden cases of a family: files of tensors that a reference computed, and how a model is run against them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from flexframe.importing import Comparison, Foreign, TensorFile, compare
from flexframe.models.build import Model, assemble
from flexframe.models.tokenizer import Tokenizer
from flexframe_registry import ConfigError

GRADIENTS = 1e-3
"""Of a gradient as a share of its largest entry, and of a norm."""


class Case:
    """The tensors of one file, which of them were used, and the model in the forms that they are compared with."""

    def __init__(self, path: Path, source: Foreign, model: Model) -> None:
        self.path, self.tensors, self.source, self.model = path, TensorFile([path]), source, model
        self.parts: Any = model
        self.used: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise ConfigError.at(str(self.path), f"has no {name!r}, from which its results were computed")
        self.used.add(name)
        return self.tensors[name]

    def named(self, pattern: str) -> list[re.Match[str]]:
        """Names of a form."""
        return [found for name in self.tensors if (found := re.fullmatch(pattern, name))]

    def check(self, name: str, result: Tensor, **tolerance: Any) -> Iterator[Comparison]:
        """Compare a result, if the case has it."""
        if name in self.tensors:
            yield compare(self.path.stem, name, result.detach(), self[name], **tolerance)

    def variant(self, **parts: Mapping[str, Any]) -> Any:
        """The same weights under settings that are others."""
        config = self.model.config
        raw = config.model_dump(mode="json")
        for part, fields in parts.items():
            raw[part] |= fields
        return assemble(type(config).read(raw), self.model.state_dict(), "golden case")

    def gradients(self, gradient: Callable[[str], Tensor | None]) -> Iterator[Comparison]:
        """Compare gradients, and the norms in the file beside the case's.

        Args:
            gradient: of a parameter by the checkpoint's name; None where there is none, which passes no comparison.
        """
        case = self.path.stem
        for found in self.named(r"grad\.(.+)"):
            wanted, result = self[found[0]], gradient(found[1])
            result = torch.full_like(wanted, torch.nan) if result is None else result
            if result.numel() == wanted.numel():
                result = result.reshape(wanted.shape)
            yield compare(case, found[0], result, wanted, 0.0, GRADIENTS)
        path = self.path.with_name(f"{case}_grad_norms.json")
        norms = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        for theirs, norm in norms.items():
            if norm is not None:
                result = gradient(theirs)
                own = torch.tensor(torch.nan) if result is None else result.norm()
                yield compare(case, f"norm.{theirs}", own, torch.tensor(norm), 0.0, GRADIENTS)


C = TypeVar("C", bound=Case)


def compare_cases(
    source: Foreign,
    model: Model,
    kinds: Mapping[str, Callable[[C], Iterator[Comparison]]],
    family: str,
    form: type[C] = Case,  # type: ignore[assignment]
    of: type[nn.Module] = Tokenizer,
) -> Iterator[Comparison]:
    """Every tensor of every case beside a checkpoint.

    Args:
        kinds: how a case is run, by its file's name or what that begins with.
        family: what the checkpoint is of, for messages.
        form: the class of a case, where a family's knows more.
        of: the class of the models that the cases are of.

    Raises:
        ConfigError: a case is not known, or has tensors that nothing compares.
    """
    if not isinstance(model, of):
        text = f"its cases are of a {of.__name__.lower()}, and this is a {type(model).__name__.lower()}"
        raise ConfigError.at(str(source.path), text)
    folder = source.path if source.path.is_dir() else source.path.parent
    for path in sorted(folder.glob("case*.safetensors")):
        kind = next((kind for kind in kinds if path.stem == kind or path.stem.startswith(f"{kind}_")), None)
        if kind is None:
            raise ConfigError.at(str(path), f"is no case of {family}; known: {', '.join(kinds)}")
        case = form(path, source, model)
        yield from kinds[kind](case)
        left = sorted(case.tensors.keys() - case.used)
        if left:
            raise ConfigError.at(str(path), f"has tensors that nothing here compares: {', '.join(left)}")


def watched(modules: Mapping[str, Any], run: Callable[[], Any]) -> dict[str, Any]:
    """Pairs by name, while something runs: the arguments that a module is given, and what it gives."""
    seen: dict[str, Any] = {}

    def hook(name: str) -> Callable[..., None]:
        def keep(_module: Any, given: tuple[Any, ...], out: Any) -> None:
            seen[name] = given, out

        return keep

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return seen


def layers(modules: Mapping[str, Any], run: Callable[[], Any]) -> dict[str, Tensor]:
    """Outputs of modules by name, while something runs; and under `NAME.in` their first arguments."""
    seen = watched(modules, run)
    return {f"{name}.in": given[0] for name, (given, _) in seen.items()} | {
        name: out for name, (_, out) in seen.items()
    }
