"""Alarms: each is set off by a real small run, none by a healthy one; told once, in the log, the console, the list."""

import io
import json
import re

import pytest
import torch
from flexframe_toy.parts import ToyEncoder
from rich.console import Console as Terminal
from safetensors.torch import load_file

from flexframe.tokens import Codes
from flexframe.train import alarms, history, probe
from flexframe.train.alarms import Alarmed, Alarms
from flexframe.train.console import Console
from flexframe.train.curves import draw
from flexframe.train.distributed import ALONE
from flexframe.train.loop import train
from flexframe.train.run import Run
from flexframe.train.tally import Usage
from flexframe_registry import ConfigError, cards

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
PLAIN = ("decoder=toy-plain", "masker=full")


@pytest.fixture
def soon(monkeypatch):
    """Alarms that wait for a few steps only, and a probe every other step."""
    monkeypatch.setattr(probe, "EVERY", 2)
    monkeypatch.setattr(alarms, "SHORT", 8)


@pytest.fixture
def loud(create):
    """Trains with a log line every other step; what the console said, and the run's folder."""

    def to_its_end(*settings, name="run", fails=None):
        quick = ("run.steps=24", "run.log_every=4", "run.batch_size=16", "run.checkpoint_every=100")
        run, file = create(name, *quick, *settings), io.StringIO()
        console = Console(Terminal(file=file, width=300))
        if fails is None:
            train(run, console)
        else:
            with pytest.raises(fails[0], match=fails[1]):
                train(run, console)
        return file.getvalue(), run.folder

    return to_its_end


def told(folder):
    return [record["alarm"] for record in history.read(folder).alarms]


# --- what sets them off ------------------------------------------------------------------------------------------


def test_a_flow_that_only_denoises_ignores_its_tokens(soon, loud):
    said, folder = loud()
    assert told(folder) == ["tokens-ignored"]
    assert re.search(r"alarm at step 24: the decoder ignores the tokens: another image's do as well, to 0\.\d+% "
                     r"\(healthy: above 0\.5%\), since step \d+; try ", said)  # fmt: skip
    assert said.count("alarm") == 1


def test_a_picture_that_never_comes_is_no_better_than_the_mean_image(soon, loud):
    said, folder = loud(*PLAIN, "run.optimizer.lr=1e-9")
    assert told(folder) == ["mean-image"]
    assert "of the mean image's (healthy: below 95%)" in said


def test_a_loss_that_rises(soon, loud, monkeypatch):
    monkeypatch.setattr(alarms, "EXPLODED", 1e9)  # the same trouble, and told in its place
    monkeypatch.setattr(alarms, "ENDLESS", 1e30)
    said, folder = loud(
        "quantizer=toy-values", *PLAIN, "run.optimizer.lr=0.3", "run.optimizer.warmup=60", "run.steps=60"
    )
    assert told(folder) == ["rising-loss"]
    assert "at its least, since step" in said


def test_gradients_that_explode(soon, loud):
    said, folder = loud(*PLAIN, "run.optimizer.lr=1", "run.optimizer.warmup=0")
    assert told(folder) == ["exploding"]  # one line, though the loss, the tokens and the picture are none the better
    assert "gradients explode: their norm is" in said
    assert "try a lower run.optimizer.lr" in said


def test_a_part_that_no_loss_reaches(soon, loud, monkeypatch):
    forward = ToyEncoder.forward
    monkeypatch.setattr(ToyEncoder, "forward", lambda self, latents, keep: forward(self, latents, keep).detach())
    said, folder = loud(*PLAIN, "run.steps=28")
    assert told(folder)[0] == "no-gradient"
    assert "no loss reaches the encoder" in said
    assert json.loads((folder / "log.jsonl").read_text().splitlines()[0])["grad_norm/encoder"] == 0


def test_where_nothing_has_a_gradient_the_first_step_is_refused(loud, monkeypatch):
    forward = ToyEncoder.forward
    monkeypatch.setattr(ToyEncoder, "forward", lambda self, latents, keep: forward(self, latents, keep).detach())
    only = ConfigError, r"run\.objectives: no loss reaches anything of the model that learns"
    loud(*PLAIN, "run.freeze=[quantizer,decoder]", fails=only)


# --- how it is told ----------------------------------------------------------------------------------------------


def test_an_alarm_is_in_the_list_of_runs_its_end_and_its_picture(soon, loud, command, tmp_path):
    _, folder = loud()
    listed = command("runs", folder)
    assert "finished, 1 alarm" in listed.out
    assert "run, at step 24: the decoder ignores the tokens" in listed.err
    assert json.loads((folder / "end.json").read_text())["alarms"] == history.read(folder).lines[-1]["alarms"]
    draw({"run": history.log(folder)}, tmp_path / "curves.svg")
    assert "tokens ignored" in (tmp_path / "curves.svg").read_text()


def test_a_resumed_run_does_not_tell_it_again(soon, loud):
    _, folder = loud("run.checkpoint_every=24")
    config = json.loads((folder / "config.json").read_text())
    config["run"]["steps"] = 32
    (folder / "config.json").write_text(json.dumps(config))
    file = io.StringIO()
    train(Run.resume(folder, CPU), Console(Terminal(file=file, width=300)))
    assert "alarm" not in file.getvalue()
    assert told(folder) == ["tokens-ignored"]
    assert [record["alarm"] for record in json.loads((folder / "end.json").read_text())["alarms"]] == ["tokens-ignored"]


def test_a_strict_run_ends(soon, loud):
    _, folder = loud("run.strict=true", fails=(Alarmed, r"at step 24: the decoder ignores .*run\.strict ends the run"))
    ended = history.read(folder)
    assert (ended.state, ended.step) == ("failed", 24)
    assert "ignores the tokens" in ended.why
    assert not (folder / "model.safetensors").exists()


def test_a_probe_changes_nothing(create, go, monkeypatch):
    noisy = ("run.steps=6", "run.log_every=2", "quantizer.noise=0.1", "quantizer.average=true")
    plain = go(create("plain", *noisy))
    monkeypatch.setattr(probe, "EVERY", 2)
    probed = go(create("probed", *noisy))
    pairs = [load_file(run.folder / "model.safetensors") for run in (plain, probed)]
    assert all(torch.equal(value, pairs[1][name]) for name, value in pairs[0].items())
    logs = [history.log(run.folder) for run in (plain, probed)]
    assert [line["loss"] for line in logs[0]] == [line["loss"] for line in logs[1]]
    assert not any(name.startswith("probe/") for name in logs[0][-1])
    assert {"probe/tokens", "probe/bits", "probe/weights"} <= logs[1][0].keys()


# --- by the log alone --------------------------------------------------------------------------------------------


def replay(lines, *settings):
    """Names of the alarms that these numbers of a log set off, by step."""
    watching = Alarms(cards().get("toy/digits-tiny").train(settings))
    return [(line["step"], record["alarm"]) for line in lines for record in watching.look(line)]


def test_what_comes_down_and_goes_up_again_has_risen():
    losses = [1.0, 0.6, 0.3, 0.2, 0.2, *[0.7] * 6]
    assert replay([{"step": 50 * i, "loss": loss} for i, loss in enumerate(losses, 1)]) == [(500, "rising-loss")]


def test_a_loss_that_joins_later_is_no_rise():
    lines = [{"step": 50 * i, "a/x": 0.3, "loss": 0.3} for i in range(1, 5)]
    lines += [{"step": 50 * i, "a/x": 0.3, "b/y": 0.8, "loss": 1.1} for i in range(5, 15)]
    assert replay(lines) == []


def test_norms_that_grow_from_their_start_explode():
    norms = [0.1, 0.4, 0.3, 1.0, 2.0, 30.0, 40.0, 50.0]
    assert replay([{"step": 50 * i, "grad_norm": norm} for i, norm in enumerate(norms, 1)]) == [(400, "exploding")]
    weights = [10.0, 20.0, 250.0, 300.0, 400.0]
    lines = [{"step": 100 * i, "grad_norm": 1.0, "probe/weights": w} for i, w in enumerate(weights, 1)]
    assert replay(lines) == [(500, "exploding")]


def test_what_cannot_be_told_yet_is_not():
    lines = [{"step": 100 * i, "probe/tokens": 0.0, "probe/error": 1.0} for i in range(1, 30)]
    assert replay(lines, "run.steps=20000") == []
    assert replay(lines, "run.steps=4000") == [(1000, "mean-image")]  # the same of a decoder that gives one picture
    assert replay(lines[:4], "run.steps=400") == []
    flow = [{"step": 100 * i, "probe/tokens": 0.0} for i in range(1, 40)]
    assert replay(flow, "run.steps=4000") == [(3000, "tokens-ignored")]
    assert replay(flow, "run.steps=600")[0] == (600, "tokens-ignored")  # at its end
    assert replay([{"step": 50, "loss": None, "grad_norm": None}]) == []


def test_perplexity_tells_even_use_from_uneven():
    usage = Usage((1, 4), CPU, ALONE)
    assert usage.take() == {"codes_used": 0, "codes_dead": 4, "codes_perplexity": 1.0}
    keep = torch.tensor([[True, True], [True, False]])
    usage.update(Codes(torch.tensor([[[0], [1]], [[2], [3]]]), keep))
    assert usage.take() == {"codes_used": 3, "codes_dead": 1, "codes_perplexity": 3.0}
    usage.update(Codes(torch.zeros(2, 2, 1, dtype=torch.long), keep))
    assert usage.take() == {"codes_used": 1, "codes_dead": 3, "codes_perplexity": 1.0}


def test_each_codebook_of_a_token_is_counted_by_itself():
    usage, keep = Usage((2, 4), CPU, ALONE), torch.ones(4, 1, dtype=torch.bool)
    usage.update(Codes(torch.tensor([[[0, 3]], [[1, 3]], [[2, 3]], [[3, 3]]]), keep))
    counted = usage.state()["counts"].clone()
    assert usage.take() == {"codes_used": 5, "codes_dead": 3, "codes_perplexity": 2.0}  # of 4 and of 1
    for kept, used in ((counted, 5), (counted.sum(0), 0)):  # of a run of before, which counted all codebooks as one
        usage.load({"counts": kept})
        assert usage.take()["codes_used"] == used
