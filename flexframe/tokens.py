"""The values that travel between parts.

Shape letters, the same everywhere: `b` batch, `c h w` channels, height, width, `k` token slots, `q` codebooks a slot,
`d` token width, `e` a part's own width. `keep` is True where a token is present.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from markupsafe import Markup
from torch import Tensor
from torch.nn import functional as F

Losses = Mapping[str, Tensor]
"""By name: a value a sample (`b`), or a scalar for a statistic of the whole batch."""


def prefix(lengths: Int[Tensor, " b"], slots: int | None = None) -> Bool[Tensor, "b k"]:
    """True for the first `lengths[i]` of `slots` positions of row i; as many as the longest row has if None."""
    if slots is None:
        slots = int(lengths.max()) if len(lengths) else 0
    return torch.arange(slots, device=lengths.device) < lengths[:, None]


@dataclass(frozen=True, slots=True)
class Kept:
    """A masker's draw: `slots` positions travel on (fewer than all: really shorter), `keep` of them per row."""

    slots: int
    keep: Bool[Tensor, "b k"]


@dataclass(frozen=True, slots=True)
class Codes:
    """Codes, as a prior models and a token file holds them: integers, or a continuous quantizer's values."""

    codes: Int[Tensor, "b k q"] | Float[Tensor, "b k d"]
    keep: Bool[Tensor, "b k"]


@dataclass(frozen=True, slots=True, repr=False)
class Tokens:
    """A batch of token sequences, each a prefix of its slots.

    Rows are taken as a tensor's are, and stay a batch: `tokens[0]`, `tokens[2:5]`, `tokens[[4, 1]]`, `tokens[keep]`.
    """

    values: Float[Tensor, "b k d"]
    keep: Bool[Tensor, "b k"]
    codes: Int[Tensor, "b k q"] | Float[Tensor, "b k d"]
    size: tuple[int, int] | None = None
    """Height and width in pixels of the images that they are of, where that is known: what `decode` gives again."""

    @property
    def lengths(self) -> Int[Tensor, " b"]:
        """Tokens present in each row."""
        return self.keep.sum(1)

    @property
    def device(self) -> torch.device:
        """The device that they are on."""
        return self.keep.device

    def truncate(self, length: int) -> Tokens:
        """At most the first `length` tokens of every row; the tensors are really shorter.

        Raises:
            ValueError: a length below 1.
        """
        if length < 1:
            raise ValueError(f"a sequence keeps at least one token, not {length}")
        return replace(self, values=self.values[:, :length], keep=self.keep[:, :length], codes=self.codes[:, :length])

    def to(self, place: str | torch.device | torch.dtype) -> Tokens:
        """These tokens on a device, or with values of another floating type; integer codes stay as they are."""
        codes = self.codes
        if not isinstance(place, torch.dtype) or codes.is_floating_point():
            codes = codes.to(place)
        keep = self.keep if isinstance(place, torch.dtype) else self.keep.to(place)
        return replace(self, values=self.values.to(place), keep=keep, codes=codes)

    @staticmethod
    def cat(parts: Iterable[Tokens]) -> Tokens:
        """One batch of several, as many slots as the longest; slots that a part lacks are absent in its rows.

        Raises:
            ValueError: there are none, or they are of images of different sizes.
        """
        given = list(parts)
        sizes = {part.size for part in given}
        if len(sizes) != 1:
            told = ", ".join(str(size) for size in sizes) or "nothing"
            raise ValueError(f"tokens of images of one size are joined, not of {told}; dataclasses.replace sets `size`")
        slots = max(part.keep.shape[1] for part in given)
        missing = [(0, slots - part.keep.shape[1]) for part in given]
        values, codes = (
            torch.cat([F.pad(each, (0, 0, *lack)) for each, lack in zip(tensors, missing, strict=True)])
            for tensors in ([part.values for part in given], [part.codes for part in given])
        )
        keep = torch.cat([F.pad(part.keep, lack, value=False) for part, lack in zip(given, missing, strict=True)])
        return Tokens(values, keep, codes, sizes.pop())

    def __getitem__(self, rows: int | slice | Sequence[int] | Tensor) -> Tokens:
        """These rows; one number gives a batch of one.

        Raises:
            IndexError: a row that there is not, or slots are asked for.
        """
        if isinstance(rows, tuple):
            raise IndexError("tokens are taken by rows; the first tokens of each row are `truncate(length)`")
        if isinstance(rows, np.integer) or (isinstance(rows, Tensor) and rows.ndim == 0):
            rows = int(rows)
        if isinstance(rows, int):
            if not -len(self) <= rows < len(self):
                raise IndexError(f"row {rows} of {len(self)} rows of tokens")
            rows = slice(rows, rows + 1 or None)
        return replace(self, values=self.values[rows], keep=self.keep[rows], codes=self.codes[rows])

    def __len__(self) -> int:
        return len(self.keep)

    def __repr__(self) -> str:
        rows, slots = self.keep.shape
        least, most = (int(self.lengths.min()), int(self.lengths.max())) if rows else (0, 0)
        present = f"{most}" if least == most else f"{least} to {most}"
        of = "" if self.size is None else f", of {self.size[0]} x {self.size[1]} pixels"
        kind = str(self.values.dtype).removeprefix("torch.")
        head = f"Tokens of {rows} images: {present} of {slots} slots, {self.values.shape[2]} values each ({kind}){of}"
        if not rows:
            return f"{head}, on {self.device}\n  no codes"
        first = self.codes[0, : int(self.lengths[0])].detach().cpu()
        codes = ", ".join(_shown(code) for code in first[:SHOWN].tolist())
        more = ", ..." if len(first) > SHOWN or rows > 1 else ""
        return f"{head}, on {self.device}\n  codes {codes}{more}"

    def _repr_html_(self) -> str:
        """Codes of the first rows as a table for a notebook: a row an image, a column a slot."""
        lengths = [int(length) for length in self.lengths[:ROWS]]
        codes = self.codes[:ROWS].detach().cpu().tolist()
        slots = range(min(COLUMNS, max(lengths, default=0)))
        head = Markup("").join(Markup("<th>{}</th>").format(slot) for slot in slots)
        cell = Markup('<td style="font-variant-numeric:tabular-nums">{}</td>')
        body = Markup("").join(
            Markup("<tr><th>{}</th>{}</tr>").format(
                number, Markup("").join(cell.format(_shown(row[i]) if i < length else "·") for i in slots)
            )
            for number, (row, length) in enumerate(zip(codes, lengths, strict=True))
        )
        more = " (the first rows and slots)" if len(self) > ROWS or self.keep.shape[1] > COLUMNS else ""
        title = repr(self).partition("\n")[0] + more
        table = "<table><caption>{}</caption><thead><tr><th></th>{}</tr></thead><tbody>{}</tbody></table>"
        return str(Markup(table).format(title, head, body))


SHOWN = 8
"""Codes that `repr` shows."""
ROWS, COLUMNS = 8, 16
"""Rows and slots that a notebook shows."""


def _shown(code: Sequence[int] | Sequence[float], most: int = 4) -> str:
    numbers = [f"{number:.3g}" if isinstance(number, float) else str(number) for number in code[:most]]
    text = " ".join([*numbers, *(["..."] if len(code) > most else [])])
    return text if len(code) == 1 else f"({text})"


@dataclass(frozen=True, slots=True)
class Quantized:
    """A quantizer's answer. `values`: straight-through in training, exactly `lookup(codes)` otherwise; with a gradient
    to the features wherever gradients are on."""

    values: Float[Tensor, "b k d"]
    codes: Int[Tensor, "b k q"] | Float[Tensor, "b k d"]
    losses: Losses = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Text:
    """Texts as a conditioner gives them: `n` vectors a text, of which those that are `present` mean something."""

    embeddings: Float[Tensor, "b n e"]
    present: Bool[Tensor, "b n"]
    pooled: Float[Tensor, "b p"] | None = None
    """One vector of each whole text, of conditioners that have one."""


@dataclass(frozen=True, slots=True)
class Condition:
    """The condition of a generation; `null` rows are unconditional.

    A generator with a conditioner makes `embeddings`, `present` and `pooled` of `texts`; in a row without a text these
    are the null text's, which `nothing` holds by itself, as one row.
    """

    null: Bool[Tensor, " b"]
    labels: Int[Tensor, " b"] | None = None
    embeddings: Float[Tensor, "b n e"] | None = None
    present: Bool[Tensor, "b n"] | None = None
    pooled: Float[Tensor, "b p"] | None = None
    texts: tuple[str | None, ...] | None = None
    """A text a row; None where a row has none."""
    nothing: Text | None = None

    def hidden(self, rows: Bool[Tensor, " b"]) -> Condition:
        """This condition with these rows null, too: without a label, and with the null text. What training drops, and
        the other side of guidance."""
        null, none = self.null | rows, self.nothing
        if none is None or self.embeddings is None or self.present is None:
            return replace(self, null=null)
        pooled = None
        if self.pooled is not None and none.pooled is not None:
            pooled = torch.where(rows[:, None], none.pooled, self.pooled)
        embeddings = torch.where(rows[:, None, None], none.embeddings, self.embeddings)
        present = torch.where(rows[:, None], none.present, self.present)
        return replace(self, null=null, embeddings=embeddings, present=present, pooled=pooled)

    def chunk(self, parts: int) -> list[Condition]:
        """Equal parts of the rows, in order."""
        size = -(-len(self.null) // parts)

        def part(start: int) -> Condition:
            rows = slice(start, start + size)
            labels, embeddings, present, pooled = (
                None if values is None else values[rows]
                for values in (self.labels, self.embeddings, self.present, self.pooled)
            )
            texts = None if self.texts is None else self.texts[rows]
            return Condition(self.null[rows], labels, embeddings, present, pooled, texts, self.nothing)

        return [part(start) for start in range(0, len(self.null), size)]


@dataclass(frozen=True, slots=True)
class Batch:
    """A training batch. What was precomputed (latents, codes, features) is there already and is not computed again."""

    index: Int[Tensor, " b"]
    """Each sample's number in its data set: what its random draws depend on."""
    images: Float[Tensor, "b 3 h w"] | None = None
    latents: Float[Tensor, "b c y x"] | None = None
    codes: Codes | None = None
    condition: Condition | None = None
    features: Mapping[str, Tensor] = field(default_factory=dict)

    def with_latents(self, latents: Float[Tensor, "b c y x"]) -> Batch:
        """This batch with these latents."""
        return replace(self, latents=latents)

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True, slots=True)
class Flow:
    """A rectified flow under a batch's tokens (arXiv 2209.03003), in its decoder's own range: x is t noise + (1 - t)
    data, and a step against its velocity goes from t=1 to 0."""

    velocity: Callable[[Float[Tensor, "b c h w"], Float[Tensor, " b"], Float[Tensor, " b"]], Float[Tensor, "b c h w"]]
    """Velocity at x and each row's time, for a step of each row's length, which not every decoder is told."""
    data: Callable[[Float[Tensor, "b c h w"]], Float[Tensor, "b c h w"]]
    """Latents in that range."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """The outcome of a forward pass of training: the model's own losses, and what objectives read."""

    losses: Losses
    reconstruction: Float[Tensor, "b c h w"] | None = None
    """The decoder's latents, in the codec's range."""
    logits: Tensor | None = None
    features: Mapping[str, Tensor] = field(default_factory=dict)
    """Features that the taps asked for, an encoder's as `encoder.NAME`; and what the decoder makes of these alone."""
    codes: Codes | None = None
    """The batch's codes, for usage statistics: all that the quantizer gave, where a masker drops behind it too."""
    tokens: Tokens | None = None
    """The tokens that the decoder was given, with their gradient."""
    flow: Flow | None = None
    """The flow that the decoder integrates under these tokens, with its gradient; of decoders that provide `flow`."""

    def picture(self, of: str) -> Float[Tensor, "b c y x"] | None:
        """The reconstruction, or what the decoder makes of the encoder's features under this name."""
        return self.reconstruction if of == "reconstruction" else self.features.get(of)
