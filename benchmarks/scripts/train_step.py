"""Profile of a training step's time: phases of the loop, parts of the model, the costliest operators.

    python benchmarks/scripts/train_step.py flextok/d12-d12 --device cuda --batch 64 run.compile=true -o profile.json

Runs the training loop itself on drawn scenes of the card's size, from random weights. Phases and parts are read off the
device's own clock (CUDA events), medians over the steps after the warm-up; the operators are those of three more steps
under torch's profiler. Waits of the host for the device inside a step are counted by torch's own alarm (CUDA only).
`--peak` is the device's rate in TFLOP/s, for the share of it that the model's own operations make up.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from rich.console import Console as Terminal
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from flexframe.files import write_json
from flexframe.models.profile import measure
from flexframe.provenance import processor
from flexframe.train import loop
from flexframe.train.console import Console
from flexframe.train.run import Run
from flexframe.train.stopping import Stopping
from flexframe_registry.cards import card

STEP = ("forward", "backward", "update")


class Clock:
    """Times between marks: CUDA events on a GPU, the host's clock elsewhere."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"

    def now(self) -> Any:
        """Mark of the present: a recorded CUDA event, or the host's seconds."""
        if not self.cuda:
            return perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, first: Any, second: Any) -> float:
        """Milliseconds between two marks."""
        return first.elapsed_time(second) if self.cuda else 1000 * (second - first)


class Phases:
    """Stands where the loop's watch stands, and is told what comes next."""

    def __init__(self, clock: Clock, warmup: int, alarm: bool) -> None:
        self.clock, self.warmup, self.alarm = clock, warmup, alarm
        self.marks: list[tuple[int, str, Any]] = []

    def at(self, step: int, stage: str) -> None:
        """Note that a stage of a step begins; the loop's watch calls it."""
        if self.alarm:  # only inside of a step: logging reads the device, as it must
            torch.cuda.set_sync_debug_mode("warn" if stage in STEP and step >= self.warmup else "default")
        self.marks.append((step, stage, self.clock.now()))

    def milliseconds(self) -> dict[str, float]:
        """Median milliseconds of each stage over the steps."""
        laps_by_stage: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
        for (step, stage, begun), (_, _, ended) in zip(self.marks, self.marks[1:], strict=False):
            if step >= self.warmup:
                laps_by_stage[stage][step] += self.clock.between(begun, ended)
        return {stage: median(laps.values()) for stage, laps in laps_by_stage.items()}


def timed(clock: Clock, laps: list[tuple[Any, Any]], call: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a call so that its begin and end are appended to `laps`."""

    def timer(*args: Any, **kwargs: Any) -> Any:
        begun = clock.now()
        result = call(*args, **kwargs)
        laps.append((begun, clock.now()))
        return result

    return timer


def run_steps(args: argparse.Namespace, steps: int, folder: Path, profiled: bool) -> dict[str, Any]:
    """Train for so many steps, and what that took."""
    device = torch.device(args.device)
    if device.index is not None:
        torch.cuda.set_device(device)  # events that name no device are of this one
    data = "run.data={type: scenes, split: train, complexity: 1}"
    fixed = [data, f"run.steps={steps}", f"run.batch_size={args.batch}", "run.log_every=1000000"]
    fixed += ["run.checkpoint_every=1000000", "run.optimizer.warmup=1"]
    config = card(args.card).train([*fixed, *args.settings])
    run = Run.create(config, folder, device, {})
    run.save = lambda: folder  # type: ignore[method-assign]  # what is saved at the end is no part of a step
    run.export = lambda path: None  # type: ignore[method-assign]
    clock = Clock(device)
    parts: dict[str, list[tuple[Any, Any]]] = {name: [] for name in ("codec", "encoder", "quantizer", "decoder")}
    if not profiled:
        model = run.trainee.model
        model.codec.encode = timed(clock, parts["codec"], model.codec.encode)
        for name in ("encoder", "quantizer", "decoder"):
            part = getattr(model, name)
            part.forward = timed(clock, parts[name], part.forward)
    phases = Phases(clock, args.warmup, device.type == "cuda" and not profiled)
    console = Console(Terminal(quiet=True))
    with warnings.catch_warnings(record=True) as raised, Stopping(run.processes) as stopping:
        warnings.simplefilter("always")
        loop._train(run, console, stopping, phases)  # the loop itself, with another watch
    console.stop()
    run.close()
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()
    late = {name: [clock.between(*lap) for lap in laps[args.warmup :]] for name, laps in parts.items()}
    syncs = sorted({f"{Path(w.filename).name}:{w.lineno}" for w in raised if "synchroniz" in str(w.message).lower()})
    return {
        "phases_ms": phases.milliseconds(),
        "parts_forward_ms": {name: median(laps) for name, laps in late.items() if laps},
        "host_waits": syncs if device.type == "cuda" else None,
    }


def main() -> None:
    """Profile the training loop, print the tables and write the JSON file, if one is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("card")
    parser.add_argument("settings", nargs="*", help="KEY=VALUE, as of `flexframe train`")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--peak", type=float, help="the device's rate, TFLOP/s")
    parser.add_argument("-o", "--out", type=Path)
    args = parser.parse_intermixed_args()
    device = torch.device(args.device)
    with tempfile.TemporaryDirectory() as folder:
        if card(args.card).model.codec.type != "identity":  # a frozen codec needs weights: random ones cost the same
            drawn = Path(folder) / "drawn.safetensors"
            command = [sys.executable, "-m", "flexframe", "init", args.card, "-o", str(drawn)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            args.settings.append(f"run.init={{from: {drawn}, parts: [codec]}}")
        facts = run_steps(args, args.warmup + args.steps, Path(folder) / "timed", profiled=False)
        kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
        with profile(activities=kinds) as profiler:
            run_steps(args, 3, Path(folder) / "profiled", profiled=True)
    own = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    events = [event for event in profiler.key_averages() if not event.key.startswith("enumerate(")]  # the loader's
    ranked = sorted(events, key=lambda event: -getattr(event, own))[:12]
    total = sum(getattr(event, own) for event in events)
    facts["operators"] = {event.key: round(100 * getattr(event, own) / total, 1) for event in ranked}
    settings = [setting for setting in args.settings if not setting.startswith("run.init=")]
    config = card(args.card).train(["run.data={type: scenes}", *settings])
    flops = sum(measure(config.model, frozen=config.run.freeze, uses=("train",)).costs["train", "fp32"].flops.values())
    step = sum(facts["phases_ms"].get(stage, 0) for stage in STEP)
    facts |= {"step_ms": step, "images_per_s": 1000 * args.batch / step, "gflop_an_image": flops / 1e9}
    rate = flops * args.batch / step / 1e9
    facts |= {"tflop_per_s": rate, "utilisation": rate / args.peak if args.peak else None}
    about = {"card": args.card, "settings": settings, "batch": args.batch, "torch": torch.__version__}
    facts = {**about, "processor": processor(device), "threads": torch.get_num_threads(), **facts}
    show(facts)
    if args.out:
        write_json(args.out, facts)


def show(facts: dict[str, Any]) -> None:
    """Print the measured phases, parts, rates, waits and operators."""
    table = Table(box=None, header_style="bold")
    for name in ("what", "ms", "of a step, %"):
        table.add_column(name, justify="left" if name == "what" else "right")
    step = facts["step_ms"]
    for stage, value in facts["phases_ms"].items():
        table.add_row(stage, f"{value:.2f}", f"{100 * value / step:.1f}" if stage in STEP else "beside it")
        if stage == "forward":
            for name, part in facts["parts_forward_ms"].items():
                table.add_row(f"  {name}", f"{part:.2f}", f"{100 * part / step:.1f}")
    terminal = Terminal()
    terminal.print(table)
    waits = "not watched on a CPU" if facts["host_waits"] is None else ", ".join(facts["host_waits"]) or "none seen"
    use = "" if facts["utilisation"] is None else f", {100 * facts['utilisation']:.1f} % of the device's rate"
    terminal.print(f"{facts['images_per_s']:.1f} images/s, {facts['tflop_per_s']:.3f} TFLOP/s{use}", highlight=False)
    terminal.print(f"waits of the host inside a step: {waits}", highlight=False)
    operators = ", ".join(f"{name} {share} %" for name, share in facts["operators"].items())
    terminal.print(f"operators: {operators}", highlight=False)


if __name__ == "__main__":
    main()
