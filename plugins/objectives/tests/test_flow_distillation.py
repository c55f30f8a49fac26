"""Flow distillation: known answers of linear flows, whose teacher it is, and what is refused."""

import io
import json
import shutil

import pytest
import torch
from rich.console import Console as Terminal
from safetensors import safe_open

from flexframe.nn.init import redraw_zeros
from flexframe.rng import Rng
from flexframe.store.load import load
from flexframe.tokens import Batch, Flow, Outputs, Tokens
from flexframe.train.console import Console
from flexframe.train.loop import train
from flexframe.train.run import Run
from flexframe.train.trainee import Trainee
from flexframe_objectives import FlowDistillationConfig
from flexframe_objectives.flow_distillation import FlowDistillation
from flexframe_registry import ConfigError, LatentSpec, Spec, TokenSpec, TrainConfig, cards
from flexframe_registry.doubts import obstacles

SPEC = Spec(LatentSpec(2, 4, 6), 24, TokenSpec(8, 6, 1, 64))
ROWS = torch.arange(64)
CARD = "flextok/digits-tiny"
START = [{"from": CARD, "parts": ["encoder", "quantizer"]}, {"from": CARD, "parts": ["decoder"], "partial": True}]


def share(strides, short):
    """What is left of x after steps of 1/short against the velocity x, over a stride."""
    return (1 - 1 / short) ** torch.round(strides * short)


def exact(scale=1.0, short=4):
    """The long steps of a teacher whose velocity is x, times a factor."""
    return Flow(
        lambda x, times, strides: (
            scale * x * ((1 - share(strides, short)) / strides.clamp(min=1e-6))[:, None, None, None]
        ),
        lambda latents: latents,
    )


def learned(student, by, steps=(1, 2, 4), short=4):
    """The loss of each row, with a teacher whose velocity is x."""
    config = FlowDistillationConfig(teacher="random", by=by, steps=steps, teacher_steps=short, uses=2)
    objective = FlowDistillation(config, SPEC)
    objective.teacher.flow = lambda tokens: Flow(lambda x, times, strides: x, lambda latents: latents)
    values = torch.zeros(len(ROWS), 8, 6)
    tokens = Tokens(values, values[..., 0] == 0, values)
    data = Rng(5, ROWS).normal("data", (2, 4, 6))
    outputs = Outputs({}, tokens=tokens, flow=student)
    return objective(outputs, Batch(ROWS, latents=data), step=0, rng=Rng(0, ROWS))["velocity"]


@pytest.mark.parametrize("by", ["trajectory", "consistency"])
@pytest.mark.parametrize("steps", [(1,), (2,), (1, 2, 4)])
def test_the_exact_long_steps_of_a_linear_flow_have_no_loss(by, steps):
    torch.testing.assert_close(learned(exact(), by, steps), torch.zeros(len(ROWS)), atol=1e-10, rtol=0)
    assert (learned(Flow(lambda x, times, strides: x, lambda latents: latents), by, (1,), 8) > 0.01).any()


def test_a_step_that_is_too_long_has_the_loss_and_the_gradient_of_its_error():
    """By `trajectory` the loss of `scale` times the exact velocity is (scale - 1)^2 of that velocity's square."""
    scale = torch.tensor(1.5, requires_grad=True)
    unit = learned(exact(0.0), "trajectory").detach()  # the mean square of the wanted velocities
    loss = learned(exact(scale), "trajectory")
    torch.testing.assert_close(loss, 0.25 * unit)
    loss.mean().backward()
    torch.testing.assert_close(scale.grad, 2 * 0.5 * unit.mean())


def test_consistency_moves_the_longer_step_alone():
    """With one long step of two short ones, what is begun with the teacher's first one is (x + scale x/2) / 2."""
    scale = torch.tensor(1.5, requires_grad=True)
    one = lambda x, times, strides: scale * x  # noqa: E731
    loss = learned(Flow(one, lambda latents: latents), "consistency", (1,), 2)
    first = (
        Rng(0, ROWS).uniform("distillation/inner") < 0.5
    )  # at the noise: a short step of the teacher's, then its own
    noise, data = Rng(0, ROWS).normal("distillation/noise", (2, 4, 6)), Rng(5, ROWS).normal("data", (2, 4, 6))
    x = torch.where(first[:, None, None, None], noise, (noise + data) / 2)
    wanted = torch.where(first, 0.5 + 0.5 * 0.5 * 1.5, 1.0)
    square = x.square().mean((1, 2, 3))
    torch.testing.assert_close(loss, (1.5 - wanted) ** 2 * square)
    loss.mean().backward()
    torch.testing.assert_close(scale.grad, (2 * (1.5 - wanted) * square).mean())


def config(*overrides, teacher=CARD, model=("decoder.strides=true",), **objective):
    distil = {"type": "flow-distillation", "teacher": teacher, "steps": [1, 2], "teacher_steps": 2} | objective
    given = cards().get(CARD).train(model).model_dump(mode="json")
    run = {"data": "digits", "objectives": [distil], "init": START, "freeze": ["encoder", "quantizer"], "steps": 4}
    run |= {"batch_size": 4, "log_every": 1, "checkpoint_every": 2, "optimizer": {"lr": 1e-3, "warmup": 1}}
    return TrainConfig.read({"model": given["model"], "run": run})


def test_the_teacher_is_frozen_in_no_state_and_stands_for_the_decoder_s_own_loss():
    trainee = Trainee(config()).train()
    redraw_zeros(trainee.model)
    (objective,) = trainee.objectives
    model, batch = objective.teacher.model, Batch(ROWS[:3], torch.rand(3, 3, 16, 16))
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    losses, _ = trainee(batch, step=0, rng=Rng(0, ROWS[:3]))
    assert losses.keys() == {"flow-distillation/velocity"}
    losses["flow-distillation/velocity"].mean().backward()
    assert all(p.grad is None for p in model.parameters())
    moved = {name.split(".")[2] for name, p in trainee.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"stride", "blocks", "head"} <= moved
    assert all(name.startswith("model.") for name in trainee.state_dict())
    assert objective.facts()["teacher"] == CARD


def test_parts_that_nothing_moves_are_to_be_frozen():
    assert obstacles(config()) == []
    whole = config().model_dump(mode="json", by_alias=True)
    whole["run"]["freeze"] = ["encoder"]
    told = "leaves quantizer to learn, and objective 'flow-distillation' moves the decoder alone"
    assert obstacles(TrainConfig.read(whole)) == [("run.freeze", f"{told}; take run.freeze=[encoder,quantizer]")]
    whole["run"]["objectives"].append({"type": "repa", "teacher": "test_vit", "weights": "random", "tap": "block.0"})
    assert obstacles(TrainConfig.read(whole)) == []


def test_other_objectives_still_find_what_they_ask_the_decoder_for():
    whole = config().model_dump(mode="json", by_alias=True)
    whole["run"]["objectives"].append(
        {"type": "repa", "teacher": "test_vit", "weights": "random", "hidden": 8, "grid": 2, "tap": "block.0"}
    )
    trainee = Trainee(TrainConfig.read({"model": whole["model"], "run": whole["run"]}))
    losses, _ = trainee(Batch(ROWS[:3], torch.rand(3, 3, 16, 16)), step=0, rng=Rng(0, ROWS[:3]))
    assert losses.keys() == {"flow-distillation/velocity", "repa/cosine"}


@pytest.mark.slow
def test_a_run_resumes_to_the_bit_with_its_teacher_in_no_file(tmp_path):
    def go(run):
        train(run, Console(Terminal(file=io.StringIO())))
        return [json.loads(line)["loss"] for line in (run.folder / "log.jsonl").read_text().splitlines()]

    cpu, whole, broken = torch.device("cpu"), tmp_path / "whole", tmp_path / "broken"
    first = go(Run.create(config(), whole, cpu, {}))
    shutil.copytree(whole, broken)
    shutil.rmtree(broken / "checkpoints/step-00000004")
    for name in ("model.safetensors", "end.json"):
        (broken / name).unlink()
    run = Run.resume(broken, cpu)
    assert run.step == 2
    assert go(run) == first
    one, other = (load(folder).state_dict() for folder in (whole, broken))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    with safe_open(whole / "checkpoints/step-00000004/trainee.safetensors", framework="pt") as file:
        assert all(name.startswith("model.") for name in file.keys())  # noqa: SIM118


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"teacher": None}, "has no flow to learn from; name its `teacher`"),
        ({"teacher_steps": 3}, "2 steps do not divide into the teacher's 3"),
        ({"model": ("decoder=vit",)}, "needs flow, which decoder 'vit' does not provide"),
        ({"model": ()}, "several numbers of steps need a decoder that is told a step's length"),
        ({"model": ("length=4", "decoder.strides=true")}, "has tokens .* make them equal"),
        ({"teacher": "titok/digits-tiny"}, "teacher 'titok/digits-tiny' has a decoder 'vit', which is no flow"),
        ({"sampling": {"apg": True}}, "set apg: false"),
        ({"sampling": {"guidence": 2.0}}, "guidence"),
        ({"teacher": "nowhere"}, "there is no such file or folder"),
    ],
)
def test_what_cannot_be_distilled_is_refused_in_one_line(changes, told):
    with pytest.raises(ConfigError, match=told) as refused:
        Trainee(config(**changes))
    assert len(str(refused.value).splitlines()) == 1
