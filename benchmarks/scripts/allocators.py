"""Lengths chosen for each image against one length for all: tokens at equal quality, rate-distortion, and whether the
length follows the picture.

    OMP_NUM_THREADS=1 python benchmarks/scripts/allocators.py scenes -o out/allocators-scenes
    OMP_NUM_THREADS=1 python benchmarks/scripts/allocators.py digits -o out/allocators-digits

Every image is decoded at every length once; all rules are then applied to these same errors: one length for all,
`psnr` at several targets, `rate-distortion` at several prices, and `learned`, a head for each target, trained on other
images. Rates are tokens, bits (with log2 of the number of lengths for saying which), and, where a prior of the
codes ships, bits under it. Intervals are 95 %, over images, the same images for both sides of a difference. What was
decoded is kept in `decoded-*.npz` in the folder, so that an interrupted run goes on; `results.json` and `table.md` are
written there.
"""

from __future__ import annotations

import argparse
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.stats import rankdata

from flexframe import load, provenance
from flexframe.bench.intervals import ends
from flexframe.files import write_json, write_text
from flexframe.models.fingerprint import weights
from flexframe.rng import Rng
from flexframe.tokens import Codes
from flexframe_lengths.learned import chosen, fit, read
from flexframe_registry import catalogue
from flexframe_registry.slots import resolve

BATCH, DRAWS = 32, 500


@dataclass(frozen=True)
class Study:
    """A model and the images that it is asked about."""

    model: str
    prior: str | None
    train: Sequence[tuple[Mapping[str, Any], int]]
    """Sources, and how many images of each the heads learn from."""
    test: Mapping[str, Sequence[tuple[Mapping[str, Any], int]]]
    targets: Sequence[float]
    prices: Sequence[float]


def scenes(split: str, level: int, seed: int = 0) -> Mapping[str, Any]:
    """Scenes of a level of complexity."""
    return {"type": "scenes", "split": split, "complexity": level, "seed": seed, "count": 5000}


STUDIES = {
    "scenes": Study(
        "flextok/scenes-64", "gpt/scenes-64-flextok",
        [(scenes("train", 1), 600), *((scenes("train", level), 60) for level in (0, 2, 3, 4))],
        {"suite": [(scenes("val", 1), 256)], "levels": [(scenes("val", level, 1), 48) for level in range(5)]},
        (16.0, 18.0, 20.0, 22.0, 24.0, 26.0), (1.0, 3.0, 10.0, 30.0, 100.0, 300.0),
    ),
    "digits": Study(
        "flextok/digits-tiny", None, [({"type": "digits", "split": "train"}, 1438)],
        {"suite": [({"type": "digits", "split": "val"}, 359)]},
        (16.0, 18.0, 20.0, 22.0, 24.0, 26.0), (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0),
    ),
}  # fmt: skip


# --- what was decoded ------------------------------------------------------------------------------------------------


def decoded(study: Study, tokenizer: Any, prior: Any, parts: Sequence[tuple[Mapping[str, Any], int]]) -> dict[str, Any]:
    """Numbers of each image: squared error at each length in 8-bit steps, what heads read, bits under the prior at each
    length, and what is known of its complexity."""
    rows: dict[str, list[np.ndarray]] = {}
    for raw, count in parts:
        source = catalogue().build(resolve("source", dict(raw)), tokenizer.config.image_size)
        for start in range(0, count, BATCH):
            samples = source.samples(range(start, min(start + BATCH, count)))
            real = torch.stack([sample.image for sample in samples])
            images, rng = real.float() / 255, Rng(0, torch.arange(start, start + len(real)))
            tokens = tokenizer.encode(images, rng=rng)
            fakes = [tokenizer.decode(tokens.truncate(k), rng=rng) for k in tokenizer.config.budgets]
            errors = [((fake * 255).round() - real).square().mean((1, 2, 3)) for fake in fakes]
            rows.setdefault("errors", []).append(torch.stack(errors, 1).double().numpy())
            rows.setdefault("inputs", []).append(read(tokenizer, images, rng).numpy())
            rows.setdefault("png", []).append(np.array([_png(each) for each in real], dtype=np.float64))
            level = float(raw.get("complexity", 0))
            rows.setdefault("level", []).append(np.full(len(real), level))
            objects = [float(sample.attributes.get("count", 0)) for sample in samples]
            rows.setdefault("objects", []).append(np.array(objects))
            if prior is not None:
                nats = prior.prior.log_prob(Codes(tokens.codes, tokens.keep), None)
                bits = -nats.double().cumsum(1) / math.log(2)
                rows.setdefault("coded", []).append(bits[:, [k - 1 for k in tokenizer.config.budgets]].numpy())
            print(f"{raw['type']} {level:g}: {start + len(real)} of {count}", flush=True)
    return {name: np.concatenate(each) for name, each in rows.items()}


def _png(image: torch.Tensor) -> int:
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "PNG")
    return file.tell()


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Content of a file; made and kept there where it is not yet."""
    if not path.exists():
        np.savez(path, **make())
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


# --- rules -----------------------------------------------------------------------------------------------------------


def psnr_of(errors: np.ndarray) -> np.ndarray:
    """PSNR in dB of squared errors in 8-bit steps."""
    return 10 * np.log10(255**2 / np.maximum(errors, 1e-9))


def by_target(errors: np.ndarray, target: float) -> np.ndarray:
    """The place of the first length that reaches a target, else of the last: allocator `psnr`."""
    reached = psnr_of(errors) >= target
    reached[:, -1] = True
    return reached.argmax(1)


def by_price(errors: np.ndarray, budgets: np.ndarray, price: float) -> np.ndarray:
    """The place of the length of least error and price: allocator `rate-distortion`."""
    return (errors + price * budgets).argmin(1)


def choices(
    study: Study, train: Mapping[str, Any], test: Mapping[str, Any], budgets: tuple[int, ...]
) -> dict[str, Any]:
    """Places chosen by rule and setting, and how often a head chose as its rule."""
    errors, lengths = test["errors"], np.array(budgets)
    made: dict[str, Any] = {"fixed": {str(k): np.full(len(errors), i) for i, k in enumerate(budgets)}}
    made["psnr"] = {f"{target:g}": by_target(errors, target) for target in study.targets}
    made["rate-distortion"] = {f"{price:g}": by_price(errors, lengths, price) for price in study.prices}
    made["learned"] = {}
    for target in study.targets:
        told = torch.from_numpy(lengths[by_target(train["errors"], target)])
        head, _ = fit(torch.from_numpy(train["inputs"]), told, budgets)
        with torch.no_grad():
            found = chosen(head, torch.from_numpy(test["inputs"]), budgets).numpy()
        made["learned"][f"{target:g}"] = np.searchsorted(lengths, found)
    return made


# --- numbers ---------------------------------------------------------------------------------------------------------


def rates(test: Mapping[str, Any], budgets: tuple[int, ...], bits: float, saying: bool) -> dict[str, np.ndarray]:
    """Rates of each image at each length: tokens, bits and coded bits."""
    lengths, extra = np.array(budgets, dtype=np.float64), math.log2(len(budgets)) if saying else 0.0
    many = len(test["errors"])
    told = {"tokens": np.tile(lengths, (many, 1)), "bits": np.tile(lengths * bits + extra, (many, 1))}
    return {**told, **({"coded": test["coded"] + extra} if "coded" in test else {})}


def along(rate: float, curve: Sequence[tuple[float, float]]) -> float:
    """The value at a rate of a curve of (rate, value), straight over log2 of the rate; its ends' beyond them."""
    xs, ys = zip(*sorted(curve), strict=True)
    return float(np.interp(math.log2(rate), np.log2(xs), ys))


def area(curve: Sequence[tuple[float, float]], low: float, high: float) -> float:
    """Mean PSNR of a curve over log2 of the rate, from `low` to `high`: the area under it by its width."""
    grid = np.linspace(math.log2(low), math.log2(high), 101)
    values = [along(2**x, curve) for x in grid]
    return float(np.trapezoid(values, grid) / (grid[-1] - grid[0]))


def equal_length(value: float, fixed: Sequence[tuple[float, float]]) -> float:
    """The length at which one length for all comes to a value, between lengths straight over log2."""
    xs, ys = np.array(sorted(fixed)).T
    return float(2 ** np.interp(value, np.maximum.accumulate(ys), np.log2(xs)))


def resampled(count: int, numbers: Callable[[np.ndarray], Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Numbers of all images, with intervals over images drawn with replacement."""
    rng, draws = np.random.default_rng(0), dict[str, list[float]]()
    for _ in range(DRAWS):
        for name, value in numbers(rng.integers(0, count, count)).items():
            draws.setdefault(name, []).append(value)
    told = {}
    for name, value in numbers(np.arange(count)).items():
        span = ends(np.array(draws[name]))
        told[name] = {"value": round(value, 4), "low": round(span.low, 4), "high": round(span.high, 4)}
    return told


def measured(test: Mapping[str, Any], made: Mapping[str, Any], budgets: tuple[int, ...], bits: float) -> dict[str, Any]:
    """Measure one set of images, all its numbers."""
    count, psnr = len(test["errors"]), psnr_of(test["errors"])
    every, lengths = np.arange(count), np.array(budgets, dtype=np.float64)

    def curve(rule: str, rate: str, rows: np.ndarray) -> list[tuple[float, float]]:
        own = rates(test, budgets, bits, rule != "fixed")[rate]
        return [(float(own[rows, places[rows]].mean()), float(psnr[rows, places[rows]].mean()))
                for places in made[rule].values()]  # fmt: skip

    told: dict[str, Any] = {"images": count, "rules": {}, "areas": {}}
    for rule, settings in made.items():
        told["rules"][rule] = {}
        for setting, places in settings.items():
            target = float(setting) if rule in ("psnr", "learned") else None

            def numbers(
                rows: np.ndarray, places: np.ndarray = places, target: float | None = target
            ) -> dict[str, float]:
                own, fixed = psnr[rows, places[rows]], [(k, float(psnr[rows, i].mean())) for i, k in enumerate(lengths)]
                mean = float(lengths[places[rows]].mean())
                alike = equal_length(float(own.mean()), fixed)
                found = {
                    "tokens": mean,
                    "psnr": float(own.mean()),
                    "fixed_tokens": alike,
                    "saved": 100 * (1 - mean / alike),
                }
                if target is not None:
                    shares = [(k, float((psnr[rows, i] >= target).mean())) for i, k in enumerate(lengths)]
                    share = float((own >= target).mean())
                    found |= {"reach": 100 * share, "fixed_tokens_of_reach": equal_length(share, shares)}
                return found

            told["rules"][rule][setting] = resampled(count, numbers)
            if rule == "learned":
                told["rules"][rule][setting]["as_psnr"] = float(100 * (places == made["psnr"][setting]).mean())
    for rate in rates(test, budgets, bits, True):
        low = max(min(x for x, _ in curve(rule, rate, every)) for rule in made)
        high = min(max(x for x, _ in curve(rule, rate, every)) for rule in made)

        def numbers(rows: np.ndarray, rate: str = rate, low: float = low, high: float = high) -> dict[str, float]:
            areas = {rule: area(curve(rule, rate, rows), low, high) for rule in made}
            return {**areas, **{f"{rule} less fixed": areas[rule] - areas["fixed"] for rule in made if rule != "fixed"}}

        told["areas"][rate] = {"from": low, "to": high, **resampled(count, numbers)}
    told["follows"] = followed(test, made, lengths)
    return told


def followed(test: Mapping[str, Any], made: Mapping[str, Any], lengths: np.ndarray) -> dict[str, Any]:
    """Rank correlation (Spearman's) of the chosen length with what is known of a picture's complexity."""
    told: dict[str, Any] = {}
    for rule in ("psnr", "rate-distortion", "learned"):
        for setting, places in made[rule].items():
            if len(set(places.tolist())) < 2:
                continue
            for name in ("png", "objects", "level"):
                if len(set(test[name].tolist())) < 2:
                    continue

                def numbers(rows: np.ndarray, places: np.ndarray = places, name: str = name) -> dict[str, float]:
                    a, b = rankdata(lengths[places[rows]]), rankdata(test[name][rows])
                    if a.std() == 0 or b.std() == 0:
                        return {"rank correlation": 0.0}
                    return {"rank correlation": float(np.corrcoef(a, b)[0, 1])}

                told.setdefault(rule, {}).setdefault(setting, {})[name] = resampled(len(places), numbers)[
                    "rank correlation"
                ]
    return told


# --- what is written -------------------------------------------------------------------------------------------------


def _shown(number: Mapping[str, float], digits: int = 1) -> str:
    return f"{number['value']:.{digits}f} ({number['low']:.{digits}f} to {number['high']:.{digits}f})"


def table(results: Mapping[str, Any]) -> str:
    """Rules, areas and correlations of each set of images, as Markdown."""
    lines = [f"# {results['model']}", ""]
    for name, told in results["sets"].items():
        lines += [f"## {name}: {told['images']} images", ""]
        head = ["rule", "setting", "mean tokens", "PSNR, dB", "one length of equal PSNR", "tokens saved, %",
                "reach the target, %", "one length of equal reach", "as psnr, %"]  # fmt: skip
        lines += [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
        for rule, settings in told["rules"].items():
            for setting, row in settings.items():
                cells = [rule, setting, f"{row['tokens']['value']:.1f}", f"{row['psnr']['value']:.2f}"]
                cells += ["", ""] if rule == "fixed" else [f"{row['fixed_tokens']['value']:.1f}", _shown(row["saved"])]
                reach = [f"{row[each]['value']:.1f}" for each in ("reach", "fixed_tokens_of_reach") if each in row]
                cells += [*reach, *([""] * (2 - len(reach))), f"{row['as_psnr']:.0f}" if "as_psnr" in row else ""]
                lines.append(f"| {' | '.join(cells)} |")
        lines += ["", "Mean PSNR under the curve, over log2 of the rate:", ""]
        rules = list(told["rules"])
        lines += [f"| rate | from, to | {' | '.join(rules)} |", f"|---|---|{'---|' * len(rules)}"]
        for rate, row in told["areas"].items():
            apart = {rule: f" [{_shown(row[f'{rule} less fixed'], 2)}]" for rule in rules if rule != "fixed"}
            cells = [f"{row[rule]['value']:.2f}" + apart.get(rule, "") for rule in rules]
            lines.append(f"| {rate} | {row['from']:.1f}, {row['to']:.1f} | {' | '.join(cells)} |")
        lines += [
            "",
            "Rank correlation of the length with complexity:",
            "",
            "| rule | setting | with | |",
            "|---|---|---|---|",
        ]
        for rule, settings in told["follows"].items():
            for setting, row in settings.items():
                lines += [f"| {rule} | {setting} | {of} | {_shown(number, 2)} |" for of, number in row.items()]
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Measure one study."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("study", choices=sorted(STUDIES))
    parser.add_argument("-o", "--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    study = STUDIES[given.study]
    tokenizer = load(study.model)
    prior = None if study.prior is None else load(study.prior, kind="generator")
    given.out.mkdir(parents=True, exist_ok=True)
    sets = {"train": study.train, **study.test}
    found = {name: kept(given.out / f"decoded-{name}.npz", lambda p=parts: decoded(study, tokenizer, prior, p))
             for name, parts in sets.items()}  # fmt: skip
    budgets, bits = tokenizer.config.budgets, tokenizer.config.bits_per_token
    results: dict[str, Any] = {"model": study.model, "weights": weights(tokenizer), "prior": study.prior,
                               "budgets": budgets, "bits_per_token": bits,
                               "sampling": tokenizer.sampling.deciding(), "trained_on": len(found["train"]["errors"]),
                               "sets": {}}  # fmt: skip
    for name in study.test:
        made = choices(study, found["train"], found[name], budgets)
        results["sets"][name] = measured(found[name], made, budgets, bits)
    write_json(given.out / "results.json", {**results, "made": dict(provenance.manifest())})
    write_text(given.out / "table.md", table(results))
    print(table(results))


if __name__ == "__main__":
    main()
