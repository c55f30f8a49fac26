"""How a card brings images to size goes with the model, into every command that reads images."""

from __future__ import annotations

import json
import shutil
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from flexframe.data.images import fit, to_tensor
from flexframe.data.tokenfile import TokenFile
from flexframe.models import modelfile
from flexframe.models.tokenizer import Tokenizer
from flexframe.store import places
from flexframe.use.encode import encode
from flexframe.use.lengths import Fixed
from flexframe_registry import ConfigError, cards
from flexframe_registry.cards import card

CPU = ("--device", "cpu")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FLEXFRAME_HOME", str(tmp_path / "home"))


@pytest.fixture
def photos(tmp_path):
    """Pictures of noise, whose pixels differ by the way that they are brought to size."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(4):
        noise = np.random.default_rng(i).integers(0, 256, (50 + i, 70, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def save(tiny: Tokenizer, tmp_path):
    """Saves the small FlexTok as a file whose card says so."""

    def make(name: str, way: str | None):
        about = {} if way is None else {"preprocessing": {"resize": way}}
        path = tmp_path / f"{name}.safetensors"
        modelfile.save(tiny.state_dict(), tiny.config, path, sampling={"steps": 1}, about=about)
        return path

    return make


# --- where it is said ----------------------------------------------------------------------------------------------


def test_a_place_says_how_its_images_are_made(save):
    assert places.preprocessing("toy/published").resize == "torchvision-bilinear"  # without fetching it
    assert places.preprocessing("toy/digits-tiny").resize == "torchvision-bicubic"
    assert places.preprocessing(save("a", "adm")).resize == "adm"
    assert places.preprocessing(save("b", None)).resize == "torchvision-bicubic"
    with pytest.raises(ConfigError, match=r"c\.safetensors: preprocessing\.resize: Input should be"):
        places.preprocessing(save("c", "lanczos"))


def test_a_run_takes_it_from_its_card_and_says_it_in_its_model(tmp_path, photos, create, go):
    file = tmp_path / "own.yaml"
    file.write_text("base: toy/digits-tiny\nsummary: s\npreprocessing: {resize: adm}\n")
    data = ("run.data.type=folder", f"run.data.path={photos}")
    assert card(str(file)).train(data).run.data.way() == "adm"
    assert (
        card(str(file)).train((*data, "run.data.resize=torchvision-bilinear")).run.data.way() == "torchvision-bilinear"
    )
    assert cards().get("toy/digits-tiny").train(data).run.data.way() == "torchvision-bicubic"
    assert card(str(file)).train().run.data.way() is None  # digits are no files

    run = go(create("run", *data, "run.data.resize=adm", "run.steps=1"))
    assert places.preprocessing(run.folder).resize == "adm"
    on_digits = go(create("digits", "run.steps=1"))
    assert "preprocessing" not in modelfile.header_of(on_digits.folder / "model.safetensors")["about"]


# --- where it is done ----------------------------------------------------------------------------------------------


def test_encode_and_reconstruct_bring_images_to_size_as_the_model_says(command, photos, save, tmp_path):
    model, tokens, record = save("m", "adm"), tmp_path / "t.safetensors", tmp_path / "numbers.json"
    assert command("encode", photos, "-m", model, "-o", tokens, *CPU).code == 0
    assert TokenFile(tokens).about.preprocessing["resize"] == "adm"
    found = command(
        "reconstruct", photos, "-m", model, "-o", tmp_path / "g.png", "--json", record, "--lengths", 8, *CPU
    )
    assert found.code == 0, found.err
    assert json.loads(record.read_text())["resize"] == "adm"
    assert (
        command("encode", photos, "-m", model, "-o", tmp_path / "u", "--resize", "torchvision-bicubic", *CPU).code == 0
    )
    assert TokenFile(tmp_path / "u").about.preprocessing["resize"] == "torchvision-bicubic"


def test_codes_are_those_of_the_images_as_they_are_said_to_be_made(tiny, photos, tmp_path):
    path = encode(tiny, [photos], tmp_path / "t", model="m", rule=Fixed(8), resize="adm").path
    (rows,) = TokenFile(path).batches(8)
    size = tiny.config.image_size
    images = [to_tensor(fit(Image.open(photos / f"{i}.png"), size, "adm")) for i in range(4)]
    expected = tiny.encode(torch.stack(images).float() / 255).codes
    assert torch.equal(rows.codes.long(), expected.long())


@pytest.mark.slow
def test_bench_brings_images_to_size_as_the_models_say(command, photos, save, tmp_path):
    suite = tmp_path / "own.yaml"
    suite.write_text("data: {type: images}\nmetrics: [psnr]\nshow: 0\n")
    one, other = save("one", "adm"), save("other", "torchvision-bilinear")
    given = ("bench", suite, one, f"data.path={photos}", "budgets=[8]", *CPU)
    found = command(*given, "-o", tmp_path / "a")
    assert found.code == 0, found.err
    assert resize(tmp_path / "a") == "adm"
    differ = command("bench", suite, one, other, f"data.path={photos}", "-o", tmp_path / "b", *CPU)
    assert differ.code == 2
    assert (
        "data.resize: is not given, and the models' cards differ: one.safetensors adm, other.safetensors " in differ.err
    )
    assert command(*given, other, "data.resize=torchvision-bicubic", "-o", tmp_path / "c").code == 0
    assert resize(tmp_path / "c") == "torchvision-bicubic"


def resize(folder):
    found = json.loads((folder / "results.json").read_text())
    ways = {each["measure"]["images"]["resize"] for each in found["protocols"].values()}
    assert ways == {found["protocol"]["images"]["resize"]}
    return ways.pop()


# --- bench's settings ----------------------------------------------------------------------------------------------


def test_bench_needs_to_be_told_where_the_images_are(command, save):
    for name in ("kodak-256", "tiny-imagenet64-recon"):
        found = command("bench", name, save("m", None), *CPU)
        assert found.code == 2
        assert found.err.strip().endswith(f"{name}: data.path: is required and is not given; say it as data.path=VALUE")
    found = command("bench", "kodak-256", save("m", None), "data.path=pipe:cat kodak.tar", *CPU)
    assert "'pipe:cat kodak.tar' is a command; images are read from this machine's disks only" in found.err
    found = command("bench", "kodak-256", save("m", None), "data.path=nowhere.tar", *CPU)
    assert "there is no shard 'nowhere.tar'" in found.err
    found = command("bench", "kodak-256", save("m", None), "data.pth=x", *CPU)
    assert "data.pth: there is no such setting. Did you mean 'path'?" in found.err
    found = command("bench", "kodak-256", save("m", None), "metrics.7.net=alex", *CPU)
    assert "metrics.7: there are 5, numbered from 0" in found.err


@pytest.mark.slow
def test_a_tar_and_the_folder_unpacked_from_it_give_the_same_numbers(command, save, tmp_path):
    folder, numbers = tmp_path / "kodak", []
    folder.mkdir()
    for i in range(24):
        noise = np.random.default_rng(i).integers(0, 256, (24, 36, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{i:02}.png")
    with tarfile.open(tmp_path / "kodak.tar", "w") as tar:
        for file in sorted(folder.iterdir()):
            tar.add(file, f"kodak/{file.name}")
    for place in (folder, tmp_path / "kodak.tar"):
        out = tmp_path / f"out-{place.name}"
        given = (f"data.path={place}", "metrics.2.backbone=nowhere.safetensors", "budgets=[1, 8]", "-o", out)
        found = command("bench", "kodak-256", save("m", None), *given, *CPU)
        assert found.code == 0, found.err
        numbers.append(json.loads((out / "results.json").read_text()))
    one, other = numbers
    assert one["protocol"]["count"] == 24
    for key in ("protocols", "per_image", "codes_sha256"):
        assert one[key] == other[key]


@pytest.mark.slow
def test_bench_leaves_broken_images_out_where_asked_and_says_so(command, photos, save, tmp_path):
    suite = tmp_path / "own.yaml"
    suite.write_text("data: {type: images}\nbudgets: [8]\nmetrics: [psnr]\nshow: 0\n")
    (photos / "2.png").write_bytes(b"")
    given = ("bench", suite, save("m", None), f"data.path={photos}", *CPU)
    found = command(*given, "-o", tmp_path / "a")
    assert found.code == 2
    assert "2.png: cannot identify image file" in found.err
    found = command(*given, "data.broken=skip", "-o", tmp_path / "b")
    assert found.code == 0, found.err
    assert f"1 of 4 images of {photos} cannot be read and were left out" in found.err
    results = json.loads((tmp_path / "b" / "results.json").read_text())
    assert results["protocol"]["count"] == 3
    told = [each["measure"]["images"]["left out as broken"] for each in results["protocols"].values()]
    assert [(each["count"], each["of"], each["first"]) for each in told] == [(1, 4, ["2.png"])]
    shutil.rmtree(tmp_path / "home")
    (photos / "2.png").unlink()
    assert command(*given, "-o", tmp_path / "c").code == 0
    again = json.loads((tmp_path / "c" / "results.json").read_text())
    assert again["protocol"]["data_sha256"] == results["protocol"]["data_sha256"]
    assert set(again["protocols"]) != set(results["protocols"])  # one was left out of the set, the other was whole
