"""Ship a finished run as a card's weights: `python benchmarks/ship.py runs/flextok-digits-tiny flextok/digits-tiny`.

Copies the averaged model beside the card, writes its hash into the card, and keeps the run's config, manifest and log
under benchmarks/results/. Refuses a run whose model is not the card's.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from flexframe.loading import load_file
from flexframe.train.checkpoint import digest
from flexframe_registry import cards


def ship(run: Path, name: str) -> None:
    card, path = cards().get(name), cards().files[name]
    model = load_file(run / "model.safetensors")
    if model.config != card.model:
        raise SystemExit(f"{run} trained another model than {name} describes; train the card as it is")
    weights = path.with_suffix(".safetensors")
    shutil.copyfile(run / "model.safetensors", weights)
    text = re.sub(r"\nweights:.*\n", "\n", path.read_text())
    path.write_text(text.rstrip() + f"\nweights: {{path: {weights.name}, sha256: {digest(weights)}}}\n")
    kept = Path(__file__).parent / "results" / name.replace("/", "-")
    kept.mkdir(parents=True, exist_ok=True)
    for file in ("config.json", "manifest.json", "log.jsonl"):
        shutil.copyfile(run / file, kept / file)
    print(f"{name}: {weights.stat().st_size:,} bytes, {digest(weights)[:12]}; record in {kept}")


if __name__ == "__main__":
    ship(Path(sys.argv[1]), sys.argv[2])
