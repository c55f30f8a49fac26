"""The classifiers of scenes' attributes that ship with the source. `tools/train_scene_classifier.py` trains them."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from safetensors import safe_open
from torch import Tensor, nn

from flexframe.data.source import AttributeClassifier
from flexframe.files import sha256
from flexframe_standard.sources.scenes.networks import ARCHITECTURES, SIZE
from flexframe_standard.sources.scenes.render import VERSION
from flexframe_standard.sources.scenes_config import ScenesConfig

if TYPE_CHECKING:
    from flexframe_standard.sources.scenes.source import Scenes

FILE = Path(__file__).with_name("classifier.safetensors")
"""The first judge."""
SECOND = Path(__file__).with_name("second_classifier.safetensors")
"""The second judge, of another architecture, which must teach nothing."""
FILES: Mapping[str, Path] = {"convolutional": FILE, "transformer": SECOND}
THRESHOLDS = Path(__file__).with_name("thresholds.json")
"""Thresholds of plausibility of the shipped suites' scenes, which take seconds to measure."""
CALIBRATION = 1000
"""Scenes that the threshold of plausibility is from."""
SEED_STEP = 7_654_321
"""From the seed of a suite's scenes to that of the scenes of its calibration."""
RESIZE = "bilinear, antialiased"
_RECENT: WeakKeyDictionary[nn.Module, deque[tuple[Tensor, int, dict[str, Tensor]]]] = WeakKeyDictionary()
"""Of each network the last batches, their versions and their logits."""


class SceneClassifier(AttributeClassifier):
    """A shipped network, asked for what shows in the scenes of a source."""

    label = "shape"

    def __init__(self, net: nn.Module, facts: Mapping[str, Any], source: Scenes) -> None:
        self.net, self.facts, self.source, self.values = net, facts, source, source.config.chances()

    @torch.no_grad()
    def __call__(self, images: UInt8[Tensor, "b 3 h w"]) -> dict[str, Int[Tensor, " b"]]:
        return {name: logits.argmax(1) for name, logits in self._seen(images).items()}

    def logits(self, images: Float[Tensor, "b 3 h w"]) -> dict[str, Float[Tensor, "b v"]]:
        if images.shape[2:] != (SIZE, SIZE):
            images = F.interpolate(images, (SIZE, SIZE), mode="bilinear", antialias=True)
        logits = self.net.to(images.device)(images)
        return {name: logits[name] for name in self.values}

    def _seen(self, images: UInt8[Tensor, "b 3 h w"]) -> dict[str, Float[Tensor, "b v"]]:
        """Logits of 8-bit images, which several measures read one after the other: the last two batches' are kept."""
        recent = _RECENT.setdefault(self.net, deque(maxlen=2))
        for place, kept in enumerate(recent):
            if kept[0] is images and kept[1] == images._version and kept[2].keys() == self.values.keys():
                del recent[place]
                recent.append(kept)  # last, so that originals stay though every model's pictures come in between
                return kept[2]
        logits = self.logits(images.float() / 255)
        recent.append((images, images._version, logits))
        return logits

    @torch.no_grad()
    def confidence(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        """The probability of the most probable value, as the geometric mean over all attributes that show.

        It is of all attributes and not of the shape alone: a picture with a crisp object before a ground that is in no
        palette is no scene. Of pictures that are the mean of two scenes, the shape alone finds 27 % plausible to the
        first judge and 60 % to the second; all attributes find 0.4 % and 17 %. It asks no truth, so it is defined of
        samples too. A judge that was trained on blurred pictures stays sure of them: what it calls plausible is
        unambiguous, and need not be sharp.
        """
        likely = [logits.log_softmax(1).amax(1) for logits in self._seen(images).values()]
        return torch.stack(likely).mean(0).exp()

    def plausible(self, images: UInt8[Tensor, "b 3 h w"]) -> Bool[Tensor, " b"]:
        """The images whose `confidence` is at least that of real scenes at their 10th percentile."""
        return self.confidence(images) >= self.threshold

    @cached_property
    def threshold(self) -> float:
        """The confidence that 9 of 10 real scenes reach: scenes of the same settings and of another seed."""
        known = json.loads(THRESHOLDS.read_text(encoding="utf-8")) if THRESHOLDS.is_file() else {}
        found = known.get(self.calibrated_on())
        return self.calibrate() if found is None else float(found)

    def calibrated_on(self) -> str:
        """Everything that the threshold hangs on, as its key in the file of those that are known."""
        settings = self._apart().model_dump_json(exclude={"type"})
        return f"classifier {self.facts['sha256'][:16]}, {self.source.size[0]} pixels, {settings}"

    def calibrate(self) -> float:
        """Measure the threshold."""
        scenes = type(self.source)(self._apart(), self.source.size)
        parts = [scenes.samples(range(start, start + 100)) for start in range(0, CALIBRATION, 100)]
        sure = torch.cat([self.confidence(torch.stack([sample.image for sample in part])) for part in parts])
        # rounded, since it stands in protocols, and must be the same on other processors
        return round(float(sure.double().quantile(0.1)), 3)

    def calibration(self) -> Mapping[str, Any]:
        told = "the most probable value's probability, geometric mean over the attributes"
        scenes = f"{CALIBRATION:,} scenes of seed {self._apart().seed}, split val"
        return {"confidence": told, "percentile": 10, "threshold": self.threshold, "calibrated_on": scenes}

    def protocol(self) -> Mapping[str, Any]:
        facts = ("renderer", "seed", "sha256", "trained_on", "accuracy_percent")  # the first's file says no seed
        told = {name: self.facts[name] for name in facts if name in self.facts}
        named = f"scenes, {self.facts.get('architecture', 'convolutional')}"
        return {"classifier": named, "input_size": SIZE, "resize_to_input": RESIZE, **told}

    def _apart(self) -> ScenesConfig:
        seed = (self.source.config.seed + SEED_STEP) % 2**63
        return self.source.config.model_copy(update={"seed": seed, "split": "val", "count": CALIBRATION})


def shipped(path: Path, source: Scenes) -> SceneClassifier:
    """A shipped classifier, for the scenes of a source.

    Raises:
        ValueError: pictures that are not square, or a classifier that was trained on scenes that were drawn otherwise.
    """
    if source.size[0] != source.size[1]:
        raise ValueError(f"the scenes' classifier reads square pictures, not {source.size[0]} x {source.size[1]}")
    return SceneClassifier(*load(path), source)


@cache
def load(path: Path) -> tuple[nn.Module, Mapping[str, Any]]:
    """A network and what its file says of it."""
    if not path.is_file():
        raise ValueError(f"there is no classifier of scenes at {path}; train it by tools/train_scene_classifier.py")
    with safe_open(path, "pt") as file:
        facts = json.loads((file.metadata() or {}).get("scenes", "{}"))
        if facts.get("renderer") != VERSION:
            raise ValueError(
                f"the scenes' classifier {path} was trained on scenes of renderer {facts.get('renderer')}, and these "
                f"are of renderer {VERSION}; train it anew with tools/train_scene_classifier.py"
            )
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    net = ARCHITECTURES[facts.get("architecture", "convolutional")]()
    net.load_state_dict({name: value.float() if value.is_floating_point() else value for name, value in state.items()})
    return net.eval(), {**facts, "sha256": sha256(path)}
