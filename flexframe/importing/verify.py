"""A checkpoint's import against the golden cases beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os.path import commonpath
from pathlib import Path
from typing import Any

from flexframe.importing import understood
from flexframe.importing.compare import ROUNDING, Comparison, cases
from flexframe.importing.foreign import open_foreign
from flexframe_registry import ConfigError


def verify_folder(
    folder: Path,
    *,
    assume: Mapping[str, Any] | None = None,
    drop: Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
    entry: str = "",
    importer: str | None = None,
) -> list[Comparison]:
    """Import the checkpoint in a folder, and compare it with every `case*.safetensors` that lies beside it.

    Raises:
        ConfigError: what `flexframe.load` would say of the checkpoint; or there is no case, or one that nothing ran.
    """
    from flexframe.models.build import assemble

    if not folder.is_dir():
        raise ConfigError.at(
            str(folder), "is no folder; verify takes a checkpoint's folder with case*.safetensors in it"
        )
    files = sorted(path.stem for path in folder.glob("case*.safetensors"))
    if not files:
        raise ConfigError.at(str(folder), "holds no case*.safetensors, so there is nothing to compare with")
    source = open_foreign(folder, assume=assume, drop=drop, rename=rename, entry=entry)
    source, reader = understood(source, importer)
    converted = reader.convert(source)
    model = assemble(converted.config, converted.state, str(folder), converted.sampling, converted.names)
    comparisons = list(reader.compare(source, model))
    lost = [name for name in files if name not in cases(comparisons)]
    if lost:
        text = f"importer {reader.config.type!r} compares nothing with {', '.join(f'{n}.safetensors' for n in lost)}"
        raise ConfigError.at(str(folder), text)
    return comparisons


def titles(folders: Sequence[Path]) -> list[str]:
    """Names of folders for a table: their paths below the folder that they have in common."""
    whole = [folder.resolve() for folder in folders]
    common = commonpath([folder.parent for folder in whole])
    return [folder.relative_to(common).as_posix() for folder in whole]


def markdown(runs: Sequence[tuple[str, Sequence[Comparison]]]) -> str:
    """The table of `docs/parity.md`."""
    lines = [
        "# Parity with the reference implementations",
        "",
        "Written by `flexframe verify DIR... --table docs/parity.md`. Each row is a tensor that the reference computed",
        "from random weights (fp32, CPU), and the largest absolute difference of ours, through the importer. For whole",
        "numbers it is how many differ. Tolerances are absolute for small numbers, and never less than",
        f"{ROUNDING:.1e} of a tensor's largest entry: sums of large numbers move with the processor.",
        "",
    ]
    for name, comparisons in runs:
        passed = sum(c.passed for c in comparisons)
        lines += [f"## {name}", "", f"{passed} of {len(comparisons)} within tolerance.", ""]
        lines += ["| case | tensor | largest error | tolerance | |", "|---|---|---:|---:|---|"]
        for c in comparisons:
            error = f"{c.error:.0f} of {c.largest:.0f}" if c.exact else f"{c.error:.1e}"
            note = f" ({c.note})" if c.note else ""
            bound = "0" if c.exact else f"{c.tolerance:.0e}"
            lines.append(f"| {c.case} | `{c.tensor}`{note} | {error} | {bound} | {'ok' if c.passed else '**no**'} |")
        lines.append("")
    return "\n".join(lines)
