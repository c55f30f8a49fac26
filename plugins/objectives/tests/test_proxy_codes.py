"""Proxy codes: precomputed ones, those of a teacher, and a first stage that trains by `flexframe train` alone."""

import json

import pytest
import torch
from safetensors import safe_open

from flexframe.models import modelfile
from flexframe.models.tokenizer import Tokenizer
from flexframe.rng import Rng
from flexframe.store.load import load
from flexframe.tokens import Batch, Outputs
from flexframe.train.run import Run
from flexframe.train.trainee import Trainee
from flexframe_objectives import ProxyCodesConfig
from flexframe_objectives.proxy_codes import ProxyCodes
from flexframe_registry import ConfigError, LatentSpec, Spec, TokenizerConfig, TokenSpec, TrainConfig

SPEC = Spec(LatentSpec(3, 16, 16), 24, TokenSpec(8, 6, 1, 64))
GRID = {"type": "vqgan", "hidden": 32, "multipliers": [1, 1, 1], "blocks": 1}
TEACHER = {
    "image_size": 16,
    "length": 16,
    "encoder": GRID,
    "quantizer": {"type": "vq", "codebook_size": 64, "dim": 4, "l2_norm": False},
    "decoder": GRID,
}
STUDENT = {
    "size": "tiny",
    "image_size": 16,
    "length": 4,
    "encoder": "latent-tokens",
    "quantizer": "vq",
    "decoder": {"type": "vit", "patch": 4, "head": "proxy-codes", "proxy_codebook": 64},
}


def save_teacher(path, **changes):
    """A grid with random weights, whose codes differ from cell to cell."""
    torch.manual_seed(0)
    config = TokenizerConfig.read(TEACHER | changes)
    model = Tokenizer(config)
    for parameter in model.quantizer.parameters():
        torch.nn.init.normal_(parameter)
    modelfile.save(model.state_dict(), config, path)
    return str(path)


@pytest.fixture
def teacher(tmp_path):
    return save_teacher(tmp_path / "teacher.safetensors")


def train_config(teacher, **changes):
    objective = {"type": "proxy-codes", "teacher": teacher}
    run = {"data": {"type": "digits"}, "objectives": [objective], "steps": 6, "batch_size": 8}
    run |= {"log_every": 2, "checkpoint_every": 3, "optimizer": {"lr": 3e-3, "warmup": 1}}
    return TrainConfig.read({"model": STUDENT | changes, "run": run})


def images(batch=3):
    return torch.rand(batch, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_the_teacher_s_codes_are_the_targets_where_none_are_given(teacher):
    rows, logits = torch.arange(3), torch.randn(3, 64, 4, 4)
    objective = ProxyCodes(ProxyCodesConfig(teacher=teacher), SPEC)
    codes = load(teacher).encode(images()).codes[..., 0]
    assert len(codes.unique()) > 3
    found = objective(Outputs({}, logits=logits), Batch(rows, images()), step=0, rng=Rng(0, rows))["cross_entropy"]
    expected = -logits.flatten(2).log_softmax(1).gather(1, codes[:, None])[:, 0].mean(1)
    torch.testing.assert_close(found, expected)

    assert torch.equal(objective.features(Batch(rows, images()))["proxy_codes"], codes)
    given = Batch(rows, images(), features={"proxy_codes": codes.flip(0).unflatten(1, (4, 4))})
    other = objective(Outputs({}, logits=logits), given, step=0, rng=Rng(0, rows))["cross_entropy"]
    plain = ProxyCodes(ProxyCodesConfig(), SPEC)(Outputs({}, logits=logits), given, step=0, rng=Rng(0, rows))
    assert torch.equal(other, plain["cross_entropy"])
    assert not torch.allclose(other, found)


def test_autocast_moves_no_code(teacher):
    objective = ProxyCodes(ProxyCodesConfig(teacher=teacher), SPEC)
    with torch.autocast("cpu", torch.bfloat16):
        inside = objective.targets(Batch(torch.arange(8), images(8)))
    assert torch.equal(inside, objective.targets(Batch(torch.arange(8), images(8))))


def test_a_teacher_is_frozen_and_in_no_state_nor_group(teacher):
    config = train_config(teacher)
    trainee = Trainee(config).train()
    (objective,) = trainee.objectives
    model = objective.teacher.model
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    losses, _ = trainee(Batch(torch.arange(3), images()), step=0, rng=Rng(0, torch.arange(3)))
    sum(loss.mean() for loss in losses.values()).backward()
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(name.startswith("model.") for name in trainee.state_dict())
    assert len(list(trainee.parameters())) == len(list(trainee.model.parameters()))


def test_loading_a_teacher_draws_nothing_from_the_run(teacher):
    torch.manual_seed(3)
    first = Trainee(train_config(teacher))
    after = torch.rand(1)
    torch.manual_seed(3)
    second = Tokenizer(first.model.config)
    assert torch.equal(after, torch.rand(1))
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.model.state_dict().items())


def test_stage_1_trains_from_its_config_alone_and_resumes(teacher, tmp_path):
    import io

    from rich.console import Console as Terminal

    from flexframe.train.console import Console
    from flexframe.train.loop import train

    def go(run):
        train(run, Console(Terminal(file=io.StringIO())))
        return [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]

    folder = tmp_path / "run"
    log = go(Run.create(train_config(teacher), folder, torch.device("cpu"), {}))
    losses = [line["proxy-codes/cross_entropy"] for line in log]
    assert losses[-1] < losses[0] < 6
    last = folder / "checkpoints" / "step-00000006"
    with safe_open(last / "trainee.safetensors", framework="pt") as file:
        assert all(name.startswith("model.") for name in file.keys())  # noqa: SIM118
    resumed = Run.resume(folder, torch.device("cpu"))
    assert resumed.step == 6
    assert resumed.trainee.objectives[0].teacher.name == teacher
    assert load(folder).config.decoder.gives == "logits"


@pytest.mark.parametrize(
    ("teacher", "model", "text"),
    [
        (
            {"quantizer": {"type": "vq", "codebook_size": 32, "dim": 4}},
            {},
            "has 32 codes, and the decoder predicts 64; set",
        ),
        (
            {},
            {"decoder": {**STUDENT["decoder"], "patch": 8}},
            "gives 16 tokens an image, and the decoder predicts 2 x 2",
        ),
        ({"image_size": 32, "length": 64}, {}, "reads images of 32 x 32, and the model of 16 x 16"),
        ({"quantizer": {"type": "kl", "dim": 4}}, {}, "does not give one whole number a token"),
        (
            {"quantizer": {"type": "residual-vq", "dim": 4, "codebook_size": 64}},
            {},
            "not give one whole number a token",
        ),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused_before_the_first_step(tmp_path, teacher, model, text):
    config = train_config(save_teacher(tmp_path / "teacher.safetensors", **teacher), **model)
    with pytest.raises(ConfigError, match=rf"run\.objectives\.0: objective 'proxy-codes': teacher .* {text}"):
        Trainee(config)


def test_a_teacher_that_is_not_there_is_refused_before_the_first_step():
    with pytest.raises(ConfigError, match="there is no such file or folder"):
        Trainee(train_config("nowhere"))


def test_no_targets_at_all_says_what_to_name():
    rows, logits = torch.arange(3), torch.randn(3, 64, 4, 4)
    objective = ProxyCodes(ProxyCodesConfig(), SPEC)
    with pytest.raises(ValueError, match="name its `teacher`, such as"):
        objective(Outputs({}, logits=logits), Batch(rows, images()), step=0, rng=Rng(0, rows))


def test_latents_alone_have_no_images_to_teach_from(teacher):
    rows, logits = torch.arange(3), torch.randn(3, 64, 4, 4)
    objective = ProxyCodes(ProxyCodesConfig(teacher=teacher), SPEC)
    with pytest.raises(ValueError, match="encodes images, and this batch holds none"):
        objective(Outputs({}, logits=logits), Batch(rows, latents=images()), step=0, rng=Rng(0, rows))
