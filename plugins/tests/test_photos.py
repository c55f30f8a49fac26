"""The cards for a user's own images: one command and nothing to set, with the curve to expect."""

import json

import pytest
import torch
from PIL import Image

from flexframe.models.modelfile import read
from flexframe.store.load import load
from flexframe_registry import cards
from flexframe_registry.doubts import obstacles, of_card

PHOTOS = ("flextok/photos-64", "flextok/photos-128", "titok/photos-64-32")
TRAINED = ("flextok/photos-64", "titok/photos-64-32")


@pytest.mark.parametrize("name", PHOTOS)
def test_a_card_for_photographs_says_all_but_where_they_are(name):
    card = cards().get(name)
    config = card.train(["run.data={type: folder, path: DIR}"])
    assert not [*obstacles(config), *of_card(card, config)]
    assert [(each.source, each.parts) for each in config.run.init] == [("grid/taef2", ("codec",))]
    assert config.model.codec.scaling_factor == 1.17


@pytest.mark.parametrize("name", TRAINED)
def test_a_trained_card_tells_its_terms_its_curve_and_its_numbers(name):
    file = cards().get(name).file
    assert "research" in file.licence
    assert "MIT" in file.licence  # the codec's
    steps = list(file.expected["loss"])
    assert steps == sorted(steps)
    assert steps[-1] == file.run["steps"]
    assert file.expected["loss"][steps[-1]] < 0.8 * file.expected["loss"][steps[0]]
    assert file.metrics["psnr_by_tokens"]


def test_the_card_at_128_pixels_tells_its_curve_and_numbers_and_has_no_weights():
    card = cards().get("flextok/photos-128")
    steps = list(card.file.expected["loss"])
    assert (steps[-1], card.file.weights) == (card.run.steps, None)
    assert list(card.file.metrics["psnr_by_tokens"])[-1] == str(card.model.length)


@pytest.mark.slow
def test_the_readmes_command_trains_and_tells_how_to_see_whether_it_is_on_course(command, tmp_path):
    photos, run = tmp_path / "photos", tmp_path / "run"
    photos.mkdir()
    noise = torch.randint(256, (8, 70, 80, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for i, picture in enumerate(noise):
        Image.fromarray(picture.numpy()).save(photos / f"{i}.png")
    smaller = ["run.steps=2", "run.batch_size=4", "run.log_every=1", "run.compile=false"]
    data = f"run.data={{type: folder, path: {photos}}}"
    found = command("train", "flextok/photos-64", data, *smaller, "-o", str(run))
    assert found.code == 0, found.err
    assert f"flexframe plot {run}" in found.out
    assert json.loads((run / "manifest.json").read_text())["expected"] == "flextok/photos-64"
    assert len((run / "log.jsonl").read_text().splitlines()) == 2
    published = load("grid/taef2", kind="codec").state_dict()
    trained = read(run / "model.safetensors")[1]
    assert all(torch.equal(trained[name], value) for name, value in published.items())
    found = command("plot", str(run), "--metric", "loss", "-o", str(tmp_path / "plot.svg"))
    assert found.code == 0, found.err
    assert "stroke: #8a8a8a" in (tmp_path / "plot.svg").read_text()
