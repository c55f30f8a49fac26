"""Groups, schedule and weight average."""

import math

import pytest
import torch
from torch import nn

from flexframe.parts import Encoder, Part
from flexframe.train.optim import Average, create_optimizer, learning_rate
from flexframe.train.optim import step as step_optimizer
from flexframe.train.run import Run
from flexframe.train.trainee import Trainee
from flexframe_registry import RunConfig, cards


def trainee(*overrides):
    torch.manual_seed(0)
    return Trainee(cards().get("toy/digits-tiny").train(overrides))


def names(found, parameters):
    wanted = {id(p) for p in parameters}
    return {name for name, p in found.named_parameters() if id(p) in wanted}


@pytest.mark.parametrize("overrides", [(), ("decoder=toy-plain", "masker=full"), ("codec=toy",)], ids=" ".join)
def test_matrices_decay_and_norms_biases_and_embeddings_do_not(overrides):
    found = trainee(*overrides)
    group = found.groups()["model"]
    decayed, plain = names(found, group.decayed), names(found, group.plain)
    assert not decayed & plain
    assert decayed | plain == {name for name, p in found.named_parameters() if p.requires_grad}
    for name in decayed:
        owner = found.get_submodule(name.rpartition(".")[0])
        assert name.endswith(".weight"), name
        assert isinstance(owner, nn.Linear | nn.Conv2d | nn.ConvTranspose2d), name
    for name in plain:
        assert not (name.endswith(".weight") and isinstance(found.get_submodule(name.rpartition(".")[0]), nn.Linear)), (
            name
        )
    assert decayed


def test_learned_tokens_and_positions_do_not_decay():
    found = trainee()
    plain = names(found, found.groups()["model"].plain)
    for name in ("encoder.registers", "decoder.positions", "decoder.null"):
        assert f"model.{name}" in plain


def test_the_optimizer_has_the_runs_settings():
    config = RunConfig.read({"data": "digits", "optimizer": {"weight_decay": 0.05, "lr": 3e-4, "betas": [0.8, 0.95]}})
    found = trainee()
    groups = create_optimizer(found, config).param_groups
    assert [group["weight_decay"] for group in groups] == [0.05, 0.0]
    assert {group["betas"] for group in groups} == {(0.8, 0.95)}
    assert sum(len(group["params"]) for group in groups) == len(list(found.parameters()))


def test_the_rate_warms_up_in_a_line_and_falls_along_a_cosine():
    config = RunConfig.read({"data": "digits", "steps": 24, "optimizer": {"warmup": 4, "lr": 1.0, "final_lr": 0.2}})
    rates = [learning_rate(config, step) for step in range(25)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[14] == pytest.approx(0.6)
    assert rates[9] == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2)
    assert rates[24] == pytest.approx(0.2)
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_without_warmup_the_first_step_has_the_peak_rate():
    assert learning_rate(RunConfig.read({"data": "digits", "optimizer": {"warmup": 0, "lr": 0.5}}), 0) == 0.5


def test_a_run_shorter_than_its_warmup_only_warms_up():
    config = RunConfig.read({"data": "digits", "steps": 2, "optimizer": {"warmup": 4, "lr": 1.0}})
    assert [learning_rate(config, step) for step in range(2)] == [0.25, 0.5]


class Bounded(Part):
    """Lets no step change a weight by more than 0.5."""

    def __init__(self, weight):
        nn.Module.__init__(self)
        self.weight = weight

    def before_step(self):
        before = self.weight.clone()
        return lambda: self.weight.copy_(before + (self.weight - before).clamp(-0.5, 0.5))


@pytest.mark.parametrize(("skip", "expected"), [(None, [0.5, 0.9]), (0.0, [0.5, 0.9]), (1.0, [1.0, 1.0])])
@pytest.mark.parametrize("fused", [True, False])
def test_parts_bound_what_a_step_does(skip, expected, fused):
    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.tensor([10.0, 1.0])
    optimizer = torch.optim.SGD([weight], lr=0.1, fused=fused)
    step_optimizer(optimizer, None if skip is None else torch.tensor(skip), [Bounded(weight)])
    torch.testing.assert_close(weight.detach(), torch.tensor(expected))


def test_every_step_of_a_run_asks_its_parts(tmp_path, go, monkeypatch):
    asked = []
    monkeypatch.setattr(Encoder, "before_step", lambda part: asked.append(part.training) or None)
    config = cards().get("toy/digits-tiny").train(["run.steps=3", "run.batch_size=4"])
    go(Run.create(config, tmp_path / "run", torch.device("cpu"), {}))
    assert asked == [True] * 3


def test_the_average_is_the_one_computed_by_hand():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([1.0]))
            self.fixed = nn.Parameter(torch.tensor([1.0]), requires_grad=False)
            self.register_buffer("running", torch.tensor([1.0]))
            self.register_buffer("count", torch.tensor([1]))

    model = Model()
    average = Average(model, 0.3)
    expected = 1.0
    for step, value in enumerate([2.0, 5.0, -3.0, 4.0]):
        with torch.no_grad():
            for tensor in model.state_dict().values():
                tensor.fill_(value)
        average.update(step)
        decay = min(0.3, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
        assert average.state["weight"].item() == pytest.approx(expected)
        for name in ("fixed", "running", "count"):  # copied as they are
            assert average.state[name].item() == value
    assert decay == 0.3  # both branches of the minimum were taken
    assert model.weight.item() == 4.0


def test_what_is_frozen_is_held_once_and_what_is_replaced_is_followed():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2).eval().requires_grad_(False))
    average = Average(model, 0.5)
    own = model.state_dict()
    shared = {name for name, value in average.state.items() if value.data_ptr() == own[name].data_ptr()}
    assert shared == {name for name in own if name.startswith("1.")}
    model[0].running_mean = torch.full((2,), 3.0)  # a module may put another tensor in a buffer's place
    average.update(0)
    assert average.state["0.running_mean"].tolist() == [3.0, 3.0]
    average.load({name: torch.full_like(value, 7) for name, value in own.items()})
    assert average.state["0.weight"].tolist() == [7.0, 7.0]
    assert model[1].weight.tolist() == [1.0, 1.0]
    raw = Average(model, 0.0)
    assert raw.state["0.weight"].data_ptr() == model[0].weight.data_ptr()


def test_an_average_is_loaded_as_it_was():
    model = nn.Linear(2, 2)
    one, other = Average(model, 0.9), Average(nn.Linear(2, 2), 0.9)
    other.load(one.state)
    assert torch.equal(other.state["weight"], model.weight)
    one.state["weight"].zero_()
    assert other.state["weight"].any()
