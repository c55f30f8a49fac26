"""Proxy codes: what a model predicts of an image is another tokenizer's codes of it (TiTok, arXiv 2406.07550)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from flexframe.models.fingerprint import fingerprint
from flexframe.parts import Objective
from flexframe.rng import Rng
from flexframe.store.load import load
from flexframe.tokens import Batch, Losses, Outputs
from flexframe_registry import Spec, TokenizerConfig

from . import ProxyCodesConfig


class Teacher:
    """A frozen tokenizer. It is no module of a run's, so that no checkpoint holds it and no optimizer reaches it."""

    def __init__(self, name: str) -> None:
        with torch.random.fork_rng(devices=[]):  # a run draws the same, whether or not its targets were precomputed
            self.name, self.model = name, load(name).requires_grad_(False)

    @torch.no_grad()
    def codes(self, images: Float[Tensor, "b 3 h w"]) -> Int[Tensor, "b n"]:
        """One code a token, in full precision: autocast would move images across the border between two codes."""
        if self.model.device != images.device:
            self.model.to(images.device)
        with torch.autocast(images.device.type, enabled=False):
            return self.model.encode(images.float()).codes[..., 0]

    def check(self, model: TokenizerConfig) -> None:
        """Check that its codes are targets for a model's logits.

        Raises:
            ValueError: they are not: several codes a token, another image size, codebook or grid.
        """
        tokens, own = self.model.spec.tokens, self.model.config.image_size
        if tokens.codebook_size is None or tokens.codebooks != 1:
            raise ValueError(f"teacher {self.name!r} does not give one whole number a token, so it has no proxy codes")
        if own != model.image_size:
            here, there = (" x ".join(str(n) for n in size) for size in (model.image_size, own))
            raise ValueError(f"teacher {self.name!r} reads images of {there}, and the model of {here}; make them equal")
        logits = model.decoder.logits(model.spec)
        if logits is None:
            return
        classes, rows, columns = logits
        if tokens.codebook_size != classes:
            told = f"teacher {self.name!r} has {tokens.codebook_size} codes, and the decoder predicts {classes}"
            raise ValueError(f"{told}; set its `proxy_codebook` to {tokens.codebook_size}")
        if tokens.length != rows * columns:
            told = f"teacher {self.name!r} gives {tokens.length} tokens an image, and the decoder predicts"
            raise ValueError(f"{told} {rows} x {columns}; change its `patch`")


class ProxyCodes(Objective):
    """See `ProxyCodesConfig`. The teacher's tokens are the logits' cells row by row, as a 2D tokenizer's are."""

    config: ProxyCodesConfig

    def __init__(self, config: ProxyCodesConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.teacher = None if config.teacher is None else Teacher(config.teacher)

    def check(self, model: TokenizerConfig) -> None:
        if self.teacher is not None:
            self.teacher.check(model)

    def facts(self) -> Mapping[str, Any]:
        teacher = self.teacher
        return {} if teacher is None else {"teacher": teacher.name, "fingerprint": fingerprint(teacher.model)}

    def forward(self, outputs: Outputs, batch: Batch, *, step: int, rng: Rng) -> Losses:
        if outputs.logits is None:
            raise ValueError("proxy-codes needs a decoder that gives logits")
        logits = outputs.logits.float().flatten(2)  # b v n
        smoothing = self.config.label_smoothing
        loss = F.cross_entropy(logits, self.targets(batch), reduction="none", label_smoothing=smoothing)
        return {"cross_entropy": loss.mean(1)}

    def features(self, batch: Batch) -> Mapping[str, Tensor]:
        return {"proxy_codes": self.targets(batch)}

    def targets(self, batch: Batch) -> Int[Tensor, "b n"]:
        """The teacher's codes: those that the batch holds, else those of its images.

        Raises:
            ValueError: there are neither codes nor a teacher, or no images for it.
        """
        if "proxy_codes" in batch.features:
            return batch.features["proxy_codes"].flatten(1)
        if self.teacher is None:
            raise ValueError(
                "proxy-codes has no targets: name its `teacher`, such as {type: proxy-codes, teacher: "
                "grid/maskgit-vqgan}, or put the codes in the batch's features['proxy_codes']"
            )
        if batch.images is None:
            raise ValueError(f"teacher {self.teacher.name!r} encodes images, and this batch holds none")
        return self.teacher.codes(batch.images)
