"""The folder of a training run: the name of each file in it, here and nowhere else.

<run>/config.json         the resolved config            <run>/manifest.json    versions, commit, seed, command
<run>/log.jsonl           a line a logged step           <run>/end.json         how training ended, and why
<run>/checkpoints/        step-NNNNNNNN/, the last few   <run>/samples/         step-NNNNNNNN.png
<run>/model.safetensors   the finished model, averaged   <run>/lock             who trains here now
<run>/nonfinite-N.json    rows of a batch that gave a loss or gradient that is not finite, at step N
<run>/tensorboard/        and wandb/, where asked for
"""

from __future__ import annotations

from pathlib import Path

CONFIG = "config.json"
LOG = "log.jsonl"
MODEL = "model.safetensors"
"""A model by itself has this name in its folder, too."""

STEPS = "step-*"
"""Pattern of the checkpoints in their folder; sorted by name they are in order of their steps."""
TRAINEE = "trainee.safetensors"
"""In a checkpoint: weights of the model and the objectives, as they are trained."""
EMA = "ema.safetensors"
"""In a checkpoint: the averaged model, as a model file."""
OPTIMIZER = "optimizer.safetensors"
RANDOM = "random.safetensors"
"""In a checkpoint: the global generators, from which libraries draw."""
INTERVAL = "interval.safetensors"
"""In a checkpoint: sums since the last logged step."""
STATE = "state.json"
"""In a checkpoint: what is no tensor, and the other files' hashes."""


class RunFolder:
    """Paths of a run's files. None need be there; nothing is read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / CONFIG
        self.manifest = path / "manifest.json"
        self.log = path / LOG
        self.end = path / "end.json"
        self.lock = path / "lock"
        self.model = path / MODEL
        self.checkpoints = path / "checkpoints"
        self.samples = path / "samples"
        self.tensorboard = path / "tensorboard"

    def checkpoint(self, step: int) -> Path:
        """The folder of a step's checkpoint."""
        return self.checkpoints / step_name(step)

    def sample(self, step: int) -> Path:
        """The picture of a step's samples."""
        return self.samples / f"{step_name(step)}.png"

    def nonfinite(self, step: int) -> Path:
        """The rows of a batch that gave something that is not finite."""
        return self.path / f"nonfinite-{step}.json"

    def leftovers(self) -> list[Path]:
        """Files and folders that a run left beside its weights; what others put into its folder is not among them."""
        own = (self.manifest, self.log, self.end, self.samples, self.tensorboard, self.checkpoints, self.config)
        return [*self.path.glob("nonfinite-*.json"), *(path for path in own if path.exists())]

    def weights(self) -> list[Path]:
        """Files in which the model may be, the finished one first, then the averages, the newest first."""
        return [self.model, *sorted(self.checkpoints.glob(f"{STEPS}/{EMA}"), reverse=True)]


def step_name(step: int) -> str:
    """The name of what belongs to a step; zeros before it put the names in the order of the steps."""
    return f"step-{step:08d}"
