"""Latents of a codec and features of a teacher for a whole source, once: what the feed `latents` trains on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from flexframe.data.shards import LABELS, About, Kind, Shards
from flexframe.data.source import Source
from flexframe.lock import writes
from flexframe.models.fingerprint import codec_fingerprint
from flexframe.parts import Codec, Objective
from flexframe.rng import Rng
from flexframe.tokens import Batch
from flexframe.use.precompute import loaded
from flexframe_registry import ConfigError

BYTES = 64 << 20
"""Of a shard, about: what a kill may cost, and small enough to be copied."""
DTYPES = {"fp32": torch.float32, "fp16": torch.float16}
Dtype = Literal["fp32", "fp16"]
Posterior = Literal["moments", "sample"]


@dataclass(frozen=True)
class Filled:
    """The outcome of a precomputation."""

    folder: Path
    count: int
    resumed: int
    """How many images were done before."""
    shapes: Mapping[str, Sequence[int]]


@writes("out", part="latents")
def precompute_latents(
    codec: Codec,
    source: Source,
    out: Path,
    *,
    name: str,
    device: torch.device,
    dtype: Dtype = "fp32",
    posterior: Posterior = "moments",
    seed: int = 0,
    batch_size: int = 32,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Filled:
    """Write a codec's latents of every image of a source to the folder `out`, in the codec's `precision`.

    Args:
        name: what the codec is called, for people.
        posterior: of a codec that draws, its moments, so that each training step draws as it would from images; or
            one draw an image, by `seed` and the image's number, which is half as large.
    """
    codec = codec.to(device)

    def moments(images: Tensor, numbers: Tensor) -> Tensor | None:
        return codec.moments(images) if posterior == "moments" else None

    def compute(images: Tensor, numbers: Tensor) -> dict[str, Tensor]:
        statistics = moments(images, numbers)
        return {"latents": codec.encode(images, rng=Rng(seed, numbers)) if statistics is None else statistics}

    draws = codec.moments(torch.zeros(1, 3, *source.size, device=device)) is not None
    kept = posterior if draws else "none"
    settings: dict[str, Any] = {"codec": name, "fingerprint": codec_fingerprint(codec), "posterior": kept}
    settings |= {"seed": seed} if kept == "sample" else {}
    settings |= {"precision": codec.precision} if codec.precision != "fp32" else {}  # as folders of before have it
    return _fill("latents", {"latents": settings}, compute, source, out, device, dtype, batch_size, progress)


@writes("out", part="features")
def precompute_features(
    objectives: Sequence[Objective],
    source: Source,
    out: Path,
    *,
    device: torch.device,
    dtype: Dtype = "fp16",
    batch_size: int = 32,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Filled:
    """Write what objectives compute of the images alone (a teacher's features) to the folder `out`.

    Raises:
        ConfigError: they compute nothing of the kind, or the folder was begun otherwise, or with other images.
    """
    of = {
        name: {"objective": objective.config.type, **settings, "facts": dict(objective.facts())}
        for objective in objectives
        for name, settings in objective.config.precomputes().items()
    }
    if not of:
        raise ConfigError.at(
            "run.objectives", "compute nothing of images that could be kept, as a teacher's features are"
        )

    def compute(images: Tensor, numbers: Tensor) -> dict[str, Tensor]:
        batch = Batch(numbers, images)
        return {name: value for each in objectives for name, value in each.features(batch).items() if name in of}

    return _fill("features", of, compute, source, out, device, dtype, batch_size, progress)


@torch.no_grad()
def _fill(
    kind: Kind,
    of: Mapping[str, Mapping[str, Any]],
    compute: Callable[[Tensor, Tensor], dict[str, Tensor]],
    source: Source,
    out: Path,
    device: torch.device,
    dtype: Dtype,
    batch_size: int,
    progress: Callable[[int, int], None],
) -> Filled:
    source.want("labels" if kind == "latents" else "none")
    one = compute(_images(source.samples([0]), device), torch.zeros(1, dtype=torch.long, device=device))
    size = sum(value[0].numel() * value.element_size() for value in one.values())
    about = About(
        kind=kind,
        of={name: dict(settings) for name, settings in of.items()},
        dtype=dtype,
        source=source.config.model_dump(mode="json"),
        protocol=dict(source.protocol()),
        image_size=source.size,
        count=len(source),
        rows=max(1, min(len(source), BYTES // size)),
        class_names=tuple(source.class_names()),
        images=dict(source.inventory()),
        flexframe=version("flexframe"),
    )
    shards, resumed = Shards.begin(out, about, source.config), 0
    for shard in range(about.shards):
        rows = shards.range(shard)
        if shards.path(shard).is_file():
            resumed += len(rows)
            continue
        pieces: dict[str, list[Tensor]] = {}
        for numbers, samples in loaded(source, rows, batch_size):
            progress(numbers[0], len(source))
            tensors = compute(_images(samples, device), torch.tensor(numbers, device=device))
            tensors = {n: (v.to(DTYPES[dtype]) if v.is_floating_point() else v).cpu() for n, v in tensors.items()}
            wrong = [name for name, value in tensors.items() if not value.isfinite().all()]
            if wrong:
                text = f"{wrong[0]} of images {numbers[0]}..{numbers[-1]} are not finite in {dtype}"
                raise ValueError(f"{text}; give --dtype fp32" if dtype == "fp16" else text)
            if kind == "latents":
                tensors[LABELS] = torch.tensor([-1 if s.label is None else s.label for s in samples])
            for name, value in tensors.items():
                pieces.setdefault(name, []).append(value)
        shards.write(shard, {name: torch.cat(parts) for name, parts in pieces.items()})
        progress(rows.stop, len(source))
    return Filled(out, len(source), resumed, {name: tuple(value.shape[1:]) for name, value in one.items()})


def _images(samples: Sequence[Any], device: torch.device) -> Tensor:
    return torch.stack([sample.image for sample in samples]).to(device).float() / 255
