"""Optimizers as components: torch's own numbers, groups with rates of their own, and resuming to the bit."""

import sys

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from flexframe.parts import Part
from flexframe.train.loop import learning_rate
from flexframe.train.optim import Group, create_optimizer, heights
from flexframe.train.run import Run
from flexframe.train.trainee import create_trainee
from flexframe_registry import ConfigError, cards, catalogue, hookimpl, manager
from flexframe_registry.slots import resolve

OPTIMIZERS = ("adamw", "adam", "sgd", "lion", "muon")


def layer():
    torch.manual_seed(0)
    return nn.Linear(4, 3)


def stepped(optimizer, model, steps=5):
    """Weights after steps of a tiny problem, whose learning rate falls."""
    inputs, targets = torch.randn(8, 4, generator=torch.manual_seed(1)), torch.ones(8, 3)
    for i in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 / (i + 1) * group.get("scale", 1.0)
        optimizer.zero_grad()
        (model(inputs) - targets).square().mean().backward()
        optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


def own(name, model, **settings):
    config = resolve("optimizer", {"type": name, **settings})
    groups = [Group([model.weight], True, 0.1, 1.0, 0, None), Group([model.bias], False, 0.0, 0.5, 0, None)]
    return catalogue().build(config).create(groups, fused=False)


def entries(model):
    return [
        {"params": [model.weight], "weight_decay": 0.1},
        {"params": [model.bias], "weight_decay": 0.0, "scale": 0.5},
    ]


def lion_by_hand(model, steps=5):
    inputs, targets = torch.randn(8, 4, generator=torch.manual_seed(1)), torch.ones(8, 3)
    moments = [torch.zeros_like(p) for p in model.parameters()]
    for i in range(steps):
        model.zero_grad()
        (model(inputs) - targets).square().mean().backward()
        with torch.no_grad():
            for p, moment, decay, scale in zip(model.parameters(), moments, (0.1, 0.0), (1.0, 0.5), strict=True):
                rate = 0.05 / (i + 1) * scale
                direction = (0.9 * moment + 0.1 * p.grad).sign()
                p.mul_(1 - rate * decay).sub_(rate * direction)
                moment.mul_(0.99).add_(0.01 * p.grad)
    return [p.detach() for p in model.parameters()]


@pytest.mark.parametrize(
    ("name", "settings", "reference"),
    [
        ("adamw", {"betas": [0.8, 0.9]}, lambda each: torch.optim.AdamW(each, betas=(0.8, 0.9))),
        ("adam", {"betas": [0.8, 0.9]}, lambda each: torch.optim.Adam(each, betas=(0.8, 0.9))),
        ("sgd", {"momentum": 0.8, "nesterov": True}, lambda each: torch.optim.SGD(each, momentum=0.8, nesterov=True)),
    ],
)
def test_torchs_optimizers_step_as_torch_does(name, settings, reference):
    model, other = layer(), layer()
    found, wanted = stepped(own(name, model, **settings), model), stepped(reference(entries(other)), other)
    assert all(torch.equal(one, two) for one, two in zip(found, wanted, strict=True))


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_torchs_optimizers_load_no_compiler(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch._dynamo", None)  # whoever imports it fails
    model = layer()
    optimizer = own(name, model)
    stepped(optimizer, model, 1)
    optimizer.load_state_dict(optimizer.state_dict())
    with pytest.raises(ImportError):
        stepped(torch.optim.AdamW(model.parameters()), model, 1)


def test_lion_steps_as_its_paper_says():
    model = layer()
    for one, two in zip(stepped(own("lion", model), model), lion_by_hand(layer()), strict=True):
        torch.testing.assert_close(one, two)


def test_muon_steps_matrices_and_adamw_the_rest():
    model, other = layer(), layer()
    found = stepped(own("muon", model), model)
    muon = torch.optim.Muon([other.weight], weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW([{"params": [other.bias], "scale": 0.5}], betas=(0.9, 0.99), weight_decay=0.0)
    inputs, targets = torch.randn(8, 4, generator=torch.manual_seed(1)), torch.ones(8, 3)
    for i in range(5):
        muon.param_groups[0]["lr"], adamw.param_groups[0]["lr"] = 0.05 / (i + 1), 0.025 / (i + 1)
        other.zero_grad()
        (other(inputs) - targets).square().mean().backward()
        muon.step()
        adamw.step()
    for one, two in zip(found, other.parameters(), strict=True):
        assert torch.equal(one, two)


# --- groups ------------------------------------------------------------------------------------------------------


def grouped(*overrides):
    config = cards().get("toy/digits-tiny").train(overrides)
    trainee = create_trainee(config)
    optimizer = create_optimizer(trainee, config.run)
    named = {id(p): name.removeprefix("model.") for name, p in trainee.named_parameters()}
    rates = {named[id(p)]: group["scale"] for group in optimizer.param_groups for p in group["params"]}
    assert rates.keys() == set(named.values())
    return config.run, optimizer, rates


def test_parts_have_rates_of_their_own_and_the_innermost_name_counts():
    _, _, rates = grouped("run.optimizer.parts={encoder: 0.1, encoder.blocks.1: 0.5, decoder: 2}")
    for name, rate in rates.items():
        inner = name.startswith("encoder.blocks.1.")
        expected = 0.5 if inner else 0.1 if name.startswith("encoder.") else 2 if name.startswith("decoder.") else 1.0
        assert rate == expected, name


def test_a_part_s_rate_is_what_the_loop_steps_it_by(create, go):
    run = go(create("run", "run.optimizer.parts={encoder: 0.1}", "run.optimizer.final_lr=1e-4"))
    encoder = {id(p) for p in run.trainee.model.encoder.parameters()}
    last = learning_rate(run.config.run, run.step - 1)
    for group in run.optimizer.param_groups:
        own = {id(p) in encoder for p in group["params"]}
        assert len(own) == 1
        assert group["lr"] == pytest.approx(last * (0.1 if own.pop() else 1.0))


def test_without_rates_of_parts_there_are_two_groups_in_the_order_of_before():
    _, optimizer, rates = grouped()
    assert set(rates.values()) == {1.0}
    assert [group["scale"] for group in optimizer.param_groups] == [1.0, 1.0]


def test_layer_decay_falls_from_a_part_s_last_block_to_what_stands_before_the_first():
    _, _, rates = grouped("run.optimizer.layer_decay=0.5", "encoder.depth=3", "run.optimizer.parts={decoder: 0.1}")
    assert {rates[f"encoder.blocks.{i}.inner.weight"] for i in (2,)} == {1.0}
    assert rates["encoder.blocks.1.outer.bias"] == 0.5
    assert rates["encoder.blocks.0.inner.weight"] == 0.25
    assert rates["encoder.read.weight"] == rates["encoder.registers"] == 0.125
    assert rates["quantizer.project.weight"] == 1.0  # has no layers
    assert rates["decoder.blocks.1.inner.weight"] == pytest.approx(0.1)
    assert rates["decoder.blocks.0.inner.weight"] == pytest.approx(0.05)


def test_a_part_says_the_order_of_its_layers():
    class Turned(Part):
        def __init__(self):
            nn.Module.__init__(self)
            self.last, self.first = nn.Linear(1, 1), nn.Linear(1, 1)
            self.head = nn.Linear(1, 1)

        def layers(self):
            return [self.first, self.last]

    part = Turned()
    found = heights(part)
    assert [found[p] for p in (part.first.weight, part.last.weight, part.head.weight)] == [1, 0, 0]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (("run.optimizer.parts={encoder.blocs: 0.1}",), r"no module 'encoder\.blocs'.*Did you mean 'encoder\.blocks'"),
        (("run.optimizer.parts={masker: 0.1}",), r"run\.optimizer\.parts\.masker: has nothing that learns"),
        (("run.freeze=[encoder]", "run.optimizer.parts={encoder: 0.1}"), r"encoder does not learn \(run\.freeze\)"),
        (("run.optimizer.layer_decay=0",), r"run\.optimizer\.layer_decay: "),
        (("run.optimizer=muon", "run.parallel=fsdp"), r"'muon' steps whole matrices, and fsdp has pieces"),
    ],
)
def test_rates_that_go_for_nothing_are_refused(settings, told):
    with pytest.raises(ConfigError, match=told):
        grouped(*settings)


# --- resuming ----------------------------------------------------------------------------------------------------


class Stop:
    @hookimpl
    def flexframe_checkpoint_saved(self, run, path):
        if run.step == 2:
            raise KeyboardInterrupt


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_run_that_was_stopped_goes_on_to_the_bit(create, go, name):
    settings = ("run.steps=4", "run.checkpoint_every=2", f"run.optimizer={{type: {name}, warmup: 1}}",
                "run.optimizer.parts={encoder: 0.1}", "run.optimizer.layer_decay=0.9")  # fmt: skip
    whole, cut, stop = go(create("whole", *settings)), create("cut", *settings), Stop()
    manager().register(stop)
    try:
        with pytest.raises(KeyboardInterrupt):
            go(cut)
    finally:
        manager().unregister(stop)
    resumed = Run.resume(cut.folder, torch.device("cpu"))
    assert resumed.step == 2
    go(resumed)
    one, other = (load_file(run.folder / "model.safetensors") for run in (whole, resumed))
    assert one.keys() == other.keys()
    assert [each for each in one if not torch.equal(one[each], other[each])] == []
    start = load_file(whole.folder / "checkpoints/step-00000002/trainee.safetensors")
    last = load_file(whole.folder / "checkpoints/step-00000004/trainee.safetensors")
    assert any(not torch.equal(start[each], last[each]) for each in start)


def test_a_step_may_be_skipped_with_an_optimizer_that_is_not_fused(create, go):
    run = go(create("run", "run.optimizer=lion", "run.nonfinite=skip"))
    assert run.last["skipped"] == 0
