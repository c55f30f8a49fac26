"""Every stage of both recipes at tiny size: its losses fall, and what it leaves is what the next one starts from."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console as Terminal
from torch import Tensor

import flexframe
from flexframe.train.console import Console
from flexframe.train.loop import train
from flexframe.train.run import Run
from flexframe_registry import ConfigError, cards

RECIPES = Path(__file__).parents[2] / "benchmarks" / "recipes" / "tiny"
BEFORE = {"titok-stage1": ("grid-vq",), "titok-stage2": ("grid-vq", "titok-stage1"), "flextok": ("flextok-codec",)}
FALLS = {
    "grid-vq": ["mse/mse"],
    "titok-stage1": ["proxy-codes/cross_entropy"],
    "titok-stage2": ["mse/mse", "perceptual/logits"],
    "titok-single": ["mse/mse", "lpips/distance", "perceptual/logits"],
    "flextok-codec": ["mse/mse"],
    "flextok": ["decoder/flow", "repa/cosine"],
}
SHORT = ("run.steps=24", "run.log_every=3")
"""The recipes' own settings, but for two hundred steps."""
LONGER = ("run.steps=50", "run.log_every=5")
"""Where losses oscillate, and the critic begins within a short run too."""
EARLY = {
    "titok-stage2": (*LONGER, "run.objectives.2.start=25"),
    "titok-single": (*LONGER, "run.objectives.3.start=25"),
}
Stages = Callable[..., Run]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # two hundred steps on a core that others use too


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stages]:
    """Trains a stage where it was not trained yet, and those before it."""
    done: dict[str, Run] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("stages"))  # recipes name runs in runs/tiny

        def make(name: str) -> Run:
            for before in BEFORE.get(name, ()):
                make(before)
            if name not in done:
                run = create(name, *SHORT, *EARLY.get(name, ()))
                train(run, Console(Terminal(file=io.StringIO())))
                done[name] = run
            return done[name]

        yield make


def create(name: str, *overrides: str, folder: str | None = None) -> Run:
    """A run of a recipe, not begun."""
    found = cards().read(RECIPES / f"{name}.yaml", name)
    at = Path(folder or f"runs/tiny/{name}")
    return Run.create(found.train(list(overrides)), at, torch.device("cpu"), found.file.sampling)


def parts(run: Run, part: str) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in getattr(run.trainee.model, part).state_dict().items()}


def assert_same(found: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert found.keys() == other.keys()
    assert [name for name in found if not torch.equal(found[name], other[name])] == []


def manifest(run: Run) -> Any:
    return json.loads((run.folder / "manifest.json").read_text())


@pytest.mark.parametrize("name", FALLS)
def test_losses_fall(stage: Stages, name: str) -> None:
    run = stage(name)
    log = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    for loss in FALLS[name]:
        assert log[-1][loss] < log[0][loss], f"{loss}: {[line[loss] for line in log]}"
    for name in [key for key in log[-1] if key.startswith("adversarial/")]:
        assert name not in log[0]
    found = flexframe.load(run.folder)
    assert not [each for each in found.state_dict() if "objective" in each]


def test_titok_s_second_stage_begins_where_the_first_and_the_proxy_codes_decoder_ended(stage: Stages) -> None:
    run = stage("titok-stage2")
    fresh = create("titok-stage2", folder="runs/fresh-2" + str(run.config.run.steps))
    first, grid = flexframe.load("runs/tiny/titok-stage1"), flexframe.load("runs/tiny/grid-vq")
    assert_same(parts(run, "encoder"), dict(first.encoder.state_dict()))
    assert_same(parts(run, "quantizer"), dict(first.quantizer.state_dict()))
    decoder, pixels = parts(fresh, "decoder"), "pixels."
    assert_same({n: v for n, v in decoder.items() if not n.startswith(pixels)}, dict(first.decoder.state_dict()))
    begun = {n.removeprefix("pixels.decoder."): v for n, v in decoder.items() if n.startswith("pixels.decoder.")}
    assert_same(begun, dict(grid.decoder.net.state_dict()))
    assert torch.equal(decoder["pixels.codebook.weight"], grid.quantizer.codebook.embedding.weight)
    moved = [name for name, value in parts(run, "decoder").items() if not torch.equal(value, decoder[name])]
    assert any(name.startswith("pixels.") for name in moved)
    assert any(name.startswith("blocks.") for name in moved)
    assert [(each["part"], "random" in each) for each in manifest(run)["init"]] == [
        ("encoder", False), ("quantizer", False), ("decoder", False), ("decoder", False),
    ]  # fmt: skip


def test_what_a_part_lacks_must_be_allowed_and_is_listed(stage: Stages) -> None:
    steps = stage("titok-stage1").config.run.steps
    whole = ["run.init={from: runs/tiny/titok-stage1}", "run.objectives=[mse]"]
    with pytest.raises(ConfigError, match=r"decoder\.pixels\.codebook\.weight: is not in runs/tiny/titok-stage1"):
        create("titok-stage2", *whole, folder="runs/refused")
    allowed = ["run.init={from: runs/tiny/titok-stage1, partial: true}", "run.objectives=[mse]"]
    run = create("titok-stage2", *allowed, folder=f"runs/part-{steps}")
    (random,) = (each for each in manifest(run)["init"] if "random" in each)
    assert random["part"] == "decoder"
    pixels = sorted(name for name in parts(run, "decoder") if name.startswith("pixels."))
    assert random["random"] == pixels
    with pytest.raises(ConfigError, match=r"codec: has nothing in runs/tiny/titok-stage1; leave it out of `parts`"):
        create(
            "titok-stage2", "run.init={from: runs/tiny/titok-stage1, partial: true, parts: [codec]}", folder="runs/no"
        )


def test_flextok_s_codec_is_the_one_that_was_trained_and_does_not_move(stage: Stages) -> None:
    run = stage("flextok")
    grid, codec = flexframe.load("runs/tiny/flextok-codec"), run.trainee.model.codec
    assert_same(parts(run, "codec"), {
        **{f"encoder.{n}": v for n, v in grid.encoder.net.state_dict().items()},
        **{f"project.{n}": v[:4] for n, v in grid.quantizer.project.state_dict().items()},
        **{f"decoder.{n}": v for n, v in grid.decoder.net.state_dict().items()},
    })  # fmt: skip
    assert not any(p.requires_grad for p in codec.parameters())
    assert manifest(run)["objectives"]["repa"]["net"] == "test_vit"
