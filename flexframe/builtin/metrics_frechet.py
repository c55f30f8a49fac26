"""The Fréchet distance between features of torch-fidelity's Inception network: the FID, and its pipeline checks."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import urllib.request
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from flexframe.contracts import Measure, Metric, Reconstructions, Source
from flexframe_registry import MetricConfig, Spec

FILE = "weights-inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE}"
HASH = "6726825d"
"""What the file's sha256 starts with; torch-fidelity publishes it in the name."""


class Moments:
    """Mean and covariance of a stream of feature vectors, in float64 and constant memory."""

    def __init__(self, width: int) -> None:
        self.count = 0
        self.total = torch.zeros(width, dtype=torch.float64)
        self.outer = torch.zeros(width, width, dtype=torch.float64)

    def add(self, features: Float[Tensor, "b d"]) -> None:
        features = features.double().cpu()
        self.count += len(features)
        self.total += features.sum(0)
        self.outer += features.T @ features

    def statistics(self) -> dict[str, np.ndarray]:
        """`mu` and the unbiased `sigma`, under torch-fidelity's names."""
        mean = self.total / self.count
        covariance = (self.outer - self.count * mean[:, None] * mean) / (self.count - 1)
        return {"mu": mean.numpy(), "sigma": covariance.numpy()}


def frechet_distance(a: Moments, b: Moments) -> float:
    """|mu_a - mu_b|² + tr(sigma_a + sigma_b - 2 sqrt(sigma_a sigma_b)), by torch-fidelity."""
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    return float(fid_statistics_to_metric(a.statistics(), b.statistics(), False)[KEY_METRIC_FID])


class Frechet(Metric):
    """The distance between the images of a suite and their reconstructions."""

    def __init__(self, config: MetricConfig, source: Source) -> None:
        super().__init__(config, source)
        self.width = int(config.layer)
        self.extractor = Extractor(config.layer, config.weights)

    def measures(self) -> Sequence[Measure]:
        if self.config.layer == "2048":
            return [Measure("fid", "FID", "lower", note="against these same images")]
        note = "a check of the pipeline, not comparable to any published FID"
        return [
            Measure(
                f"fid@{self.config.layer}",
                f"FID@{self.config.layer}",
                "lower",
                digits=4 if self.width == 64 else 2,
                note=note,
            )
        ]

    def reset(self, spec: Spec) -> None:
        self.real, self.fake = Moments(self.width), Moments(self.width)
        self.finite = True

    def unavailable(self) -> str | None:
        if not self.finite:
            where = f"its features at layer {self.config.layer} are not finite numbers"
            return f"the weights {self.extractor.path} are incomplete: {where}; use a lower `layer` or whole weights"
        count = len(self.source)
        if count <= self.width and not self.config.few:
            least = f"layer {self.width} needs more than {self.width:,} images, and there are {count:,}"
            absent = "" if self.extractor.on_disk() else f"; its weights are not here either ({_HOW})"
            return f"{least}; raise the suite's `count`, use a lower `layer`, or set `few: true`{absent}"
        return self.extractor.unavailable()

    def update(self, batch: Reconstructions) -> Mapping[str, Float[Tensor, " b"]]:
        if self.finite:
            originals, features = self.extractor.originals(batch.real), self.extractor(batch.fake)
            self.finite = bool(torch.isfinite(originals).all() and torch.isfinite(features).all())
            self.real.add(originals)
            self.fake.add(features)
        return {}

    def compute(self) -> Mapping[str, float]:
        return {self.measures()[0].name: frechet_distance(self.real, self.fake)}

    def protocol(self) -> Mapping[str, Any]:
        facts = {
            "extractor": "torch-fidelity inception-v3-compat, resizing to 299 pixels inside",
            "layer": self.config.layer,
            "weights_sha256": self.extractor.sha256,
            "reference": "the suite's own images, as the models saw them",
            "covariance": "unbiased",
            "torch-fidelity": version("torch-fidelity"),
        }
        return facts if self.config.layer == "2048" else {**facts, "pipeline_check": self.measures()[0].note}


_HOW = (
    f"download {URL} and name the file as `weights` of the frechet metric in the suite, or put it in torch's hub folder"
)


class Extractor:
    """The network that all tallies share, loaded when it is first asked for."""

    def __init__(self, layer: str, weights: str | None) -> None:
        self.layer, self.given = layer, weights
        self.path = Path(weights) if weights else Path(torch.hub.get_dir()) / "checkpoints" / FILE
        self.sha256: str | None = None
        self._net: nn.Module | None = None
        self._why: str | None = None
        self._last: tuple[Tensor, Tensor] | None = None

    def on_disk(self) -> bool:
        return self.path.is_file()

    def unavailable(self) -> str | None:
        """Load the network, fetching its weights if no file was named; the reason if that fails."""
        if self._net is None and self._why is None:
            try:
                if not self.on_disk():
                    self._fetch()
                self._net = self._load()
            except Exception as error:  # whatever a file or a network does, the other numbers stand
                reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:160]
                self._why = f"Inception weights cannot be had ({reason}); {_HOW}"
        return self._why

    @torch.no_grad()
    def __call__(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        assert self._net is not None
        return self._net.to(images.device)(images)[0]

    def originals(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Features of a batch of originals, which all models and budgets see one after the other."""
        if self._last is None or self._last[0] is not images:
            self._last = (images, self(images))
        return self._last[1]

    def _fetch(self) -> None:
        if self.given is not None:
            raise FileNotFoundError(f"no file {self.path}")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(URL, timeout=20) as answer:
            content = answer.read()
        if not hashlib.sha256(content).hexdigest().startswith(HASH):
            raise ValueError(f"{URL} did not give the published file")
        partial = self.path.with_suffix(f".{os.getpid()}.part")
        partial.write_bytes(content)
        partial.replace(self.path)

    def _load(self) -> nn.Module:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        content = self.path.read_bytes()
        self.sha256 = hashlib.sha256(content).hexdigest()
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        # torch-fidelity unpickles what it is given, so it is given a file of our own making
        with tempfile.TemporaryDirectory() as folder:
            ours = Path(folder) / "weights.pth"
            torch.save({name: torch.as_tensor(value) for name, value in state.items()}, ours)
            return FeatureExtractorInceptionV3(
                "inception-v3-compat", [self.layer], feature_extractor_weights_path=str(ours)
            )
