"""Alarms: what goes wrong while a run trains, told once each, in a line, with what to do. Imports no torch.

An alarm decides by the lines of the log alone. So a resumed run knows what was told by reading them again, a log that
is kept can be asked again, and no number that is trained by can change. Where the log lacks what an alarm reads (logs
of before, other kinds of models), it says nothing.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from flexframe_registry import TokenizerConfig, TrainConfig

Line = Mapping[str, Any]
"""A line of the log."""
ALARMS = "alarms"
"""Key of a line of the log at which alarms went off."""
SHORT = 500
"""Steps of the shortest run whose end is news: what has not learned by then may yet be about to."""
FLAT = 0.25
"""Bits by which a token's code differs between images, at most, where it tells nothing of them."""
IGNORED = 0.005
"""Share of the error that another image's tokens make, at most, where the decoder ignores them."""
MEAN_IMAGE = 0.95
"""Error over the variance of the images from which on it is the mean image's; 16 images tell it to some percent."""
RISEN, FALLEN = 1.5, 0.5
"""Loss over the loss at the start from which on it has risen; and at most, of the least one where a rise from there
counts too. A learning rate that warms up again on trained weights makes a third."""
EXPLODED, GROWN, ENDLESS = 50.0, 20.0, 1e4
"""Gradient norm, and norm of the weights, over the largest of the start; and a gradient norm that no mean loss has."""
STARTS = 3
"""Lines that are the start, for gradient norms."""


class Alarmed(ValueError):
    """An alarm of a run that is strict."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """A number, the one that a healthy run shows at least or at most, and what to tell: what is wrong, what to do."""

    value: float
    healthy: float
    what: str
    remedy: str


class Alarm(ABC):
    """Watches for one trouble."""

    name: ClassVar[str]
    reads: ClassVar[tuple[str, ...]]
    """Numbers without which a line is passed over."""
    explains: ClassVar[frozenset[str]] = frozenset()
    """Alarms that would tell the same trouble again."""
    lines: ClassVar[int] = 3
    """Lines in a row that show it before it is told."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.since, self.seen = 0, 0

    @abstractmethod
    def trouble(self, line: Line) -> Trouble | None:
        """The trouble that a line shows."""

    def patience(self) -> int:
        """Steps before which a healthy run may look like this."""
        return 0

    def look(self, line: Line) -> dict[str, Any] | None:
        """Take the next line; the record of the trouble, once it has stayed long enough."""
        if any(line.get(name) is None for name in self.reads):
            return None
        trouble = self.trouble(line)
        if trouble is None:
            self.seen = 0
            return None
        step = int(line["step"])
        self.since, self.seen = self.since if self.seen else step, self.seen + 1
        if self.seen < self.lines or not self._due(step):
            return None
        text = f"{trouble.what}, since step {self.since}; {trouble.remedy}"
        healthy = _short(trouble.healthy)
        return {"alarm": self.name, "since": self.since, "value": _short(trouble.value), "healthy": healthy,
                "text": text}  # fmt: skip

    def _due(self, step: int) -> bool:
        return step >= self.patience() or (step >= self.config.run.steps and step >= SHORT)


class Collapse(Alarm):
    """Most of a learned codebook is out of use, or a token has the same code whatever the image is.

    Use alone tells neither: entries that are revived are used and carry little. A healthy codebook is worth more than
    half of its bits (its perplexity is above the root of its size); below a third it has collapsed.
    """

    name = "collapse"
    reads = ("codes_perplexity", "codes_used", "codes_dead")
    explains = frozenset({"tokens-ignored", "mean-image"})

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        tokenizer = config.model if isinstance(config.model, TokenizerConfig) else None
        self.remedy = tokenizer.quantizer.remedy() if tokenizer else ""
        self.codebooks = tokenizer.spec.tokens.codebooks if tokenizer else 1
        self.bits: float | None = None

    def patience(self) -> int:
        return 1000

    def trouble(self, line: Line) -> Trouble | None:
        self.bits = line.get("probe/bits", self.bits)
        used, perplexity = line["codes_used"], line["codes_perplexity"]
        all_codes = used + line["codes_dead"]
        size = all_codes // self.codebooks
        if not self.remedy:
            return None
        told = f"codebook collapse: {used:,} of {all_codes:,} codes in use, perplexity {perplexity:.3g}"
        told += f" a codebook of {size:,}" if self.codebooks > 1 else ""
        remedy = f"try {self.remedy}"
        if self.bits is not None and self.bits <= FLAT:
            told += f", and {self.bits:.2g} bits of a token differ between images (healthy: above {FLAT})"
            return Trouble(self.bits, FLAT, told, remedy)
        if perplexity <= size ** (1 / 3):
            return Trouble(perplexity, math.sqrt(size), f"{told} (healthy: above {math.sqrt(size):.0f})", remedy)
        return None


class TokensIgnored(Alarm):
    """The decoder does as well with another image's tokens."""

    name = "tokens-ignored"
    reads = ("probe/tokens",)
    explains = frozenset({"mean-image"})

    def patience(self) -> int:
        """A third of a run, from 3000 to 10,000 steps: a flow learns to denoise first, and long by that alone."""
        return min(max(3000, self.config.run.steps // 3), 10_000)

    def trouble(self, line: Line) -> Trouble | None:
        share = line["probe/tokens"]
        if share > IGNORED:
            return None
        what = f"the decoder ignores the tokens: another image's do as well, to {max(share, 0):.2%}"
        remedy = "try another run.optimizer.lr, a shallower decoder, or an encoder that was trained before (run.init)"
        return Trouble(share, IGNORED, f"{what} (healthy: above {IGNORED:.1%})", remedy)


class MeanImage(Alarm):
    """A decoder that gives one picture is no better than the mean image."""

    name = "mean-image"
    reads = ("probe/error",)
    explains = frozenset({"tokens-ignored"})

    def patience(self) -> int:
        """A quarter of a run, from 1000 to 5000 steps: deep models paint the mean image for some hundreds."""
        return min(max(1000, self.config.run.steps // 4), 5000)

    def trouble(self, line: Line) -> Trouble | None:
        share = line["probe/error"]
        if share < MEAN_IMAGE:
            return None
        what = f"the error is {share:.0%} of the mean image's (healthy: below {MEAN_IMAGE:.0%})"
        remedy = "try another run.optimizer.lr; --overfit-batch tells whether the model can learn at all"
        return Trouble(share, MEAN_IMAGE, what, remedy)


class NoGradient(Alarm):
    """A part that is to learn receives no gradient."""

    name = "no-gradient"
    reads = ("grad_norm",)
    lines = 2

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.reached: set[str] = set()

    def patience(self) -> int:
        """Heads that start at zero pass no gradient on at the first step, and an objective may begin later."""
        objectives = self.config.objectives
        return 20 + max((objective.start for objective in objectives), default=0)

    def trouble(self, line: Line) -> Trouble | None:
        norms = {part: line.get(f"grad_norm/{part}") for part in self.config.model.parts}
        idle = [part for part, norm in norms.items() if norm == 0]
        lost = self.reached.issuperset(idle)
        self.reached |= {part for part, norm in norms.items() if norm}
        if not idle:
            return None
        what = f"no loss reaches the {' and '.join(idle)}{' any more' * lost}: gradient 0 (healthy: above 0)"
        remedy = "try a lower run.optimizer.lr"
        if not lost:
            remedy = (
                f"name an objective that it has part in (run.objectives), or keep it as it is (run.freeze={idle[0]})"
            )
        return Trouble(0.0, 0.0, what, remedy)


class Rising(Alarm):
    """The loss goes up from its start, or gives back most of what it had come down by."""

    name = "rising-loss"
    reads = ("loss",)
    explains = frozenset({"exploding", "mean-image"})
    lines = 5

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.names: Sequence[str] = ()
        self.start: float | None = None
        self.least = 0.0

    def trouble(self, line: Line) -> Trouble | None:
        # an objective that begins later adds to the loss: those of the first line are compared
        losses = [line.get(name) for name in self.names]
        known = [value for value in losses if value is not None]
        loss = sum(known) if known and len(known) == len(losses) else line["loss"]
        if self.start is None:
            self.names = [name for name in line if "/" in name and not name.startswith(("grad_norm/", "probe/"))]
            self.start = self.least = line["loss"]
            return None
        self.least = min(self.least, loss)
        most = RISEN * self.start
        if self.least <= FALLEN * self.start:
            most = (self.start + self.least) / 2
        if self.start <= 0 or loss <= most:
            return None
        what = f"the loss rises: {loss:.3g}, from {self.start:.3g} at the start and {self.least:.3g} at its least"
        return Trouble(loss, self.least, what, "try a lower run.optimizer.lr, or a longer run.optimizer.warmup")

    def _due(self, step: int) -> bool:
        return step - self.since >= 20


class Exploding(Alarm):
    """Gradients or weights grow without end, though all is finite yet."""

    name = "exploding"
    reads = ("grad_norm",)
    explains = frozenset({"rising-loss", "no-gradient", "collapse", "tokens-ignored", "mean-image"})

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.begun: list[float] = []
        self.weights = 0.0

    def trouble(self, line: Line) -> Trouble | None:
        norm, weights = line["grad_norm"], line.get("probe/weights")
        most = min(EXPLODED * max(self.begun), ENDLESS) if len(self.begun) == STARTS else ENDLESS
        if weights is not None and weights > GROWN * self.weights > 0:
            return self._told("weights", weights, GROWN * self.weights)
        if norm > most:
            return self._told("gradients", norm, most)
        self.weights = self.weights or weights or 0.0
        self.begun += [norm] if len(self.begun) < STARTS and norm > 0 else []
        return None

    def _told(self, what: str, norm: float, most: float) -> Trouble:
        text = f"{what} explode: their norm is {norm:.3g} (healthy: below {most:.3g})"
        return Trouble(norm, most, text, "try a lower run.optimizer.lr, or a longer run.optimizer.warmup")


KINDS: tuple[type[Alarm], ...] = (Exploding, NoGradient, Rising, Collapse, TokensIgnored, MeanImage)
"""In order: what explains another comes before it."""


class Alarms:
    """The alarms of one run."""

    def __init__(self, config: TrainConfig) -> None:
        self.alarms = [kind(config) for kind in KINDS]
        self.told: list[dict[str, Any]] = []
        """Records of what went off."""
        self.silent: set[str] = set()
        """Names of those that have told, or that another one has told for."""

    def look(self, line: Line) -> list[dict[str, Any]]:
        """Take the next line of the log; records of what goes off at it."""
        records = []
        for alarm in self.alarms:
            record = alarm.look(line)
            if record is not None and alarm.name not in self.silent:
                records.append(record)
                self.silent |= {alarm.name, *alarm.explains}
        self.told += records
        return records

    def read(self, lines: Iterable[Line]) -> None:
        """Go on where these lines end; what they tell is not told again."""
        told = []
        for line in lines:
            self.look(line)
            told += line.get(ALARMS, ())
        names, self.told = {record["alarm"] for record in told}, told
        self.silent = names.union(*(alarm.explains for alarm in self.alarms if alarm.name in names))


def _short(value: float) -> float:
    return float(f"{value:.4g}")
