"""A head that tells from the encoder's features how many tokens an image needs: trained on what `psnr` chose.

The head reads an image's features once (their mean and spread over the token slots, those of the first slot, and the
token values) and gives, for each length but the last, the chance that an image of that length has reached the target.
Chances rise with the length, so the first that is high enough is the choice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from flexframe.files import BLANK, check_seal, refuse_pointer, replaced, seal, sha256
from flexframe.models.allocator import Allocator
from flexframe.models.fingerprint import weights
from flexframe.models.tokenizer import Tokenizer
from flexframe.rng import Rng
from flexframe_lengths import LearnedConfig, PsnrConfig
from flexframe_lengths.allocators import Psnr
from flexframe_registry import Config, ConfigError, Spec

FORMAT = "flexframe-halting/1"
REMEDY = "train one by `python -m flexframe_lengths MODEL SOURCE -o FILE`"
BATCH, HELD = 64, 5
"""Images at a time; and one image in so many is held out, to stop the training where it is best."""
MOST = 6.0
"""Deviations from the mean beyond which an input is cut off: an image unlike all of training says nothing."""


class About(Config):
    """The description that a head's file gives of itself."""

    model: str
    """The tokenizer as `flexframe.load` takes it."""
    weights: str = Field(pattern="^[0-9a-f]{64}$")
    """Hash of the tokenizer's weights, the decoder's among them: what an image needs hangs on it."""
    budgets: tuple[int, ...]
    """Lengths that it chooses among, rising."""
    rule: PsnrConfig
    """The rule whose answers it learned."""
    images: int
    """How many images it learned from."""
    source: dict[str, Any] = {}
    """Which."""
    seed: int = 0
    right: float
    """Share of the held-out images whose length it chose as the rule does."""


class Head(nn.Module):
    """Chances, as logits, of having reached the target at each length but the last: two linear layers."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("deviation", torch.ones(inputs))
        self.first, self.rise = nn.Linear(inputs, hidden), nn.Linear(hidden, outputs)

    def forward(self, inputs: Float[Tensor, "b f"]) -> Float[Tensor, "b o"]:
        """Logits that never fall with the length."""
        scaled = ((inputs - self.mean) / self.deviation).clamp(-MOST, MOST)
        steps = self.rise(F.silu(self.first(scaled)))
        return torch.cat([steps[:, :1], F.softplus(steps[:, 1:])], 1).cumsum(1)


def chosen(head: Head, inputs: Float[Tensor, "b f"], budgets: tuple[int, ...], stop: float = 0.5) -> Int[Tensor, " b"]:
    """The first length whose chance is at least `stop`, else the last."""
    reached = torch.sigmoid(head(inputs)) >= stop
    first = torch.where(reached.any(1), reached.int().argmax(1), torch.tensor(len(budgets) - 1, device=inputs.device))
    return torch.tensor(budgets, device=inputs.device)[first]


@torch.no_grad()
def read(tokenizer: Tokenizer, images: Float[Tensor, "b 3 h w"], rng: Rng) -> Float[Tensor, "b f"]:
    """Features of images that the head reads."""
    features, tokens = tokenizer.described(images, rng=rng)
    spread = features.std(1, correction=0)
    return torch.cat([features.mean(1), spread, features[:, 0], tokens.values.float().flatten(1)], 1)


class Learned(Allocator):
    """The allocator of `LearnedConfig`.

    Raises:
        ConfigError: there is no such file, it is broken, or of a tokenizer of other widths.
    """

    config: LearnedConfig

    def __init__(self, config: LearnedConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.path = Path(config.head).expanduser()
        self.head, self.about = load_head(self.path)
        self.sha256 = sha256(self.path)
        if self.about.budgets[-1] > spec.tokens.length:
            text = f"is of lengths up to {self.about.budgets[-1]}, and the model has {spec.tokens.length} tokens"
            raise ConfigError.at(str(self.path), f"{text}; {REMEDY}")
        self._seen: tuple[Tokenizer, str] | None = None

    def choose(self, tokenizer: Tokenizer, images: Float[Tensor, "b 3 h w"], *, rng: Rng) -> Int[Tensor, " b"]:
        """A length for each image.

        Raises:
            ConfigError: the head is of another tokenizer.
        """
        if self._seen is None or self._seen[0] is not tokenizer:
            self._seen = tokenizer, weights(tokenizer)
        if self._seen[1] != self.about.weights:
            text = (
                f"was trained for {self.about.model}, or for it before it changed, and this model's weights are others"
            )
            raise ConfigError.at(str(self.path), f"{text}; {REMEDY}")
        with torch.no_grad():
            return chosen(self.head, read(tokenizer, images, rng), self.about.budgets, self.config.stop)

    def rests_on(self) -> dict[str, Any]:
        return {"head_sha256": self.sha256, **self.about.model_dump(mode="json", include={"rule", "budgets"})}


# --- training --------------------------------------------------------------------------------------------------------


def train(
    tokenizer: Tokenizer,
    images: Iterator[Tensor],
    rule: PsnrConfig,
    *,
    source: dict[str, Any] | None = None,
    hidden: int = 64,
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[Head, About]:
    """Train a head on what `rule` chooses for images.

    Args:
        images: batches of 8-bit images of the tokenizer's size.
        source: what they are, for the file.
        progress: told how many images are read.

    Raises:
        ConfigError: the model has one length, or the rule gives all images the same one.
    """
    allocator = Psnr(rule, tokenizer.spec).eval()
    budgets = allocator.budgets(tokenizer)
    if len(budgets) < 2:
        raise ConfigError.at(tokenizer.id, f"has one length, {budgets[0]}, and there is nothing to choose")
    inputs, lengths, done = list[Tensor](), list[Tensor](), 0
    for batch in images:
        given = batch.to(tokenizer.device).float() / 255
        rng = Rng(seed, torch.arange(done, done + len(batch), device=tokenizer.device))
        inputs.append(read(tokenizer, given, rng).cpu())
        with torch.no_grad():
            lengths.append(allocator.choose(tokenizer, given, rng=rng).cpu())
        done += len(batch)
        progress(done)
    told = torch.cat(lengths)
    if len(told.unique()) < 2:
        text = (
            f"gives all {done} images {int(told[0])} tokens, so that there is nothing to learn; choose another target"
        )
        raise ConfigError.at("psnr", text)
    head, right = fit(torch.cat(inputs), told, budgets, hidden=hidden, seed=seed)
    about = About(
        model=tokenizer.id, weights=weights(tokenizer), budgets=budgets, rule=rule, images=done, source=source or {},
        seed=seed, right=right,
    )  # fmt: skip
    return head, about


def fit(
    inputs: Float[Tensor, "n f"],
    lengths: Int[Tensor, " n"],
    budgets: tuple[int, ...],
    *,
    hidden: int = 64,
    seed: int = 0,
    epochs: int = 200,
) -> tuple[Head, float]:
    """Fit a head to lengths by the cross entropy of its chances; and tell the share of held-out images it gets right.

    One image in five is held out, and the head is the one of the epoch that was best on them.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(inputs), generator=generator)
    held, rest = order[: max(1, len(order) // HELD)], order[max(1, len(order) // HELD) :]
    head = Head(inputs.shape[1], hidden, len(budgets) - 1)
    for name, value in head.named_parameters():
        nn.init.zeros_(value) if name.endswith("bias") else nn.init.xavier_uniform_(value, generator=generator)
    head.mean.copy_(inputs[rest].mean(0))
    head.deviation.copy_(inputs[rest].std(0, correction=0).clamp(min=1e-6))
    reached = (lengths[:, None] <= torch.tensor(budgets[:-1])).float()
    optimizer = torch.optim.AdamW(head.parameters(), lr=2e-3, weight_decay=0.05)
    best, kept = float("inf"), {name: value.clone() for name, value in head.state_dict().items()}
    with torch.enable_grad():
        for _ in range(epochs):
            for rows in rest[torch.randperm(len(rest), generator=generator)].split(BATCH):
                optimizer.zero_grad()
                loss = F.binary_cross_entropy_with_logits(head(inputs[rows]), reached[rows])
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            with torch.no_grad():
                value = float(F.binary_cross_entropy_with_logits(head(inputs[held]), reached[held]))
            if value < best:
                best, kept = value, {name: each.clone() for name, each in head.state_dict().items()}
    head.load_state_dict(kept)
    with torch.no_grad():
        right = (chosen(head, inputs[held], budgets) == lengths[held]).double().mean()
    return head.eval().requires_grad_(False), float(right)


# --- files -----------------------------------------------------------------------------------------------------------


def save_head(head: Head, about: About, path: Path) -> None:
    """Write a head's file, whole or not at all.

    Raises:
        OSError: the disk does not take it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"format": FORMAT, "flexframe": json.dumps(about.model_dump(mode="json")), **BLANK}
    with replaced(path) as part:
        save_file({name: value.contiguous() for name, value in head.state_dict().items()}, part, metadata)
        seal(part)


def load_head(path: Path) -> tuple[Head, About]:
    """A head and what its file says of it.

    Raises:
        ConfigError: there is no such file, or it is none of a head, or not as it was written.
    """
    if not path.is_file():
        raise ConfigError.at(str(path), f"there is no such file; {REMEDY}")
    refuse_pointer(path)
    try:
        check_seal(path, REMEDY)
        with safe_open(path, "pt") as file:
            facts = file.metadata() or {}
            if facts.get("format") != FORMAT:
                raise ConfigError.at(str(path), f"is no file of a halting head; {REMEDY}")
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about = About.read(json.loads(facts["flexframe"]), str(path))
        head = Head(state["first.weight"].shape[1], state["first.weight"].shape[0], state["rise.weight"].shape[0])
        if not head.mean.is_meta:  # built to be counted alone
            head.load_state_dict(state)
    except (OSError, SafetensorError, ValueError, KeyError, RuntimeError) as error:
        if isinstance(error, ConfigError):
            raise
        why = " ".join(str(error).split())[:120]
        raise ConfigError.at(str(path), f"cannot be read ({why}); {REMEDY}") from None
    if len(about.budgets) != head.rise.out_features + 1 or list(about.budgets) != sorted(set(about.budgets)):
        raise ConfigError.at(str(path), f"says lengths {about.budgets}, and has {head.rise.out_features}; {REMEDY}")
    return head.eval().requires_grad_(False), about
