"""What the loop does for objectives: groups with their own settings and schedule, clipping by owner, batches' parts."""

import math

import pytest
import torch

from flexframe.data.loader import split
from flexframe.tokens import Batch
from flexframe.train.gradients import Gradients
from flexframe.train.optim import create_optimizer, learning_rate
from flexframe.train.trainee import Trainee
from flexframe_registry import ConfigError, RunConfig, TokenizerConfig, TrainConfig

MODEL = {"size": "tiny", "image_size": 16, "length": 4, "encoder": "latent-tokens", "quantizer": "vq", "decoder": "vit"}
CRITIC = {"type": "blurred", "hidden": 32, "multipliers": [1], "grid": 4}
OPPONENT = {"type": "adversarial", "critic": CRITIC, "start": 40}
CPU = torch.device("cpu")


def trainee(*objectives, **run):
    torch.manual_seed(0)
    return Trainee(TrainConfig.read({"model": MODEL, "run": {"data": "digits", "objectives": objectives} | run}))


def test_a_later_group_has_the_run_s_schedule_from_its_start_on():
    run = RunConfig.read({"data": "digits", "steps": 100, "optimizer": {"warmup": 10, "lr": 2e-3, "final_lr": 2e-4}})
    rates = [learning_rate(run, step, scale=0.5, start=40) for step in range(101)]
    assert rates[40] == pytest.approx(1e-4)
    assert rates[49] == max(rates) == 1e-3
    assert rates[100] == pytest.approx(1e-4)
    assert rates[75] == pytest.approx(1e-4 + 9e-4 * 0.5 * (1 + math.cos(math.pi * 0.5)))
    assert [learning_rate(run, step, scale=1.0) for step in range(100)] == [learning_rate(run, s) for s in range(100)]


def test_the_optimizer_steps_an_objective_s_parameters_as_its_config_says():
    own = {"lr": 5e-4, "betas": [0.5, 0.9], "weight_decay": 0.1}
    found = trainee("mse", {**OPPONENT, "optimizer": own}, optimizer={"lr": 1e-3, "betas": [0.9, 0.99]})
    critic = {id(p) for p in found.objectives[1].parameters()}
    groups = create_optimizer(
        found, RunConfig.read({"data": "digits", "optimizer": {"weight_decay": 0.01}})
    ).param_groups
    theirs = [group for group in groups if id(group["params"][0]) in critic]
    assert {id(p) for group in theirs for p in group["params"]} == critic
    assert {(g["betas"], g["scale"], g["start"]) for g in theirs} == {((0.5, 0.9), 0.5, 40)}
    assert sorted(g["weight_decay"] for g in theirs) == [0.0, 0.1]
    assert {(g["scale"], g["start"]) for g in groups if g not in theirs} == {(1.0, 0)}


def test_a_large_gradient_of_an_opponent_does_not_shrink_the_model_s():
    found = trainee("mse", OPPONENT)
    for p in found.model.parameters():
        p.grad = torch.full_like(p, 1e-6)
    for p in found.objectives.parameters():
        p.grad = torch.full_like(p, 1e3)
    norms = Gradients(found, 1.0, CPU).clip()
    assert norms["grad_norm"] < 1 < norms["grad_norm/adversarial"]
    assert all((p.grad == 1e-6).all() for p in found.model.parameters())
    assert torch.cat([p.grad.flatten() for p in found.objectives.parameters()]).norm() == pytest.approx(1, rel=1e-3)


def test_what_was_computed_before_is_split_with_the_batch():
    features, latents = torch.randn(4, 2, 2, 3), torch.randn(4, 4, 2, 2)
    batch = Batch(torch.arange(4), latents=latents, features={"repa": features, "proxy_codes": torch.arange(4)})
    parts = split(batch, 2)
    assert torch.equal(torch.cat([part.features["repa"] for part in parts]), features)
    assert torch.equal(parts[1].features["proxy_codes"], torch.tensor([2, 3]))
    assert torch.equal(torch.cat([part.latents for part in parts]), latents)


@pytest.mark.parametrize(
    ("codec", "images"),
    [("identity", True), ({"type": "identity", "range": [-1, 1]}, False), ("vae", False), ("taef2", False)],
)
def test_only_the_identity_s_latents_are_images(codec, images):
    model = TokenizerConfig.read({**MODEL, "image_size": 32, "codec": codec})
    assert model.spec.latents.images is images
    read = {"model": model, "run": {"data": "digits", "objectives": [OPPONENT]}}
    if images:
        TrainConfig.read(read)
    else:
        with pytest.raises(ConfigError, match="looks at images, and what this model reconstructs are its codec's"):
            TrainConfig.read(read)
