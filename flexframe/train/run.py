"""A training run: its folder, its parts, and how they are saved and resumed. Its files are named in `RunFolder`."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flexframe import provenance, threads
from flexframe.files import drop_parts, write_json, write_text
from flexframe.lock import Lock
from flexframe.models import modelfile
from flexframe.models.build import not_finite, told
from flexframe.train import checkpoint, history, sharding
from flexframe.train.alarms import ALARMS, Alarms
from flexframe.train.continued import Changes, asked, changes, clear, record, refuse_kept, refuse_taken, with_settings
from flexframe.train.distributed import ALONE, Processes
from flexframe.train.feeds.create import create_feed
from flexframe.train.gradients import Gradients
from flexframe.train.init import following, read_starts
from flexframe.train.observer import Observer
from flexframe.train.optim import Average, create_optimizer
from flexframe.train.random_state import _prefix, random_state, set_random_state
from flexframe.train.tally import Tally, Usage
from flexframe.train.trainee import create_trainee
from flexframe_registry import (
    ConfigError,
    ObserverConfig,
    OptimizerConfig,
    RunConfig,
    TrainConfig,
    catalogue,
    lost,
    manager,
)
from flexframe_registry.cards import read_training
from flexframe_registry.doubts import Problems, check, doubts
from flexframe_registry.files import read_json
from flexframe_registry.runfolder import CONFIG, EMA, INTERVAL, OPTIMIZER, RANDOM, TRAINEE, RunFolder


class Run:
    """Everything that a training step reads or writes. Built fresh, or resumed from its last whole checkpoint.

    With several processes each has its own; the first one's writes the files.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: Path,
        device: torch.device,
        sampling: Mapping[str, Any],
        *,
        initial: bool = True,
        processes: Processes = ALONE,
    ) -> None:
        self.last: dict[str, Any] = {}
        """The last line logged."""
        self.folder, self.paths = folder, RunFolder(folder)
        self.device, self.sampling, self.processes = device, dict(sampling), processes
        self.lock = Lock.of_run(folder)
        self.step = 0
        self.feed = create_feed(config, device, processes.share)
        self.data = self.feed.inventory() if processes.first else {}
        """The inventory of its data, in the first process."""
        self.changes = Changes()
        """What a resumed run was given anew, or has otherwise than before."""
        starts = read_starts(config.run.init) if initial else []
        self.config = config = following(self.feed.training, starts)
        torch.manual_seed(config.run.seed)  # initial weights, and draws inside libraries
        self.trainee = trainee = create_trainee(config)
        model = trainee.model
        self.taken = trainee.initialise(starts) if initial else []
        if initial:
            self.feed.attach(trainee, check=True)
        trainee.to(device)
        threads.use(config.run.threads, trainee)
        if config.run.checkpoint_activations:
            sharding.recompute(model)
        if config.run.compile:
            sharding.compiled(model)
        self.trained: nn.Module = trainee
        """The trainee, or its wrapper: called in training."""
        if processes.first:
            self.note(None)  # before the others go on: one may fail at its first batch, and say so
        if processes.size > 1:
            self.trained = sharding.spread(trainee, config.run, device)
            torch.manual_seed(config.run.seed + processes.rank)  # rows of other processes have dropout of their own
        self.optimizer = create_optimizer(trainee, config.run)
        self.gradients = Gradients(trainee, config.run.optimizer.clip, device)
        self.average = Average(model, config.run.ema)
        self.tally = Tally(device, processes, config.run.nonfinite == "skip")
        self.usage = Usage(trainee.codebooks, device, processes)
        self.alarms = Alarms(config)
        """Alarms of its log, which the first process keeps."""
        self.failed_plugins: set[str] = set()
        """Plugins whose hooks raised, which are told no more."""
        self.observers: list[Observer[Any]] = []
        """Observers that are told of it, from `begin` to `end`."""

    @classmethod
    def create(
        cls,
        config: TrainConfig,
        folder: Path,
        device: torch.device,
        sampling: Mapping[str, Any],
        processes: Processes = ALONE,
        doubted: Problems | None = None,
        expected: str | None = None,
        accept: bool = False,
    ) -> Run:
        """A fresh run in a folder that holds none yet, or one that ended before its first checkpoint, whose place it
        takes. `close` it, if it is not trained.

        Args:
            doubted: doubts about it, for its manifest; None for those that the config raises by itself.
            expected: the card whose curve it can be held against, for its manifest.
            accept: take tokens, latents or features of images that have changed since.

        Raises:
            ConfigError: the folder holds a run or is in use, a package is missing, data and model do not fit, the model
                cannot learn, it has no such settings of use, or there are doubts and the run is strict.
        """
        doubted = doubts(config) if doubted is None else doubted
        check(config, doubted)
        check_packages(config.run)
        config.model.check_sampling(sampling, "sampling")
        lock = Lock.of_run(folder)
        if processes.first:
            lock.take()  # before it is looked into: another process may be at the same command
        given = asked(config, sampling)
        try:
            if processes.first:
                refuse_taken(RunFolder(folder))
            run = cls(config, folder, device, sampling, processes=processes)
            run._refuse_outdated(accept)
        except BaseException:
            lock.release()
            raise
        run.lock = lock
        if not processes.first:
            return run
        clear(run.paths)
        facts = provenance.manifest(device, seed=config.run.seed, parameters=run.parameters(), init=run.taken,
                                    processes=processes.size, objectives=run.trainee.facts(), expected=expected,
                                    data=run.data, asked=given,
                                    doubts=[f"{path}: {text}" for path, text in doubted])  # fmt: skip
        write_json(run.paths.manifest, facts)
        write_json(run.paths.config, run.resolved())  # last: with it, the folder is a run's
        return run

    @classmethod
    def resume(
        cls,
        folder: Path,
        device: torch.device,
        processes: Processes = ALONE,
        settings: Sequence[str] = (),
        accept: bool = False,
    ) -> Run:
        """The run of a folder, at its last whole checkpoint, or at its beginning if it has none yet. By as many
        processes as before or others. `close` it, if it is not trained.

        Args:
            settings: `key.path=value` that it goes on with: more steps, another place of its data, and the like.
            accept: go on where the config or the data are not those of the checkpoint.

        Raises:
            ConfigError: the folder holds no run, another process trains there, a package is missing, or the run would
                go on as another one.
        """
        paths = RunFolder(folder)
        if not paths.config.is_file():
            raise ConfigError.at(str(folder), f"holds no run to resume; there is no {CONFIG}")
        lock = Lock.of_run(folder)
        if processes.first:
            lock.take()  # before anything is read that another process may be writing
            drop_parts(folder)
        try:
            run = cls._resumed(paths, device, processes, settings, accept)
        except BaseException:
            lock.release()
            raise
        run.lock = lock
        return run

    @classmethod
    def _resumed(
        cls, paths: RunFolder, device: torch.device, processes: Processes, settings: Sequence[str], accept: bool
    ) -> Run:
        raw = _config(paths.config)
        sampling = raw.pop("sampling", {})
        last = processes.told(checkpoint.find_last(paths.checkpoints) if processes.first else None)
        with lost.named(paths.path):
            config = read_training(raw, str(paths.config))
            if settings:
                before, config = config, read_training(with_settings(raw, settings))
                refuse_kept(before, config)
        check_packages(config.run)
        config.model.check_sampling(sampling, f"{paths.config}.sampling")
        run = cls(config, paths.path, device, sampling, initial=last is None, processes=processes)
        if last is None:
            run._refuse_outdated(accept)
        else:
            held = checkpoint.read(last)
            run._agree(held.state, accept)
            run._restore(held)
            run.feed.attach(run.trainee, check=processes.size == 1)  # elsewhere it may be in shards
        if processes.first:
            if settings or run.changes.told:
                write_json(paths.config, run.resolved())
            run._forget_after(run.step)
            run.alarms.read(history.log(paths.path))
        return run

    def resolved(self) -> dict[str, Any]:
        """The config as its folder holds it."""
        return {**self.config.model_dump(mode="json"), "sampling": self.sampling}

    def _refuse_outdated(self, accept: bool) -> None:
        _refuse(self.processes.told(list(self.feed.outdated()) if self.processes.first else []), "run.feed", accept)

    def _agree(self, state: Mapping[str, Any], accept: bool) -> None:
        """See that this run is the one that a checkpoint's state is of; take down in the manifest what is another.

        Raises:
            ConfigError: it is not, or more steps are done than it is to have.
        """
        steps, done = self.config.run.steps, state["step"]
        if steps < done:
            raise ConfigError.at("run.steps", f"is {steps}, and {done} are done; give {done} or more")
        found = changes(state.get("rests_on", {}), self._rests_on, self.config) if self.processes.first else Changes()
        self.changes = found = self.processes.told(found)
        _refuse(found.others, str(self.folder), accept)
        if self.processes.first and found.told:
            facts = read_json(self.paths.manifest) if self.paths.manifest.is_file() else {}
            facts["resumed"] = [*facts.get("resumed", ()), {"step": done, "changed": found.told, "data": self.data}]
            write_json(self.paths.manifest, facts)

    @cached_property
    def _rests_on(self) -> dict[str, Any]:
        """For its checkpoints; objectives may hash a teacher's weights for it."""
        return record(self.config, self.data, self.trainee.facts())

    def close(self) -> None:
        """Leave the folder to others."""
        self.lock.release()

    def save(self) -> Path:
        """Write a checkpoint of this step: the first process does, all of them call this.

        Raises:
            FloatingPointError: a weight, its average or the optimizer's state is not finite; nothing is written.
            OSError: the disk does not take it.
        """
        first = self.processes.first
        averaged = self.exported()
        facts, counted = self.tally.state()
        weights = {
            TRAINEE: sharding.gathered(self.trainee.state_dict(), first),
            OPTIMIZER: checkpoint.optimizer_tensors(self.optimizer, first),
        }
        self._see_finite({**weights, EMA: averaged})
        files = {
            **weights,
            EMA: lambda path: self._write(averaged, path),
            RANDOM: self._random_states(),
            INTERVAL: counted | self.usage.state(),
        }
        path = self.paths.checkpoint(self.step)
        if first:
            state = {"interval": facts, "processes": self.processes.size, "finite": True, "rests_on": self._rests_on}
            checkpoint.write(self.paths.checkpoints, self.step, files, state, self.config.run.keep)
            self.tell("flexframe_checkpoint_saved", path=path)
        return path

    def _see_finite(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Raise `FloatingPointError`, in all processes, where what the first one is about to save is not finite."""
        wrong = [f"{name} of {file}" for file, state in tensors.items() for name in not_finite(state)]
        wrong = self.processes.told(wrong)
        if wrong:
            text = f"after step {self.step}, {told(wrong)}: no checkpoint is saved"
            advice = "try a lower run.optimizer.lr"
            raise FloatingPointError(f"{text}; the last whole one is in {self.paths.checkpoints}; {advice}")

    def exported(self) -> dict[str, Tensor]:
        """The averaged model's whole tensors, on the first process."""
        state = self.average.state if self.config.run.ema else self.trainee.model.state_dict()
        return sharding.gathered(state, self.processes.first)

    def export(self, path: Path) -> None:
        """Write the averaged model as a model file: the first process does, all of them call this."""
        state = self.exported()
        if self.processes.first:
            self._write(state, path)

    def _write(self, state: Mapping[str, Tensor], path: Path) -> None:
        about = {"step": self.step, "run": self.config.run.model_dump(mode="json"), "commit": provenance.commit()}
        way = self.config.run.data.way()
        about |= {"preprocessing": {"resize": way}} if way is not None else {}
        modelfile.save(state, self.config.model, path, sampling=self.sampling, about=about)

    def _restore(self, last: checkpoint.Checkpoint) -> None:
        own, given = self.trainee.state_dict(), last.tensors[TRAINEE]
        checkpoint.refuse_other(own, given, self.paths.config)
        shards = {name: sharding.like(value, own[name]) if name in own else value for name, value in given.items()}
        self.trainee.load_state_dict(shards)
        self.average.load(last.tensors[EMA])
        checkpoint.load_optimizer(self.optimizer, last.tensors[OPTIMIZER])
        before = last.state.get("processes", 1)
        if before != self.processes.size and self.processes.first:
            text = f"{before} processes wrote this checkpoint, {self.processes.size} go on with it"
            warnings.warn(f"{text}: draws inside libraries (dropout, revived codes) are others", stacklevel=3)
        prefix = _prefix(self.processes.rank)
        states = last.tensors[RANDOM]
        own_states = {n.removeprefix(prefix): s for n, s in states.items() if n.startswith(prefix)}
        set_random_state(own_states, self.device)
        interval = last.tensors.get(INTERVAL, {})
        self.tally.load(last.state.get("interval"), interval)
        self.usage.load(interval)
        self.step = last.state["step"]

    def _random_states(self) -> dict[str, Tensor]:
        """The global generators of all processes, from which libraries draw."""
        states = self.processes.gathered(random_state(self.device))
        return {_prefix(rank) + name: value for rank, state in enumerate(states) for name, value in state.items()}

    def parameters(self) -> dict[str, int]:
        """Parameters for use, by part."""
        return {name: sum(p.numel() for p in part.parameters()) for name, part in self.trainee.model.named_children()}

    def log(self, line: Mapping[str, Any]) -> None:
        """Add a line to the run's log.

        Raises:
            OSError: the disk does not take it.
        """
        self.last = dict(line)
        path = self.paths.log
        try:
            with path.open("a") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            text = f"{path} could not be written ({error.strerror or error}); make room, and go on with --resume"
            raise OSError(text) from error

    def note(self, state: str | None, why: str = "") -> None:
        """Say beside the log how training ended, for `flexframe runs`; None while it goes on. The first process says
        so, and any that failed: what the others then meet is that it is gone."""
        if not self.processes.first and state != "failed":
            return
        path = self.paths.end
        with suppress(OSError):  # of a full disk the checkpoint's own error tells
            if state is None:
                path.unlink(missing_ok=True)
            else:
                end = {"state": state, "step": self.step, "why": why}
                write_json(path, {**end, ALARMS: self.alarms.told} if self.alarms.told else end)

    def failed(self) -> str | None:
        """The reason that another process has noted since training began, if one failed."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            end = json.loads(self.paths.end.read_text(encoding="utf-8"))
            return str(end["why"]) if end["state"] == "failed" else None
        return None

    def broken_off(self, why: str) -> None:
        """Note that the process ends where it stands."""
        self.note("failed", why)
        self.close()

    def begin(self) -> None:
        """Tell plugins and the config's observers, in the first process, that training begins."""
        self.tell("flexframe_run_start")
        for config in self.config.run.observers:
            observer: Observer[Any] = catalogue().build(config)
            self.observers.append(observer)
        self.observed(lambda each: each.start(self.paths, self.step, self.config))

    def tell(self, hook: str, **about: Any) -> None:
        """Call a hook of the plugins; one that raises is named, and told no more of this run."""
        manager().observe(hook, self.failed_plugins, run=self, **about)

    def observed(self, tell: Callable[[Observer[Any]], None]) -> None:
        """Tell the observers something. One that raises is named, and told no more: the run goes on without it.

        Raises:
            ConfigError: an observer's, of its settings.
        """
        for observer in list(self.observers):
            try:
                tell(observer)
            except ConfigError:
                raise
            except (Exception, SystemExit) as error:
                self.observers.remove(observer)
                kind = observer.config.type
                who = f"observer {kind!r} of {catalogue().get('observer', kind).provider}"
                text = f"{who} failed after step {self.step} ({type(error).__name__}: {error})"
                warnings.warn(f"{text}; the run goes on without it", stacklevel=3)

    def end(self, state: str, why: str) -> None:
        """Note how training ended, and tell the observers."""
        self.note(state, why)
        self.observed(lambda each: each.end(state, why))

    def _forget_after(self, step: int) -> None:
        """Drop log lines of steps that a kill undid, so that no step stands twice."""
        path = self.paths.log
        if path.is_file():
            before = path.read_text(errors="replace")
            lines = ((text, history.line_of(text)) for text in before.splitlines())
            after = "".join(text + "\n" for text, line in lines if line is not None and line["step"] <= step)
            if after != before:
                write_text(path, after)


def _refuse(changed: Sequence[str], place: str, accept: bool) -> None:
    """Raise `ConfigError` for what has changed, unless the user accepts it."""
    if changed and not accept:
        text = "put back what was there, or begin another run; --accept-changes goes on all the same"
        raise ConfigError.at(place, f"{'; '.join(changed)}. {text[0].upper()}{text[1:]}")


def check_packages(run: RunConfig) -> None:
    """See that what a run's components import is installed.

    Raises:
        ConfigError: a package is not, and how to install it.
    """
    named: list[tuple[str, ObserverConfig | OptimizerConfig]] = [("run.optimizer", run.optimizer)]
    named += [(f"run.observers.{i}", each) for i, each in enumerate(run.observers)]
    for place, each in named:
        for package, words in each.packages.items():
            if find_spec(package) is None:
                text = f"{each.type!r} needs the package {package}: pip install {words}, or leave it out"
                raise ConfigError.at(place, text)


def timeout(folder: Path, settings: Sequence[str] = ()) -> float:
    """The `run.timeout` of a run that goes on with these settings; 600 where it is not there, or does not say."""
    path = RunFolder(folder).config
    run = with_settings(_config(path), settings).get("run", {}) if path.is_file() else {}
    return float(run.get("timeout", 600.0))


def _config(path: Path) -> dict[str, Any]:
    """A run's config as it was written."""
    return read_json(path, "it was written whole when the run began, so put that one back", edit=True)
