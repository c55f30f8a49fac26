"""Runs that start from other models: whole, by part, at another size, with parts frozen."""

import json

import pytest
import torch

from flexframe.models import modelfile
from flexframe.models.build import build
from flexframe.models.codec import CodecModel
from flexframe.train.run import Run
from flexframe_registry import CodecModelConfig, ConfigError, TokenizerConfig

CPU = torch.device("cpu")
SHORT = ("run.steps=2", "run.batch_size=4", "run.log_every=1", "run.optimizer.warmup=0", "run.checkpoint_every=1")


@pytest.fixture
def made(tiny, tmp_path):
    """A model file to start from."""
    path = tmp_path / "model.safetensors"
    modelfile.save(tiny.state_dict(), tiny.config, path)
    return path


def state_of(run):
    return {name: value.clone() for name, value in run.trainee.model.state_dict().items()}


def test_a_run_starts_from_another_model(create, made, tiny):
    run = create("run", f"run.init={made}")
    assert all(torch.equal(value, tiny.state_dict()[name]) for name, value in state_of(run).items())
    manifest = json.loads((run.folder / "manifest.json").read_text())
    assert {taken["part"] for taken in manifest["init"]} == {"encoder", "quantizer", "decoder"}


def test_the_average_starts_there_too(create, made, tiny):
    run = create("run", f"run.init={made}")
    assert torch.equal(run.average.state["encoder.registers"], tiny.state_dict()["encoder.registers"])


def test_only_the_named_parts_are_taken(create, made, tiny):
    run, fresh = create("run", f"run.init.from={made}", "run.init.parts=[encoder]"), create("fresh")
    found, other = state_of(run), state_of(fresh)
    assert torch.equal(found["encoder.registers"], tiny.state_dict()["encoder.registers"])
    assert torch.equal(found["decoder.null"], other["decoder.null"])


def test_parts_that_do_not_fit_are_all_told(create, made):
    with pytest.raises(ConfigError) as told:
        create("run", f"run.init={made}", "quantizer=toy-values", "quantizer.dim=2", "encoder.width=32")
    assert str(told.value).endswith("problems more")  # the whole of it would fill a screen
    text = "; ".join(f"{where}: {what}" for where, what in told.value.problems)
    assert "quantizer.project.weight: is (3, 16)" in text
    assert "encoder.registers: is (8, 16)" in text
    assert "name the parts that do fit" in text


def test_a_swapped_part_starts_random_beside_the_others(create, made, tiny):
    run = create(
        "run", f"run.init.from={made}", "run.init.parts=[encoder]", "quantizer=toy-values", "decoder=toy-plain"
    )
    assert torch.equal(state_of(run)["encoder.registers"], tiny.state_dict()["encoder.registers"])


def test_a_shorter_sequence_takes_the_first_registers(create, made, tiny):
    run = create("run", f"run.init={made}", "length=4")
    assert torch.equal(state_of(run)["encoder.registers"], tiny.state_dict()["encoder.registers"][:4])


def test_a_prefix_can_be_renamed(create, made, tiny, tmp_path):
    state = {name.replace("encoder.", "teacher.", 1): v for name, v in tiny.state_dict().items()}
    odd = tmp_path / "odd.safetensors"
    modelfile.save(state, tiny.config, odd)
    run = create("run", f"run.init.from={odd}", "run.init.rename={teacher: encoder}")
    assert torch.equal(state_of(run)["encoder.registers"], tiny.state_dict()["encoder.registers"])


def test_resuming_does_not_start_over(create, made, go):
    run = go(create("run", f"run.init={made}", *SHORT))
    made.unlink()
    resumed = Run.resume(run.folder, CPU)
    assert resumed.step == 2
    assert resumed.taken == []


# --- codecs ------------------------------------------------------------------------------------------------------


def test_a_codec_with_weights_is_never_random(create):
    with pytest.raises(ConfigError, match=r"run\.init: codec 'toy' has weights, and no model is named"):
        create("run", "codec=toy")


def test_a_codec_comes_from_a_model_of_its_own(create, tmp_path):
    torch.manual_seed(3)
    codec = build(CodecModelConfig(image_size=16, codec="toy"))
    assert isinstance(codec, CodecModel)
    path = tmp_path / "codec.safetensors"
    modelfile.save(codec.state_dict(), codec.config, path)
    run = create("run", "codec=toy", f"run.init={path}")
    ours = run.trainee.model.codec.state_dict()
    assert all(torch.equal(ours[n.removeprefix("codec.")], v) for n, v in codec.state_dict().items())


# --- freezing ----------------------------------------------------------------------------------------------------


def test_frozen_parts_do_not_move(create, go):
    run = create("run", "run.freeze=[encoder, quantizer, decoder.blocks.0]", "run.ema=0.5")
    before = state_of(run)
    go(run)
    after = state_of(run)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert not any(n.startswith(("encoder.", "quantizer.", "decoder.blocks.0.")) for n in moved)
    assert all(torch.equal(run.average.state[n], before[n]) for n in before if n.startswith("encoder."))


def test_frozen_parts_stay_in_evaluation(create):
    run = create("run", "run.freeze=[encoder]")
    run.trainee.train()
    assert not run.trainee.model.encoder.training
    assert run.trainee.model.decoder.training


@pytest.mark.parametrize(
    ("freeze", "message"),
    [("[encodr]", "no module 'encodr'. Did you mean 'encoder'?"), ("[encoder, quantizer, decoder]", "leaves nothing")],
)
def test_a_freeze_that_cannot_be_is_told(create, freeze, message):
    with pytest.raises(ConfigError) as told:
        create("run", f"run.freeze={freeze}")
    assert message in str(told.value)


# --- cards of one's own ------------------------------------------------------------------------------------------


def test_a_card_file_can_be_the_base_of_another(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text("base: toy/digits-tiny\nsummary: below\nmodel: {length: 4}\n")
    (tmp_path / "top.yaml").write_text("base: base.yaml\nsummary: above\nrun: {steps: 3}\n")
    from flexframe_registry.cards import card

    config = card("top.yaml").train()
    assert isinstance(config.model, TokenizerConfig)
    assert (config.model.length, config.run.steps) == (4, 3)
