"""FlexTok's golden cases: what the reference computed from a checkpoint's weights, against the model made from it.

A case is a file of tensors: inputs, and results by name. Every result is compared, or the case is refused; shapes,
lengths and widths are the tensors' and the model's own. Constants that a case does not hold (the steps and the scale
of `detok_*`, the lengths of two results) are those of the golden folder's description.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from flexframe.importing import Foreign
from flexframe.importing.compare import Comparison
from flexframe_registry import ConfigError

from .case import Case, Subject
from .train import train
from .use import decode, encode, fsq, guidance, mixed_sizes, sample
from .vae import vae

CASES: dict[str, Callable[[Case, Subject], Iterable[Comparison]]] = {
    "case_encode": encode,
    "case_decode": decode,
    "case_sample": sample,
    "case_train": train,
    "case_mixed_sizes": mixed_sizes,
    "case_fsq": fsq,
    "case_guidance": guidance,
    "case_vae": vae,
}


def compare_cases(source: Foreign, subject: Subject) -> Iterator[Comparison]:
    """Every `case*.safetensors` in a checkpoint's folder, by its name.

    Raises:
        ConfigError: a file is no case that is known.
    """
    folder = source.path if source.path.is_dir() else source.path.parent
    for path in sorted(folder.glob("case*.safetensors")):
        kind = next((kind for kind in CASES if path.stem == kind or path.stem.startswith(f"{kind}_")), None)
        if kind is None:
            raise ConfigError.at(str(path), f"is no case of FlexTok; known: {', '.join(CASES)}")
        case = Case(path)
        yield from CASES[kind](case, subject)
        case.finish()


__all__ = ["Subject", "compare_cases"]
