"""The print of `flexframe show MODEL`: where the model is from, what it is, what it weighs, what it costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from flexframe.commands import doubts
from flexframe.commands.common import out
from flexframe.commands.subjects import Rows, Subject, flat
from flexframe_registry import ModelConfig

if TYPE_CHECKING:
    from flexframe.models.profile import Cost, PartSize, Profile

PRECISIONS = ("fp32", "bf16")


def tell(subject: Subject, sizes: Iterable[PartSize], profile: Profile | None) -> None:
    """Print everything that is known."""
    out.print(Text.assemble((subject.name, "bold"), f"  ({subject.config.kind})\n"))
    facts([*subject.facts, *subject.config.describe(), ("sampling", settings(subject.sampling))])
    if len(subject.config.budgets) > 1:
        _budgets(subject.config)
    _sizes(list(sizes))
    if profile is not None:
        _flops(profile, subject.sampling)
        _memory(profile)
    else:
        _note("FLOPs and memory are measured of tokenizers; of this one, its sizes.")
    _metrics(subject.metrics)
    doubts.tell(subject.doubts)


def record(subject: Subject, sizes: Iterable[PartSize], profile: Profile | None) -> dict[str, Any]:
    """Everything that is known, as plain data: bytes and FLOPs are numbers, and what could not be measured is null."""
    budgets, bits = subject.config.budgets, subject.config.bits_per_token
    known = {
        "name": subject.name,
        "kind": subject.config.kind,
        "facts": dict(subject.facts),
        "is": dict(subject.config.describe()),
        "budgets": list(budgets),
        "bits": None if bits is None else [budget * bits for budget in budgets],
        "parts": [asdict(each) for each in sizes],
        "config": subject.resolved,
        "doubts": [f"{path}: {text}" for path, text in subject.doubts],
    }
    if profile is None:
        return known
    costs: dict[str, dict[str, Any]] = {}
    for (use, precision), cost in profile.costs.items():
        here = costs.setdefault(use, {})
        here[precision] = {"failed": cost.failed} if cost.failed else {**asdict(cost), "flops": dict(cost.flops)}
    training = {
        precision: None if profile.costs["train", precision].failed else profile.training(precision)
        for precision in PRECISIONS
    }
    batch = {"batch_size": profile.batch_size, "weights_bytes": profile.weights}
    return {**known, **batch, "costs": costs, "training_bytes": training}


def settings(values: Mapping[str, Any]) -> str:
    """Settings in a line: `steps 25, guidance 15.0, apg`."""
    return ", ".join(key if value is True else f"{key} {flat(value)}" for key, value in values.items())


def facts(rows: Rows) -> None:
    """Print labels and texts, those that say something."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in rows:
        if text:
            table.add_row(label, text)
    out.print(table)


def _budgets(config: ModelConfig) -> None:
    budgets, bits = config.budgets, config.bits_per_token
    shown = budgets
    if len(budgets) > 12:
        shown = tuple(b for b in budgets if b & (b - 1) == 0 or b == budgets[-1])
    table = _table()
    table.add_column(no_wrap=True)
    for _ in shown:
        table.add_column(justify="right", no_wrap=True)
    table.show_header = False
    table.add_row("tokens", *(f"{b:,}" for b in shown))
    if bits is not None:
        table.add_row("bits", *(f"{b * bits:,.0f}" for b in shown))
    _show(f"token counts it is meant for{'' if shown == budgets else f': {len(budgets)}, of which'}", table)


def _sizes(sizes: list[PartSize]) -> None:
    table = _table()
    for column in ("part", "is"):
        table.add_column(column, no_wrap=True)
    for column in ("parameters", "trained", "buffers", "fp32", "bf16"):
        table.add_column(column, justify="right", no_wrap=True)
    for each in sizes:
        if each.missing:
            table.add_row(each.kind, each.name, "unknown", "", "", "", "")
        else:
            numbers = (f"{n:,}" for n in (each.parameters, each.trainable, each.buffers))
            table.add_row(each.kind, each.name, *numbers, size(each.stored), size(each.halved))
    totals = [sum(getattr(s, name) for s in sizes) for name in ("parameters", "trainable", "buffers")]
    stored, halved = sum(s.stored for s in sizes), sum(s.halved for s in sizes)
    table.add_row("total", "", *(f"{n:,}" for n in totals), size(stored), size(halved), style="bold")
    _show("parameters", table)
    for each in sizes:
        if each.missing:
            _note(f"without the {each.kind}: {each.missing}", "yellow")


def _flops(profile: Profile, sampling: Mapping[str, Any]) -> None:
    table = _table()
    for justify in ("left", "left", "right"):
        table.add_column(justify=justify, no_wrap=justify == "right")
    table.show_header = False
    encode, decode, once, train = (profile.costs[use, "fp32"] for use in ("encode", "decode", "pass", "train"))
    in_all, one = decode.flops.get("decoder", 0), once.flops.get("decoder", 0)
    times = f"{in_all / one:.3g} passes" if one else "in all"
    told = f"decoder, {times}{f': {settings(sampling)}' if sampling else ''}"
    rows = [("encode", part, encode, encode.flops.get(part, 0)) for part in ("codec", "encoder", "quantizer")]
    rows += [("decode", "decoder, one pass", once, one)]
    rows += [("decode", told, decode, in_all)] if in_all != one or decode.failed else []
    rows += [("decode", "codec", decode, decode.flops.get("codec", 0))]
    rows += [("train", "forward and backward, without objectives", train, sum(train.flops.values()))]
    shown = [row for row in rows if row[1] != "codec" or row[3]]  # an identity has nothing to count
    _fill(table, [((use, what, "not known" if cost.failed else flops(n)), "") for use, what, cost, n in shown])
    _show("FLOPs an image (a multiply and an add are two)", table)
    for use, cost in (("encode", encode), ("decode", decode), ("train", train)):
        if cost.without and not any(part.missing for part in profile.parts):
            _note(f"{use} without the codec: {cost.without}", "yellow")
        if cost.guessed:
            _note(f"{use}: numbers that the code reads from data were taken as 0 ({cost.guessed} times)")
    for cause, uses in _causes(profile).items():
        _note(f"{', '.join(uses)} cannot be measured: {cause}", "yellow")


def _causes(profile: Profile) -> dict[str, list[str]]:
    """All that is not known, by cause: a use, or a use in one precision where the other can be measured."""
    causes: dict[str, list[str]] = {}
    for (use, precision), cost in profile.costs.items():
        names = causes.setdefault(cost.failed, [])
        name = "one pass" if use == "pass" else use
        if name not in names:
            names.append(name if precision == "fp32" else f"{name} in {precision}")
    causes.pop("", None)  # what did not fail
    return causes


def _memory(profile: Profile) -> None:
    table = _table()
    for column in ("", " "):
        table.add_column(column, no_wrap=True)
    for precision in PRECISIONS:
        table.add_column(precision, justify="right", no_wrap=True)
    rows = [(("use", "weights and buffers", *[size(profile.weights)] * 2), "")]
    for use in ("encode", "decode"):
        costs = [profile.costs[use, precision] for precision in PRECISIONS]
        rows.append(((use, "beyond weights", *(_or_unknown(cost, cost.peak) for cost in costs)), ""))
        rows.append(((use, "in all", *(_or_unknown(cost, profile.weights + cost.peak) for cost in costs)), "bold"))
    costs = [profile.costs["train", precision] for precision in PRECISIONS]
    steps = [profile.training(precision) for precision in PRECISIONS]
    for what in steps[0]:
        values = (_or_unknown(cost, step[what]) for cost, step in zip(costs, steps, strict=True))
        rows.append((("train", what, *values), "bold" if what == "at once" else ""))
    _fill(table, rows)
    _show(f"memory for a batch of {profile.batch_size:,}", table)
    _note("Tensors alive, an estimate: the allocator's and the libraries' own memory comes on top.")
    _note("bf16 is autocast, as in runs: weights stay fp32, and their bf16 copies are beyond them.")


def _or_unknown(cost: Cost, value: int) -> str:
    return "not known" if cost.failed else size(value)


def _metrics(metrics: Mapping[str, Any]) -> None:
    if not metrics:
        return
    origin = metrics.get("origin", "")
    table = _table()
    table.add_column(no_wrap=True)
    table.add_column()
    table.add_column(style="dim")
    table.show_header = False
    for name, value in metrics.items():
        if name == "origin":
            continue
        own = value.get("origin", "") if isinstance(value, Mapping) else ""
        rest = {k: v for k, v in value.items() if k != "origin"} if isinstance(value, Mapping) else value
        told = rest["value"] if isinstance(rest, Mapping) and set(rest) == {"value"} else rest
        table.add_row(name, flat(told), str(own))
    _show(f"numbers{f': {origin}' if origin else ''}", table)


# --- numbers -----------------------------------------------------------------------------------------------------


def flops(count: int | float) -> str:
    """`96.86 GFLOP`."""
    power = next((p for p in range(5) if count < 1000 ** (p + 1)), 5)
    return f"{count / 1000**power:#.4g} {' KMGTP'[power].strip()}FLOP" if count else "0"


def size(count: int | float) -> str:
    """Bytes as `1.27 GiB`."""
    power = next((p for p in range(4) if count < 1000 * 1024**p), 4)
    value = f"{count / 1024**power:#.3g}".rstrip(".") if power else f"{count:.0f}"
    return f"{value} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


def _table() -> Table:
    return Table(box=None, header_style="dim", pad_edge=False)


def _fill(table: Table, rows: Iterable[tuple[Sequence[str], str]]) -> None:
    """Add rows with their styles; a first word that is the one above is left out."""
    above = ""
    for (first, *rest), style in rows:
        table.add_row("" if first == above else first, *rest, style=style)
        above = first


def _show(title: str, table: Table) -> None:
    out.print(f"\n{title}", style="bold", markup=False)
    out.print(table)


def _note(text: str, style: str = "dim") -> None:
    out.print(text, style=style, markup=False)
