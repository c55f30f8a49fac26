"""How a model is trained, as data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from .errors import ConfigError
from .kinds import Betas, Config, ObjectiveConfig, SourceConfig
from .models import CodecModelConfig, GeneratorConfig, PartName, TokenizerConfig, continuous, read_model
from .slots import Slot, resolve


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
    """Whether it may lack some of a part's tensors, which then start random or come from another model; the manifest
    lists those that do start random. What it has must still fit."""


class RunConfig(Config):
    """A training run: data, objectives, optimisation, bookkeeping."""

    data: Slot[SourceConfig]
    """Training images."""
    objectives: tuple[Slot[ObjectiveConfig], ...] | None = None
    """Losses beside the model's own; not given: the decoder's usual ones."""
    init: tuple[InitConfig, ...] = ()
    """Models that weights are taken from before the first step, in order; the rest starts random."""
    freeze: tuple[str, ...] = ()
    """Parts that do not learn, or modules within them by dotted name: `encoder`, `decoder.blocks.0`."""
    steps: int = Field(1000, ge=1)
    """Optimizer steps."""
    batch_size: int = Field(64, ge=1)
    """Images a step, over all accumulated parts."""
    accumulate: int = Field(1, ge=1)
    """Parts that a step's batch is split into; gradients are averaged over samples, so this changes memory only."""
    lr: float = Field(1e-3, gt=0)
    """Peak learning rate."""
    final_lr: float = Field(0.0, ge=0)
    """Learning rate that the cosine ends at."""
    warmup: int = Field(100, ge=0)
    """Steps of linear warm-up."""
    betas: Betas = (0.9, 0.99)
    """AdamW's moment decays."""
    weight_decay: float = Field(0.0, ge=0)
    """Decay of linear and convolution weights; norms, biases, embeddings and tokens are never decayed."""
    clip: float = Field(1.0, gt=0)
    """Largest global gradient norm."""
    ema: float = Field(0.999, ge=0, lt=1)
    """Decay of the weight average that is exported; warmed up as min(ema, (1+s)/(10+s)). 0 exports the raw weights."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Autocast precision of forward passes; weights and optimizer stay fp32."""
    keep_latents: bool = False
    """Encode each image once with the frozen codec and keep its latents in memory (4 bytes a value, for all images).
    A codec that draws then draws once for each image. Images must be the same each time: no `flip`, no `shift`."""
    latents: str | None = None
    """The folder that `flexframe precompute latents` filled from `data`, which is then not read; with `precompute
    features`, features for objectives too. Of a codec that draws, its moments are there, and each step draws anew."""
    keep_tokens: bool = False
    """Of a prior: tokenize each image once and keep its codes in memory. Images must be the same each time."""
    tokens: str | None = None
    """Of a prior: the file that `flexframe precompute tokens` made of `data`, which is then not read."""
    held_out: int = Field(0, ge=0)
    """Of a prior: so many of the data's last rows are not trained on, and their loss is logged as `held_out`."""
    compile: bool = False
    """Compile the model's blocks with torch.compile."""
    checkpoint_activations: bool = False
    """Keep of each block's activations its input alone, and compute the rest again in the backward pass: less memory,
    about a third more time, the same numbers."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """Of several processes (torchrun): whether each holds the whole model (ddp), or a shard of weights, gradients,
    average and optimizer (fsdp). The numbers and the checkpoints are the same."""
    timeout: float = Field(600.0, gt=0)
    """Of several processes: seconds without progress after which the run ends and names who is missing."""
    nonfinite: Literal["stop", "skip"] = "stop"
    """A loss or gradient that is not finite ends the run at its next log line or checkpoint and tells the step, or its
    step is skipped and counted."""
    overfit_batch: bool = False
    """Train on the first batch alone: its loss must fall far, or something is broken. The draws go on changing."""
    flip: bool = False
    """Mirror each image with probability 1/2."""
    shift: int = Field(0, ge=0)
    """Move each image by up to this many pixels along each axis, edges repeated."""
    workers: int = Field(0, ge=0)
    """Loader processes; 0 loads in the main one."""
    preload: bool = False
    """Hold the whole data set on the device, 8 bits a value: read once, and no loader at work afterwards. The batches
    and the numbers are the same."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of weights, data order and every draw."""
    log_every: int = Field(50, ge=1)
    """Steps between log lines."""
    sample_every: int = Field(0, ge=0)
    """Steps between pictures of what the averaged weights make of a few images, at 1, 2, 4, ... tokens, in
    `<run>/samples`; 0 for none. Training does not notice."""
    sample_count: int = Field(4, ge=1)
    """Images on such a picture: the first ones of the data."""
    tensorboard: bool = False
    """Write what is logged, and samples, for TensorBoard too: `pip install 'flexframe[tensorboard]'`."""
    wandb: str | None = None
    """A project of W&B, for which what is logged is written to `<run>/wandb`, offline: `pip install
    'flexframe[wandb]'`, and `wandb sync` when it is to be seen there."""
    checkpoint_every: int = Field(1000, ge=1)
    """Steps between checkpoints; the last step always has one."""
    keep: int = Field(2, ge=1)
    """Checkpoints kept; older ones are deleted."""

    @field_validator("init", mode="before")
    @classmethod
    def _one_init(cls, value: Any) -> Any:
        given = (value,) if isinstance(value, (str, Mapping)) else value
        return tuple({"from": v} if isinstance(v, str) else v for v in given) if isinstance(given, Iterable) else given

    @model_validator(mode="after")
    def _splits(self) -> RunConfig:
        if self.batch_size % self.accumulate:
            raise ConfigError.at("accumulate", f"{self.accumulate} does not divide batch_size {self.batch_size}")
        return self

    @model_validator(mode="after")
    def _latents_stay(self) -> RunConfig:
        if self.keep_latents and (self.flip or self.shift):
            raise ConfigError.at("keep_latents", "holds one picture an image; leave it out, or `flip` and `shift`")
        if self.latents is not None and (self.flip or self.shift):
            text = "holds pictures as they were; leave out `flip` and `shift`, or precompute several `crops` of each"
            raise ConfigError.at("latents", text)
        if self.latents is not None and (self.keep_latents or self.preload):
            raise ConfigError.at("latents", "reads no images: leave out `keep_latents` and `preload`")
        return self


class TrainConfig(Config):
    """What `flexframe train` runs: a tokenizer or a prior, and how it is trained. Checked together."""

    model: TokenizerConfig | GeneratorConfig
    run: RunConfig

    @field_validator("model", mode="before")
    @classmethod
    def _read_model(cls, value: Any) -> Any:
        found = read_model(value) if isinstance(value, Mapping) else value
        if isinstance(found, CodecModelConfig):
            raise ConfigError.at(
                "", "is a codec by itself; train it as a tokenizer, which has an encoder and a decoder"
            )
        return found

    @model_validator(mode="after")
    def _fields_fit(self) -> TrainConfig:
        """Settings of the run that are another kind of model's are refused, not ignored."""
        run, prior = self.run, isinstance(self.model, GeneratorConfig)
        given: dict[str, Any]
        if prior:
            given = {"objectives": run.objectives, "init": run.init, "keep_latents": run.keep_latents,
                     "latents": run.latents, "sample_every": run.sample_every}  # fmt: skip
            why = "is a tokenizer's, and this trains a prior, which has its own loss and starts random; leave it out"
        else:
            given = {"tokens": run.tokens, "keep_tokens": run.keep_tokens, "held_out": run.held_out}
            why = "is a prior's, and this trains a tokenizer; leave it out"
        wrong = [(f"run.{name}", why) for name, value in given.items() if value]
        same = "tokens" if run.tokens is not None else "keep_tokens" if run.keep_tokens else ""
        if same and (run.flip or run.shift):
            wrong.append((f"run.{same}", "holds one sequence an image; leave it out, or `flip` and `shift`"))
        if run.tokens is not None and run.keep_tokens:
            wrong.append(("run.keep_tokens", "keeps what run.tokens has already; leave one of them out"))
        if wrong:
            raise ConfigError(wrong)
        return self

    @model_validator(mode="after")
    def _codes_fit(self) -> TrainConfig:
        """A prior's codes are its tokenizer's, as far as that can be told without building it."""
        model = self.model
        if not isinstance(model, GeneratorConfig):
            return self
        if model.tokenizer is None:
            if model.fingerprint is None or self.run.tokens is None:
                text = "name the tokenizer whose codes the prior models; or its fingerprint, with run.tokens"
                raise ConfigError.at("model.tokenizer", text)
            return self
        return self

    @model_validator(mode="after")
    def _objectives_fit(self) -> TrainConfig:
        if not isinstance(self.model, TokenizerConfig):
            return self
        decoder = self.model.decoder
        for i, objective in enumerate(self.objectives):
            lacking = sorted(objective.needs() - decoder.provides())
            if lacking:
                offers = ", ".join(sorted(decoder.provides())) or "nothing"
                text = f"needs {', '.join(lacking)}, which decoder {decoder.type!r} does not provide (it has: {offers})"
                raise ConfigError.at(f"run.objectives.{i}", f"objective {objective.type!r} {text}")
            try:
                objective.check(self.model.spec)
            except ValueError as error:
                text = f"objective {objective.type!r}: {error}"
                raise ConfigError.at(f"run.objectives.{i}", text) from None
        return self

    @property
    def objectives(self) -> tuple[ObjectiveConfig, ...]:
        """The run's objectives, or the decoder's usual ones where the run names none."""
        if self.run.objectives is not None:
            return self.run.objectives
        if not isinstance(self.model, TokenizerConfig):
            return ()
        return tuple(resolve("objective", name) for name in self.model.decoder.usual_objectives())


def check_codes(model: GeneratorConfig, tokenizer: TokenizerConfig, name: str) -> None:
    """Raise `ConfigError` unless a prior's codes are such as a tokenizer gives: as many in a token, of as many values,
    and no longer a sequence. `name` is the tokenizer's, which need not be the one that the prior names."""
    tokens, problems = tokenizer.spec.tokens, []
    if tokens.codebook_size is None:
        raise ConfigError.at("model.tokenizer", continuous(name, tokenizer))
    if model.length > tokens.length:
        problems.append(("model.length", f"is {model.length}; {name} has at most {tokens.length} tokens"))
    for field in ("codebook_size", "codebooks"):
        own, theirs = getattr(model, field), getattr(tokens, field)
        if own != theirs:
            problems.append((f"model.{field}", f"is {own}; that of {name} is {theirs}"))
    if problems:
        raise ConfigError(problems)
