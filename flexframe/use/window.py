"""What `flexframe app` shows: pictures of models at a token count, differences, and what one token carries."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flexframe.data.images import fit, to_rgb, to_tensor
from flexframe.models.fingerprint import fingerprint
from flexframe.models.generator import Generator, needs_texts
from flexframe.models.tokenizer import Tokenizer
from flexframe.pictures import to_uint8
from flexframe.tokens import Tokens
from flexframe_registry import ConfigError

SEED = 0
AMPLIFIED = 4
"""How many times as large differences are shown."""
SIDE = 256
"""Pixels to which smaller pictures are enlarged, each by a whole number."""


@dataclass(frozen=True)
class Entrant:
    """A model under its name, and how its images are brought to size.

    Raises:
        ConfigError: its decoder reads texts.
    """

    name: str
    model: Tokenizer
    resize: str

    def __post_init__(self) -> None:
        needs_texts(self.model, (), "this page has none: `decode(tokens, texts=[...])` in Python takes them")

    def image(self, picture: Image.Image) -> Tensor:
        """A picture as this model takes it: floats, `1 3 h w`."""
        pixels = to_tensor(fit(to_rgb(picture), self.model.config.image_size, self.resize))
        return pixels[None].float().div(255).to(self.model.device)

    @torch.no_grad()
    def encoded(self, picture: Image.Image) -> Tokens:
        """Tokens of a picture, all of them."""
        return self.model.encode(self.image(picture), rng=SEED)

    def length(self, asked: int) -> int:
        """The token count, of those that the model is offered at, next to what is asked for: at most that, if any."""
        below = [budget for budget in self.model.config.budgets if budget <= asked]
        return max(below, default=min(self.model.config.budgets))

    @torch.no_grad()
    def decoded(self, tokens: Tokens) -> Image.Image:
        """The picture that tokens are."""
        return shown(self.model.decode(tokens, rng=SEED))

    @torch.no_grad()
    def at(self, picture: Image.Image, asked: int) -> tuple[Image.Image, int]:
        """A picture rebuilt from about so many tokens, and how many they are."""
        length = self.length(asked)
        image = self.image(picture)
        tokens = self.model.encode(image, rng=SEED)
        return self.decoded(self.model.shortened(tokens, image, length, rng=SEED)), length


def shown(images: Tensor) -> Image.Image:
    """The first image, enlarged by a whole number where it is small."""
    picture = Image.fromarray(to_uint8(images)[0].permute(1, 2, 0).contiguous().numpy())
    times = max(1, SIDE // max(picture.size))
    return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)


def difference(first: Image.Image, second: Image.Image) -> Image.Image:
    """Picture of how far apart two pictures of one size are, `AMPLIFIED` times: black where they are the same."""
    apart = np.abs(np.asarray(first, np.int16) - np.asarray(second, np.int16)) * AMPLIFIED
    return Image.fromarray(apart.clip(0, 255).astype(np.uint8))


def edited(entrant: Entrant, tokens: Tokens, slot: int, code: Sequence[float]) -> Tokens:
    """Tokens with another code in a slot.

    Raises:
        ConfigError: there is no such slot, or the model has no such code.
    """
    most = tokens.codes.shape[1]
    if not 0 <= slot < most:
        raise ConfigError.at("slot", f"there is no {slot}; the slots of this picture are 0..{most - 1}")
    codes = tokens.codes.clone()
    if len(code) != codes.shape[2]:
        raise ConfigError.at("code", f"a token of this model has {codes.shape[2]} numbers, not {len(code)}")
    size = entrant.model.spec.tokens.codebook_size
    if size is not None and not all(0 <= each < size for each in code):
        raise ConfigError.at("code", f"this model's codes are 0..{size - 1}")
    codes[0, slot] = torch.tensor(code, dtype=codes.dtype)
    return entrant.model.tokens(codes, size=tokens.size)


@torch.no_grad()
def drawn(
    prior: Generator, entrant: Entrant, label: int | None, length: int, seed: int
) -> list[tuple[Image.Image, int]]:
    """A picture that a prior draws, at each token count on the way that its model is offered at."""
    labels = None if label is None else torch.tensor([label])
    codes = prior.sample(labels, count=1 if label is None else None, lengths=length, rng=seed)
    tokens = entrant.model.tokens(codes.codes[:, :length], size=entrant.model.config.image_size)
    counts = [budget for budget in entrant.model.config.budgets if budget < length] + [length]
    if not entrant.model.config.encoder.prefixes():
        counts = [length]
    return [(entrant.decoded(tokens.truncate(count)), count) for count in counts]


def record(entrants: Sequence[Entrant], picture: Image.Image) -> str:
    """The tokens of a picture, by each model, as JSON."""
    told: Mapping[str, Any] = {
        each.name: {"fingerprint": fingerprint(each.model), "codes": each.encoded(picture).codes[0].tolist()}
        for each in entrants
    }
    return json.dumps(told, indent=1)
