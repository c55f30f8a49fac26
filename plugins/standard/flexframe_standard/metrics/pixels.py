"""Metrics that need no weights: PSNR, SSIM, codebook use, a classifier's agreement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from flexframe.bench.metric import Measure, Metric, Reconstructions
from flexframe.bench.protocol import Digest, settings
from flexframe.data.source import Source
from flexframe_registry import ConfigError, MetricConfig, SourceConfig, Spec, catalogue
from flexframe_standard.metrics.asked_class import AskedClass
from flexframe_standard.metrics.judges import Judge, SourceJudge


class PerImage(Metric):
    """A mean over images of one value each."""

    measure: Measure
    tallied = ("total", "count")

    def measures(self) -> Sequence[Measure]:
        return [self.measure]

    def reset(self, spec: Spec) -> None:
        self.total, self.count = 0.0, 0

    def values(self, real: Float[Tensor, "b 3 h w"], fake: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        """One value for each image; both are in 8-bit steps, 0 to 255."""
        raise NotImplementedError(f"{type(self).__name__}.values")

    def update(self, batch: Reconstructions) -> Mapping[str, Float[Tensor, " b"]]:
        fake = batch.fake.float() if self.config.rounded else batch.exact.float() * 255
        values = self.values(batch.real.float(), fake)
        self.total += float(values.double().sum())
        self.count += len(values)
        return {self.measure.name: values}

    def compute(self) -> Mapping[str, float]:
        return {self.measure.name: self.total / self.count}

    def protocol(self) -> Mapping[str, Any]:
        return {"mean": "of per-image values", "reconstructions": "8-bit" if self.config.rounded else "not rounded"}


class Psnr(PerImage):
    """10 log10(255² / MSE) of each image over pixels and channels, then the mean over images."""

    measure = Measure("psnr", "PSNR", "higher", "dB")

    def values(self, real: Float[Tensor, "b 3 h w"], fake: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        mse = (real.double() - fake.double()).square().flatten(1).mean(1)
        return (10 * torch.log10(255.0**2 / mse)).clamp(max=self.config.cap)

    def protocol(self) -> Mapping[str, Any]:
        return {**super().protocol(), "peak": 255, "cap_db": self.config.cap}


class Ssim(PerImage):
    """torchmetrics' SSIM with a Gaussian window on RGB, each image by itself.

    Images are reflected at their borders, and the windows there count. Others leave them out (scikit-image): of small
    images that is another number, by several hundredths at 16 pixels.
    """

    measure = Measure("ssim", "SSIM", "higher", digits=3)

    def unavailable(self) -> str | None:
        window, size = self.config.window(), min(self.source.size)
        if size < window:
            return (
                f"images are {size} pixels at the least, the window is {window}; set `sigma` lower or use larger images"
            )
        return None

    def values(self, real: Float[Tensor, "b 3 h w"], fake: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        from torchmetrics.functional.image import structural_similarity_index_measure  # seconds to import

        found = structural_similarity_index_measure(
            fake, real, sigma=self.config.sigma, reduction="none", data_range=255.0
        )
        assert isinstance(found, Tensor)
        return found.reshape(len(real))

    def protocol(self) -> Mapping[str, Any]:
        window = {"window": self.config.window(), "sigma": self.config.sigma, "data_range": 255, "k": [0.01, 0.03]}
        window["borders"] = "reflected and counted"
        return {**super().protocol(), **window, "torchmetrics": version("torchmetrics")}


class Codebook(Metric):
    """Counts of the codes of all present tokens; the codebooks of a token, if several, are averaged."""

    tallied = ("counts",)

    def measures(self) -> Sequence[Measure]:
        return [
            Measure("usage", "Codes used", unit="%", digits=1, note="of the codebook, over the images seen"),
            Measure("perplexity", "Perplexity", digits=1, note="of the frequencies of the codes seen"),
        ]

    def reset(self, spec: Spec) -> None:
        self.tokens = spec.tokens
        self.counts = torch.zeros(spec.tokens.codebooks, spec.tokens.codebook_size or 0, dtype=torch.long)

    def unavailable(self) -> str | None:
        return "the tokens are continuous, so there is no codebook" if self.tokens.codebook_size is None else None

    def of_samples(self) -> Metric:
        return self

    def update(self, batch: Reconstructions) -> Mapping[str, Float[Tensor, " b"]]:
        seen: Int[Tensor, "n q"] = batch.tokens.codes[batch.tokens.keep].cpu()
        for book, codes in enumerate(seen.unbind(1)):
            self.counts[book] += torch.bincount(codes, minlength=self.counts.shape[1])
        return {}

    def compute(self) -> Mapping[str, float]:
        share = self.counts.double() / self.counts.sum(1, keepdim=True)
        perplexity = torch.special.entr(share).sum(1).exp().mean()
        return {"usage": 100 * float((self.counts > 0).double().mean()), "perplexity": float(perplexity)}

    def details(self) -> Mapping[str, Mapping[str, Any]]:
        """For each codebook, how many codes were seen so many times each, the most frequent first."""
        ranked = []
        for counts in self.counts:
            times, codes = counts.unique(return_counts=True)
            ranked.append(torch.stack([times, codes], 1).flip(0).tolist())
        return {"usage": {"ranked": ranked}}


class Classifier(Metric):
    """What a classifier reads off reconstructions, beside what it reads off the originals and what is true.

    Of one image, a number is 100 or 0: so shares have intervals as other means of per-image values have.
    """

    tallied = ("count", "agreed", "right", "right_originals")

    def __init__(self, config: MetricConfig, source: Source) -> None:
        super().__init__(config, source)
        self.judge: Judge = SourceJudge(source) if config.data is None else _Machine(config, source)

    def of_samples(self) -> Metric:
        return AskedClass(self.config, self.source, self.judge)

    def measures(self) -> Sequence[Measure]:
        return [
            Measure("agreement", "Same label", "higher", "%", 1, "by the classifier, as the original gets"),
            Measure("accuracy", "True label", "higher", "%", 1, "by the classifier, on reconstructions"),
            *(
                Measure(f"accuracy_{name}", f"True {name}", "higher", "%", 1, f"{100 / number:.1f} by chance")
                for name, number in self.judge.values.items()
            ),
        ]

    def reset(self, spec: Spec) -> None:
        self.count = self.agreed = 0
        self.right = self.right_originals = dict.fromkeys((self.judge.label, *self.judge.values), 0)

    def unavailable(self) -> str | None:
        return self.judge.unavailable()

    def update(self, batch: Reconstructions) -> Mapping[str, Float[Tensor, " b"]]:
        label, found, originals = self.judge.label, self.judge.read(batch.fake), self.judge.originals(batch.real)
        truth = {name: np.array([known[name] for known in batch.attributes]) for name in self.judge.values}
        truth[label] = np.array(batch.labels)
        same, right = found[label] == originals[label], {name: found[name] == known for name, known in truth.items()}
        self.count += len(batch.real)
        self.agreed += int(same.sum())
        self.right = {name: n + int(right[name].sum()) for name, n in self.right.items()}
        self.right_originals = {
            name: n + int((originals[name] == truth[name]).sum()) for name, n in self.right_originals.items()
        }
        others = {f"accuracy_{name}": right[name] for name in self.judge.values}
        each = {"agreement": same, "accuracy": right[label], **others}
        return {name: torch.from_numpy(100.0 * hits) for name, hits in each.items()}

    def compute(self) -> Mapping[str, float]:
        shares = {name: 100 * right / self.count for name, right in self.right.items()}
        others = {f"accuracy_{name}": shares[name] for name in self.judge.values}
        return {"agreement": 100 * self.agreed / self.count, "accuracy": shares[self.judge.label], **others}

    def protocol(self) -> Mapping[str, Any]:
        found = {name: 100 * right / self.count if self.count else None for name, right in self.right_originals.items()}
        judged = {"label_is": self.judge.label, "values": {**self.judge.values}} if self.judge.values else {}
        accuracy = found if self.judge.values else found[self.judge.label]
        return {**self.judge.protocol(), **judged, "accuracy_on_originals_percent": accuracy}


class _Machine(Judge):
    """An RBF support vector machine on pixels, trained when it is first needed.

    Raises:
        ConfigError: training images whose classes are not the suite's, that have no labels, or are all of one class.
    """

    def __init__(self, config: MetricConfig, source: Source) -> None:
        self.config, self.source = config, source
        self.data: SourceConfig = config.data.like(source.config)
        self.train = catalogue().build(self.data, source.size)
        self.facts: dict[str, Any] = {}
        """What is known of the training images once they were read."""
        self.fit = cache(self._fit)
        _same_classes(self.train.class_names(), source.class_names())

    def unavailable(self) -> str | None:
        if self.source[0].label is None:
            return "the suite's images have no labels to compare with; use a labelled source"
        self.fit()  # so that what it was trained on is known before the first image
        return None

    def read(self, images: UInt8[Tensor, "b 3 h w"]) -> Mapping[str, np.ndarray]:
        return {self.label: self.fit().predict(_flat(images.cpu()))}

    def protocol(self) -> Mapping[str, Any]:
        machine = {"model": "sklearn.svm.SVC, RBF kernel, gamma scale, on pixels in [0, 1]", "c": self.config.c}
        return {**machine, **self.facts, "scikit-learn": version("scikit-learn")}

    def _fit(self) -> Any:
        from sklearn.svm import SVC

        # evenly spread: sources are often in the order of their classes
        count, most = len(self.train), self.config.limit
        samples = self.train.samples([i * count // most for i in range(most)] if count > most else range(count))
        bare = next((sample.id for sample in samples if sample.label is None), None)
        if bare is not None:
            raise ConfigError.at("classifier.data", f"its image {bare!r} has no label; name labelled images")
        known = [sample.label for sample in samples]
        if len(set(known)) < 2:
            text = f"{len(known):,} of its images are all of one class; raise `limit`, or name images of several"
            raise ConfigError.at("classifier.data", text)
        images, digest, labels = torch.stack([sample.image for sample in samples]), Digest(), Digest()
        digest.add(images)
        labels.add(torch.tensor(known))
        trained_on = {"data": settings(self.data), "images": dict(self.train.protocol()), "sha256": digest.hex()}
        names = {"class_names": list(self.train.class_names())} if self.train.class_names() else {}
        trained_on |= {"labels_sha256": labels.hex(), **names}
        self.facts = {"trained_on": trained_on, "training_images": len(samples)}
        return SVC(C=self.config.c).fit(_flat(images), known)


def _same_classes(training: Sequence[str], suite: Sequence[str]) -> None:
    """Labels are numbers: where both sides name them, a number must mean one class."""
    if not training or not suite or tuple(training) == tuple(suite):
        return
    apart = next((i for i, (a, b) in enumerate(zip(training, suite, strict=False)) if a != b), None)
    told = f"its images are of {len(training)} classes, the suite's of {len(suite)}"
    if apart is not None:
        told = f"label {apart} is {training[apart]!r} in its images and {suite[apart]!r} in the suite's"
    raise ConfigError.at("classifier.data", f"{told}; name images of the suite's classes, and of all of them")


def _flat(images: UInt8[Tensor, "b 3 h w"]) -> np.ndarray:
    return images.flatten(1).double().div(255).numpy()
