"""Doubts about a run and obstacles to it: where they come from, who tells them, and `run.strict`."""

import json

import pytest
import torch
from flexframe_toy import ToyEncoderConfig, ToyPlainConfig, ToyPriorConfig
from typer.testing import CliRunner

from flexframe.cli import app
from flexframe.commands import subjects
from flexframe.train.run import Run
from flexframe_registry import ConfigError, cards
from flexframe_registry.cards import card
from flexframe_registry.doubts import check, doubts, obstacles, of_card

CPU = torch.device("cpu")
CARD = "toy/digits-tiny"


@pytest.fixture
def doubtful(monkeypatch):
    """Toy encoders doubt their depth."""
    told = lambda self, spec, steps: [("depth", f"{self.depth} of {spec.tokens.length} in {steps} steps")]  # noqa: E731
    monkeypatch.setattr(ToyEncoderConfig, "doubts", told)


@pytest.fixture
def hopeless(monkeypatch):
    """Toy decoders of one pass cannot learn."""
    monkeypatch.setattr(ToyPlainConfig, "obstacles", lambda self, spec: [("width", f"{self.width} is too little")])


def train(*overrides, name=CARD):
    return cards().get(name).train(overrides)


def test_a_healthy_run_raises_none():
    assert (obstacles(train()), doubts(train())) == ([], [])


def test_a_part_says_its_doubts_with_the_place_of_the_setting(doubtful):
    assert doubts(train("run.steps=7")) == [("encoder.depth", "2 of 8 in 7 steps")]


def test_an_encoders_own_objective_is_usual_and_missed(monkeypatch):
    monkeypatch.setattr(ToyEncoderConfig, "usual_objectives", lambda self: ("l1",))
    config = train(name="toy/plain")
    assert [each.type for each in config.objectives] == ["l1", *config.model.decoder.usual_objectives()]
    told = doubts(train("run.objectives=[mse]", name="toy/plain"))
    assert told == [("run.objectives", "lack 'l1', by which encoder 'toy' usually learns what it alone has; add l1")]
    assert doubts(train("run.objectives=[mse, l1]", name="toy/plain")) == []


def test_a_prior_says_its_doubts(monkeypatch):
    told = lambda self, spec, steps: [("class_dropout", f"of {spec.length} codes")]  # noqa: E731
    monkeypatch.setattr(ToyPriorConfig, "doubts_of_codes", told)
    assert doubts(train(name="toy/prior")) == [("prior.class_dropout", "of 8 codes")]


def test_what_cannot_learn_is_refused_unless_it_is_frozen(hopeless, tmp_path):
    with pytest.raises(ConfigError, match=r"^decoder\.width: 16 is too little$"):
        Run.create(train(name="toy/plain"), tmp_path / "run", CPU, {})
    assert not (tmp_path / "run").exists()
    check(train("run.freeze=[decoder]", name="toy/plain"), ())


def test_a_strict_run_is_refused_for_its_doubts_and_another_keeps_them(doubtful, tmp_path):
    with pytest.raises(ConfigError, match=r"^encoder\.depth: 2 of 8 in 100 steps$"):
        Run.create(train("run.strict=true"), tmp_path / "strict", CPU, {})
    run = Run.create(train(), tmp_path / "run", CPU, {})
    run.close()
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["doubts"] == ["encoder.depth: 2 of 8 in 100 steps"]


def test_commands_tell_doubts_before_the_first_step_and_strict_ones_stop_there(doubtful, tmp_path):
    folder = tmp_path / "run"
    short = ["run.steps=1", "run.batch_size=2", "run.optimizer.warmup=0", "-o", str(folder), "--device", "cpu"]
    told = CliRunner().invoke(app, ["train", CARD, *short])
    assert told.exit_code == 0, told.output
    assert "doubt: encoder.depth: 2 of 8 in 1 steps" in told.stderr
    assert subjects.find(CARD).doubts == [("encoder.depth", "2 of 8 in 100 steps")]
    refused = CliRunner().invoke(app, ["train", CARD, "run.strict=true", "-o", str(tmp_path / "strict")])
    assert isinstance(refused.exception, ConfigError)
    assert not (tmp_path / "strict").exists()


# --- the learning rate -------------------------------------------------------------------------------------------


def test_a_rate_is_held_against_the_installed_cards_own(tmp_path):
    own = cards().get(CARD)  # 2e-3
    assert of_card(own, own.train(["run.optimizer.lr=0.019"])) == []
    ((place, text),) = of_card(own, own.train(["run.optimizer.lr=0.02"]))
    assert place == "run.optimizer.lr"
    assert "0.02 is 10 times the recipe's 0.002" in text


def test_another_optimizer_and_a_file_of_ones_own_are_held_against_what_is_usual(tmp_path):
    own = cards().get(CARD)
    other = own.train(["run.optimizer={type: sgd, lr: 0.2}"])
    assert "0.2 is 20 times sgd's usual 0.01" in of_card(own, other)[0][1]
    path = tmp_path / "mine.yaml"
    path.write_text(f"base: {CARD}\nrun: {{optimizer: {{lr: 0.1}}}}\n")
    based = card(str(path))
    assert "50 times the recipe's 0.002" in of_card(based, based.train())[0][1]
    assert "100 times adamw's usual 0.001" in doubts(based.train())[0][1]
