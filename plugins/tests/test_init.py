"""Runs of real models that start from others."""

import pytest
import torch

import flexframe
from flexframe.models import modelfile
from flexframe.train.run import Run
from flexframe_flextok.blocks import sincos, stretched
from flexframe_registry import ConfigError, cards

CPU = torch.device("cpu")
SHORT = ("run.steps=2", "run.batch_size=4", "run.log_every=1", "run.optimizer.warmup=0", "run.checkpoint_every=1")


def test_learned_positions_are_stretched_to_another_image_size(create, tmp_path):
    card = cards().get("titok/digits-tiny")
    model = flexframe.load("titok/digits-tiny")
    path = tmp_path / "titok.safetensors"
    modelfile.save(model.state_dict(), card.model, path)
    config = card.train(["image_size=32", f"run.init={path}", "run.steps=1", "run.batch_size=2"])
    run = Run.create(config, tmp_path / "larger", CPU, {})
    large, small = run.trainee.model.encoder.positional_embedding, model.encoder.positional_embedding
    assert len(large) == 65
    assert len(small) == 17
    assert torch.equal(large[0], small[0])
    means = [table[1:].mean(0) for table in (large, small)]
    torch.testing.assert_close(*means, atol=2e-3, rtol=0)
    corner = large[1:].reshape(8, 8, -1)[:2, :2].mean((0, 1))
    assert torch.cosine_similarity(corner, small[1], dim=0) > 0.9


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_stretched_positions_are_those_of_the_weights_own_images(create, tmp_path, part):
    """Their table is set by itself and exported, so the model reloads to the same numbers."""
    create("base").export(tmp_path / "base.safetensors")  # 4 x 4 patches
    settings = (f"run.init={tmp_path / 'base.safetensors'}", "image_size=32", f"{part}.positions=interpolate")
    run = create("larger", *settings)
    positions = getattr(run.trainee.model, part).patches.positions
    torch.testing.assert_close(positions, stretched(sincos(4, 4, 64), 8, 8), atol=1e-6, rtol=0)
    assert (positions - sincos(8, 8, 64)).abs().max() > 0.5  # as it was without a table
    other = {"encoder": "decoder", "decoder": "encoder"}[part]
    torch.testing.assert_close(getattr(run.trainee.model, other).patches.positions, sincos(8, 8, 64))
    run.export(tmp_path / "larger.safetensors")
    model = flexframe.load(tmp_path / "larger.safetensors")
    assert getattr(model.config, part).grid == (4, 4)
    assert torch.equal(getattr(model, part).patches.positions, positions)
    resumed = Run.resume(run.folder, CPU)
    resumed.close()
    assert torch.equal(getattr(resumed.trainee.model, part).patches.positions, positions)


def test_a_model_loaded_at_another_size_stretches_what_it_was_trained_on():
    model = flexframe.load(
        "flextok/digits-tiny",
        overrides=["image_size=32", "encoder.positions=interpolate", "decoder.positions=interpolate"],
    )
    for part in (model.encoder, model.decoder):
        torch.testing.assert_close(part.patches.positions, stretched(sincos(4, 4, 64), 8, 8), atol=1e-6, rtol=0)


def test_a_table_that_is_not_the_weights_own_is_refused(create, tmp_path):
    create("base").export(tmp_path / "base.safetensors")
    start = (f"run.init={tmp_path / 'base.safetensors'}", "image_size=32", "encoder.positions=interpolate")
    with pytest.raises(
        ConfigError, match=r"^encoder: `grid` is 8 x 8, and .* positions of 4 x 4; set `grid` to \[4, 4"
    ):
        create("other", *start, "encoder.grid=[8, 8]")
    create("same", *start, "encoder.grid=[4, 4]").close()
