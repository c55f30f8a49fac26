"""The sentence that the page opens with: where each model is good, as far as the images decide it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from flexframe.bench.report.numbers import Column, Lane, Numbers
from flexframe.bench.report.verdicts import Row, Verdicts, clients, common, listed, same_bits, tokens
from flexframe.bench.table import shown_bits

NAMED = 3
"""Measures that are named where they speak against the leading one."""
CLAUSES = 3
"""Stretches of lengths that are told one by one; more are counted."""


@dataclass(frozen=True, eq=False)
class Met:
    """Models at one expense."""

    rows: Sequence[Row]
    values: Mapping[Lane, float]
    """The leading number of each model there."""
    winner: Lane | None
    """The one that is better than every other; None where the images do not decide that."""

    ahead: Sequence[Lane]
    """Those that are worse than none."""

    @property
    def others(self) -> list[Lane]:
        """The others, the nearest to the winner first."""
        near = self.values[self.winner] if self.winner else 0.0
        return sorted((lane for lane in self.values if lane != self.winner), key=lambda x: abs(self.values[x] - near))

    @property
    def place(self) -> str:
        """The expense in words."""
        if self.rows[0].equal == "bits":
            return self.rows[0].at.replace(" (", ", ").removesuffix(")")
        return tokens(int(self.rows[0].expense))


def conclusion(numbers: Numbers, judged: Verdicts) -> str:
    """One sentence on what is compared and where each model is good.

    Nothing is said to be better but where the 95 % interval of the difference leaves out zero, on the same images.
    """
    lead, names = numbers.lead, list(numbers.results["models"])
    count = numbers.results.get("protocol", {}).get("count")
    images = "these images" if count is None else f"{count:,} images" if count != 1 else "one image"
    if lead is None:
        return f"Nothing could be measured of {listed(names)} on {images}; why, stands with each number below."
    if len(names) == 1:
        return f"On {images}, {_alone(numbers, lead, names[0])}."
    met = list(_met(numbers, lead, judged))
    cheaper = _cheaper(numbers, lead, judged)
    parts = [*_fewest(numbers, lead), *_won(numbers, lead, met), *cheaper, *_codecs(numbers, lead)]
    if not met:
        apart = len(judged.apart) == len(names) * (len(names) - 1) // 2
        why = "no two models spend equal tokens or bits" if apart else f"there are no intervals of {lead.label}"
        spread = [f"{name} {_ends(numbers, lead, name)}" for name in names if _own(numbers, lead, name)]
        parts = [why + ("" if cheaper else ", so that nothing is decided between them"), *spread[: NAMED + 1], *cheaper]
    return f"On {images}, by {lead.label}: {'; '.join(parts)}."


def _own(numbers: Numbers, lead: Column, name: str) -> list[int]:
    """A model's token counts that have the leading number."""
    known = sorted(map(int, numbers.results["models"][name]["budgets"]))
    return [k for k in known if numbers.value(lead, name, k) is not None]


def _ends(numbers: Numbers, lead: Column, name: str) -> str:
    """A model's leading number at its fewest and most tokens."""
    own = _own(numbers, lead, name)
    told = [
        f"{lead.text(numbers.value(lead, name, k), unit=True)} at {tokens(k)}" for k in dict.fromkeys((own[0], own[-1]))
    ]
    return " and ".join(told)


def _alone(numbers: Numbers, lead: Column, name: str) -> str:
    own = _own(numbers, lead, name)
    said = f"the {lead.label} of {name} is {_ends(numbers, lead, name)}"
    if len(own) == 1:
        sure = numbers.interval(lead, name, own[0])
        return said + ("" if sure is None else f" (95 % interval {lead.text(sure.low)} to {lead.text(sure.high)})")
    more = numbers.compare(lead, (name, own[-1]), (name, own[0]))
    if more is None or more.verdict == "not distinguishable":
        return f"{said}, and whether more tokens help is not decided"
    return f"{said}: more tokens {'help' if more.verdict == 'better' else 'harm'}"


def _met(numbers: Numbers, lead: Column, judged: Verdicts) -> Iterator[Met]:
    """All expenses that models share, in their order."""
    place = judged.columns.index(lead) if lead in judged.columns else None
    rows = [row for row in judged.rows if place is not None and row.cells[place] is not None]
    codecs = {name for name in numbers.results["models"] if clients(numbers.results, name)}
    rows = [row for row in rows if not {row.first, row.second} & codecs]
    for _, some in groupby(rows, key=lambda row: (row.equal, row.expense if row.equal == "tokens" else row.at)):
        here = list(some)
        values, won, lost = dict[Lane, float](), dict[Lane, int](), set[Lane]()
        for row in here:
            cell = row.cells[place] if place is not None else None
            for lane in row.lanes:
                values[lane] = float(numbers.value(lead, *lane) or 0.0)
            if cell is not None and cell.verdict != "not distinguishable":
                better, worse = row.lanes if cell.verdict == "better" else row.lanes[::-1]
                won[better] = won.get(better, 0) + 1
                lost.add(worse)
        winner = next((lane for lane, n in won.items() if n == len(values) - 1), None)
        yield Met(here, values, winner, [lane for lane in values if lane not in lost])


def _won(numbers: Numbers, lead: Column, met: Sequence[Met]) -> list[str]:
    """Who is best at equal expense, stretch by stretch."""
    runs = [list(run) for _, run in groupby(met, key=lambda each: ((each.winner or (None,))[0], each.rows[0].equal))]
    if len(runs) > CLAUSES:
        best: dict[str, int] = {}
        for each in met:
            if each.winner is not None:
                best[each.winner[0]] = best.get(each.winner[0], 0) + 1
        told = [f"{name} at {n} of them" for name, n in sorted(best.items(), key=lambda pair: -pair[1])]
        undecided = len(met) - sum(best.values())
        rest = [f"nobody at {undecided}, which are not decided"] if undecided else []
        return [f"models meet at {len(met)} numbers of tokens or bits, and the best is {', '.join([*told, *rest])}"]
    return [_stretch(numbers, lead, run) for run in runs]


def _stretch(numbers: Numbers, lead: Column, run: Sequence[Met]) -> str:
    """What became of models at expenses that follow each other and end alike."""
    first, last = run[0], run[-1]
    where = first.place if first is last else f"{first.place.split()[0]} to {last.place}"
    if first.winner is None:
        ahead, figures = [lane[0] for lane in first.ahead], ""
        if first is last and len(first.values) == 2:
            figures = f" ({' and '.join(lead.text(value, unit=True) for value in first.values.values())})"
        lag = "" if len(ahead) == len(first.values) else " from each other, ahead of the rest,"
        return f"{listed(ahead)} are not told apart{lag} at {where}{figures}"
    pairs = [(each.winner, each.others[0], each) for each in dict.fromkeys((first, last)) if each.winner]
    ours = " to ".join(lead.text(each.values[lane]) for lane, _, each in pairs)
    theirs = " to ".join(lead.text(each.values[lane], unit=True) for _, lane, each in pairs[-1:])
    theirs = " to ".join([*(lead.text(each.values[lane]) for _, lane, each in pairs[:-1]), theirs])
    rivals, name = {lane[0] for _, lane, _ in pairs}, first.winner[0]
    if len(first.values) == 2:
        figures = f"({ours} against {theirs}{_unequal(first)})"
        return f"{name} is better than {rivals.pop()} at {where} {figures}{_elsewhere(numbers, lead, run)}"
    rival = f"of {rivals.pop()}" if len(rivals) == 1 else "of the next best"
    return f"{name} is the best of {len(first.values)} models at {where} ({ours} against {theirs} {rival})"


def _unequal(met: Met) -> str:
    """The bits of two that spend equal tokens of unequal size."""
    ours, theirs = met.rows[0].bits if met.rows[0].lanes[0] == met.winner else met.rows[0].bits[::-1]
    if met.rows[0].equal == "bits" or same_bits(ours, theirs) or ours is theirs is None:
        return ""
    said = "continuous" if ours is None else shown_bits(ours) if theirs is not None else f"{shown_bits(ours)} bits"
    return f", {said} against {'continuous' if theirs is None else f'{shown_bits(theirs)} bits'}"


def _elsewhere(numbers: Numbers, lead: Column, run: Sequence[Met]) -> str:
    """In how many of the other numbers the better one of two is ahead and behind, at the whole stretch; in which, where
    it is behind in few."""
    if any(len(each.values) != 2 for each in run):
        return ""
    ahead, behind, known = list[Column](), list[Column](), 0
    for column in (column for column in numbers.columns if column.directed and column is not lead):
        cells = [numbers.compare(column, each.winner, each.others[0]) for each in run if each.winner]
        verdicts = {cell.verdict for cell in cells if cell is not None}
        known += all(cell is not None for cell in cells)
        ahead += [column] * (verdicts == {"better"})
        behind += [column] * (verdicts == {"worse"})
    if not ahead and not behind:
        return ""
    counts = [f"{word} in {len(some)}" for word, some in (("ahead", ahead), ("behind", behind)) if some]
    named = f" ({_named(behind)})" if 0 < len(behind) <= NAMED else ""
    return f", {' and '.join(counts)} of the {known} other number{'s' * (known != 1)}{named}"


def _named(columns: Sequence[Column]) -> str:
    judges = {column.measure.get("by") for column in columns}
    names, ending = common([column.short if len(judges) == 1 else column.label for column in columns])
    if len(judges) == 1 and None not in judges:  # what all end with is that a judge finds it right
        return f"{listed(names)} as the {judges.pop()} reads {'it' if len(names) == 1 else 'them'}"
    return f"{listed(names)} {ending}".strip()


def _cheaper(numbers: Numbers, lead: Column, judged: Verdicts) -> list[str]:
    """Pairs without an equal expense of which one is better for fewer bits."""
    models, told = numbers.results["models"], []
    for pair in judged.apart:
        for ours, theirs in (pair, pair[::-1]):
            mine, others = _own(numbers, lead, ours)[-1:], _own(numbers, lead, theirs)
            bits = {k: models[theirs]["budgets"][str(k)]["bits"] for k in others}
            own = models[ours]["budgets"][str(mine[0])]["bits"] if mine else None
            dearer = [k for k in others if own is not None and (bits[k] or 0) > own]
            if not dearer:
                continue
            cell = numbers.compare(lead, (ours, mine[0]), (theirs, dearer[0]))
            if cell is not None and cell.verdict == "better":
                spent = f"{shown_bits(own)} bits an image against {shown_bits(bits[dearer[0]])}"
                told.append(f"{ours} is better than {theirs} for fewer bits ({spent})")
    return told[:1]


def _fewest(numbers: Numbers, lead: Column) -> list[str]:
    """The only model that works with fewer tokens than all others."""
    least = {name: own[0] for name in numbers.results["models"] if (own := _own(numbers, lead, name))}
    name, fewest = min(least.items(), key=lambda pair: pair[1])
    others = [k for other, k in least.items() if other != name]
    if not others or min(others) <= fewest:
        return []
    value = lead.text(numbers.value(lead, name, fewest), unit=True)
    return [f"only {name} makes a picture of fewer than {tokens(min(others))} ({value} at {fewest})"]


def _codecs(numbers: Numbers, lead: Column) -> list[str]:
    """What the models are bound by whose pictures another one here decodes."""
    told = []
    for name in numbers.results["models"]:
        if (others := clients(numbers.results, name)) and (own := _own(numbers, lead, name)):
            whose = "the others" if len(others) == len(numbers.results["models"]) - 1 else listed(others)
            value = lead.text(numbers.value(lead, name, own[-1]), unit=True)
            told.append(f"{name}, the codec of {whose}, bounds them at {value}")
    return told
