"""Configs of training: a run, and the model that it trains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationInfo, field_validator, model_validator

from .config import ANEW, Config, Precision
from .errors import ConfigError, nearest
from .kinds import (
    ENCODER,
    DecoderConfig,
    EncoderConfig,
    FeedConfig,
    ObjectiveConfig,
    ObserverConfig,
    OptimizerConfig,
    SourceConfig,
    TransformConfig,
)
from .manager import catalogue
from .models import (
    MODELS,
    GeneratorConfig,
    ModelConfig,
    ModelKind,
    PartName,
    TokenizerConfig,
    kind_by_keys,
    read_model,
)
from .moved import moved
from .slots import Slot, resolve
from .spellings import present


class InitConfig(Config):
    """Weights to start from: another model's, whole or by part."""

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True, validate_by_alias=True)

    source: str = Field(alias="from")
    """The model, as `flexframe.load` takes it: a card, a file, a run's folder, a published checkpoint."""
    parts: tuple[PartName, ...] | None = None
    """Parts that are taken; not given: all that it has."""
    rename: dict[str, str] = {}
    """Beginnings of tensor names there, and what they are here."""
    partial: bool = False
    """Allow it to lack some of a part's tensors, which then start random or come from another model; the manifest
    lists those that do start random. What it has must still fit."""


class RunConfig(Config):
    """A training run: data, objectives, optimisation, bookkeeping.

    What belongs to one way of doing a thing is in the component that does it: `feed`, `transforms`, `optimizer`,
    `observers`. Earlier spellings are in `spellings.py`.
    """

    data: Slot[SourceConfig]
    """Training images."""
    feed: Slot[FeedConfig] = Field(default="images", validate_default=True)
    """The way in which the data come to the model; not given: `images` for a tokenizer, `tokens` for a prior."""
    transforms: tuple[Slot[TransformConfig], ...] = ()
    """Changes of each image before it is used, in order, drawn anew at each step."""
    objectives: tuple[Slot[ObjectiveConfig], ...] | None = None
    """Losses beside the model's own; not given: the decoder's usual ones."""
    init: tuple[InitConfig, ...] = ()
    """Models that weights are taken from before the first step, in order; the rest starts random."""
    freeze: tuple[str, ...] = ()
    """Parts that do not learn, or modules within them by dotted name: `encoder`, `decoder.blocks.0`."""
    steps: int = Field(1000, ge=1, json_schema_extra=ANEW)
    """Optimizer steps."""
    batch_size: int = Field(64, ge=1)
    """Images a step, over all accumulated parts."""
    accumulate: int = Field(1, ge=1)
    """Parts that a step's batch is split into; gradients are averaged over samples, so this changes memory only."""
    optimizer: Slot[OptimizerConfig] = Field(default="adamw", validate_default=True)
    """Stepping of weights: learning rate, its schedule, decay, clipping, and rates by part."""
    ema: float = Field(0.999, ge=0, lt=1)
    """Decay of the weight average that is exported; warmed up as min(ema, (1+s)/(10+s)). 0 exports the raw weights."""
    precision: Precision = "fp32"
    """Autocast precision of forward passes; weights and optimizer stay fp32."""
    codec_precision: Precision = "fp32"
    """Precision in which the frozen codec encodes the images that a tokenizer trains on, here and in `flexframe
    precompute latents`. `bf16` moves latents by about a hundredth of their deviation; it is for processors with units
    for it. The model that comes out encodes in fp32."""
    compile: bool = False
    """Compile the model's blocks with torch.compile."""
    threads: int | None = Field(None, ge=1, json_schema_extra=ANEW)
    """Threads of torch on a CPU. Null: as `OMP_NUM_THREADS` says, else one for a small model, and as many as the
    machine has to spare for a large one."""
    checkpoint_activations: bool = Field(False, json_schema_extra=ANEW)
    """Keep of each block's activations its input alone, and compute the rest again in the backward pass: less memory,
    about a third more time, the same numbers."""
    parallel: Literal["ddp", "fsdp"] = Field("ddp", json_schema_extra=ANEW)
    """Division over several processes (torchrun): each holds the whole model (ddp), or a shard of weights, gradients,
    average and optimizer (fsdp). The numbers and the checkpoints are the same."""
    timeout: float = Field(600.0, gt=0, json_schema_extra=ANEW)
    """Seconds without progress after which a run ends and tells where it stood, and of several processes who is
    missing."""
    nonfinite: Literal["stop", "skip"] = "stop"
    """A loss or gradient that is not finite ends the run at its next log line or checkpoint and tells the step, or its
    step is skipped and counted."""
    strict: bool = False
    """Refuse a run that would be told a doubt before its first step (`flexframe train` prints them), and end one that
    goes wrong on its way."""
    overfit_batch: bool = False
    """Train on the first batch alone: its loss must fall far, or something is broken. The draws go on changing."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of weights, data order and every draw."""
    log_every: int = Field(50, ge=1, json_schema_extra=ANEW)
    """Steps between log lines."""
    observers: tuple[Slot[ObserverConfig], ...] = Field((), json_schema_extra=ANEW)
    """Observers of what is logged, beside the run's own log: `tensorboard`, `wandb`."""
    sample_every: int = Field(0, ge=0, json_schema_extra=ANEW)
    """Steps between pictures of what the averaged weights make of a few images, at 1, 2, 4, ... tokens, in
    `<run>/samples`; 0 for none. Training does not notice."""
    sample_count: int = Field(4, ge=1, json_schema_extra=ANEW)
    """Images on such a picture: the first ones of the data."""
    checkpoint_every: int = Field(1000, ge=1, json_schema_extra=ANEW)
    """Steps between checkpoints; the last step always has one."""
    keep: int = Field(2, ge=1, json_schema_extra=ANEW)
    """Checkpoints kept; older ones are deleted."""

    @model_validator(mode="before")
    @classmethod
    def _present(cls, data: Any) -> Any:
        """The present spellings, and a component's usual type where only its settings are given."""
        if not isinstance(data, Mapping):
            return data
        run = present(data)
        for slot, usual in USUAL.items():
            given = run.get(slot)
            if isinstance(given, Mapping) and "type" not in given:
                run[slot] = {"type": usual, **given}
        return run

    @field_validator("init", mode="before")
    @classmethod
    def _one_init(cls, value: Any) -> Any:
        given = (value,) if isinstance(value, (str, Mapping)) else value
        return tuple({"from": v} if isinstance(v, str) else v for v in given) if isinstance(given, Iterable) else given

    @field_validator("transforms", "objectives", "observers", mode="before")
    @classmethod
    def _one_component(cls, value: Any) -> Any:
        return (value,) if isinstance(value, (str, Mapping)) else value

    @model_validator(mode="after")
    def _splits(self) -> RunConfig:
        if self.batch_size % self.accumulate:
            raise ConfigError.at("accumulate", f"{self.accumulate} does not divide batch_size {self.batch_size}")
        return self

    @model_validator(mode="after")
    def _each_once(self) -> RunConfig:
        for slot, why in (("transforms", "would draw the same"), ("observers", "would write to the same place")):
            types = [each.type for each in getattr(self, slot)]
            for i, each in enumerate(types):
                if each in types[:i]:
                    raise ConfigError.at(f"{slot}.{i}", f"{each!r} is there already, and a second one {why}")
        return self

    @model_validator(mode="after")
    def _images_may_change(self) -> RunConfig:
        why = self.feed.fixed()
        if self.transforms and why is not None:
            names = " and ".join(repr(each.type) for each in self.transforms)
            raise ConfigError.at("transforms", f"feed {self.feed.type!r} {why}; leave out {names}")
        return self

    @model_validator(mode="after")
    def _shards_step(self) -> RunConfig:
        if self.optimizer.whole and self.parallel == "fsdp":
            text = f"{self.optimizer.type!r} steps whole matrices, and fsdp has pieces of them; take run.parallel=ddp"
            raise ConfigError.at("optimizer", text)
        return self


USUAL: Mapping[str, str] = {"feed": "images", "optimizer": "adamw"}
"""Components of a run that names their settings alone."""
USUAL_FEEDS: Mapping[str, str] = {"tokenizer": "images", "generator": "tokens"}
"""Feeds of runs that name none, by the kind of model."""


def with_usual_optimizer(run: Mapping[str, Any]) -> dict[str, Any]:
    """A run's plain data with the name of its optimizer, where they give its settings alone."""
    given = run.get("optimizer", {})
    return {**run, "optimizer": {"type": USUAL["optimizer"], **given}} if isinstance(given, Mapping) else dict(run)


class TrainConfig(Config):
    """A model to train, a tokenizer or a prior, and its run. Checked together."""

    kind: ModelKind = "tokenizer"
    """The kind of model; where it is not given, its config or its keys say it."""
    model: TokenizerConfig | GeneratorConfig
    run: RunConfig

    @model_validator(mode="before")
    @classmethod
    def _says_kind(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or "model" not in data:
            return data
        model = data["model"]
        kind = model.kind if isinstance(model, ModelConfig) else data.get("kind") or kind_by_keys(model)
        if kind in MODELS and MODELS[kind].trainee is None:
            text = f"is a {kind} by itself; train it as a tokenizer, which has an encoder and a decoder"
            raise ConfigError.at("model", text)
        return {**data, "kind": kind}

    @field_validator("model", mode="before")
    @classmethod
    def _read_model(cls, value: Any, info: ValidationInfo) -> Any:
        return read_model(info.data["kind"], value) if isinstance(value, Mapping) and "kind" in info.data else value

    @field_validator("run", mode="before")
    @classmethod
    def _usual_feed(cls, value: Any, info: ValidationInfo) -> Any:
        """The run with the feed that is usual for its model, where it names none."""
        usual = USUAL_FEEDS.get(str(info.data.get("kind")))
        if not isinstance(value, Mapping) or usual is None:
            return value
        run = present(value)
        given = run.get("feed", {})
        return {**run, "feed": {"type": usual, **given}} if isinstance(given, Mapping) else run

    @model_validator(mode="after")
    def _fields_fit(self) -> TrainConfig:
        """Settings of the run that are another kind of model's are refused, not ignored."""
        run, kind = self.run, self.model.kind
        wrong: list[tuple[str, str]] = []
        if isinstance(self.model, GeneratorConfig):
            given = {"objectives": run.objectives, "init": run.init, "sample_every": run.sample_every}
            why = "is a tokenizer's, and this trains a prior, which has its own loss and starts random; leave it out"
            wrong = [(f"run.{name}", why) for name, value in given.items() if value]
        if kind not in run.feed.models:
            feeds = [each for each in catalogue() if issubclass(each.config, FeedConfig) and kind in each.config.models]
            known = ", ".join(sorted(each.name for each in feeds))
            text = f"{run.feed.type!r} feeds a {' or a '.join(sorted(run.feed.models))}, and this trains a {kind}"
            wrong.append(("run.feed", f"{text}; take one of: {known}"))
        if wrong:
            raise ConfigError(wrong)
        return self

    @model_validator(mode="after")
    def _parts_learn(self) -> TrainConfig:
        """Rates are of parts that the model has, and that learn."""
        parts = self.model.parts
        for name in self.run.optimizer.parts:
            place, part = f"run.optimizer.parts.{name}", name.partition(".")[0]
            if part not in parts:
                text = f"the model has no part {part!r}.{nearest(part, parts)} It has: {', '.join(parts)}"
                raise ConfigError.at(place, text)
            still = "is frozen" if part == "codec" else "does not learn (run.freeze)" if part in self.run.freeze else ""
            if still:
                raise ConfigError.at(place, f"{part} {still}, so no rate is used; leave it out")
        return self

    @model_validator(mode="after")
    def _codes_fit(self) -> TrainConfig:
        """A prior's codes are its tokenizer's, as far as that can be told without building it."""
        model = self.model
        if not isinstance(model, GeneratorConfig):
            return self
        if model.tokenizer is None and (model.fingerprint is None or self.run.feed.tokenizes):
            text = "name the tokenizer whose codes the prior models; or its fingerprint, with the feed token-file"
            raise ConfigError.at("model.tokenizer", text)
        return self

    @model_validator(mode="after")
    def _objectives_fit(self) -> TrainConfig:
        if not isinstance(self.model, TokenizerConfig):
            return self
        decoder = self.model.decoder
        for i, objective in enumerate(self.objectives):
            lacking = sorted(objective.needs() - decoder.provides() - self.model.spec.taps.keys() - {"tokens"})
            if lacking:
                text = f"needs {', '.join(lacking)}, which {_lacks(self.model, lacking[0])}"
                raise ConfigError.at(f"run.objectives.{i}", f"objective {objective.type!r} {text}")
            self._check_shortcuts(objective, f"run.objectives.{i}")
            own = objective.stepped().model_dump(exclude_none=True)
            unknown = sorted(own.keys() - type(self.run.optimizer).model_fields.keys())
            if unknown:
                text = f"objective {objective.type!r} sets {', '.join(unknown)}, which optimizer"
                text = f"{text} {self.run.optimizer.type!r} does not have; leave it out there"
                raise ConfigError.at(f"run.objectives.{i}", text)
            try:
                objective.check(self.model.spec)
            except ValueError as error:
                text = f"objective {objective.type!r}: {error}"
                raise ConfigError.at(f"run.objectives.{i}", text) from None
        return self

    def _check_shortcuts(self, objective: ObjectiveConfig, place: str) -> None:
        """What an objective needs of the decoder's shortcuts can be made of this encoder's features."""
        assert isinstance(self.model, TokenizerConfig)
        spec, encoder = self.model.spec, self.model.encoder
        for name, (tap, (_, _, width)) in self.model.decoder.shortcuts(spec).items():
            given = spec.taps.get(f"{ENCODER}{tap}")
            if name in objective.needs() and given != width:
                has = "has no such features" if given is None else f"gives features {given} wide"
                text = f"which the decoder makes of {ENCODER}{tap}, {width} wide; encoder {encoder.type!r} {has}"
                raise ConfigError.at(place, f"objective {objective.type!r} needs {name}, {text}")

    @property
    def objectives(self) -> tuple[ObjectiveConfig, ...]:
        """The run's objectives, or the encoder's and the decoder's usual ones where the run names none."""
        if self.run.objectives is not None:
            return self.run.objectives
        if not isinstance(self.model, TokenizerConfig):
            return ()
        usual = (*self.model.encoder.usual_objectives(), *self.model.decoder.usual_objectives())
        return tuple(resolve("objective", name) for name in dict.fromkeys(usual))


def _lacks(model: TokenizerConfig, name: str) -> str:
    """The part that would have to provide something for objectives, and what it has."""
    part: EncoderConfig | DecoderConfig = model.encoder if name.startswith(ENCODER) else model.decoder
    own = model.decoder.provides() if part is model.decoder else {f"{ENCODER}{tap}" for tap in model.encoder.taps()}
    return f"{part.kind} {part.type!r} does not provide (it has: {', '.join(sorted(own)) or 'nothing'})"


__getattr__ = moved(__name__, {"flexframe_registry.suites": "SuiteConfig"})
