"""Every recipe reads, and what one takes from another is there under the names it gives."""

from pathlib import Path

import pytest
import torch

from flexframe.models.tokenizer import Tokenizer
from flexframe_registry.cards import card

FOLDER = Path(__file__).parents[2] / "benchmarks/recipes"
RECIPES = [p for p in sorted(FOLDER.rglob("*.yaml")) if "\nrun:" in p.read_text()]


def train_config(path):
    """As `flexframe train PATH run.data.path=somewhere` reads it."""
    text = path.read_text()
    lacking = "type: tar" in text and "path:" not in text.split("type: tar")[1].split("}")[0]
    return card(str(path)).train(["run.data.path=somewhere"] if lacking else [])


def state(config):
    with torch.device("meta"):
        return Tokenizer(config).state_dict()


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: str(p.relative_to(FOLDER)))
def test_it_reads(path):
    assert train_config(path).run.steps > 0


def test_titoks_second_stage_finds_what_it_begins_with():
    first = state(train_config(FOLDER / "imagenet-256/titok-s-128-stage1.yaml").model)
    config = train_config(FOLDER / "imagenet-256/titok-s-128-stage2.yaml")
    second, grid = state(config.model), state(card("grid/maskgit-vqgan").model)
    assert {k: v.shape for k, v in first.items()}.items() <= {k: v.shape for k, v in second.items()}.items()
    rename = config.run.init[1].rename
    taken = {}
    for name, value in grid.items():
        for there, here in rename.items():
            if name.startswith(there):
                taken[here + name.removeprefix(there)] = value.shape
    pixels = {k: v.shape for k, v in second.items() if k.startswith("decoder.pixels.")}
    assert taken == pixels
    assert first.keys() | taken.keys() == second.keys()
