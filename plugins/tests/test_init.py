"""Runs of real models that start from others."""

import torch

import flexframe
from flexframe.store import modelfile
from flexframe.train.run import Run
from flexframe_registry import cards

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
