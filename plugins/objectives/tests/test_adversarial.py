"""The opponent: each side's gradient in one pass, LeCam's running means, the critics' shapes, exact resume."""

import copy
import io
import json
import shutil

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from rich.console import Console as Terminal
from safetensors.torch import load_file

from flexframe.rng import Rng
from flexframe.tokens import Batch, Outputs
from flexframe.train import checkpoint
from flexframe.train.console import Console
from flexframe.train.loop import train
from flexframe.train.run import Run
from flexframe.train.trainee import Trainee
from flexframe_objectives import AdversarialConfig, BlurredCriticConfig, PatchCriticConfig
from flexframe_objectives.adversarial import Adversarial, Blur, BlurredCritic, PatchCritic
from flexframe_registry import ConfigError, LatentSpec, Spec, TokenSpec, TrainConfig

SPEC = Spec(LatentSpec(3, 16, 16, images=True), 24, TokenSpec(8, 6, 1, 64))
CRITIC = {"type": "blurred", "hidden": 32, "multipliers": [1], "grid": 4}
MODEL = {"size": "tiny", "image_size": 16, "length": 4, "encoder": "latent-tokens", "quantizer": "vq", "decoder": "vit"}
CPU = torch.device("cpu")


def build(**fields):
    torch.manual_seed(0)
    return Adversarial(AdversarialConfig.sized("tiny", **fields), SPEC).train()


def pair(seed=0, batch=4):
    drawn = torch.rand(2, batch, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    return drawn[0], drawn[1].requires_grad_()


def losses(objective, real, fake, step=0):
    rows = torch.arange(len(real))
    return objective(Outputs({}, fake), Batch(rows, real, real), step=step, rng=Rng(0, rows))


def config(*objectives, model=MODEL, **run):
    given = {"data": "digits", "objectives": objectives, "steps": 6, "batch_size": 8, "log_every": 1}
    given["optimizer"] = {"warmup": 2}
    return TrainConfig.read({"model": model, "run": given | {"checkpoint_every": 3} | run})


def test_one_pass_gives_each_side_its_own_gradient():
    objective = build(lecam=0.0)
    critic, (real, fake) = copy.deepcopy(objective.critic), pair()
    found = losses(objective, real, fake)
    sum(loss.mean() for loss in found.values()).backward()

    other = fake.detach().clone().requires_grad_()
    told = -critic(other).mean()
    (wanted,) = torch.autograd.grad(told, other)
    torch.testing.assert_close(fake.grad, wanted)
    torch.testing.assert_close(found["model"].mean(), told.detach())
    hinge = 0.5 * (F.relu(1 - critic(real)).mean() + F.relu(1 + critic(fake.detach())).mean())
    hinge.backward()
    for (name, own), plain in zip(objective.critic.named_parameters(), critic.parameters(), strict=True):
        torch.testing.assert_close(own.grad, plain.grad, msg=lambda text, n=name: f"{n}: {text}")
    torch.testing.assert_close(found["critic"].mean(), hinge.detach())


def test_losses_do_not_depend_on_the_batch():
    objective, (real, fake) = build(lecam=0.0), pair()
    together = losses(objective, real, fake)
    for i in range(len(real)):
        alone = losses(objective, real[i : i + 1], fake[i : i + 1])
        for name, loss in together.items():
            torch.testing.assert_close(alone[name][0], loss[i])


def test_lecam_follows_its_definition_from_step_to_step():
    objective = build(lecam=0.5, lecam_decay=0.9)
    mean_real = mean_fake = 0.0
    for step in range(4):
        real, fake = pair(step)
        with torch.no_grad():
            on_real, on_fake = (float(objective.critic(each).mean()) for each in (real, fake))
        wanted = 0.5 * (max(0, on_real - mean_fake) ** 2 + max(0, mean_real - on_fake) ** 2)
        found = losses(objective, real, fake, step)["lecam"].detach()
        assert float(found) == pytest.approx(wanted, rel=1e-4, abs=1e-9)
        mean_real, mean_fake = 0.9 * mean_real + 0.1 * on_real, 0.9 * mean_fake + 0.1 * on_fake
    assert wanted > 0


def test_the_running_means_move_once_a_step_by_the_whole_batch():
    whole, parts = build(), build()
    real, fake = pair()
    losses(whole, real, fake, 0)
    for half in (slice(0, 2), slice(2, 4)):
        losses(parts, real[half], fake[half], 0)
    for objective in (whole, parts):
        assert not objective.lecam.means.any()
        losses(objective, real, fake, 1)
    torch.testing.assert_close(parts.lecam.means, whole.lecam.means)
    assert whole.lecam.means.abs().min() > 0


def test_what_is_not_finite_moves_no_mean():
    objective, (real, fake) = build(), pair()
    losses(objective, real, fake, 0)
    losses(objective, real, fake * torch.nan, 1)
    before = objective.lecam.means.clone()
    losses(objective, real, fake, 2)
    assert torch.equal(objective.lecam.means, before)
    losses(objective, real, fake, 3)
    assert not torch.equal(objective.lecam.means, before)
    assert objective.lecam.means.isfinite().all()


def _share(rank, file, folder):
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    objective = build(lecam=1.0)
    for step in range(2):
        real, fake = (each[2 * rank : 2 * rank + 2].detach() for each in pair(step))
        losses(objective, real, fake, step)["lecam"].backward()
    grads = torch.cat([p.grad.flatten() for p in objective.parameters()])
    dist.all_reduce(grads)
    torch.save((grads / 2, objective.lecam.means, objective.lecam.pending), folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_have_the_means_and_the_gradient_of_one(tmp_path):
    objective = build(lecam=1.0)
    for step in range(2):
        losses(objective, *pair(step), step)["lecam"].backward()
    grads = torch.cat([p.grad.flatten() for p in objective.parameters()])
    processes = [mp.get_context("fork").Process(target=_share, args=(i, tmp_path / "meet", tmp_path)) for i in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(found[0], grads, atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(found[1:], (objective.lecam.means, objective.lecam.pending))
    assert grads.abs().max() > 1e-4


def test_evaluation_moves_no_mean():
    objective = build().eval()
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    losses(objective, *pair(), 0)
    losses(objective, *pair(), 1)
    assert all(torch.equal(value, before[name]) for name, value in objective.state_dict().items())


def test_blurring_halves_and_keeps_a_constant_inside():
    found = Blur(2)(torch.ones(1, 2, 8, 7))
    assert found.shape == (1, 2, 4, 4)
    torch.testing.assert_close(found[..., 1:-1, 1:-1], torch.ones(1, 2, 2, 2))
    impulse = torch.zeros(1, 1, 8, 8)
    impulse[..., 3, 3] = 64
    seen = torch.tensor([0.0, 3.0, 1.0, 0.0])  # by the cells 0..3, whose filters begin at -1, 1, 3 and 5
    torch.testing.assert_close(Blur(1)(impulse)[0, 0], seen[:, None] * seen)


def test_the_published_critic_has_its_layers():
    critic = BlurredCritic(BlurredCriticConfig())
    layers = (3 * 25 + 1) * 128, (128 * 9 + 3) * 128, (128 * 9 + 3) * 256, (256 * 9 + 3) * 512, 513 * 512, 512 * 25 + 1
    assert sum(p.numel() for p in critic.parameters()) == sum(layers) == 1_909_889
    assert critic(torch.rand(1, 3, 32, 40)).shape == (1, 1, 16, 16)


@pytest.mark.parametrize("multipliers", [(1,), (1, 2)])
def test_a_patch_critic_takes_images_from_its_least_side_on(multipliers):
    config = PatchCriticConfig(hidden=32, multipliers=multipliers)
    critic = PatchCritic(config)
    assert critic(torch.rand(1, 3, config.least(), config.least())).shape[1:] == (1, 1, 1)
    with pytest.raises(RuntimeError):
        critic(torch.rand(1, 3, config.least() - 2 ** len(multipliers), 64))
    small = Spec(LatentSpec(3, config.least() - 1, 64, images=True), 24, SPEC.tokens)
    with pytest.raises(ValueError, match=f"needs images of {config.least()} pixels, not"):
        AdversarialConfig(critic=config).check(small)


# --- in a run ----------------------------------------------------------------------------------------------------


def test_the_critic_is_stepped_by_its_own_settings_and_weight_is_the_models():
    optimizer = {"lr": 5e-4, "betas": [0.5, 0.9], "weight_decay": 0.1}
    fields = {"type": "adversarial", "critic": CRITIC, "start": 2, "optimizer": optimizer}
    first = Trainee(config("mse", {**fields, "weight": 0.25}, optimizer={"lr": 1e-3}))
    second = Trainee(config("mse", fields))
    second.load_state_dict(first.state_dict())
    rows = torch.arange(4)
    found, plain = (each(Batch(rows, pair()[0]), step=2, rng=Rng(0, rows))[0] for each in (first, second))
    torch.testing.assert_close(found["adversarial/model"], 0.25 * plain["adversarial/model"])
    assert torch.equal(found["adversarial/critic"], plain["adversarial/critic"])
    assert torch.equal(found["adversarial/lecam"], plain["adversarial/lecam"])
    assert "adversarial/model" not in first(Batch(rows, pair()[0]), step=1, rng=Rng(0, rows))[0]
    group = first.groups()["adversarial"]
    assert {id(p) for p in group.parameters} == {id(p) for p in first.objectives[1].critic.parameters()}
    assert (group.how.lr, group.how.betas, group.how.weight_decay, group.start) == (5e-4, (0.5, 0.9), 0.1, 2)
    assert not {id(p) for p in first.groups()["model"].parameters} & {id(p) for p in group.parameters}


def test_a_codec_s_latents_are_no_images():
    model = {**MODEL, "image_size": 32, "codec": "vae"}
    with pytest.raises(ConfigError, match=r"run\.objectives\.0: objective 'adversarial': looks at images, and"):
        config({"type": "adversarial"}, model=model)


def go(run):
    train(run, Console(Terminal(file=io.StringIO())))
    return run


@pytest.mark.slow
def test_a_resumed_run_is_equal_to_the_bit_and_its_model_knows_no_critic(tmp_path):
    """Resumed before the critic has begun (step 3 of a start at 4), and after."""
    given = config("mse", {"type": "adversarial", "critic": CRITIC, "start": 4, "lecam": 0.5}, steps=9, keep=9)
    whole = go(Run.create(given, tmp_path / "whole", CPU, {}))
    log = [json.loads(line) for line in (whole.folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log if "adversarial/critic" in line] == [5, 6, 7, 8, 9]
    assert log[-1]["grad_norm/adversarial"] > 0
    for step in (3, 6):
        part = Run.create(given, tmp_path / f"from-{step}", CPU, {})
        place = f"checkpoints/step-{step:08d}"
        shutil.copytree(whole.folder / place, part.folder / place)
        resumed = go(Run.resume(part.folder, CPU))
        pairs = [
            (whole.trainee.state_dict(), resumed.trainee.state_dict()),
            (checkpoint.optimizer_tensors(whole.optimizer), checkpoint.optimizer_tensors(resumed.optimizer)),
        ]
        for mine, theirs in pairs:
            assert mine.keys() == theirs.keys()
            assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []
    names = load_file(whole.folder / "model.safetensors").keys()
    assert not [name for name in names if "critic" in name or "lecam" in name]
    state = load_file(whole.folder / "checkpoints" / "step-00000009" / "trainee.safetensors")
    assert state["objectives.1.lecam.means"].any()


def test_autocast_moves_no_loss_and_no_gradient():
    found = []
    for wanted in (False, True):
        opponent, (real, fake) = build(critic=CRITIC), pair()
        with torch.autocast("cpu", torch.bfloat16, enabled=wanted):
            told = losses(opponent, real, fake)
        sum(loss.sum() for loss in told.values()).backward()
        found.append([*(loss.detach() for loss in told.values()), fake.grad, *(p.grad for p in opponent.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
