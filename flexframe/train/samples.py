"""A look at a model while it trains: a few images, at every power of two of tokens, by the averaged weights."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from flexframe.files import replaced
from flexframe.models.build import assemble
from flexframe.models.tokenizer import Tokenizer
from flexframe.pictures import Strip, grid, psnr_of, to_uint8
from flexframe.rng import Rng
from flexframe.train.random_state import random_state, set_random_state
from flexframe.train.run import Run


@torch.no_grad()
def draw(run: Run, alive: Callable[[], None] = lambda: None) -> float:
    """Write the picture of this step: the first process does, all of them call this. Training is as it was before.

    Args:
        alive: called now and then on the way.

    Returns:
        the seconds it took.
    """
    since, state = time.perf_counter(), run.exported()
    if run.processes.first:
        before = random_state(run.device)
        try:
            _draw(run, state, alive)
        finally:
            set_random_state(before, run.device)
    return time.perf_counter() - since


def _draw(run: Run, state: dict[str, torch.Tensor], alive: Callable[[], None]) -> None:
    # what a quantizer counts of its codes is its own; all else is only read, and shared
    own = {name: value.clone() if name.startswith("quantizer.") else value for name, value in state.items()}
    model = assemble(run.config.model, own, str(run.folder), run.sampling).to(run.device)
    assert isinstance(model, Tokenizer)
    batch = run.feed.examples(run.config.run.sample_count)
    if batch is None:
        return
    if batch.images is not None:
        images = batch.images
    else:
        assert batch.latents is not None
        images = model.codec.decode(batch.latents).clamp(0, 1)
    rng = Rng(run.config.run.seed, batch.index)
    tokens, originals = model.encode(images, rng=rng), to_uint8(images)
    decoded, told = {}, batch.condition if model.config.decoder.texts() is not None else None
    for length in lengths(model):
        short = model.shortened(tokens, images, length, rng=rng)
        pictures = model.decode(short, condition=told, rng=rng, on_step=lambda *_: alive())
        # black ones end no run, which tells by itself what is not finite
        decoded[length] = to_uint8(pictures.nan_to_num())
        alive()
    strips = []
    for i, number in enumerate(batch.index.tolist()):
        row = {length: pictures[i] for length, pictures in decoded.items()}
        psnr = {length: psnr_of(originals[i], picture) for length, picture in row.items()}
        strips.append(Strip(f"image {number}", originals[i], row, psnr))
    path = run.paths.sample(run.step)
    path.parent.mkdir(exist_ok=True)
    with replaced(path) as part:
        grid(strips).save(part, "PNG")


def lengths(model: Tokenizer) -> tuple[int, ...]:
    """Powers of two among a model's budgets, and the longest."""
    budgets = model.config.budgets
    return tuple(n for n in budgets if n & (n - 1) == 0 or n == budgets[-1])
