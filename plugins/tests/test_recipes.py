"""Every recipe reads, and what one takes from another is there under the names it gives."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import torch

from flexframe.models.tokenizer import Tokenizer
from flexframe_registry import cards
from flexframe_registry.cards import card
from flexframe_registry.doubts import obstacles, of_card
from flexframe_registry.files import read_yaml

FOLDER = Path(__file__).parents[2] / "benchmarks/recipes"
RECIPES = [p for p in sorted(FOLDER.rglob("*.yaml")) if "\nrun:" in p.read_text()]


MEANT = {"titok-1-text.yaml": ["length"]}
"""What is doubted about a recipe, and is its question: what a single token holds."""


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


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: str(p.relative_to(FOLDER)))
def test_nothing_is_doubted_about_it(path):
    config = train_config(path)
    assert [where for where, _ in of_card(card(str(path)), config)] == MEANT.get(path.name, [])
    assert [*obstacles(config)] == []


@pytest.mark.parametrize("name", [name for name in cards().names() if not name.startswith("toy/")])
def test_nothing_is_doubted_about_a_card(name):
    """As its own run trains it; where it has none, on whatever data for as long as published models take."""
    chosen = cards().get(name)
    if chosen.file.kind == "codec" or chosen.file.model.get("decoder") == "cells":
        return  # nothing of it is trained
    config = chosen.train([] if chosen.file.run else ["run.data=digits", "run.steps=200000"])
    assert [*obstacles(config), *of_card(chosen, config)] == []


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


def test_the_cloud_file_runs_the_head_to_head_until_it_is_done(tmp_path):
    """By a script that is broken off once and then ends; what it is given is what the real one reads."""
    path = FOLDER.parent / "gpu" / "02-tiny-imagenet-64.sky.yaml"
    task, real = read_yaml(path), (path.parent / "02-tiny-imagenet-64.sh").read_text()
    assert task["resources"]["use_spot"] is True
    assert all(f"${{{name}}}" in str(task["file_mounts"]) for name in task["envs"])
    for text in (task["setup"], task["run"], real):
        assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    script = tmp_path / "benchmarks" / "gpu" / "02-tiny-imagenet-64.sh"
    for place, text in {
        script: 'echo "$TRAIN $VAL $OUT $SECONDS_A_PART" >> told; [ $(wc -l < told) = 2 ] || exit 3',
        tmp_path / "flexframe" / "bin" / "activate": "sleep() { :; }",
    }.items():
        place.parent.mkdir(parents=True)
        place.write_text(text)
    run = subprocess.run(["bash", "-c", task["run"]], cwd=tmp_path, env={**os.environ, "HOME": str(tmp_path)})
    assert run.returncode == 0
    told = (tmp_path / "told").read_text().splitlines()
    assert told == ["/data/train-{00000..00014}.tar /data/val-{00000..00001}.tar /runs/tiny-imagenet-64 86400"] * 2
    assert all(re.search(rf"\$\{{{name}:", real) for name in ("TRAIN", "VAL", "OUT", "SECONDS_A_PART"))
