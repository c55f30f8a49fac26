"""The three verbs: a folder as the hub holds it, the model card, an upload to a stand-in of the hub, the way back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image

import flexframe
from flexframe.models.codec import CodecModel
from flexframe.models.generator import Generator
from flexframe.models.tokenizer import Tokenizer
from flexframe_registry import CodecModelConfig, ConfigError

from .hub import serve
from .test_hub import FRESH

FEW = ("count=4", "show=2", "metrics=[psnr, ssim]")


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    held = second.state_dict()
    return all(torch.equal(value, held[name]) for name, value in first.state_dict().items())


def test_a_folder_holds_what_the_hub_wants_and_reads_back(tiny: Tokenizer, tmp_path: Path) -> None:
    folder = tiny.save_pretrained(tmp_path / "mine", licence="apache-2.0", datasets=["who/digits"])
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    said = json.loads((folder / "config.json").read_text())
    assert (said["library_name"], said["kind"]) == ("flexframe", "tokenizer")
    assert said["config"] == tiny.config.model_dump(mode="json")
    again = Tokenizer.from_pretrained(folder)
    assert same(tiny, again)
    assert same(tiny, flexframe.load(folder))
    card = ModelCard.load(folder / "README.md").data
    assert (card.license, card.library_name, card.datasets) == ("apache-2.0", "flexframe", ["who/digits"])
    assert {"flexframe", "tokenizer", "image-tokenizer", "toy"} <= set(card.tags)
    text = (folder / "README.md").read_text()
    assert 'flexframe.load("mine")' in text
    assert "None was measured for this card" in text
    assert "## What not to conclude" in text


def test_numbers_stand_with_their_protocols_and_pictures(tiny: Tokenizer, tmp_path: Path) -> None:
    report = flexframe.bench("digits-smoke", tiny, *FEW, out=tmp_path / "out", device="cpu")
    folder = tiny.save_pretrained(tmp_path / "mine", licence="mine alone", results=report, repo="who/mine")
    text = (folder / "README.md").read_text()
    entry = report.results["models"]["model"]["budgets"]["8"]["metrics"]["psnr"]
    protocol = entry["protocol"].split(".")[0]
    assert f"| 8 | {entry['value']:.2f} |" in text
    assert f"PSNR `{protocol}`" in text
    assert "a number compares with another of the same id only" in text
    assert "say nothing about other images" in text
    assert 'flexframe.load("hf:who/mine")' in text
    with Image.open(folder / "strip.png") as strip:
        assert strip.width > 300
    assert "](strip.png)" in text
    card = ModelCard.load(folder / "README.md").data
    assert (card.license, card["license_name"]) == ("other", "mine alone")
    psnr = [each for each in card.eval_results if each.metric_type == "psnr" and "8 tokens" in each.metric_name]
    assert psnr[0].metric_value == entry["value"]
    assert protocol in psnr[0].metric_name
    other = tiny.save_pretrained(tmp_path / "other", licence="mit", results=tmp_path / "out")
    assert not (other / "strip.png").exists()  # of numbers alone there are no pictures
    assert f"| 8 | {entry['value']:.2f} |" in (other / "README.md").read_text()


def test_priors_and_codecs_have_cards_too(tmp_path: Path) -> None:
    prior = Generator(flexframe.cards().get("toy/prior").described)
    codec = CodecModel(CodecModelConfig.read({"codec": "identity", "image_size": 16}))
    for model in (prior, codec):
        folder = model.save_pretrained(tmp_path / type(model).__name__, licence="mit")
        assert "```python" in (folder / "README.md").read_text()
    assert same(prior, Generator.from_pretrained(tmp_path / "Generator"))


def test_a_card_says_its_own_licence_and_training(tmp_path: Path) -> None:
    model = Tokenizer.from_pretrained("toy/digits-tiny")
    text = (model.save_pretrained(tmp_path / "mine") / "README.md").read_text()
    assert "license: apache-2.0" in text
    assert "Source: " in text


def test_what_cannot_be_published_or_found_is_told(tiny: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="licence: is not given, and neither card nor file says it"):
        tiny.save_pretrained(tmp_path / "mine")
    tiny.save_pretrained(tmp_path / "mine", licence="mit")
    with pytest.raises(ConfigError, match="holds a tokenizer, and Generator was asked for; ask Tokenizer"):
        Generator.from_pretrained(tmp_path / "mine")
    with pytest.raises(ConfigError, match="has no revisions"):
        Tokenizer.from_pretrained(tmp_path / "mine", revision="main")
    report = flexframe.bench("digits-smoke", tiny, *FEW, out=tmp_path / "out", device="cpu")
    other = Tokenizer(tiny.config)
    with pytest.raises(ConfigError, match="results: are of model, and of none with these weights"):
        other.save_pretrained(tmp_path / "other", licence="mit", results=report)


# --- the hub -----------------------------------------------------------------------------------------------------

PUSH = """
import sys, flexframe
tok = flexframe.load(sys.argv[1])
print(tok.push_to_hub("who/mine", licence="mit", token="hf_of_the_test"))
"""
BACK = """
import sys
from flexframe.models.tokenizer import Tokenizer
tok = Tokenizer.from_pretrained("hf:who/mine", revision=sys.argv[1] if len(sys.argv) > 1 else None)
print(tok.id, tok.config.length, sum(float(p.double().sum()) for p in tok.parameters()))
"""


@pytest.mark.slow
def test_a_model_goes_to_the_hub_and_comes_back_also_offline(tiny: Tokenizer, tmp_path: Path, forked: Any) -> None:
    tiny.save(tmp_path / "mine")
    total = str(sum(float(p.double().sum()) for p in tiny.parameters()))
    own = {"HF_HOME": str(tmp_path / "hf"), "FLEXFRAME_HOME": str(tmp_path / "ff"), "HF_HUB_ETAG_TIMEOUT": "2"}
    own["HF_HUB_DISABLE_XET"] = own["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    with serve(tmp_path / "server") as hub:
        done = forked(FRESH + PUSH, tmp_path / "mine", HF_ENDPOINT=hub.url, **own)
        assert done.returncode == 0, done.stderr
        (commit, folder) = hub.repos["who/mine"][-1]
        assert commit in done.stdout
        assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
        assert 'flexframe.load("hf:who/mine")' in (folder / "README.md").read_text()
        back = forked(FRESH + BACK, HF_ENDPOINT=hub.url, **own)
        assert back.stdout.split() == ["hf:who/mine", "8", total], back.stderr
        named = forked(FRESH + BACK, commit, HF_ENDPOINT=hub.url, **own)
        assert named.stdout.split() == [f"hf:who/mine@{commit}", "8", total], named.stderr
    offline = forked(FRESH + BACK, HF_ENDPOINT="http://127.0.0.1:9", **own)
    assert offline.stdout.split() == ["hf:who/mine", "8", total], offline.stderr
    refused = forked(FRESH + PUSH, tmp_path / "mine", HF_ENDPOINT="http://127.0.0.1:9", **own)
    assert "hf:who/mine: was not uploaded (" in refused.stderr
