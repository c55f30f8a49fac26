"""The toys' torch half."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flexframe.importing import Foreign, Imported
from flexframe.importing.importer import Importer
from flexframe.models.allocator import Allocator
from flexframe.nn.priors import class_ids, gumbel
from flexframe.parts import (
    Codec,
    Conditioner,
    Decoder,
    Encoder,
    LengthMasker,
    LikelihoodPrior,
    Objective,
    Prior,
    Quantizer,
)
from flexframe.tokens import Codes, Kept, Outputs, Quantized, Text, prefix
from flexframe_registry import TokenizerConfig


class Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, 2 * width)
        self.outer = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(F.silu(self.inner(x)))


def cells(latents: Tensor, patch: int) -> Tensor:
    """`b n (c patch patch)`"""
    return F.pixel_unshuffle(latents, patch).flatten(2).transpose(1, 2)


def attend(x: Tensor, seen: Tensor, keep: Tensor | None = None) -> Tensor:
    """`b n e`: what each of `x` finds among what it sees."""
    scores = x @ seen.mT
    if keep is not None:
        scores = scores.masked_fill(~keep[:, None], -torch.inf)
    return scores.softmax(-1) @ seen


def places(rows: int, columns: int) -> Tensor:
    """`n 2`: coordinates of patches, in [-1, 1]."""
    axes = (torch.linspace(-1, 1, max(n, 2))[:n] for n in (rows, columns))
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 1)


class ToyEncoder(Encoder):
    def __init__(self, config, spec):
        super().__init__(config, spec)
        self.registers = nn.Parameter(torch.randn(spec.tokens.length, config.width))
        self.read = nn.Linear(spec.latents.channels * config.patch**2, config.width)
        self.place = nn.Linear(2, config.width)
        self.blocks = nn.ModuleList(Layer(config.width) for _ in range(config.depth))

    def adapt(self, state, spec):
        length = self.spec.tokens.length
        return {name: value[:length] if name == "registers" else value for name, value in state.items()}

    def forward(self, latents, keep):
        patch = self.config.patch
        where = places(latents.shape[2] // patch, latents.shape[3] // patch).to(latents)
        seen = 4 * self.read(cells(latents, patch) - 0.5) + self.place(where.expand(len(latents), -1, -1))
        x = self.registers[: keep.shape[1]].expand(len(latents), -1, -1)
        if self.config.counting:
            x = x + keep.sum(1)[:, None, None] / self.spec.tokens.length
        x = x + attend(x, seen)
        for block in self.blocks:
            x = block(x)
        return x


class ToyQuantizer(Quantizer):
    def __init__(self, config, spec):
        super().__init__(config, spec)
        self.project = nn.Linear(spec.features, len(config.levels))
        nn.init.normal_(self.project.weight, std=0.4)
        self.register_buffer("most", torch.tensor(config.levels) - 1, persistent=False)
        if config.average:
            self.register_buffer("mean", torch.zeros(len(config.levels)))

    def forward(self, values, keep, *, rng):
        z = torch.tanh(self.project(values).float())
        if self.training and self.config.noise:
            z = z + self.config.noise * torch.randn_like(z)
        if self.training and self.config.average:
            self.mean.lerp_(z.detach()[keep].mean(0), 0.1)
        digits = ((z.clamp(-1, 1) + 1) / 2 * self.most).round().long()
        codes = digits if self.config.split else (digits * self.radix).sum(-1, keepdim=True)
        hard = self.lookup(codes)
        return Quantized(z + (hard - z).detach() if self.training else hard + (z - z.detach()), codes)

    @property
    def radix(self) -> Tensor:
        ones = torch.ones_like(self.most[:1])
        return torch.cat([ones, (self.most + 1)[:-1].cumprod(0)])

    def lookup(self, codes):
        digits = codes if self.config.split else codes // self.radix % (self.most + 1)
        return digits / self.most * 2 - 1


class ToyValues(Quantizer):
    def __init__(self, config, spec):
        super().__init__(config, spec)
        self.project = nn.Linear(spec.features, config.dim)

    def forward(self, values, keep, *, rng):
        found = self.project(values).float()
        return Quantized(found, found)

    def lookup(self, codes):
        return codes


class ToyMasker(LengthMasker):
    def draw(self, batch, length, *, rng):
        budgets = torch.tensor(self.config.budgets(length), device=rng.index.device)
        return Kept(length, prefix(budgets[rng.integers("toy/length", len(budgets))], length))


class Canvas(Decoder):
    """Patches that look at the tokens."""

    def __init__(self, config, spec):
        super().__init__(config, spec)
        self.from_tokens = nn.Linear(spec.tokens.dim, config.width)
        self.positions = nn.Parameter(0.5 * torch.randn(spec.tokens.length, config.width))
        self.place = nn.Linear(2, config.width)
        self.blocks = nn.ModuleList(Layer(config.width) for _ in range(config.depth))
        self.head = nn.Linear(config.width, spec.latents.channels * config.patch**2)

    def adapt(self, state, spec):
        length = self.spec.tokens.length
        return {name: value[:length] if name == "positions" else value for name, value in state.items()}

    def slots(self, tokens) -> Tensor:
        return self.from_tokens(tokens.values.to(self.head.weight.dtype)) + self.positions[: tokens.keep.shape[1]]

    def paint(self, x: Tensor, slots: Tensor, keep: Tensor, size, taps) -> tuple[Tensor, dict[str, Tensor]]:
        rows, columns = (n // self.config.patch for n in size)
        x = x + self.place(places(rows, columns).to(self.head.weight).expand(len(slots), -1, -1))
        x = x + attend(x, slots, keep)
        if not taps <= self.config.taps().keys():
            raise ValueError(f"this toy has no {sorted(taps)}; it has: {sorted(self.config.provides())}")
        told = {}
        for i, block in enumerate(self.blocks):
            x = block(x)
            if f"block.{i}" in taps:
                told[f"block.{i}"] = x.unflatten(1, (rows, columns))
        return F.pixel_shuffle(self.head(x).transpose(1, 2).unflatten(2, (rows, columns)), self.config.patch), told


class ToyDecoder(Canvas):
    def __init__(self, config, spec):
        super().__init__(config, spec)
        self.read = nn.Linear(spec.latents.channels * config.patch**2, config.width)
        self.time = nn.Linear(1, config.width)
        self.null = nn.Parameter(torch.randn(config.width))

    def velocity(self, x, t, slots, keep, taps=frozenset()):
        begun = self.read(cells(x, self.config.patch)) + self.time(t[:, None])[:, None]
        return self.paint(begun, slots, keep, x.shape[2:], taps)

    def forward(self, tokens, batch, *, taps, rng):
        data, t = 2 * batch.latents - 1, rng.uniform("toy/time")
        noise = rng.normal("toy/noise", data.shape[1:])
        slots = self.slots(tokens)
        if self.config.dropout:
            hidden = rng.uniform("toy/null") < self.config.dropout
            slots = torch.where(hidden[:, None, None], self.null.to(slots.dtype), slots)
        at = t[:, None, None, None]
        velocity, told = self.velocity(at * noise + (1 - at) * data, t, slots, tokens.keep, taps)
        return Outputs({"flow": (velocity.float() - (noise - data)).square().mean((1, 2, 3))}, features=told)

    def decode(self, tokens, *, condition, size, rng, sampling, on_step=None):
        x = rng.normal("toy/sample", (self.spec.latents.channels, *size))
        slots = self.slots(tokens)
        for i in range(sampling.steps):
            t = x.new_full((len(x),), 1 - i / sampling.steps)
            velocity, _ = self.velocity(x, t, slots, tokens.keep)
            if sampling.guidance != 1:
                free, _ = self.velocity(x, t, self.null.expand_as(slots), tokens.keep)
                velocity = free + sampling.guidance * (velocity - free)
            x = x - velocity / sampling.steps
            if on_step is not None:
                on_step(i + 1, sampling.steps)
        return (x + 1) / 2


class ToyPlain(Canvas):
    def picture(self, tokens, size, taps=frozenset()):
        start = self.from_tokens.weight.new_zeros(len(tokens), 1, self.config.width)
        return self.paint(start, self.slots(tokens), tokens.keep, size, taps)

    def forward(self, tokens, batch, *, taps, rng):
        picture, told = self.picture(tokens, batch.latents.shape[2:], taps)
        return Outputs({}, reconstruction=picture, features=told)

    def decode(self, tokens, *, condition, size, rng, sampling):
        return self.picture(tokens, size)[0]


class ToyCodec(Codec):
    def __init__(self, config, spec):
        super().__init__(config, spec)
        self.inward = nn.Conv2d(3, config.channels, 2, 2)
        self.outward = nn.ConvTranspose2d(config.channels, 3, 2, 2)

    def encode(self, images, *, rng):
        means = self.inward(images)
        return self.drawn(means, rng=rng) if self.config.spread else means

    def moments(self, images):
        return self.inward(images) if self.config.spread else None

    def drawn(self, moments, *, rng):
        return moments + self.config.spread * rng.normal("toy/codec", moments.shape[1:])

    def decode(self, latents):
        return self.outward(latents)


class ToyObjective(Objective):
    def __init__(self, config, spec):
        super().__init__(config, spec)
        self.read = nn.Linear(spec.taps["block.0"], 3)

    def features(self, batch):
        pixels = batch.images.flatten(2)
        return {"toy": pixels.mean(2) if self.config.of == "mean" else pixels.std(2)}

    def forward(self, outputs, batch, *, step, rng):
        wanted = batch.features["toy"] if "toy" in batch.features else self.features(batch)["toy"]
        guess = self.read(outputs.features["block.0"].float().mean((1, 2)))
        return {"colour": (guess - wanted).square().mean(1)}


class ToyAllocator(Allocator):
    def choose(self, tokenizer, images, *, rng):
        most = self.spec.tokens.length
        return (self.config.gain * images.mean((1, 2, 3)) * most).ceil().clamp(1, most).long()


class ToyPrior(LikelihoodPrior):
    def __init__(self, config, spec):
        super().__init__(config, spec)
        shape = ((spec.classes or 0) + 1, spec.length, spec.codebooks, spec.codebook_size)
        self.table = nn.Parameter(0.02 * torch.randn(shape))
        self.told = None if spec.text is None else nn.Linear(spec.text.width, spec.codebook_size, bias=False)

    def chances(self, ids, slots, condition=None):
        """`b k q v`"""
        chances = self.table[ids][:, :slots].float()
        if self.told is None or condition is None:
            return chances
        present = condition.present[..., None]
        mean = (condition.embeddings * present).sum(1) / present.sum(1)
        return chances + self.told(mean)[:, None, None]

    def likelihoods(self, codes, ids, condition=None):
        given = codes.codes.masked_fill(~codes.keep[..., None], 0)
        known = self.chances(ids, codes.keep.shape[1], condition).log_softmax(-1).gather(-1, given[..., None])
        return known.sum((2, 3)).masked_fill(~codes.keep, 0)

    def forward(self, codes, condition, *, rng):
        ids = class_ids(condition, self.spec.classes, len(codes.keep), codes.keep.device)
        if self.training:
            dropped = rng.uniform("toy/class") < self.config.class_dropout
            ids = ids.masked_fill(dropped, self.spec.classes or 0)
            condition = None if condition is None else condition.hidden(dropped)
        return {"codes": -self.likelihoods(codes, ids, condition).sum(1) / codes.keep.sum(1)}

    @torch.no_grad()
    def log_prob(self, codes, condition):
        ids = class_ids(condition, self.spec.classes, len(codes.keep), codes.keep.device)
        return self.likelihoods(codes, ids, condition)

    @torch.no_grad()
    def sample(self, condition, lengths, *, rng, sampling, on_token=None):
        keep = prefix(lengths)
        ids = class_ids(condition, self.spec.classes, len(keep), keep.device)
        scores = self.chances(ids, keep.shape[1], condition)
        hidden = None if condition is None else condition.hidden(torch.ones_like(condition.null))
        free = self.chances(torch.full_like(ids, self.spec.classes or 0), keep.shape[1], hidden)
        scores = free + sampling.guidance * (scores - free)
        found = []
        for i in range(keep.shape[1]):
            noise = gumbel(rng.uniform(f"toy/code.{0 if sampling.steady else i}", scores.shape[2:]))
            found.append((scores[:, i] + sampling.temperature * noise).argmax(-1))
            if on_token is not None:
                on_token(i + 1)
        codes = torch.stack(found, 1) if found else scores.new_zeros(scores.shape[:3], dtype=torch.long)
        return Codes(codes.masked_fill(~keep[..., None], 0), keep)


class ToyConditioner(Conditioner):
    def __init__(self, config):
        super().__init__(config)
        self.table = nn.Parameter(torch.randn(128, config.width))

    def count(self, text):
        return len(text.split()) or 1

    def forward(self, texts):
        words = [text.split()[: self.config.length] or [""] for text in texts]
        most = max(map(len, words))
        values = torch.zeros(len(texts), most, self.config.width, device=self.table.device)
        for i, row in enumerate(words):
            for j, word in enumerate(row):
                letters = torch.tensor([ord(letter) % 128 for letter in f"{word} "], device=self.table.device)
                values[i, j] = self.table[letters].mean(0)
        return Text(values, prefix(torch.tensor([len(row) for row in words], device=values.device), most))


class ToyFrozen(ToyConditioner):
    def __init__(self, config):
        super().__init__(config)
        del self.table
        generator = torch.Generator().manual_seed(1)
        self.table = torch.randn(128, config.width, generator=generator, device="cpu")

    def settled(self):
        return self.config.model_copy(update={"weights": f"{self.table.sum():.6f}"})


class ToyMeans(Prior):
    """Normal about a mean, of deviation 1."""

    def __init__(self, config, spec):
        super().__init__(config, spec)
        self.table = nn.Parameter(0.02 * torch.randn((spec.classes or 0) + 1, spec.length, spec.values))

    def means(self, condition, slots):
        ids = class_ids(condition, self.spec.classes, slots[0], self.table.device)
        return self.table[ids][:, : slots[1]].float()

    def forward(self, codes, condition, *, rng):
        errors = (codes.codes - self.means(condition, codes.keep.shape)).square().mean(-1)
        return {"values": errors.masked_fill(~codes.keep, 0).sum(1) / codes.keep.sum(1)}

    @torch.no_grad()
    def sample(self, condition, lengths, *, rng, sampling, on_token=None):
        keep = prefix(lengths)
        means = self.means(condition, keep.shape)
        if on_token is not None:
            on_token(keep.shape[1])
        return Codes(means + sampling.temperature * rng.normal("toy/values", means.shape[1:]), keep)


class ToyImporter(Importer):
    """`{"toy": {model}}` as config, and tensors with `net.` before their names."""

    def recognises(self, source: Foreign) -> bool:
        return "toy" in source.settings

    def convert(self, source: Foreign) -> Imported:
        state: Mapping[str, Tensor] = {n.removeprefix("net."): source.tensors[n] for n in source.tensors}
        config = TokenizerConfig.read(dict(source.settings["toy"]), "toy")
        return Imported(config, state)
