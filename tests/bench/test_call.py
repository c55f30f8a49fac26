"""`flexframe.bench(...)`, and how its result, models and tokens show themselves in a notebook."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import flexframe
from flexframe.bench.gallery import Report
from flexframe.models.codec import CodecModel
from flexframe.models.generator import Generator
from flexframe.models.tokenizer import Tokenizer
from flexframe.tokens import Tokens
from flexframe_registry import CodecModelConfig, ConfigError

FEW = ("count=4", "show=2", "metrics=[psnr, ssim]")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, tiny: Tokenizer) -> Report:
    folder = tmp_path_factory.mktemp("call")
    tiny.save(folder / "a" / "model.safetensors")
    report = flexframe.bench("digits-smoke", folder / "a", tiny, *FEW, out=folder / "out", device="cpu")
    assert isinstance(report, Report)
    return report


def test_it_measures_files_and_loaded_models_alike_and_leaves_what_the_command_leaves(measured: Report) -> None:
    assert list(measured.results["models"]) == ["a", "model"]
    first, second = (model["budgets"] for model in measured.results["models"].values())
    assert [b["metrics"]["psnr"]["value"] for b in first.values()] == pytest.approx(
        [b["metrics"]["psnr"]["value"] for b in second.values()]
    )
    kept = json.loads((measured.out / "results.json").read_text())
    assert kept["models"]["a"]["fingerprint"] == measured.results["models"]["a"]["fingerprint"]
    assert measured.page.read_text().startswith("<!doctype html>")


def test_a_result_shows_table_curves_and_strip(measured: Report) -> None:
    assert re.search(r"tokens\s+model\s+bits\s+PSNR", repr(measured))
    page = measured._repr_html_()
    assert page.count("<img ") == 3
    assert re.findall(r"<figcaption>([^<]+)", page) == ["curves over tokens", "a", "model"]
    value = measured.results["models"]["a"]["budgets"]["8"]["metrics"]["psnr"]["value"]
    assert f"{value:.2f}" in page
    assert "<script" not in page


def test_what_cannot_be_measured_is_told(tmp_path: Path, tiny: Tokenizer) -> None:
    with pytest.raises(ConfigError, match="name at least one model"):
        flexframe.bench("digits-smoke", "count=4", out=tmp_path)
    with pytest.raises(LookupError, match="no suite named 'digit'"):
        flexframe.bench("digit", tiny, out=tmp_path)


# --- models and tokens -------------------------------------------------------------------------------------------


def test_a_model_says_what_it_is_and_weighs(tiny: Tokenizer) -> None:
    told = repr(tiny)
    total = sum(each.numel() for each in tiny.encoder.parameters())
    for words in ("Tokenizer", "16 x 16 pixels", f"toy, {total:,} parameters", "sampling", "steps 2", "cpu, float32"):
        assert words in told
    assert len(told.splitlines()) < 15
    assert "<table>" in tiny._repr_html_()


def test_a_prior_and_a_codec_say_so_too() -> None:
    prior = Generator(flexframe.cards().get("toy/prior").described)
    assert re.match(r"Generator\n  codes +1 x ", repr(prior))
    codec = CodecModel(CodecModelConfig.read({"codec": "identity", "image_size": 16}))
    assert re.match(r"CodecModel\n  size +16 x 16 pixels", repr(codec))
    assert "identity" in codec._repr_html_()


def test_tokens_are_a_table_in_a_notebook() -> None:
    keep = torch.tensor([[True, True], [True, False]])
    codes = torch.tensor([[[7], [8]], [[9], [0]]])
    page = Tokens(torch.zeros(2, 2, 3), keep, codes, (16, 16))._repr_html_()
    rows = [re.findall(r"<td[^>]*>([^<]*)", row) for row in page.split("<tr>")[2:]]
    assert rows == [["7", "8"], ["9", "·"]]
    several = Tokens(torch.zeros(20, 40, 1), torch.ones(20, 40, dtype=torch.bool), torch.zeros(20, 40, 2).long())
    assert several._repr_html_().count("(0 0)") == 8 * 16
    assert "the first rows" in several._repr_html_()
    assert "0 images" in Tokens(torch.zeros(0, 2, 1), keep[:0], codes[:0])._repr_html_()


# --- listing -----------------------------------------------------------------------------------------------------


def test_models_are_listed_by_what_one_needs(caplog: pytest.LogCaptureFixture) -> None:
    cards = flexframe.cards()
    toys = [name for name in cards.names() if name.startswith("toy/")]
    assert flexframe.list_models("toy/*") == toys
    with_weights = flexframe.list_models("toy/*", pretrained=True)
    assert {"toy/digits-tiny"} <= set(with_weights) < set(toys)
    assert sorted([*with_weights, *flexframe.list_models("toy/*", pretrained=False)]) == toys
    priors = flexframe.list_models("toy/*", kind="generator")
    assert {cards.get(name).described.kind for name in priors} == {"generator"}
    small = flexframe.list_models("toy/*", max_parameters=8_000)
    assert {"toy/digits-tiny"} <= set(small)
    assert not flexframe.list_models("toy/*", max_parameters=10)
    assert not caplog.records


def test_a_card_that_says_its_parameters_is_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = list[object]()
    monkeypatch.setattr("flexframe.store.listing.count_parameters", lambda config: counted.append(config) or 10)
    file = flexframe.cards().get("toy/digits-tiny").file.model_copy(update={"parameters": 11})
    card = replace(flexframe.cards().get("toy/digits-tiny"), file=file)
    monkeypatch.setattr(type(flexframe.cards()), "read", lambda *_: card)
    assert flexframe.list_models("toy/digits-tiny", max_parameters=10) == []
    assert flexframe.list_models("toy/digits-tiny", max_parameters=11) == ["toy/digits-tiny"]
    assert not counted


def test_a_licence_is_taken_by_the_word(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = flexframe.cards()
    first, second, *others = [name for name in cards.names() if name.startswith("toy/")]
    said = {first: "Apache-2.0 (code); of the weights not stated", second: "Apache-2.0"} | dict.fromkeys(others, "MIT")
    get = type(cards).get

    def told(self: Any, name: str) -> Any:
        card = get(self, name)
        return replace(card, file=card.file.model_copy(update={"licence": said.get(name, "")}))

    monkeypatch.setattr(type(cards), "get", told)
    assert flexframe.list_models("toy/*", licence="apache-2.0") == [second]
    assert flexframe.list_models("toy/*", licence="Apache-2.0*") == [first, second]
    assert flexframe.list_models("toy/*", licence=["MIT", "Apache-2.0"]) == [second, *others]


def test_the_front_door_is_light(python: Any) -> None:
    code = "import sys, flexframe, flexframe.bench, flexframe.train; print(*sorted(sys.modules))"
    heavy = {"torch", "numpy", "pydantic", "matplotlib", "PIL", "rich", "huggingface_hub", "flexframe_registry"}
    assert not heavy & set(python(code).stdout.split())
