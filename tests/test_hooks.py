"""Every hook: a test of its own, a heading with its exact signature, and no way to move a number."""

import inspect
import json
import re
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file

from flexframe.bench import runner
from flexframe.train.run import Run
from flexframe_registry import Component, MaskerConfig, SuiteConfig, create_manager, hookimpl, hookspecs, manager
from flexframe_registry.cards import find_cards
from flexframe_registry.catalogue import Catalogue

ROOT = Path(__file__).parent.parent
HOOKS = {name: spec for name, spec in vars(hookspecs).items() if name.startswith("flexframe_")}


class Observer:
    """Writes down each call of a hook that observes."""

    def __init__(self):
        self.seen = []

    @hookimpl
    def flexframe_run_start(self, run):
        self.seen.append(("run_start", run.step, run, sum(p.grad is not None for p in run.trainee.parameters())))

    @hookimpl
    def flexframe_step_end(self, run, step, losses):
        self.seen.append(("step_end", step, run, losses))

    @hookimpl
    def flexframe_checkpoint_saved(self, run, path):
        self.seen.append(("checkpoint_saved", run.step, run, path, sorted(p.name for p in path.iterdir())))

    @hookimpl
    def flexframe_report(self, report):
        self.seen.append(("report", report, (report.out / "results.json").is_file(), list(report.out.glob("*.html"))))


@pytest.fixture
def observer():
    plugin = Observer()
    manager().register(plugin)
    yield plugin
    manager().unregister(plugin)


def calls(observer, name):
    return [call[1:] for call in observer.seen if call[0] == name]


# --- the two sweeps ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_has_a_heading_with_its_exact_signature(name):
    signature = f"## `{name}({', '.join(inspect.signature(HOOKS[name]).parameters)})`"
    assert signature in (ROOT / "docs" / "hooks.md").read_text().splitlines()


def test_every_heading_is_a_hook():
    headings = re.findall(r"^## `(\w+)\(", (ROOT / "docs" / "hooks.md").read_text(), re.MULTILINE)
    assert headings == list(HOOKS)


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_has_a_test(name):
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert re.search(rf"^def test_hook_{name}\(", tests, re.MULTILINE)


# --- registration ------------------------------------------------------------------------------------------------


def test_hook_flexframe_components():
    class OwnConfig(MaskerConfig):
        type: Literal["own"] = "own"

    class Own:
        @hookimpl
        def flexframe_components(self):
            return [Component(OwnConfig, "own:Own")]

    class Other:
        @hookimpl
        def flexframe_components(self):
            return (Component(config, "other:Other") for config in ())

    found = Catalogue(create_manager([Own(), Other()], points=False).components())
    assert [(c.kind, c.name, c.provider) for c in found] == [("masker", "own", "Own")]


def test_hook_flexframe_cards(tmp_path):
    class Own:
        @hookimpl
        def flexframe_cards(self):
            return [tmp_path, tmp_path / "nowhere"]

    (tmp_path / "family").mkdir()
    (tmp_path / "family" / "variant.yaml").write_text("summary: s\nmodel: {}\n")
    (tmp_path / "loose.yaml").write_text("")
    assert find_cards(create_manager([Own()], points=False)).names() == ["family/variant"]


# --- observation -------------------------------------------------------------------------------------------------


def test_hook_flexframe_run_start(observer, create, go):
    run = go(create())
    assert calls(observer, "run_start") == [(0, run, 0)]
    assert observer.seen[0][0] == "run_start"


def test_hook_flexframe_step_end(observer, create, go):
    run = go(create("run", "run.steps=5", "run.log_every=2"))
    found = calls(observer, "step_end")
    assert [step for step, _, _ in found] == [2, 4, 5]  # the logged ones
    logged = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    for (step, whose, losses), line in zip(found, logged, strict=True):
        assert whose is run
        assert line["step"] == step
        parts = {f"grad_norm/{part}" for part in ("encoder", "quantizer", "decoder")}
        assert {"decoder/flow", "loss", "grad_norm"} | parts == losses.keys()
        assert all(line[name] == pytest.approx(value, abs=1e-6) for name, value in losses.items())


def test_hook_flexframe_checkpoint_saved(observer, create, go):
    run = go(create("run", "run.checkpoint_every=2"))
    found = calls(observer, "checkpoint_saved")
    assert [(step, path.name) for step, _, path, _ in found] == [(2, "step-00000002"), (4, "step-00000004")]
    for _, whose, _, files in found:
        assert whose is run
        assert {"trainee.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"} <= set(files)


def test_hook_flexframe_report(observer, tiny, tmp_path):
    suite = SuiteConfig.read({"data": {"type": "digits", "split": "val"}, "count": 4, "metrics": ["psnr"], "show": 2})
    found = runner.run(suite, [("tiny", tiny)], tmp_path)
    assert calls(observer, "report") == [(found, True, [])]
    assert found.results["models"]["tiny"]["budgets"]["8"]["metrics"]["psnr"]["value"] > 0


def test_a_resumed_run_starts_at_its_step(observer, create, go):
    run = go(create("run", "run.checkpoint_every=3"))
    (run.folder / "checkpoints" / "step-00000004" / "state.json").unlink()
    with pytest.warns(UserWarning, match="step-00000004 is broken"):
        again = Run.resume(run.folder, torch.device("cpu"))
    go(again)
    assert [step for step, *_ in calls(observer, "run_start")] == [0, 3]


@pytest.mark.parametrize("error", [KeyError("lost"), SystemExit(3), OSError(28, "full")])
def test_a_hook_that_raises_is_named_and_what_it_watched_goes_on(error, create, go, observer):
    class Careless:
        @hookimpl
        def flexframe_step_end(self, step):
            calls.append(step)
            raise error

        @hookimpl
        def flexframe_checkpoint_saved(self, run):
            calls.append(run)

    calls, plugin = [], Careless()
    manager().register(plugin, "careless")
    try:
        with pytest.warns(
            UserWarning, match=rf"plugin 'careless' .* failed in flexframe_step_end \({type(error).__name__}"
        ):
            run = go(create())
    finally:
        manager().unregister(plugin)
    assert run.step == run.config.run.steps
    assert calls == [1], "what has failed is told no more"
    assert [name for name, *_ in observer.seen].count("step_end") == 4


def test_a_report_is_written_though_a_hook_raises(tiny, tmp_path):
    class Careless:
        @hookimpl
        def flexframe_report(self, report):
            raise ZeroDivisionError

    plugin = Careless()
    manager().register(plugin, "careless")
    suite = SuiteConfig.read({"data": {"type": "digits", "split": "val"}, "count": 2, "metrics": ["psnr"], "show": 2})
    try:
        with pytest.warns(UserWarning, match="plugin 'careless' .* failed in flexframe_report"):
            runner.run(suite, [("tiny", tiny)], tmp_path)
    finally:
        manager().unregister(plugin)


def test_what_an_observer_returns_or_draws_moves_no_number(create, go):
    class Meddler:
        @hookimpl
        def flexframe_run_start(self, run):
            return {"lr": 1e9}

        @hookimpl
        def flexframe_step_end(self, run, step, losses):
            return 0.0

    plain = go(create("plain", "run.transforms={type: shift, pixels: 1}"))
    plugin = Meddler()
    manager().register(plugin)
    try:
        watched = go(create("watched", "run.transforms={type: shift, pixels: 1}"))
    finally:
        manager().unregister(plugin)
    one, other = (load_file(run.folder / "model.safetensors") for run in (plain, watched))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_registering_a_plugin_changes_no_run_that_does_not_name_it(create, go, install, forked, tmp_path):
    """A plugin that is installed, with a component and a hook, leaves the numbers of other runs as they are."""
    install("newplugin", NEW_PLUGIN)
    settings = ["run.steps=2", "run.batch_size=8", "run.log_every=1", "run.optimizer.warmup=2"]
    done = forked(TRAIN, tmp_path / "with", torch.get_num_threads(), *settings)
    assert done.returncode == 0, done.stderr
    assert "newplugin saw step 2" in done.stdout
    plain = go(create("plain", "run.steps=2"))
    one, other = load_file(tmp_path / "with" / "model.safetensors"), load_file(plain.folder / "model.safetensors")
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


NEW_PLUGIN = """
from typing import Literal
from flexframe_registry import Component, MaskerConfig, hookimpl

class NewConfig(MaskerConfig):
    type: Literal["new"] = "new"

@hookimpl
def flexframe_components():
    return [Component(NewConfig, "newplugin:New")]

@hookimpl
def flexframe_step_end(run, step, losses):
    print("newplugin saw step", step)
"""
TRAIN = """
import io, sys
from pathlib import Path
import torch
from flexframe.train.console import Console
from flexframe.train.loop import train
from flexframe.train.run import Run
from flexframe_registry import cards, catalogue
from rich.console import Console as Terminal

torch.set_num_threads(int(sys.argv[2]))
assert catalogue().get("masker", "new")
config = cards().get("toy/digits-tiny").train(sys.argv[3:])
train(Run.create(config, Path(sys.argv[1]), torch.device("cpu"), {}), Console(Terminal(file=io.StringIO())))
"""


def test_a_plugin_that_ends_the_process_at_import_is_broken(install, forked):
    install("leaver", "import sys\nsys.exit('no licence')")
    done = forked("from flexframe_registry import manager\nprint(manager().broken)")
    assert "SystemExit: no licence" in done.stdout
