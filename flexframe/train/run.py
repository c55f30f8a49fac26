"""A training run: its folder, its parts, and how they are saved and resumed.

<run>/config.json      the resolved config          <run>/manifest.json    versions, commit, seed, command
<run>/log.jsonl        one line a logged step       <run>/checkpoints/     step-NNNNNNNN/, the last few
<run>/model.safetensors   the finished model, averaged weights
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flexframe import loading, provenance
from flexframe.tokenizer import Tokenizer
from flexframe_registry import ConfigError, TrainConfig, manager

from . import checkpoint
from .feed import create_feed
from .init import initialise
from .optim import Average, create_optimizer
from .trainee import create_trainee


class Run:
    """Everything that a training step reads or writes. Built fresh, or resumed from its last whole checkpoint."""

    def __init__(
        self,
        config: TrainConfig,
        folder: Path,
        device: torch.device,
        sampling: Mapping[str, Any],
        *,
        initial: bool = True,
    ) -> None:
        self.folder, self.device, self.sampling = folder, device, dict(sampling)
        self.step = 0
        self.feed = create_feed(config, device)
        self.config = config = self.feed.config
        torch.manual_seed(config.run.seed)  # initial weights, and draws inside libraries
        trainee = create_trainee(config)
        model = trainee.model
        self.taken = initialise(model, config.run.init) if initial and isinstance(model, Tokenizer) else []
        self.trainee = trainee.to(device)
        self.optimizer = create_optimizer(self.trainee, config.run)
        self.average = Average(self.trainee.model, config.run.ema)
        if config.run.compile:
            self._compile_blocks()
        self.hooks = manager().hook

    @classmethod
    def create(cls, config: TrainConfig, folder: Path, device: torch.device, sampling: Mapping[str, Any]) -> Run:
        """A fresh run in a folder that holds none yet."""
        if (folder / "config.json").exists():
            raise ConfigError(
                [(str(folder), "holds a run already; go on with --resume, or name another folder with -o")]
            )
        run = cls(config, folder, device, sampling)
        folder.mkdir(parents=True, exist_ok=True)
        resolved = {**run.config.model_dump(mode="json"), "sampling": run.sampling}
        (folder / "config.json").write_text(json.dumps(resolved, indent=1))
        facts = provenance.manifest(device, seed=config.run.seed, parameters=run.parameters(), init=run.taken,
                                    objectives=run.trainee.facts())  # fmt: skip
        (folder / "manifest.json").write_text(json.dumps(facts, indent=1))
        return run

    @classmethod
    def resume(cls, folder: Path, device: torch.device) -> Run:
        """The run of a folder, at its last whole checkpoint, or at its beginning if it has none yet."""
        if not (folder / "config.json").is_file():
            raise ConfigError([(str(folder), "holds no run to resume; there is no config.json")])
        raw = json.loads((folder / "config.json").read_text())
        sampling = raw.pop("sampling", {})
        last = checkpoint.read_last(folder / "checkpoints")
        config = TrainConfig.read(raw, str(folder / "config.json"))
        run = cls(config, folder, device, sampling, initial=last is None)
        if last is not None:
            run.trainee.load_state_dict(last.tensors["trainee.safetensors"])
            run.average.load(last.tensors["ema.safetensors"])
            checkpoint.load_optimizer(run.optimizer, last.tensors["optimizer.safetensors"])
            set_random_state(last.tensors["random.safetensors"])
            run.step = last.state["step"]
        run._forget_after(run.step)
        return run

    def save(self) -> Path:
        """Write a checkpoint of this step."""
        files = {
            "trainee.safetensors": contiguous(self.trainee.state_dict()),
            "ema.safetensors": self.export,
            "optimizer.safetensors": checkpoint.optimizer_tensors(self.optimizer),
            "random.safetensors": random_state(),
        }
        path = checkpoint.write(self.folder / "checkpoints", self.step, files, {}, self.config.run.keep)
        self.hooks.flexframe_checkpoint_saved(run=self, path=path)
        return path

    def export(self, path: Path) -> None:
        """Write the averaged model as a model file."""
        state = self.average.state if self.config.run.ema else self.trainee.model.state_dict()
        about = {"step": self.step, "run": self.config.run.model_dump(mode="json"), "commit": provenance.commit()}
        way = self.config.run.data.way()
        about |= {"preprocessing": {"resize": way}} if way is not None else {}
        loading.save(state, self.config.model, path, sampling=self.sampling, about=about)

    def parameters(self) -> dict[str, int]:
        """Parameters for use, by part."""
        return {name: sum(p.numel() for p in part.parameters()) for name, part in self.trainee.model.named_children()}

    def log(self, line: Mapping[str, Any]) -> None:
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def _forget_after(self, step: int) -> None:
        """Drop log lines of steps that a kill undid, so that no step stands twice."""
        path = self.folder / "log.jsonl"
        if path.is_file():
            lines = [line for line in path.read_text().splitlines() if _step_of(line) <= step]
            path.write_text("".join(line + "\n" for line in lines))

    def _compile_blocks(self) -> None:
        for module in self.trainee.model.modules():
            if isinstance(module, nn.ModuleList):
                for block in module:
                    block.compile()


def contiguous(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().contiguous() for name, value in state.items()}


def random_state() -> dict[str, Tensor]:
    """The global generators, from which libraries draw."""
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), **{f"cuda.{i}": state for i, state in enumerate(devices)}}


def set_random_state(state: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    for i in range(torch.cuda.device_count()):
        if f"cuda.{i}" in state:
            torch.cuda.set_rng_state(state[f"cuda.{i}"], i)


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return float("inf")  # a line cut short by the kill
