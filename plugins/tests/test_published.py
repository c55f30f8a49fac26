"""An imported checkpoint in use: parts and settings swapped without saving again, and trained on at two sizes."""

from pathlib import Path

import pytest
import torch
from PIL import Image

import flexframe
from flexframe.testing.golden import shared
from flexframe.train.run import Run
from flexframe_registry.cards import card

GOLDEN = shared(Path(__file__)) / "golden"
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no golden tensors at {GOLDEN}")


def test_masker_sampler_and_guidance_are_swapped_at_load():
    source = GOLDEN / "flextok_tiny"
    plain = flexframe.load(source)
    given = ("masker=uniform", "sampling.solver=heun", "sampling.guidance=3.0", "sampling.steps=2")
    swapped = flexframe.load(source, overrides=given)
    assert (plain.config.masker.type, swapped.config.masker.type) == ("pow2", "uniform")
    assert (swapped.sampling.solver, swapped.sampling.guidance, swapped.sampling.steps) == ("heun", 3.0, 2)
    ours, theirs = plain.state_dict(), swapped.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


STRETCHED = ["encoder.positions=interpolate", "decoder.positions=interpolate"]
IMPORTS = [
    # a checkpoint, a size of images, settings
    ("flextok_tiny_vae", 64, STRETCHED),
    ("flextok_tiny_vae", 96, STRETCHED),
    ("restok/tokenizer", 128, []),
    ("gigatok/tokenizer", 48, []),
]


@pytest.mark.slow
@pytest.mark.parametrize(("folder", "size", "settings"), IMPORTS)
def test_an_import_is_trained_on_at_its_own_size_and_another(command, tmp_path, go, folder, size, settings):
    source, made = GOLDEN / folder, tmp_path / "made"
    answer = command("import", source, "-o", made)
    assert answer.code == 0, answer.err
    (tmp_path / "photos").mkdir()
    for i in range(4):
        Image.new("RGB", (size, size), (60 * i, 90, 200 - 40 * i)).save(tmp_path / "photos" / f"{i}.png")
    config = card(str(made / "card.yaml")).train(
        [
            f"run.data={{type: folder, path: {tmp_path / 'photos'}}}",
            f"run.init={made}",
            f"image_size={size}",
            *settings,
            "run.steps=3",
            "run.batch_size=2",
            "run.optimizer.lr=1e-4",
            "run.optimizer.warmup=0",
        ]
    )
    run = Run.create(config, tmp_path / "run", torch.device("cpu"), {})
    there, here = flexframe.load(source).state_dict(), run.trainee.model.state_dict()
    before = {name: here[name].clone() for name, value in there.items() if value.shape == here[name].shape}
    assert len(before) >= len(there) - 2  # but for tables of places, which are stretched
    assert all(torch.equal(there[name], value) for name, value in before.items())
    go(run)
    after = run.trainee.model.state_dict()
    for part in ("encoder.", "decoder."):
        assert any(not torch.equal(after[name], value) for name, value in before.items() if name.startswith(part))
    model = flexframe.load(tmp_path / "run")
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    assert model.decode(model.encode(image)).shape == (1, 3, size, size)
