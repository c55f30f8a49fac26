"""Alarms of real methods: a codebook that collapses, a decoder without a loss; and logs of healthy runs, which set off
none."""

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console as Terminal

from flexframe.tokens import Outputs
from flexframe.train import alarms, history, probe
from flexframe.train.alarms import Alarms
from flexframe.train.console import Console
from flexframe.train.loop import train
from flexframe.train.run import Run
from flexframe_flextok.decoder import FlowDecoder
from flexframe_registry import cards
from flexframe_registry.cards import read_training
from flexframe_registry.files import read_json

ROOT = Path(__file__).resolve().parents[2]
TRAININGS = ROOT / "benchmarks" / "results" / "trainings"
LOGS = sorted(TRAININGS.rglob("log.jsonl"))
TRUE = {"digits-families/semanticist": {"tokens-ignored"}}
"""Runs that end too early, as docs/families.md says of this one: its pictures are the same at every length."""


@pytest.mark.filterwarnings("ignore:earlier spellings:FutureWarning")
@pytest.mark.parametrize("log", LOGS, ids=[str(path.parent.relative_to(TRAININGS)) for path in LOGS])
def test_no_log_of_a_committed_run_sets_one_off_but_where_it_is_true(log):
    config = read_json(log.parent / "config.json")
    config.pop("sampling", None)
    watching = Alarms(read_training(config, str(log.parent)))
    lines = history.log(log.parent)
    assert lines
    told = {record["alarm"] for line in lines for record in watching.look(line)}
    assert told == TRUE.get(str(log.parent.relative_to(TRAININGS)), set())


def trained(folder, *settings):
    config = (
        cards()
        .get("titok/digits-tiny")
        .train(["decoder.depth=1", "run.batch_size=16", "run.log_every=5", "run.optimizer.warmup=5", *settings])
    )
    file, run = io.StringIO(), Run.create(config, folder, torch.device("cpu"), {})
    train(run, Console(Terminal(file=file, width=400)))
    return file.getvalue(), [record["alarm"] for record in history.read(folder).alarms]


@pytest.mark.slow
def test_a_codebook_learned_by_gradient_collapses_and_it_is_told_once(tmp_path, monkeypatch):
    monkeypatch.setattr(probe, "EVERY", 5)
    monkeypatch.setattr(alarms, "SHORT", 50)
    said, names = trained(tmp_path / "run", "decoder.depth=1", "quantizer=vq", "run.steps=100", "run.optimizer.lr=3e-3")
    assert names == ["collapse"]  # which explains that the tokens are ignored and the picture is the mean one
    assert "of 64 codes in use, perplexity" in said
    assert "bits of a token differ between images (healthy: above 0.25)" in said
    assert "try quantizer.ema=true quantizer.decay=0.95 quantizer.dead_code_threshold=0.05, or quantizer=fsq" in said


def test_a_codebook_of_several_is_judged_by_its_own_size():
    card = cards().get("titok/digits-tiny")
    for perplexity, told in ((12, []), (8, ["1,000 of 4,096 codes in use, perplexity 8 a codebook of 1,024 (healthy"])):
        watching = Alarms(
            card.train(["quantizer={type: residual-vq, num_quantizers: 4, codebook_size: 1024}", "run.steps=9000"])
        )
        use = {"codes_used": 1000, "codes_dead": 3096, "codes_perplexity": perplexity}
        texts = [record["text"] for step in (1000, 1100, 1200) for record in watching.look({"step": step} | use)]
        assert len(texts) == len(told)
        assert all(words in text for words, text in zip(told, texts, strict=True))


@pytest.mark.slow
def test_a_decoder_that_returns_no_loss_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(FlowDecoder, "forward", lambda self, tokens, batch, *, taps, rng: Outputs({}))
    said, names = trained(tmp_path / "run", "decoder=flow", "decoder.depth=1", "quantizer=vq", "run.steps=25")
    assert names == ["no-gradient"]
    assert "no loss reaches the decoder: gradient 0 (healthy: above 0), since step 5; name an objective" in said
