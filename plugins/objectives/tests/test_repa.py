"""REPA: its definition, the teacher's features given or made, grids, and what is refused."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from flexframe.rng import Rng
from flexframe.tokens import Batch, Outputs
from flexframe.train.trainee import Trainee
from flexframe_objectives import REPAConfig
from flexframe_objectives.repa import REPA, Teacher
from flexframe_registry import ConfigError, LatentSpec, Spec, TokenSpec, TrainConfig

SPEC = Spec(LatentSpec(3, 32, 32, images=True), 24, TokenSpec(8, 6, 1, 64), {"block.1": 20})
MODEL = {"size": "tiny", "image_size": 16, "length": 4, "encoder": "registers", "quantizer": "fsq", "decoder": "flow"}
TEACHER = {"type": "repa", "teacher": "test_vit", "weights": "random", "hidden": 16, "grid": None}
ROWS = torch.arange(3)


def build(**fields):
    torch.manual_seed(0)
    return REPA(REPAConfig.sized("tiny", **fields), SPEC)


def images():
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def features(*grid, seed=1):
    return torch.randn(3, *grid, 20, generator=torch.Generator().manual_seed(seed))


def value(objective, tapped, **batch):
    return objective(Outputs({}, features={"block.1": tapped}), Batch(ROWS, **batch), step=0, rng=Rng(0, ROWS))[
        "cosine"
    ]


def trainee(*objectives, **model):
    return Trainee(TrainConfig.read({"model": MODEL | model, "run": {"data": "digits", "objectives": objectives}}))


def test_it_is_one_minus_the_cosine_with_the_bare_teacher():
    import timm

    objective = build()
    net = timm.create_model("test_vit", num_classes=0, img_size=64).eval()
    net.load_state_dict({**objective.teacher.frozen.net.state_dict(), "pos_embed": net.state_dict()["pos_embed"]})
    net.pos_embed.data = timm.layers.resample_abs_pos_embed(objective.teacher.frozen.net.pos_embed, [4, 4])
    with torch.no_grad():
        larger = F.interpolate(images(), (64, 64), mode="bicubic", antialias=True).clamp(0, 1)
        wanted = net.forward_features((larger - 0.5) / 0.5)[:, 1:].unflatten(1, (4, 4))
        projected = objective.project(features(4, 4))
        cosine = (projected * wanted).sum(-1) / (projected.norm(dim=-1) * wanted.norm(dim=-1))
    torch.testing.assert_close(value(objective, features(4, 4), images=images()), 1 - cosine.mean((1, 2)))


def test_features_that_were_computed_before_count_instead():
    made = Teacher("test_vit", "random").features(images(), (4, 4))
    online, stored = build(), build(teacher=None, dim=made.shape[-1])
    assert stored.teacher is None
    torch.testing.assert_close(
        value(online, features(4, 4), images=images()), value(stored, features(4, 4), features={"repa": made})
    )
    gridded = build(grid=4)
    computed = gridded.features(Batch(ROWS, images()))
    assert torch.equal(computed["repa"], made)
    torch.testing.assert_close(gridded.features(Batch(ROWS, features=computed))["repa"], made)
    with pytest.raises(ValueError, match="need a `grid`"):
        online.features(Batch(ROWS, images()))
    half = value(stored, features(4, 4), features={"repa": made.half()})
    torch.testing.assert_close(half, value(stored, features(4, 4), features={"repa": made}), atol=1e-3, rtol=0)


def test_a_grid_is_the_teacher_s_and_the_decoder_s_features_are_interpolated():
    objective = build(grid=6)
    assert objective.targets(Batch(ROWS, images()), (4, 4)).shape == (3, 6, 6, 64)
    level = features(1, 1).expand(3, 4, 4, 20)  # constant in the plane, so interpolation leaves it as it is
    torch.testing.assert_close(
        value(objective, level, images=images()),
        value(objective, level[:, :1, :1].expand(3, 6, 6, 20), images=images()),
    )


def test_the_projection_learns_and_the_teacher_is_in_no_state():
    found = trainee({**TEACHER, "weight": 2.0})
    losses, _ = found(Batch(torch.arange(4), torch.rand(4, 3, 16, 16)), step=0, rng=Rng(0, torch.arange(4)))
    assert losses["repa/cosine"].shape == (4,)
    assert 0 < losses["repa/cosine"].min() <= losses["repa/cosine"].max() < 4
    losses["repa/cosine"].mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in found.objectives[0].parameters())
    grads = {name: p.grad is not None and bool(p.grad.any()) for name, p in found.model.decoder.named_parameters()}
    assert any(there for name, there in grads.items() if name.startswith("blocks.0."))
    assert not any(there for name, there in grads.items() if name.startswith("blocks.2."))  # behind the tap
    assert {name.split(".")[0] for name in found.state_dict()} == {"model", "objectives"}
    assert all("project" in name for name in found.state_dict() if name.startswith("objectives"))
    assert set(found.groups()) == {"model", "repa"}
    assert found.facts() == {"repa": {"net": "test_vit", "weights": "random"}}


def test_weights_come_from_a_file_that_may_hold_a_head(tmp_path):
    import timm

    torch.manual_seed(5)
    net = timm.create_model("test_vit")
    save_file(net.state_dict(), tmp_path / "vit.safetensors")
    found = Teacher("test_vit", str(tmp_path / "vit.safetensors")).frozen
    assert torch.equal(found.net.state_dict()["blocks.0.attn.qkv.weight"], net.state_dict()["blocks.0.attn.qkv.weight"])
    assert len(found.facts["sha256"]) == 64


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"tap": "block.9"}, "needs block.9, which decoder 'flow' does not provide"),
        ({"tap": "encoder.mean"}, "needs encoder.mean, which encoder 'registers' does not provide"),
        ({"teacher": None}, "give a `teacher`, or the `dim` of features"),
        ({"dim": 3}, "give a `teacher`, or the `dim` of features"),
        ({"teacher": "test_convnext"}, "teacher 'test_convnext' is no vision transformer of patches and tokens"),
        ({"teacher": "test_vi"}, "timm has no network 'test_vi'"),
    ],
)
def test_what_cannot_be_is_told_before_the_first_step(fields, text):
    with pytest.raises(ConfigError, match=rf"run\.objectives\.0: objective 'repa':? .*{text}|objective 'repa' {text}"):
        trainee({**TEACHER, **fields})


def test_targets_that_are_nowhere_are_told():
    with pytest.raises(ValueError, match=r"name its `teacher`, or put features in batch\.features\['repa'\]"):
        value(build(teacher=None, dim=8), features(4, 4), images=images())
    with pytest.raises(ValueError, match="looks at images, and this batch holds none"):
        value(build(), features(4, 4))
