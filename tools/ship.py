"""Ship a finished run as a card's weights: `python tools/ship.py runs/flextok-digits-tiny flextok/digits-tiny`.

Puts the averaged model beside the card, writes its hash into the card, and keeps the run's config, manifest and log
under benchmarks/results/trainings/. With `--expected` the card gets the run's losses, as the curve to hold other runs
of it against. Refuses a run whose model is not the card's. With `--half` the weights are stored
in half precision; loading gives single precision again.
"""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, float16

from flexframe.files import sha256, write_text
from flexframe.models.modelfile import read, save
from flexframe.store.load import load
from flexframe.train.history import log
from flexframe_registry import GeneratorConfig, cards
from flexframe_registry.models import MODELS
from flexframe_registry.runfolder import RunFolder


def halved(value: Tensor) -> Tensor:
    """Cast a tensor to half precision; integers stay as they are.

    Raises:
        SystemExit: a value is beyond half precision's range.
    """
    half = value.to(float16) if value.is_floating_point() else value
    if not half.isfinite().all():
        raise SystemExit("a weight is beyond the range of half precision; ship it without --half")
    return half


def curve(lines: Sequence[Mapping[str, Any]], points: int = 16) -> str:
    """The losses of a log at about so many steps, evenly in their logarithm, as a card has them: each the mean of the
    lines within a tenth of its step."""
    first, last = lines[0]["step"], lines[-1]["step"]
    wanted = [first * (last / first) ** (i / (points - 1)) for i in range(points)]
    steps = sorted({min((line["step"] for line in lines), key=lambda s: abs(s - w)) for w in wanted})
    near = {step: [line["loss"] for line in lines if abs(line["step"] - step) <= 0.1 * step] for step in steps}
    told = ", ".join(f"{step}: {sum(losses) / len(losses):.4g}" for step, losses in near.items())
    return f"expected: {{loss: {{{told}}}}}\n"


def ship(run: Path, name: str, half: bool, expected: bool = False) -> None:
    """Copy a run's averaged model beside its card, write its hash into the card and keep the run's record.

    Raises:
        SystemExit: the run trained another model than the card describes.
    """
    card, path, paths = cards().get(name), cards().files[name], RunFolder(run)
    config = load(paths.model, kind=None).config
    if isinstance(config, GeneratorConfig):  # what training filled in is in the file, and need not be in the card
        measured = {name: None for name in ("mean", "deviation") if getattr(card.described, name) is None}
        config = config.model_copy(update={"fingerprint": None, "class_names": (), **measured})
    if config != card.described:
        raise SystemExit(f"{run} trained another model than {name} describes; train the card as it is")
    weights = path.with_suffix(".safetensors")
    if half:
        header, state = read(paths.model)
        state = {key: halved(value) for key, value in state.items()}
        described = MODELS[header["kind"]].read(header["config"])
        save(state, described, weights, sampling=header["sampling"], about=header["about"])
    else:
        shutil.copyfile(paths.model, weights)
    text = re.sub(r"\nweights:.*\n", "\n", path.read_text())
    if expected:
        text = re.sub(r"\nexpected:.*\n", "\n", text).rstrip() + "\n" + curve(log(run))
    write_text(path, text.rstrip() + f"\nweights: {{path: {weights.name}, sha256: {sha256(weights)}}}\n")
    kept = Path(__file__).parents[1] / "benchmarks" / "results" / "trainings" / name.replace("/", "-")
    kept.mkdir(parents=True, exist_ok=True)
    for file in (paths.config, paths.manifest, paths.log):
        shutil.copyfile(file, kept / file.name)
    print(f"{name}: {weights.stat().st_size:,} bytes, {sha256(weights)[:12]}; record in {kept}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the finished run's folder")
    parser.add_argument("card", help="the card that it trained")
    parser.add_argument("--half", action="store_true", help="store in half precision")
    parser.add_argument("--expected", action="store_true", help="write the run's losses into the card")
    given = parser.parse_args()
    ship(given.run, given.card, given.half, given.expected)
