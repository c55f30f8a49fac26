"""Perceptual objectives: against the metric and the bare network, weights from files, and what is refused."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from flexframe.nn.lpips import Perceptual as Network
from flexframe.rng import Rng
from flexframe.testing.golden import shared
from flexframe.tokens import Batch, Outputs
from flexframe.train.trainee import Trainee
from flexframe_objectives import LPIPSConfig, PerceptualConfig
from flexframe_objectives.perceptual import LPIPS, Perceptual
from flexframe_registry import ConfigError, LatentSpec, Spec, TokenSpec, TrainConfig

SPEC = Spec(LatentSpec(3, 32, 32, images=True), 24, TokenSpec(8, 6, 1, 64))
SHARED = shared(Path(__file__)) / "data"
BACKBONE, LINEAR = SHARED / "squeezenet1_1.safetensors", SHARED / "lpips-v0.1-squeeze-lin.safetensors"
MODEL = {"size": "tiny", "image_size": 32, "length": 4, "encoder": "latent-tokens", "quantizer": "vq", "decoder": "vit"}


def pair(seed=0):
    drawn = torch.rand(2, 3, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    return drawn[0], drawn[1].requires_grad_()


def value(objective, real, fake):
    rows = torch.arange(len(real))
    (found,) = objective(Outputs({}, fake), Batch(rows, real, real), step=0, rng=Rng(0, rows)).values()
    return found


def trainee(*objectives, **model):
    return Trainee(TrainConfig.read({"model": MODEL | model, "run": {"data": "digits", "objectives": objectives}}))


@pytest.mark.skipif(not BACKBONE.is_file(), reason="SqueezeNet's weights are not beside this checkout")
def test_lpips_is_the_metric_s_and_has_a_gradient():
    objective = LPIPS(LPIPSConfig(net="squeeze", backbone=str(BACKBONE), linear=str(LINEAR)), SPEC)
    net = Network("squeeze")
    net.load(load_file(BACKBONE), load_file(LINEAR))
    real, fake = pair()
    found = value(objective, real, fake)
    torch.testing.assert_close(found, net(2 * real - 1, 2 * fake - 1))
    assert found.min() > 0.01
    found.sum().backward()
    assert fake.grad.abs().amax((1, 2, 3)).min() > 0
    assert value(objective, real, real).abs().max() < 1e-6
    assert objective.facts()["backbone_sha256"] == hashlib.sha256(BACKBONE.read_bytes()).hexdigest()
    assert not list(objective.parameters())
    assert not objective.state_dict()


def test_a_network_in_which_images_vanish_is_refused_before_the_first_step():
    with pytest.raises(ConfigError, match=r"objective 'lpips': images of 16 x 16 pixels vanish in squeeze; set `resiz"):
        trainee({"type": "lpips", "net": "squeeze", "backbone": "random"}, image_size=16)


def test_logits_are_the_bare_network_s_on_normalised_images():
    import timm

    objective = Perceptual(PerceptualConfig.sized("tiny"), SPEC)
    net = timm.create_model("test_convnext").eval()
    net.load_state_dict(objective.judge.net.state_dict())
    real, fake = pair()
    with torch.no_grad():
        one, other = ((each - 0.5) / 0.5 for each in (real, fake))  # as timm has it for this network
        wanted = (net(one) - net(other)).square().mean(1)
    torch.testing.assert_close(value(objective, real, fake), wanted)
    features = Perceptual(PerceptualConfig.sized("tiny", compare="features"), SPEC)
    with torch.no_grad():
        wanted = (net.forward_features(one) - net.forward_features(other)).square().mean((1, 2, 3))
    torch.testing.assert_close(value(features, real, fake), wanted)


def test_weights_come_from_a_file_and_what_is_not_the_network_s_is_refused(tmp_path):
    drawn = Perceptual(PerceptualConfig.sized("tiny"), SPEC)
    state = {name: tensor + 0.01 for name, tensor in drawn.judge.net.state_dict().items()}
    path = tmp_path / "judge.safetensors"
    save_file(state, path)
    filled = Perceptual(PerceptualConfig.sized("tiny", weights=str(path)), SPEC)
    assert all(torch.equal(tensor, state[name]) for name, tensor in filled.judge.net.state_dict().items())
    assert filled.facts()["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    removed = state.pop(next(iter(state)))
    save_file(state, path)
    with pytest.raises(ValueError, match=r"is not of test_convnext: it lacks .* and 0 others"):
        Perceptual(PerceptualConfig.sized("tiny", weights=str(path)), SPEC)
    lacking = set(drawn.judge.net.state_dict()) - set(state)
    save_file({**state, lacking.pop(): removed.flatten()[:1]}, path)
    with pytest.raises(ValueError, match=r"is not of test_convnext: its .* and the network's"):
        Perceptual(PerceptualConfig.sized("tiny", weights=str(path)), SPEC)


def test_a_pickle_of_more_than_tensors_is_not_opened(tmp_path):
    path = tmp_path / "judge.pth"
    torch.save({"net": Path("x")}, path)
    with pytest.raises(ConfigError, match="so nothing in it was run"):
        trainee({"type": "perceptual", "net": "test_convnext", "library": "timm", "weights": str(path)})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"net": "convnext_smal"}, r"torchvision has no network 'convnext_smal'\. Did you mean 'convnext_small'\?"),
        ({"net": "test_convnex", "library": "timm"}, r"timm has no network 'test_convnex'\. Did you mean"),
        ({"weights": "nowhere.safetensors"}, r"no file nowhere\.safetensors"),
    ],
)
def test_what_is_not_there_is_told_before_the_first_step(fields, text):
    with pytest.raises(ConfigError, match=rf"run\.objectives\.0: objective 'perceptual': {text}"):
        trainee({"type": "perceptual", **fields})


def test_torchvision_has_no_features():
    with pytest.raises(ConfigError, match="set `library: timm`"):
        trainee({"type": "perceptual", "compare": "features"})


def test_judges_draw_nothing_from_the_run_and_two_of_a_kind_are_told_apart():
    fields = {"type": "perceptual", "net": "test_convnext", "library": "timm", "weights": "random"}
    torch.manual_seed(3)
    plain = trainee("mse")
    after = torch.rand(1)
    torch.manual_seed(3)
    judged = trainee("mse", {**fields, "resize": 32}, {**fields, "resize": 48, "compare": "features"})
    assert torch.equal(after, torch.rand(1))
    assert judged.state_dict().keys() == plain.state_dict().keys()
    rows = torch.arange(2)
    losses, _ = judged(Batch(rows, pair()[0][:2]), step=0, rng=Rng(0, rows))
    assert {"mse/mse", "perceptual.1/logits", "perceptual.2/features"} <= losses.keys()
    assert judged.facts().keys() == {"perceptual.1", "perceptual.2"}


@pytest.mark.slow
@pytest.mark.parametrize("config", [
    LPIPSConfig(net="squeeze", backbone="random"),
    PerceptualConfig(library="timm", net="convnext_atto", weights="random"),
])  # fmt: skip
def test_autocast_moves_no_distance_and_no_gradient(config):
    objective = {LPIPSConfig: LPIPS, PerceptualConfig: Perceptual}[type(config)](config, SPEC)
    found = []
    for wanted in (False, True):
        real, fake = pair()
        with torch.autocast("cpu", torch.bfloat16, enabled=wanted):
            distance = value(objective, real, fake)
        distance.sum().backward()
        found.append((distance.detach(), fake.grad))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
