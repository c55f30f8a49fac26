"""Ablations: variants of one small model, each trained from several seeds, measured and set side by side.

    OMP_NUM_THREADS=1 python benchmarks/scripts/ablations.py -o out/ablations
    OMP_NUM_THREADS=1 python benchmarks/scripts/ablations.py -o out/ablations --only laws --latents latents/scenes-64
    python benchmarks/scripts/ablations.py -o out/ablations --report    # what is measured so far; trains nothing

The folder `benchmarks/recipes/ablations` has the model (`base.yaml`), the variants and the claims that they answer
(`ablations.yaml`) and the measures (`suite.yaml`). Latents and the teacher's features are computed first, into the
folder `latents`, unless `--latents` names one that has them. A run is in `runs/<variant>-<seed>` and its measures in a
folder beside its weights: what is finished is skipped, what was broken off goes on. After each run `results.json`,
`table.md` and `plot.png` are written anew, of the seeds that are there: means, and standard errors over seeds.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexframe import provenance
from flexframe.bench.results import FILE
from flexframe.files import replaced, write_json, write_text
from flexframe_registry import ConfigError
from flexframe_registry.files import read_yaml
from flexframe_registry.runfolder import RunFolder

RECIPES = Path(__file__).parents[1] / "recipes" / "ablations"
BASE = RECIPES / "base.yaml"
SHOWN = (1, 4, 32)
"""Token counts of the table; all are in `results.json`."""
JUDGED = {"attributes": "accuracy", "second_attributes": "second_accuracy"}
"""Means over what a judge reads, by the beginning of the names of its single measures."""
COLUMNS = {"psnr": "PSNR, dB", "lpips": "LPIPS", "attributes": "attributes, %", "second_attributes": "2nd judge, %",
           "plausible": "plausible, %", "second_plausible": "2nd: plausible, %"}  # fmt: skip
"""Measures of the table, as far as they were taken."""
PANELS = {"psnr": "PSNR, dB", "attributes": "attributes right, %"}
SECOND = {"psnr": "PSNR, dB", "second_attributes": "attributes right (2nd judge), %"}
"""Panels where a second judge measured: the first may have taught."""
WIDTH, HEIGHT = 4.4, 2.9
"""Inches of a panel."""

Measures = Mapping[str, Mapping[str, float]]
"""Values by measure and token count."""
log = logging.getLogger("ablations")


@dataclass(frozen=True)
class Variant:
    """Settings on top of the base: of its run, and of the trained model while it is measured."""

    train: Sequence[str] = ()
    measure: Sequence[str] = ()
    after: str | None = None
    """A variant whose run of the same seed this one begins with: its codec, encoder and quantizer."""

    def settings(self, seed: int, place: Place) -> list[str]:
        """Settings of this variant's run of a seed."""
        parts = "parts: [codec, encoder, quantizer]"
        begun = [f"run.init={{from: {place.run(self.after, seed)}, {parts}}}"] if self.after else []
        return [f"run.seed={seed}", *begun, *self.train]


@dataclass(frozen=True)
class Ablation:
    """A claim, and the variants that answer it, each by its label."""

    title: str
    claim: str
    variants: Mapping[str, str]


@dataclass(frozen=True)
class Plan:
    """Variants to be trained, and the ablations that they make up."""

    variants: Mapping[str, Variant]
    ablations: Mapping[str, Ablation]
    seeds: Sequence[int]

    @classmethod
    def read(cls, path: Path, only: Sequence[str], seeds: Sequence[int]) -> Plan:
        """The plan of a file, or those of its ablations that are named.

        Raises:
            ConfigError: an ablation of another name, or one of a variant that there is not.
        """
        raw = read_yaml(path)
        variants = {name: Variant(**(settings or {})) for name, settings in raw["variants"].items()}
        ablations = {name: Ablation(**fields) for name, fields in raw["ablations"].items()}
        for name in set(only) - set(ablations):
            raise ConfigError.at("--only", f"{name!r} is no ablation; there are {', '.join(ablations)}")
        for name, ablation in ablations.items():
            for variant in set(ablation.variants) - set(variants):
                raise ConfigError.at(f"{path}: ablations.{name}", f"{variant!r} is none of the variants")
        chosen = {name: ablation for name, ablation in ablations.items() if not only or name in only}
        return cls(variants, chosen, seeds)

    def runs(self) -> list[tuple[str, int]]:
        """Variants and seeds in the order in which ablations get whole, what a variant begins with before it."""
        asked = [name for ablation in self.ablations.values() for name in ablation.variants]
        names = dict.fromkeys(each for name in asked for each in (self.variants[name].after, name) if each)
        return [(name, seed) for name in names for seed in self.seeds]


@dataclass(frozen=True)
class Place:
    """The folder of all runs, and what was asked for on the command line."""

    out: Path
    suite: Path
    device: str

    def run(self, name: str, seed: int) -> Path:
        """The folder of a run."""
        return self.out / "runs" / f"{name}-{seed}"

    def measured(self, name: str, seed: int) -> Path:
        """The folder of a run's measures by this suite."""
        return self.run(name, seed) / self.suite.stem


# --- making ------------------------------------------------------------------------------------------------------


def precompute(folder: Path, settings: Sequence[str], device: str) -> None:
    """Make the latents and the teacher's features of the base's run; does nothing where they are there."""
    from flexframe.commands.precompute import features, latents

    how: dict[str, Any] = {"dtype": "fp16", "batch_size": 64, "device": device}
    latents(str(BASE), [*settings], folder, posterior="sample", seed=0, **how)
    features(str(BASE), [*settings], folder, **how)


def train(folder: Path, settings: Sequence[str], device: str) -> None:
    """Train a run to its end, from where it is.

    Raises:
        ConfigError: the folder holds a run of another length.
    """
    from flexframe.commands.train import train as command
    from flexframe_registry.cards import card

    paths = RunFolder(folder)
    if paths.config.is_file():
        steps = json.loads(paths.config.read_text())["run"]["steps"]
        wanted = card(str(BASE)).train(settings).run.steps
        if steps != wanted:
            raise ConfigError.at(str(folder), f"holds a run of {steps} steps, not {wanted}; name another folder by -o")
    if not paths.config.is_file():
        command(str(BASE), [*settings], folder, None, device, False)
    elif not paths.model.is_file():
        command(None, None, None, folder, device, False)
    if not paths.model.is_file():
        raise SystemExit(f"{folder} was stopped; the same command goes on from there")


def measure(name: str, seed: int, variant: Variant, place: Place) -> None:
    """Measure a trained run by the suite, unless it is."""
    if (place.measured(name, seed) / FILE).is_file():
        return
    from flexframe.bench.runner import run
    from flexframe.store.load import load
    from flexframe_registry import suite

    model = load(place.run(name, seed), device=place.device, overrides=variant.measure)
    run(suite(str(place.suite)), [(name, model)], place.measured(name, seed), name=place.suite.stem,
        device=place.device)  # fmt: skip


# --- results -----------------------------------------------------------------------------------------------------


def values(path: Path) -> Measures:
    """A run's measures by token count, with the means over what judges read."""
    (model,) = json.loads(path.read_text())["models"].values()
    by_tokens: dict[str, dict[str, float]] = {}
    for tokens, budget in model["budgets"].items():
        numbers = {name: each["value"] for name, each in budget["metrics"].items() if each["value"] is not None}
        for name, prefix in JUDGED.items():
            read = [value for each, value in numbers.items() if each.startswith(prefix)]
            numbers |= {name: statistics.fmean(read)} if read else {}
        for name, value in numbers.items():
            by_tokens.setdefault(name, {})[tokens] = value
    return by_tokens


def over_seeds(seeds: Mapping[int, Measures]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Means and standard errors by measure and token count; a single seed has no error."""
    summary: dict[str, dict[str, dict[str, float | None]]] = {}
    first = next(iter(seeds.values()))
    for name, tokens in ((name, tokens) for name, counts in first.items() for tokens in counts):
        drawn = [measures[name][tokens] for measures in seeds.values()]
        error = statistics.stdev(drawn) / len(drawn) ** 0.5 if len(drawn) > 1 else None
        summary.setdefault(name, {})[tokens] = {"mean": statistics.fmean(drawn), "error": error}
    return summary


def collect(plan: Plan, place: Place) -> dict[str, Any]:
    """Summary of what is measured so far, of variants of which a seed is."""
    variants = {}
    for name in dict.fromkeys(name for name, _ in plan.runs()):
        files = {seed: place.measured(name, seed) / FILE for seed in plan.seeds}
        seeds = {seed: values(path) for seed, path in files.items() if path.is_file()}
        if seeds:
            config = json.loads(RunFolder(place.run(name, next(iter(seeds)))).config.read_text())
            variants[name] = {
                "set": [*plan.variants[name].train],
                "images": config["run"]["steps"] * config["run"]["batch_size"],
                "seeds": seeds,
                "summary": over_seeds(seeds),
            }
    ablations = {name: vars(ablation) for name, ablation in plan.ablations.items()}
    return {"commit": provenance.commit(), "suite": read_yaml(place.suite), "variants": variants,
            "ablations": ablations}  # fmt: skip


def number(cell: Mapping[str, float | None] | None, places: int) -> str:
    """A mean and its standard error."""
    if cell is None or cell["mean"] is None:
        return ""
    return f"{cell['mean']:.{places}f}" + ("" if cell["error"] is None else f" ± {cell['error']:.{places}f}")


def table(content: Mapping[str, Any]) -> str:
    """All ablations in Markdown, with a column for the author's verdict, and the claims below."""
    summaries = {name: variant["summary"] for name, variant in content["variants"].items()}
    taken = [name for name in COLUMNS if any(name in summary for summary in summaries.values())]
    heads = [f"{COLUMNS[name]}: {tokens}" for name in taken for tokens in SHOWN]
    rows = [["", "variant", "seeds", *heads, f"codes used, %: {SHOWN[-1]}", "verdict"]]
    rows.append(["---"] * len(rows[0]))
    claims = []
    for ablation in content["ablations"].values():
        known = {name: label for name, label in ablation["variants"].items() if name in summaries}
        title = ablation["title"]
        for name, label in known.items():
            summary = summaries[name]
            cells = [number(summary.get(each, {}).get(str(tokens)), 3 if each == "lpips" else 1)
                     for each in taken for tokens in SHOWN]  # fmt: skip
            used = number(summary.get("usage", {}).get(str(SHOWN[-1])), 1)
            rows.append([title, label, str(len(content["variants"][name]["seeds"])), *cells, used, ""])
            title = ""
        claims += [f"- **{ablation['title']}**: {ablation['claim'].strip()}"] if known else []
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    told = (
        f"Means over seeds ± standard error; behind a colon, tokens (of {SHOWN[-1]}). A number without is one seed's."
    )
    return "\n".join([*lines, "", told, "", "Claims:", *claims, ""])


def plot(content: Mapping[str, Any], path: Path) -> None:
    """Draw a row of panels for each ablation, a line a variant, over token counts."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    known = content["variants"]
    shown = [each for each in content["ablations"].values() if any(name in known for name in each["variants"])]
    if not shown:  # what others begin with is measured, and no ablation's own yet
        return
    panels = SECOND if all("second_attributes" in each["summary"] for each in known.values()) else PANELS
    figure = Figure(figsize=(WIDTH * len(panels), HEIGHT * len(shown)), layout="constrained")
    FigureCanvasAgg(figure)
    for row, ablation in enumerate(shown):
        for column, (measured, label) in enumerate(panels.items()):
            axes = figure.add_subplot(len(shown), len(panels), row * len(panels) + column + 1)
            for name, called in ablation["variants"].items():
                counts = known[name]["summary"].get(measured, {}) if name in known else {}
                means, errors = ([counts[t][each] or 0 for t in counts] for each in ("mean", "error"))
                axes.errorbar([int(t) for t in counts], means, errors, label=called, capsize=2, linewidth=1.4)
            axes.set_xscale("log", base=2)
            axes.set(title=ablation["title"], xlabel="tokens", ylabel=label)
            axes.grid(alpha=0.3)
        axes.legend(fontsize=8, frameon=False)
    with replaced(path) as part:
        figure.savefig(part, dpi=110, format="png")


def report(plan: Plan, place: Place) -> None:
    """Write `results.json`, `table.md` and `plot.png` of what is measured so far."""
    content = collect(plan, place)
    if not content["variants"]:
        log.info("nothing is measured yet in %s", place.out)
        return
    write_json(place.out / FILE, content)
    write_text(place.out / "table.md", table(content))
    plot(content, place.out / "plot.png")


# --- the command -------------------------------------------------------------------------------------------------


def make(plan: Plan, place: Place, settings: Sequence[str]) -> list[str]:
    """Train and measure all runs, reporting after each; returns those that failed, whose errors are logged."""
    runs, failed = plan.runs(), []
    for i, (name, seed) in enumerate(runs):
        variant, folder = plan.variants[name], place.run(name, seed)
        log.info("%d of %d: %s, seed %d", i + 1, len(runs), name, seed)
        try:
            train(folder, [*settings, *variant.settings(seed, place)], place.device)
            measure(name, seed, variant, place)
        except Exception:  # one variant must not cost a night its others
            log.exception("%s failed", folder)
            failed.append(folder.name)
        else:
            report(plan, place)
    log.info("%d of %d runs are measured", len(runs) - len(failed), len(runs))
    return failed


def main() -> int:
    """Train and measure what is not, and report; the exit status is 1 where a run failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", "-o", type=Path, required=True, help="the folder of all runs")
    parser.add_argument("--only", action="append", default=[], help="an ablation by its name; repeatable")
    parser.add_argument("--seeds", default="0,1,2", type=lambda text: [int(seed) for seed in text.split(",")])
    parser.add_argument("--steps", type=int, help="of each run; the base's own if not given")
    parser.add_argument("--images", type=int, help="training images; the base's own if not given")
    parser.add_argument("--latents", type=Path, help="latents and features that are there; else they are made")
    parser.add_argument("--suite", type=Path, default=RECIPES / "suite.yaml", help="measures; another is added beside")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--report", action="store_true", help="train and measure nothing")
    args = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    plan = Plan.read(RECIPES / "ablations.yaml", args.only, args.seeds)
    place = Place(args.out, args.suite, args.device)
    if args.report:
        report(plan, place)
        return 0
    latents = args.latents or args.out / "latents"
    settings = [f"run.feed.path={latents}"]
    settings += [f"run.data.count={args.images}"] if args.images else []
    if args.steps:
        settings += [f"run.steps={args.steps}", f"run.optimizer.warmup={args.steps // 4}"]
    if not args.latents:
        precompute(latents, settings, args.device)
    failed = make(plan, place, settings)
    if failed:
        log.error("failed: %s", ", ".join(failed))
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
