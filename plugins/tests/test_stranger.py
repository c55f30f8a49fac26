"""A stranger's plugin: a package outside this repository, installed by pip, that everything here then knows of.

It is installed into a folder of its own, which only these tests' child processes have on their path.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import pytest

from .nursery import Nursery
from .test_matrix import PARTS as MET
from .test_matrix import sample

NAME = "flexframe-stranger"
OWN = {"quantizer": {"rounding"}, "decoder": {"slot-mlp"}}
pytestmark = pytest.mark.slow

PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "flexframe-stranger"
version = "0.7.0"
description = "A uniform grid and a small MLP decoder"
requires-python = ">=3.11"
dependencies = ["flexframe"]

[project.entry-points.flexframe]
stranger = "flexframe_stranger"

[tool.hatch.build.targets.wheel]
packages = ["flexframe_stranger"]
"""

CONFIGS = '''
"""A quantizer that rounds to a uniform grid, and a decoder that is a small MLP on each token, summed."""

from typing import Literal

from pydantic import Field

from flexframe import Component, DecoderConfig, ObjectiveConfig, QuantizerConfig, Spec, TokenSpec, hookimpl


class RoundingConfig(QuantizerConfig):
    """Each dimension rounded to one of `levels` values, evenly spaced in [-1, 1]."""

    type: Literal["rounding"] = "rounding"
    sizes = {"tiny": {"dim": 3}}

    dim: int = Field(5, ge=1)
    """Width of a token."""
    levels: int = Field(6, ge=2)
    """Values of a dimension."""

    def tokens(self, length: int, features: int) -> TokenSpec:
        return TokenSpec(length, self.dim, codebooks=self.dim, codebook_size=self.levels)


class SlotMLPConfig(DecoderConfig):
    """Each token, with its slot's learned position, through an MLP to a picture; the pictures are added."""

    type: Literal["slot-mlp"] = "slot-mlp"
    sizes = {"tiny": {"hidden": 32}}

    hidden: int = Field(256, ge=1)
    """Width inside the MLP."""

    def provides(self) -> frozenset[str]:
        return frozenset({"reconstruction"})

    def usual_objectives(self) -> tuple[str, ...]:
        return ("mse",)

    def check(self, spec: Spec) -> None:
        if spec.latents.height * spec.latents.width > 128 * 128:
            raise ValueError("the slot-mlp decoder is for small pictures, of 128 x 128 at the most")


class GuessConfig(ObjectiveConfig):
    """An opponent that guesses each channel's mean from the reconstruction; the model is to make it right."""

    type: Literal["guess"] = "guess"

    def needs(self) -> frozenset[str]:
        return frozenset({"reconstruction"})


@hookimpl
def flexframe_components() -> list[Component]:
    return [
        Component(RoundingConfig, "flexframe_stranger.parts:Rounding"),
        Component(SlotMLPConfig, "flexframe_stranger.parts:SlotMLP"),
        Component(GuessConfig, "flexframe_stranger.parts:Guess"),
    ]
'''

PARTS = '''
"""The parts; the front door imports no torch."""

import torch
from torch import nn

from flexframe.nn.ranges import Rescale
from flexframe.parts import Decoder, Objective, Quantizer
from flexframe.tokens import Outputs, Quantized


class Rounding(Quantizer):
    def __init__(self, config, spec):
        super().__init__(config, spec)
        self.project = nn.Linear(spec.features, config.dim)

    def forward(self, values, keep, *, rng):
        z = torch.tanh(self.project(values).float())
        codes = ((z + 1) / 2 * (self.config.levels - 1)).round().long()
        found = self.lookup(codes)
        return Quantized(z + (found - z).detach() if self.training else found, codes)

    def lookup(self, codes):
        return codes / (self.config.levels - 1) * 2 - 1


class SlotMLP(Decoder):
    def __init__(self, config, spec):
        super().__init__(config, spec)
        self.shape = (spec.latents.channels, spec.latents.height, spec.latents.width)
        self.rescale = Rescale(spec.latents, (-1.0, 1.0))
        self.positions = nn.Parameter(0.02 * torch.randn(spec.tokens.length, config.hidden))
        self.read = nn.Linear(spec.tokens.dim, config.hidden)
        self.write = nn.Sequential(nn.SiLU(), nn.Linear(config.hidden, config.hidden), nn.SiLU())
        self.paint = nn.Linear(config.hidden, spec.latents.channels * spec.latents.height * spec.latents.width)

    def forward(self, tokens, batch, *, taps, rng):
        if taps:
            raise ValueError(f"the slot-mlp decoder has no taps; asked for {sorted(taps)}")
        return Outputs({}, reconstruction=self.picture(tokens))

    def decode(self, tokens, *, condition, size, rng, sampling):
        if size != self.shape[1:]:
            raise ValueError(f"the slot-mlp decoder gives latents of {self.shape[1:]}, not {size}")
        return self.picture(tokens)

    def picture(self, tokens):
        hidden = self.write(self.read(tokens.values) + self.positions[: tokens.keep.shape[1]])
        present = torch.where(tokens.keep[..., None], hidden, 0)
        return self.rescale.inverse(self.paint(present.sum(1)).unflatten(1, self.shape))


class Guess(Objective):
    own = frozenset({"guess"})

    def __init__(self, config, spec):
        super().__init__(config, spec)
        self.read = nn.Linear(spec.latents.channels, spec.latents.channels)

    def forward(self, outputs, batch, *, step, rng):
        wanted, seen = batch.latents.mean((2, 3)), outputs.reconstruction.mean((2, 3))
        frozen = nn.functional.linear(seen, self.read.weight.detach(), self.read.bias.detach())
        guess = self.read(seen.detach())
        return {"model": (frozen - wanted).square().mean(1), "guess": (guess - wanted).square().mean(1)}
'''

TESTS = """
from flexframe.testing import parametrize_contracts


@parametrize_contracts("flexframe-stranger")
def test_contract(check):
    check()
"""

FILES = {
    "pyproject.toml": PYPROJECT,
    "flexframe_stranger/__init__.py": CONFIGS,
    "flexframe_stranger/parts.py": PARTS,
    "tests/test_contracts.py": TESTS,
}

QUIET = ("-q", "-p", "no:cacheprovider", "-W", "error", "--import-mode=importlib")


@dataclass
class Stranger:
    """The installed package, and where its author and its users stand: no folder of theirs is this repository."""

    source: Path
    site: Path
    home: Path
    nursery: Nursery

    def python(self, *words: object) -> str:
        """Runs `-c CODE` or `-m MODULE ...` with the package and all that is installed here on the path."""
        env = {**os.environ, "PYTHONPATH": str(self.site), "COLUMNS": "200"}
        done = self.nursery.run(words, [self.site, *filter(None, sys.path)], self.home, env, first=True)
        assert done.returncode == 0, f"{words}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def flexframe(self, *arguments: object) -> str:
        return self.python("-m", "flexframe.cli", *arguments)


@pytest.fixture(scope="module")
def stranger(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Stranger:
    """The package, built and installed by pip."""
    root = tmp_path_factory.mktemp("stranger")
    source, site, home = root / "flexframe-stranger", root / "site", root / "home"
    for name, text in FILES.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text.lstrip())
    home.mkdir()
    # without the build backend at hand, pip fetches it into a build environment of its own
    offline = ["--no-build-isolation"] if find_spec("hatchling") else []
    pip = ["pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", *offline]
    subprocess.run([sys.executable, "-m", *map(str, pip), "--target", site, source], check=True, timeout=250)
    return Stranger(source, site, home, nursery)


@pytest.fixture(scope="module")
def trained(stranger: Stranger) -> Path:
    """A FlexTok with the stranger's quantizer and decoder, trained for three steps."""
    folder = stranger.home / "run"
    parts = ["quantizer=rounding", "decoder=slot-mlp", "run.objectives=[mse, {type: guess, weight: 0.5, start: 1}]"]
    stranger.flexframe("train", "flextok/digits-tiny", *parts, "run.steps=3", "run.log_every=1", "-o", folder)
    return folder


def test_it_is_listed_with_its_provider(stranger: Stranger) -> None:
    lines = stranger.flexframe("list").splitlines()
    for kind, name in (("quantizer", "rounding"), ("decoder", "slot-mlp")):
        (line,) = [line for line in lines if line.split()[:2] == [kind, name]]
        assert line.rstrip().endswith(f"{NAME} 0.7.0")
    assert "Values of a dimension." in stranger.flexframe("show", "quantizer/rounding")


def test_it_trains_by_config(trained: Path) -> None:
    model = json.loads((trained / "config.json").read_text())["model"]
    assert model["quantizer"] == {"type": "rounding", "dim": 3, "levels": 6}  # a swap in a tiny card stays tiny
    assert model["decoder"] == {"type": "slot-mlp", "hidden": 32}
    assert json.loads((trained / "manifest.json").read_text())["versions"][NAME] == "0.7.0"
    steps = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == [1, 2, 3]
    told = [{name for name in step if "guess" in name} for step in steps]
    assert told[1:] == [{"guess/model", "guess/guess", "grad_norm/guess"}] * 2
    assert not told[0] & {"guess/model", "guess/guess"}
    assert all(step["grad_norm/guess"] > 0 for step in steps[1:])


def test_it_passes_the_contract_kit(stranger: Stranger) -> None:
    said = stranger.python("-m", "pytest", *QUIET, "--rootdir", stranger.source, stranger.source / "tests")
    assert " passed" in said
    assert "skipped" not in said


def test_it_joins_the_matrix(stranger: Stranger) -> None:
    """Its parts meet every part that is installed, in the cells that are chosen of all."""
    names = [{*found} | OWN.get(kind, set()) for kind, found in MET.items()]
    own = set[str]().union(*OWN.values())
    cells = ["-".join(cell) for cell in sample(list(product(*map(sorted, names)))) if own & {*cell}]
    said = stranger.python(
        "-m", "pytest", "-v", *QUIET[1:], Path(__file__).with_name("test_matrix.py"), "-k", " or ".join(own)
    )
    passed = re.findall(r"test_cell\[(\S+)\] PASSED", said)
    assert sorted(passed) == sorted(cells)
    assert f" {len(passed)} passed" in said


def test_it_is_measured(stranger: Stranger, trained: Path) -> None:
    suite, out = stranger.home / "eight.yaml", stranger.home / "measured"
    copy = "from flexframe_registry.suites import SUITES; print((SUITES / 'digits-smoke.yaml').read_text())"
    suite.write_text(stranger.python("-c", copy).replace("count: 64", "count: 8"))
    stranger.flexframe("bench", suite, trained, "-o", out)
    found = json.loads((out / "results.json").read_text())
    model = found["models"]["run"]
    assert found["protocol"]["count"] == 8
    assert list(model["budgets"]) == ["1", "2", "4", "8"]
    assert model["bits_per_token"] == pytest.approx(3 * 2.584962500721156)  # three of six values
    for budget in model["budgets"].values():
        assert budget["metrics"]["psnr"]["value"] > 0
    assert f"{NAME} 0.7.0" in (out / "results.json").read_text()
    assert (out / "report.html").is_file()


def test_nothing_of_it_is_known_here(trained: Path) -> None:
    from flexframe_registry import catalogue

    assert NAME not in {component.provider.rsplit(" ", 1)[0] for component in catalogue()}
    with pytest.raises(LookupError):
        catalogue().get("quantizer", "rounding")
