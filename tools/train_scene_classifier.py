"""Train the classifier of scenes' attributes that ships with the source `scenes`.

    nice python tools/train_scene_classifier.py

Scenes of all complexities, drawn as it goes; half of them blurred, tinted and
noisy, since it will read reconstructions. Deterministic on
one machine: one thread, one seed. Prints the accuracy on held-out scenes of each complexity, and keeps it in the file.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from rich.table import Table
from safetensors.torch import save_file
from torch import Tensor

from flexframe.rng import Rng
from flexframe_standard.sources.scenes import VERSION, Scenes
from flexframe_standard.sources.scenes.classifier import FILE, SIZE, SceneNet, load
from flexframe_standard.sources.scenes_config import WORDS, ScenesConfig

SHARES = (0.1, 0.3, 0.3, 0.15, 0.15)
"""Share of each complexity in a batch."""
HELD_OUT = 2000
"""Scenes of each complexity that the accuracy is of."""


def source(level: int, split: str) -> Scenes:
    """Scenes of one complexity and split."""
    return Scenes(ScenesConfig(complexity=level, split=split, count=2**31), (SIZE, SIZE))


def batch(sources: list[Scenes], step: int, size: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Images in [0, 1] and attributes, -1 where one does not show. Each step has scenes of its own."""
    samples = []
    for level, given in enumerate(sources):
        number = round(size * SHARES[level])
        for sample in given.samples(range(step * number, (step + 1) * number)):
            samples.append((sample, given.config.lighting != "flat"))
    images = torch.stack([sample.image for sample, _ in samples]).float() / 255
    truth = {
        name: torch.tensor([s.attributes[name] if lit or name != "light" else -1 for s, lit in samples])
        for name in WORDS
    }
    return images, truth


def worn(images: Tensor, step: int) -> Tensor:
    """Half of the images as they are; the others through 32, 16 or 12 pixels, paler, tinted and noisy."""
    rng = Rng(1, torch.arange(len(images)), step)
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


def train(steps: int, size: int, lr: float) -> SceneNet:
    """Train the classifier; prints its losses every 100 steps."""
    torch.manual_seed(0)
    net, sources = SceneNet().to(memory_format=torch.channels_last), [source(level, "train") for level in range(5)]
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=0.02)
    for step in track(range(steps), "training"):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        images, truth = batch(sources, step, size)
        logits = net(worn(images, step).contiguous(memory_format=torch.channels_last))
        losses = [F.cross_entropy(logits[name], truth[name], ignore_index=-1) for name in WORDS]
        optimizer.zero_grad(set_to_none=True)
        torch.stack(losses).sum().backward()
        optimizer.step()
        if step % 100 == 99:
            print(step + 1, *(f"{name} {loss.item():.3f}" for name, loss in zip(WORDS, losses, strict=True)))
    return net.eval()


@torch.no_grad()
def accuracy(net: SceneNet, level: int) -> dict[str, float]:
    """Percent of held-out scenes of which each attribute that shows is read right."""
    given, right = source(level, "val"), dict.fromkeys(source(level, "val").config.chances(), 0)
    for start in range(0, HELD_OUT, 100):
        samples = given.samples(range(start, start + 100))
        logits = net(torch.stack([s.image for s in samples]).float() / 255)
        for name in right:
            right[name] += int((logits[name].argmax(1) == torch.tensor([s.attributes[name] for s in samples])).sum())
    return {name: round(100 * number / HELD_OUT, 1) for name, number in right.items()}


def save(net: SceneNet, path: Path, facts: dict[str, object]) -> None:
    """Save the weights in half precision, with `facts` in the header."""
    state = {n: v.half() if v.is_floating_point() else v for n, v in net.state_dict().items()}
    save_file({n: v.contiguous() for n, v in state.items()}, path, {"scenes": json.dumps(facts)})


def main() -> None:
    """Train, measure on held-out scenes, save, and print the accuracies in percent."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FILE)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=80)
    parser.add_argument("--lr", type=float, default=4e-3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    net = train(args.steps, args.batch, args.lr)
    facts = {
        "renderer": VERSION,
        "trained_on": f"{args.steps * args.batch:,} scenes of all complexities, half of them blurred, tinted and noisy",
        "held_out": HELD_OUT,
    }
    save(net, args.out, facts)  # once without, so that the accuracy is that of the rounded weights
    load.cache_clear()
    facts["accuracy_percent"] = {str(level): accuracy(load(args.out)[0], level) for level in range(5)}
    save(net, args.out, facts)
    table = Table("complexity", *WORDS, box=None)
    for level, accuracies in facts["accuracy_percent"].items():
        table.add_row(level, *(f"{accuracies[name]:.1f}" if name in accuracies else "" for name in WORDS))
    Console().print(table, f"{args.out}: {args.out.stat().st_size:,} bytes", sep="\n")


if __name__ == "__main__":
    main()
