"""Each distribution by itself: its cards resolve, build and train with what its own `dependencies` name, and no more.

So does the card of a package that `flexframe new-plugin` makes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from . import environments
from .conftest import MADE
from .distributions import CORE, DISTRIBUTIONS, PLUGINS, Distribution
from .environments import Site
from .nursery import Nursery

pytestmark = pytest.mark.slow

LARGEST = 10_000_000
"""Parameters of a card that is trained here; larger ones are built without data."""
INIT = {
    "flextok/scenes-64": "flextok/scenes-64",
    "flextok/scenes-64-few-steps": "flextok/scenes-64-few-steps",
    "flextok/scenes-64-vit": "{from: flextok/scenes-64, parts: [codec]}",
    "titok/scenes-64-16": "titok/scenes-64-16",
    "titok/scenes-64-4": "titok/scenes-64-4",
    "titok/scenes-64-4-kl": "titok/scenes-64-4-kl",
}
"""Of cards that do not say how they are trained, and whose frozen codec cannot start random: who has its weights."""
WORK = """
import json, sys, torch
from pathlib import Path
from flexframe.cli import app
from flexframe.models.build import build
from flexframe_registry import catalogue, cards

assert not catalogue().broken, catalogue().broken
package, largest, INIT = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
short = ["run.steps=2", "run.batch_size=4", "run.optimizer.warmup=1", "run.log_every=1", "run.compile=false"]
short += ["--device", "cpu"]
for component in catalogue():
    if component.target.startswith(package):
        component.load()
built, trained = [], []
for name, path in cards().files.items():
    if package not in path.parts:
        continue
    card = cards().get(name)
    with torch.device("meta"):
        model = build(card.described)
    built.append(name)
    still = not any(p.requires_grad for p in model.parameters())  # a codec, by itself or as a tokenizer
    if still or sum(p.numel() for p in model.parameters()) > largest:
        continue
    scenes = ("run.data={type: scenes, complexity: 1}",)  # where a card leaves its images to the user, or names none
    run = scenes if "path" in (card.file.run or {}).get("data", {}) else ()
    run = run if card.file.run else (*scenes, "run.init=" + INIT.get(name, "[]"))
    app(["train", name, *run, *short, "-o", f"runs/{name}"], standalone_mode=False)
    assert Path(f"runs/{name}/model.safetensors").is_file()
    trained.append(name)
Path("told.json").write_text(json.dumps([built, trained]))
"""

TRAINED = {
    "flexframe": set(),
    "flexframe-flextok": {
        "flextok/digits-tiny",
        "flextok/photos-64",
        "flextok/scenes-64",
        "flextok/scenes-64-few-steps",
        "flextok/scenes-64-vit",
    },
    "flexframe-flowmo": {"flowmo/digits-tiny"},
    "flexframe-gigatok": {"gigatok/digits-tiny"},
    "flexframe-grid": {"grid/digits-tiny", "grid/digits-tiny-kl", "grid/scenes-64"},
    "flexframe-lengths": set(),
    "flexframe-objectives": set(),
    "flexframe-one-d-piece": {"one-d-piece/digits-tiny"},
    "flexframe-priors": {
        "causal-denoising/scenes-64-text",
        "gpt/scenes-64-flextok",
        "gpt/scenes-64-text",
        "gpt/scenes-64-titok-16",
        "gpt/scenes-64-titok-4",
        "mar/digits-tiny",
    },
    "flexframe-quantizers": set(),
    "flexframe-restok": {"restok/digits-tiny"},
    "flexframe-semanticist": {"semanticist/digits-tiny"},
    "flexframe-titok": {
        "titok/digits-tiny",
        "titok/digits-tiny-4",
        "titok/photos-64-32",
        "titok/scenes-64-16",
        "titok/scenes-64-4",
        "titok/scenes-64-4-kl",
    },
}
"""Cards that are small enough."""


Sites = Callable[..., Site]


@pytest.fixture
def wheels(built: tuple[dict[str, Path], Path]) -> dict[str, Path]:
    return built[0]


@pytest.fixture
def holding(nursery: Nursery, tmp_path: Path) -> Sites:
    """Makes environments of certain wheels, and of what these require."""

    def make(*wheels: Path) -> Site:
        home = tmp_path / "home"
        home.mkdir()
        return Site(environments.unpacked(tmp_path, wheels), home, nursery)

    return make


def own(name: str, wheels: dict[str, Path], dependencies: set[str]) -> list[Path]:
    """The wheels of a distribution and of those of this repository that it declares, and these in turn."""
    declared = {each.name: each.dependencies for each in DISTRIBUTIONS}
    names, waiting = {name}, {"flexframe", *dependencies}
    while waiting:
        names.add(one := waiting.pop())
        waiting |= declared.get(one, set()) - names
    return [wheels[each] for each in sorted(names) if each in wheels]


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=lambda each: each.name)
def test_its_cards_resolve_build_and_train(distribution: Distribution, wheels: dict[str, Path], holding: Sites) -> None:
    environment = holding(*own(distribution.name, wheels, distribution.dependencies))
    package = distribution.packages[-1].name
    environment.run("-c", WORK, package, LARGEST, json.dumps(INIT))
    built, trained = json.loads((environment.home / "told.json").read_text())
    files = [path for each in distribution.packages for path in each.rglob("cards/*/*.yaml")]
    assert set(built) == {f"{path.parent.name}/{path.stem}" for path in files}
    assert set(trained) == TRAINED[distribution.name]


def test_what_is_not_declared_is_not_there(wheels: dict[str, Path], holding: Sites) -> None:
    """Else the test above could not fail."""
    environment = holding(wheels["flexframe"], wheels["flexframe-flextok"])
    code = (
        "import importlib.util as u; from flexframe_registry import cards\n"
        "import sys; assert not {'timm', 'vector_quantize_pytorch', 'pytest', 'diffusers'} & sys.modules.keys()\n"
        "names = 'flexframe_quantizers', 'timm', 'vector_quantize_pytorch', 'pytest', 'torch', 'diffusers'\n"
        "print(*(n for n in names if u.find_spec(n)))\n"
        "try: cards().get('flextok/digits-tiny').described\n"
        "except ValueError as error: print(error)"
    )
    there, refusal = environment.run("-c", code).splitlines()
    assert there == "torch diffusers"
    assert "no quantizer named 'fsq'" in refusal


def test_a_made_plugin_trains_its_card(wheels: dict[str, Path], holding: Sites) -> None:
    environment = holding(*own(MADE, wheels, {"flexframe-lengths"}))
    environment.run("-c", WORK, "flexframe_wheel_made", LARGEST, "{}")
    assert json.loads((environment.home / "told.json").read_text()) == [["wheel-made/digits-tiny"]] * 2
    others = {each.name for each in [CORE, *PLUGINS]} - {"flexframe", "flexframe-lengths"}
    told = environment.run("program", "flexframe", "--version")
    assert "flexframe-wheel-made 0.1.0" in told
    assert not [name for name in others if name in told]
