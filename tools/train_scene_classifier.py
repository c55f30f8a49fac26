"""Train a classifier of scenes' attributes that ships with the source `scenes`: the first judge, or the second.

    nice python tools/train_scene_classifier.py convolutional
    nice python tools/train_scene_classifier.py transformer

Scenes of all complexities, drawn as it goes; half of them blurred, tinted and noisy, since it will read
reconstructions. The two share neither architecture, optimizer, seed nor scenes, so that a model that was taught by the
first is measured by one that taught nothing. Deterministic on one machine: one thread, one seed. With `--checkpoint`
an interrupted training goes on. Prints the accuracy on held-out scenes of each complexity, and keeps it in the file.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import process_time
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from rich.table import Table
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from flexframe.rng import Rng
from flexframe_standard.sources.scenes import VERSION, Scenes
from flexframe_standard.sources.scenes.classifier import FILES, SIZE, load
from flexframe_standard.sources.scenes.networks import ARCHITECTURES
from flexframe_standard.sources.scenes_config import WORDS, ScenesConfig

HELD_OUT = 2000
"""Scenes of each complexity that the accuracy is of."""
SAVE_STEPS = 100


@dataclass(frozen=True)
class Recipe:
    """A training, by the architecture's name."""

    seed: int
    """Seed of the first weights, of the scenes and of how they are worn."""
    shares: tuple[float, ...]
    """Share of each complexity in a batch."""
    steps: int
    batch: int
    optimizers: Callable[[nn.Module], list[Optimizer]]
    clip: float = math.inf
    """The largest norm of the gradient."""


def adamw(net: nn.Module) -> list[Optimizer]:
    """AdamW for all weights."""
    return [AdamW(net.parameters(), lr=4e-3, weight_decay=0.02)]


def muon(net: nn.Module) -> list[Optimizer]:
    """Muon for the matrices between embedding and heads, AdamW for the rest."""
    inner = [p for name, p in net.named_parameters() if p.ndim == 2 and name.startswith("blocks.")]
    known = {id(p) for p in inner}
    rest = [p for p in net.parameters() if id(p) not in known]
    return [Muon(inner, lr=0.02, weight_decay=0.02), AdamW(rest, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.02)]


RECIPES = {
    "convolutional": Recipe(0, (0.1, 0.3, 0.3, 0.15, 0.15), 3000, 80, adamw),
    "transformer": Recipe(1, (0.1, 0.5, 0.2, 0.1, 0.1), 1200, 80, muon, clip=1.0),
}


def source(level: int, split: str, seed: int = 0) -> Scenes:
    """Scenes of one complexity and split."""
    return Scenes(ScenesConfig(complexity=level, split=split, count=2**31, seed=seed), (SIZE, SIZE))


def batch(sources: list[Scenes], step: int, size: int, shares: Sequence[float]) -> tuple[Tensor, dict[str, Tensor]]:
    """Images in [0, 1] and attributes, -1 where one does not show. Each step has scenes of its own."""
    samples = []
    for level, given in enumerate(sources):
        number = round(size * shares[level])
        for sample in given.samples(range(step * number, (step + 1) * number)):
            samples.append((sample, given.config.lighting != "flat"))
    images = torch.stack([sample.image for sample, _ in samples]).float() / 255
    truth = {
        name: torch.tensor([s.attributes[name] if lit or name != "light" else -1 for s, lit in samples])
        for name in WORDS
    }
    return images, truth


def worn(images: Tensor, step: int, seed: int) -> Tensor:
    """Half of the images as they are; the others through 32, 16 or 12 pixels, paler, tinted and noisy."""
    rng = Rng(seed, torch.arange(len(images)), step)
    kind, rows = rng.integers("kind", 2), torch.arange(len(images))
    side = torch.tensor([SIZE, SIZE // 2, SIZE // 4, 12])[rng.integers("side", 4)]
    altered = images.clone()
    for small in (SIZE // 2, SIZE // 4, 12):
        chosen = rows[side == small]
        shrunk = F.interpolate(images[chosen], (small, small), mode="bilinear", antialias=True)
        altered[chosen] = F.interpolate(shrunk, (SIZE, SIZE), mode="bilinear")
    paler = 1 - 0.6 * rng.uniform("paler")[:, None, None, None].square()
    altered = paler * altered + (1 - paler) * altered.mean(1, keepdim=True)
    altered = altered * (1 + 0.06 * rng.normal("gain", (3, 1, 1))) + 0.03 * rng.normal("shift", (3, 1, 1))
    altered = altered + 0.05 * rng.uniform("noise")[:, None, None, None] * rng.normal("grain", images.shape[1:])
    return torch.where(kind[:, None, None, None] == 0, images, altered.clamp(0, 1))


def train(architecture: str, recipe: Recipe, checkpoint: Path | None) -> nn.Module:
    """Train a classifier; prints its losses every 100 steps, and goes on from `checkpoint` if it is there."""
    torch.manual_seed(recipe.seed)
    net = ARCHITECTURES[architecture]().to(memory_format=torch.channels_last)
    sources = [source(level, "train", recipe.seed) for level in range(5)]
    optimizers, first = recipe.optimizers(net), 0
    rates = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    if checkpoint is not None and checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        net.load_state_dict(state["net"])
        first = state["step"]
        for optimizer, before in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(before)
    for step in track(range(first, recipe.steps), "training"):
        share = min(1, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * step / recipe.steps))
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate * share
        images, truth = batch(sources, step, recipe.batch, recipe.shares)
        logits = net(worn(images, step, 1 + recipe.seed).contiguous(memory_format=torch.channels_last))
        losses = [F.cross_entropy(logits[name], truth[name], ignore_index=-1) for name in WORDS]
        net.zero_grad(set_to_none=True)
        torch.stack(losses).sum().backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), recipe.clip)
        for optimizer in optimizers:
            optimizer.step()
        if step % SAVE_STEPS == SAVE_STEPS - 1:
            told = (f"{name} {loss.item():.3f}" for name, loss in zip(WORDS, losses, strict=True))
            print(step + 1, *told, flush=True)
            if checkpoint is not None:
                states = [optimizer.state_dict() for optimizer in optimizers]
                torch.save({"step": step + 1, "net": net.state_dict(), "optimizers": states}, checkpoint)
    return net.eval()


@torch.no_grad()
def accuracy(net: nn.Module, level: int) -> dict[str, float]:
    """Percent of held-out scenes of which each attribute that shows is read right."""
    given, right = source(level, "val"), dict.fromkeys(source(level, "val").config.chances(), 0)
    for start in range(0, HELD_OUT, 100):
        samples = given.samples(range(start, start + 100))
        logits = net(torch.stack([s.image for s in samples]).float() / 255)
        for name in right:
            right[name] += int((logits[name].argmax(1) == torch.tensor([s.attributes[name] for s in samples])).sum())
    return {name: round(100 * number / HELD_OUT, 1) for name, number in right.items()}


def save(net: nn.Module, path: Path, facts: dict[str, object]) -> None:
    """Save the weights in half precision, with `facts` in the header."""
    state = {n: v.half() if v.is_floating_point() else v for n, v in net.state_dict().items()}
    save_file({n: v.contiguous() for n, v in state.items()}, path, {"scenes": json.dumps(facts)})


def main() -> None:
    """Train, measure on held-out scenes, save, and print the accuracies in percent."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("architecture", choices=RECIPES)
    parser.add_argument("--out", type=Path, help="the file to write; not given: the one that ships")
    parser.add_argument("--steps", type=int, help="steps of another number than the recipe's")
    parser.add_argument("--checkpoint", type=Path, help="a file that keeps the state every 100 steps, to go on from")
    args = parser.parse_args()
    torch.set_num_threads(1)
    recipe, out = RECIPES[args.architecture], args.out or FILES[args.architecture]
    if args.steps is not None:
        recipe = replace(recipe, steps=args.steps)
    started = process_time()
    net = train(args.architecture, recipe, args.checkpoint)
    images = recipe.steps * recipe.batch
    facts: dict[str, Any] = {
        "architecture": args.architecture,
        "renderer": VERSION,
        "seed": recipe.seed,
        "trained_on": f"{images:,} scenes of all complexities, half of them blurred, tinted and noisy",
        "held_out": HELD_OUT,
    }
    print(f"{(process_time() - started) / 60:.1f} minutes of one core")
    save(net, out, facts)  # once without, so that the accuracy is that of the rounded weights
    load.cache_clear()
    facts["accuracy_percent"] = {str(level): accuracy(load(out)[0], level) for level in range(5)}
    save(net, out, facts)
    table = Table("complexity", *WORDS, box=None)
    for level, accuracies in facts["accuracy_percent"].items():
        table.add_row(level, *(f"{accuracies[name]:.1f}" if name in accuracies else "" for name in WORDS))
    Console().print(table, f"{out}: {out.stat().st_size:,} bytes", sep="\n")


if __name__ == "__main__":
    main()
