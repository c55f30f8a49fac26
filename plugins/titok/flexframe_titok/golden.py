"""TiTok's golden cases: tensors that the reference computed, and what a model made from its checkpoint gives for them.

A case is known by its tensors' names, not by its own. One that holds gradients or a total loss is a training step.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from flexframe.importing import ATOL, Comparison, Foreign, Settings, TensorFile, compare
from flexframe.importing.plain import read_config
from flexframe.models.build import Model, assemble
from flexframe.models.tokenizer import Tokenizer
from flexframe.testing.tables import TableRng
from flexframe.tokens import Batch, Condition, Outputs, Quantized, Tokens
from flexframe_registry import ConfigError

from .layers import layer_of, output_of
from .reference import convert, translate

INPUTS = frozenset({"images", "eps", "target_codes", "text_guidance", "keep", "z"})
LOSSES = frozenset({"total_loss", "reconstruction_loss", "mse", "quantizer_loss_zeroed"})
ENCODED = frozenset({"enc_z", "indices", "z_quantized", "mean", "logvar", "commitment_loss", "quantizer_loss"})
"""Tensors that show an encoder apart from its decoder."""
BATCHES = ("images", "indices", "z_quantized", "mean", "z_sampled")
"""Tensors of one row a sample, one of which any case has."""
DECODED = re.compile(r"(stage[12]_)?(decode_tokens_)?(logits|pixels|soft_code)(_mode|_sampled)?(?:_len(\d+))?")
"""Outputs of the decoder; `_len3` is of the first three tokens alone."""
INSIDE = re.compile(r"(enc|dec)_(\w+?)(?:_len(\d+))?")
SECOND_STAGE = 2e-4
"""Pixels of the second stage: the reference's own move by 3e-5 with the number of threads."""
GRADIENTS = 1e-3
"""Tolerance of a gradient, relative to its largest entry, and of a norm."""
LOSS = (1e-7, 1e-5)
"""Tolerances of a loss, absolute and relative."""
NOISE = 1e-5
"""Norm of a gradient, as a share of the largest, below which it may be rounding alone."""
NONE: frozenset[str] = frozenset()
UNKNOWN = "nothing here is compared with it"


def case_files(source: Foreign) -> list[Path]:
    """The golden cases beside a checkpoint."""
    return sorted((source.path if source.path.is_dir() else source.path.parent).glob("case*.safetensors"))


def compare_cases(source: Foreign, model: Model) -> Iterator[Comparison]:
    """Every tensor of every case beside a checkpoint; one that nothing here gives is a comparison that fails."""
    assert isinstance(model, Tokenizer)
    first = first_stage(source, model)
    for path in case_files(source):
        given = dict(TensorFile([path]))
        training = LOSSES & given.keys() or any(name.startswith("grad.") for name in given)
        run = quantize if "z" in given else train if training else evaluate
        yield from run(path, given, model, first)


def misfit(source: Foreign, model: Tokenizer, part: str) -> float | None:
    """The largest relative error in what shows this part of a model; None where no case shows it."""
    first, errors = first_stage(source, model), list[float]()
    for path in case_files(source):
        given = dict(TensorFile([path]))
        case = Evaluation(given, model, first)
        for name in sorted(given):
            if name in ENCODED if part == "encoder" else DECODED.fullmatch(name):
                comparison = case.compare(path.stem, name)
                if comparison.largest:  # what is zero tells nothing
                    errors.append(comparison.error / comparison.largest)
    return max(errors, default=None)


def first_stage(source: Foreign, model: Tokenizer) -> Tokenizer:
    """The model without its second stage; as `config_stage1.json` has it, where that lies beside a checkpoint.

    Raises:
        ConfigError: that file is of another model than the config.
    """
    if model.config.decoder.pixel_decoder is None:
        return model
    raw = model.config.model_dump()
    raw["decoder"]["pixel_decoder"] = None
    path = source.beside("config_stage1.json")
    if path is not None:
        theirs = Settings(read_config(path)).child("model").child("vq_model")
        raw["quantizer"]["commitment"] = theirs.take("commitment_cost", float, raw["quantizer"]["commitment"])
        own = source.config().child("model").child("vq_model").data
        theirs.ignore("finetune_decoder", "pretrained_tokenizer_weight")
        other = [f"{at} is {value!r}" for at, value in theirs.unread() if own.get(at.split(".")[-1]) != value]
        if other:
            raise ConfigError.at(str(path), f"is of another model than the config: {', '.join(other)}")
    state = {name: value for name, value in model.state_dict().items() if not name.startswith("decoder.pixels.")}
    return assemble(type(model.config).read(raw), state, f"stage 1 of {source.path}")


def slots(grid: Tensor) -> Tensor:
    """The reference's `b d 1 k` as `b k d`."""
    return grid.flatten(2).transpose(1, 2)


def grid(values: Tensor) -> Tensor:
    """`b k d` as the reference's `b d 1 k`."""
    return values.transpose(1, 2).unsqueeze(2)


def scalar(loss: Tensor) -> Tensor:
    """A mean as the reference's tensor of one entry."""
    return loss.mean()[None]


def condition_of(given: Mapping[str, Tensor]) -> Condition | None:
    """The text condition of a case; None where it has none."""
    text = given.get("text_guidance")
    return None if text is None else Condition(torch.zeros(len(text), dtype=torch.bool), embeddings=text)


class Evaluation:
    """Results of a model, and of its first stage, for a case's inputs, by the names of the reference's tensors."""

    def __init__(self, given: Mapping[str, Tensor], model: Tokenizer, first: Tokenizer) -> None:
        self.given, self.model, self.first = given, model, first
        batch = next(
            (len(given[n]) for n in ("images", "indices", "z_quantized", "mean", "z_sampled") if n in given), 1
        )
        self.rows, self.keep = torch.arange(batch), torch.ones(batch, model.spec.tokens.length, dtype=torch.bool)
        tables = {"quantizer/kl": slots(given["eps"])} if "eps" in given else {}
        if "keep" in given:  # the length that the masker drew for the batch
            tables["masker/length"] = given["keep"] - 1
        self.rng = TableRng(tables, batch)

    # --- parts, each computed once

    @cached_property
    def features(self) -> Tensor:
        """The encoder's output, `b k e`."""
        latents = self.model.codec.encode(self.given["images"], rng=self.rng)
        return self.model.encoder(latents, self.keep)

    @cached_property
    def projected(self) -> Tensor:
        """The quantizer's input, `b k d`."""
        return self.model.quantizer.project(self.features)

    @cached_property
    def posterior(self) -> tuple[Tensor, Tensor]:
        """Mean and log variance of each token, `b k d` each."""
        return self.model.quantizer.posterior(self.projected)

    @cached_property
    def quantized(self) -> Quantized:
        """Tokens, codes and losses of the first stage's quantizer."""
        return self.first.quantizer(self.features, self.keep, rng=self.rng)

    def drawn(self) -> Tensor:
        """Tokens drawn from the posterior by the case's noise, `b k d`."""
        return self.model.quantizer.draw(*self.posterior, self.rng)

    def divergences(self) -> Tensor:
        """Divergences of each token alone."""
        each = [self.model.quantizer.divergence(*self.posterior, one.expand_as(self.keep)) for one in self.single()]
        return torch.stack(each, 1)

    def single(self) -> Tensor:
        """Masks `k k`, each of one token."""
        return torch.eye(self.keep.shape[1], dtype=torch.bool)

    def loss(self, *names: str) -> Tensor:
        """Sum of the quantizer's losses of these names, a tensor of one entry."""
        return torch.stack([scalar(self.quantized.losses[name]) for name in names]).sum(0)

    def named(self) -> dict[str, Callable[[], Tensor]]:
        """Results by name, but those of the decoder."""
        if self.model.spec.tokens.codebook_size is None:
            return {
                "enc_z": lambda: grid(self.projected),
                "mean": lambda: grid(self.posterior[0]),
                "logvar": lambda: grid(self.posterior[1]),
                "z_sampled": lambda: grid(self.drawn()),
                "kl": self.divergences,
            }
        return {
            "enc_z": lambda: grid(self.projected),
            "indices": lambda: self.quantized.codes.transpose(1, 2).reshape(self.given["indices"].shape),
            "z_quantized": lambda: grid(self.quantized.values if "images" in self.given else self.values("", True)),
            "z_codebook": lambda: grid(self.model.quantizer.lookup(self.quantized.codes)),
            "commitment_loss": lambda: self.loss("commitment"),
            "codebook_loss": lambda: self.loss("codebook"),
            "quantizer_loss": lambda: self.loss("commitment", "codebook"),
        }

    def values(self, kind: str, from_codes: bool) -> Tensor:
        """The decoder's input: the case's own tensor of that, else ours."""
        given = self.given
        if self.model.spec.tokens.codebook_size is None:
            own = {"_mode": "mean", "_sampled": "z_sampled"}.get(kind, "z_sampled")
            return slots(given[own]) if own in given else slots(self.named()[own]())
        if "z_quantized" in given and not from_codes:
            return slots(given["z_quantized"])
        codes = given["indices"].flatten(1)[..., None] if "indices" in given else self.quantized.codes
        return self.model.quantizer.lookup(codes)

    def decoded(self, name: str) -> Tensor:
        """The decoder's output that a tensor's name asks for, or what is inside of it or of the encoder.

        Raises:
            LookupError: the name is unknown, or the model gives no such output.
        """
        match, inside = DECODED.fullmatch(name), INSIDE.fullmatch(name)
        if match is None and inside is not None:
            return self.inside(*inside.groups())
        if match is None:
            raise LookupError(UNKNOWN)
        _, from_codes, what, kind, length = match.groups()
        if what == "soft_code":
            logits = self.given["stage1_logits"] if "stage1_logits" in self.given else self.decoded("stage1_logits")
            return self.model.decoder.pixels.soft_codes(logits)
        form = self.first if what == "logits" else self.model
        if form.config.decoder.gives != ("logits" if what == "logits" else "reconstruction"):
            raise LookupError(f"this model gives no {what}")
        out = self.decode(form, self.values(kind or "", from_codes is not None), length)
        return out.logits if what == "logits" else out.reconstruction

    def decode(self, form: Tokenizer, values: Tensor, length: str | None) -> Outputs:
        """The decoder's outputs for token values, or for the first `length` of them."""
        tokens = Tokens(values, self.keep, torch.zeros(*values.shape[:2], 1, dtype=torch.long))
        batch = Batch(self.rows, condition=condition_of(self.given))
        tokens = tokens if length is None else tokens.truncate(int(length))
        return form.decoder(tokens, batch, taps=NONE, rng=self.rng)

    def inside(self, side: str, name: str, length: str | None) -> Tensor:
        """The output of one layer, in a pass of the encoder or the decoder."""
        if side == "enc":
            layer = layer_of(self.model.encoder, name)
            return output_of(layer, lambda: self.model.encoder(self.given["images"], self.keep))
        layer, values = layer_of(self.first.decoder, name), self.values("", False)
        return output_of(layer, lambda: self.decode(self.first, values, length))

    # --- answers

    @torch.no_grad()
    def compare(self, case: str, name: str) -> Comparison:
        """Compare one tensor of the case; an infinite error where the model has nothing to set against it."""
        golden, named = self.given[name], self.named()
        try:
            result = named[name]() if name in named else self.decoded(name)
        except LookupError as error:
            told = f"the case has no {error}" if isinstance(error, KeyError) else str(error)
            return Comparison(case, name, float("inf"), ATOL, note=told)
        if name.endswith("_loss"):
            return compare(case, name, result, golden, *LOSS)
        second = "pixels" in name and self.model.config.decoder.pixel_decoder is not None
        return compare(case, name, result, golden, SECOND_STAGE if second else ATOL, 1e-5 if name == "kl" else 0.0)

    @torch.no_grad()
    def through(self, case: str, name: str) -> Comparison:
        """Pixels as a user gets them, from images through tokens, within [0, 1]."""
        shown = self.model.decode(self.model.encode(self.given["images"]), condition=condition_of(self.given))
        bound = ATOL if self.model.config.decoder.pixel_decoder is None else SECOND_STAGE
        return compare(case, name, shown, self.given[name].clamp(0, 1), bound, note="encode, then decode")


def evaluate(path: Path, given: Mapping[str, Tensor], model: Tokenizer, first: Tokenizer) -> Iterator[Comparison]:
    """A case of use."""
    case = Evaluation(given, model, first)
    codes = NONE if "images" in given else {"indices"}  # then they are where the case begins
    for name in sorted(given.keys() - INPUTS - codes):
        comparison = case.compare(path.stem, name)
        yield comparison
        whole = "images" in given and ("decode_tokens_pixels" in name or name == "pixels_mode")
        if whole and comparison.error != float("inf"):
            yield case.through(path.stem, name)


def quantize(path: Path, given: Mapping[str, Tensor], model: Tokenizer, first: Tokenizer) -> Iterator[Comparison]:
    """A case of the quantizer alone, of any number of tokens: its answer in training, and a gradient through it."""
    case, quantizer = path.stem, deepcopy(first.quantizer).train()
    quantizer.project = torch.nn.Identity()
    z = given["z"].clone().requires_grad_(True)
    values = slots(z)
    keep = torch.ones(values.shape[:2], dtype=torch.bool)
    answer = quantizer(values, keep, rng=TableRng({}, len(values)))
    quantized, loss = grid(answer.values), {name: scalar(each) for name, each in answer.losses.items()}
    total = loss["commitment"] + loss["codebook"]
    weights = torch.linspace(-1, 1, quantized.numel()).view_as(quantized)
    ((quantized * weights).sum() + total.sum()).backward()
    results = {"quantized": quantized, "indices": answer.codes.transpose(1, 2), "z_grad": z.grad}
    results |= {"commitment_loss": loss["commitment"], "codebook_loss": loss["codebook"], "quantizer_loss": total}
    for name in sorted(given.keys() - INPUTS):
        own = results.get(name)
        if own is None:
            yield Comparison(case, name, float("inf"), ATOL, note=UNKNOWN)
        else:
            yield compare(case, name, own, given[name], *(LOSS if name.endswith("_loss") else (ATOL,)))


def train(path: Path, given: Mapping[str, Tensor], model: Tokenizer, first: Tokenizer) -> Iterator[Comparison]:
    """A case of training: one step's losses and gradients.

    Stage 1 learns the teacher's codes; stage 2, and a single stage, the pixels. In stage 2 the encoder and the
    quantizer are frozen, and the quantizer's losses do not count.
    """
    case, codes = path.stem, given.get("target_codes")
    learner = deepcopy(first if codes is not None else model).train().requires_grad_(True)
    second = learner.config.decoder.pixel_decoder is not None
    if second:
        learner.encoder.requires_grad_(False)
        learner.quantizer.requires_grad_(False)
    rows, images = torch.arange(len(given["images"])), given["images"]
    out = learner(Batch(rows, images, condition=condition_of(given)), rng=Evaluation(given, model, first).rng)
    parts = {name.removeprefix("quantizer/"): scalar(loss) for name, loss in out.losses.items()}
    quantizer = torch.stack(list(parts.values())).sum(0)
    main = scalar(F.mse_loss(out.reconstruction, images) if codes is None else teaching(out.logits, codes))
    total = main + quantizer if "total_loss" in given or "quantizer_loss" in given else main
    total.backward()

    results: dict[str, Tensor | None] = {"logits": out.logits, "pixels": out.reconstruction}
    if "indices" in given and out.codes is not None:
        results["indices"] = out.codes.codes.transpose(1, 2).reshape(given["indices"].shape)
    losses = {f"{name}_loss": loss for name, loss in parts.items()} | {"quantizer_loss": quantizer}
    losses |= {"reconstruction_loss": main, "mse": main, "total_loss": total, "quantizer_loss_zeroed": 0 * quantizer}
    for name in sorted(given.keys() - INPUTS):
        golden, own = given[name], results.get(name)
        if name.startswith("grad."):
            yield gradient(case, name, golden, learner)
        elif name in losses:
            yield compare(case, name, losses[name], golden, *LOSS)
        elif own is not None:
            yield compare(case, name, own, golden, SECOND_STAGE if second and name == "pixels" else ATOL)
        else:
            yield Comparison(case, name, float("inf"), ATOL, note=UNKNOWN)
    norms = path.with_name(f"{case}_grad_norms.json")
    if norms.is_file():
        yield gradient_norms(case, read_config(norms), learner)


def teaching(logits: Tensor, codes: Tensor) -> Tensor:
    """Mean cross-entropy of logits `b v h w` with codes, `b h w`."""
    return F.cross_entropy(logits.flatten(2), codes.flatten(1))


def gradient(case: str, name: str, golden: Tensor, learner: Tokenizer) -> Comparison:
    """One parameter's gradient, to a share of its largest entry."""
    ((own, wanted),) = convert({name.removeprefix("grad."): golden}).items()
    parameter = dict(learner.named_parameters()).get(own)
    if parameter is None or parameter.grad is None:
        return Comparison(case, name, float("inf"), GRADIENTS, note=f"no gradient reaches {own}")
    return compare(case, name, parameter.grad, wanted, 1e-8, GRADIENTS)


def gradient_norms(case: str, theirs: Mapping[str, float], learner: Tokenizer) -> Comparison:
    """The norms of all gradients: the largest relative error."""
    wanted = {translate(name): norm for name, norm in theirs.items()}
    own = {name: float(p.grad.norm()) for name, p in learner.named_parameters() if p.grad is not None}
    # a gradient that is nothing but rounding may be left out of a case: a bias in front of a norm of its own channel
    noise = {name for name in own.keys() - wanted.keys() if own[name] < NOISE * max(wanted.values())}
    other = sorted((wanted.keys() ^ own.keys()) - noise)
    if other:
        told = f"on one side only: {', '.join(other)}"
        return Comparison(case, "gradient norms", float("inf"), GRADIENTS, note=told)
    errors = torch.tensor([abs(own[name] - norm) / max(norm, 1e-12) for name, norm in wanted.items()])
    told = f"of {len(errors)}, relative"
    return compare(case, "gradient norms", errors, torch.zeros(len(errors)), GRADIENTS, note=told)
