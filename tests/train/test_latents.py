"""Training from latents and features that were computed before: the same as from images."""

import json
import shutil

import pytest
import torch
from flexframe_toy.parts import ToyCodec
from PIL import Image
from safetensors.torch import load_file as read_tensors
from safetensors.torch import save_file

from flexframe.data.shards import Shards
from flexframe.models import modelfile
from flexframe.models.tokenizer import Tokenizer
from flexframe.store.load import load_file
from flexframe.train.run import Run
from flexframe.use import shards
from flexframe_registry import ConfigError, TokenizerConfig, TrainConfig, catalogue
from flexframe_registry.slots import resolve
from flexframe_standard.codec import IdentityCodec

CPU = torch.device("cpu")
DATA = {"type": "scenes", "complexity": 0, "count": 20}
MODEL = {
    "size": "tiny", "image_size": 16, "length": 4, "codec": "toy", "encoder": {"type": "toy", "patch": 2},
    "quantizer": "toy", "masker": "toy", "decoder": {"type": "toy", "patch": 2},
}  # fmt: skip
COLOUR = {"type": "toy"}


@pytest.fixture
def start(tmp_path):
    """A model file whose codec a run starts from."""

    def make(seed=0):
        torch.manual_seed(seed)
        model, path = Tokenizer(TokenizerConfig.read(MODEL)), tmp_path / f"codec-{seed}.safetensors"
        for value in model.codec.parameters():
            value.data += 0.05 * torch.randn_like(value)
        modelfile.save(model.state_dict(), model.config, path)
        return path

    return make


def config(path=None, codec=None, objectives=(COLOUR,), **run):
    init = [] if path is None else [{"from": str(path), "parts": ["codec"]}]
    model = MODEL if codec is None else {**MODEL, "codec": codec}
    settings = {"data": DATA, "steps": 4, "batch_size": 6, "accumulate": 2, "log_every": 1, "seed": 3,
                "optimizer": {"warmup": 1}}  # fmt: skip
    return TrainConfig.read({"model": model, "run": {**settings, "init": init, "objectives": list(objectives), **run}})


def kept_in(out):
    return {"feed": {"type": "latents", "path": str(out)}}


def fill(codec, out, data=DATA, **more):
    source = catalogue().build(resolve("source", data), (16, 16))
    return shards.precompute_latents(codec, source, out, name="test", device=CPU, **more)


def see(out, data=DATA, **more):
    objective = catalogue().build(resolve("objective", COLOUR), TokenizerConfig.read(MODEL).spec)
    source = catalogue().build(resolve("source", data), (16, 16))
    return shards.precompute_features([objective], source, out, device=CPU, dtype="fp32", **more)


def losses(run):
    names = ("loss", "toy/colour", "decoder/flow")
    lines = (run.folder / "log.jsonl").read_text().splitlines()
    return torch.tensor([[json.loads(line).get(name, 0.0) for name in names] for line in lines])


@pytest.mark.slow
def test_latents_and_features_train_as_images_do(start, tmp_path, go, monkeypatch):
    monkeypatch.setattr(shards, "BYTES", 7 * 4 * 8 * 8 * 4)  # seven rows a shard
    path, out = start(), tmp_path / "latents"
    filled = fill(load_file(path).codec, out, batch_size=5)
    see(out, batch_size=3)
    assert (filled.count, filled.shapes["latents"]) == (20, (4, 8, 8))
    assert len(list(out.glob("latents-*.safetensors"))) == 3
    ways = {"images": {}, "latents": kept_in(out)}
    runs = [go(Run.create(config(path, **run), tmp_path / name, CPU, {})) for name, run in ways.items()]
    images, latents = map(losses, runs)
    torch.testing.assert_close(latents, images, rtol=1e-5, atol=1e-6)
    assert (images[:, 1] > 0).all()
    batch = next(runs[1].feed.batches(0))
    assert batch.images is None
    assert batch.condition is not None
    assert torch.equal(batch.condition.labels, next(runs[0].feed.batches(0)).condition.labels)


@pytest.mark.slow
def test_a_codec_that_draws_draws_at_each_step_as_from_images(tmp_path, go, monkeypatch):
    def drawn(self, moments, *, rng):
        return moments + 0.3 * rng.normal("codec/test", moments.shape[1:])

    monkeypatch.setattr(IdentityCodec, "moments", lambda self, images: images)
    monkeypatch.setattr(IdentityCodec, "drawn", drawn)
    monkeypatch.setattr(IdentityCodec, "encode", lambda self, images, *, rng: drawn(self, images, rng=rng))
    codec = Tokenizer(TokenizerConfig.read({**MODEL, "codec": "identity"})).codec
    fill(codec, tmp_path / "moments")
    fill(codec, tmp_path / "sample", posterior="sample")
    ways = {name: kept_in(tmp_path / name) for name in ("moments", "sample")}
    found = {
        name: losses(go(Run.create(config(codec="identity", objectives=(), **run), tmp_path / f"run-{name}", CPU, {})))
        for name, run in {"images": {}, **ways}.items()
    }
    torch.testing.assert_close(found["moments"], found["images"], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(found["sample"], found["images"], rtol=1e-5)
    about = [Shards.read(tmp_path / name, "latents").about.of["latents"] for name in ways]
    assert [(each["posterior"], each.get("seed")) for each in about] == [("moments", None), ("sample", 0)]


def test_what_is_not_the_runs_is_refused(start, tmp_path):
    path, out = start(), tmp_path / "latents"
    fill(load_file(path).codec, out)

    def refused(words, **run):
        with pytest.raises(ConfigError, match=words):
            Run.create(config(**{"path": path, **kept_in(out), **run}), tmp_path / "run", CPU, {})

    refused(r"holds no features 'toy' for it; make them: flexframe precompute features")
    see(out)
    refused("latents of another codec .test. than the run's", path=start(1))
    refused("count was 20 and is 19", data={**DATA, "count": 19})
    told = "not what the features 'toy' in .* were made for: of was .mean. and is .spread."
    refused(told, objectives=[{**COLOUR, "of": "spread"}])
    refused(r"run\.transforms: feed .latents. has images as they were .*leave out .flip.", transforms=["flip"])
    refused("holds no latents; make them", **kept_in(tmp_path))
    (out / "latents-00000.safetensors").rename(out / "aside")
    refused("lacks 1 of 1 shards")
    (out / "aside").rename(out / "latents-00000.safetensors")
    Run.create(config(path, **kept_in(out)), tmp_path / "run", CPU, {}).close()


def test_settings_that_came_since_are_at_their_defaults_in_what_was_recorded_before(start, tmp_path):
    path, out = start(), tmp_path / "latents"
    fill(load_file(path).codec, out)
    record = out / "latents.json"
    held = json.loads(record.read_text())
    del held["checksum"], held["source"]["split"]  # as a version wrote it that had no such setting
    record.write_text(json.dumps(held))
    assert fill(load_file(path).codec, out).resumed == 20
    Run.create(config(path, objectives=[], **kept_in(out)), tmp_path / "run", CPU, {}).close()
    with pytest.raises(ConfigError, match=r"made of: split was 'train' and is 'val'"):
        Run.create(config(path, **kept_in(out), data={**DATA, "split": "val"}), tmp_path / "other", CPU, {})


@pytest.mark.slow
def test_a_precomputation_goes_on_where_it_stopped(start, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "BYTES", 7 * 4 * 8 * 8 * 4)
    codec, out = load_file(start()).codec, tmp_path / "latents"

    def stop(done, of):
        if done >= 14:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fill(codec, out, progress=stop)
    assert fill(codec, out).resumed == 14
    whole = Shards.read(out, "latents").take(range(20))
    fill(codec, tmp_path / "other")
    other = Shards.read(tmp_path / "other", "latents").take(range(20))
    assert torch.equal(whole["latents"], other["latents"])
    assert torch.equal(whole["labels"], other["labels"])
    file = out / "latents-00001.safetensors"
    content = bytearray(file.read_bytes())
    content[content.index(whole["latents"][9].numpy().tobytes()) + 2] ^= 1
    file.write_bytes(content)
    assert torch.equal(Shards.read(out, "latents").take([8, 10])["latents"], whole["latents"][[8, 10]])
    with pytest.raises(
        ConfigError, match=r"latents-00001\.safetensors: row 2 was changed after .*; delete it, and rep"
    ):
        Shards.read(out, "latents").take([9])
    renamed = content.replace(b'"crc32"', b'"crc22"')
    file.write_bytes(renamed)  # a flipped bit, in the name
    with pytest.raises(ConfigError, match=r"latents-00001\.safetensors: holds 'crc22', .*; delete it"):
        Shards.read(out, "latents").take([9])
    file.write_bytes(content)
    load = {name: value for name, value in read_tensors(file).items() if name != "crc32"}
    save_file(load, file)  # as one of before
    assert not torch.equal(Shards.read(out, "latents").take([9])["latents"][0], whole["latents"][9])
    with pytest.raises(ConfigError, match="was begun otherwise: dtype was 'fp32' and is 'fp16'"):
        fill(codec, out, dtype="fp16")


def test_what_a_killed_precomputation_left_goes_and_that_of_another_kind_stays(start, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "BYTES", 7 * 4 * 8 * 8 * 4)
    codec, out = load_file(start()).codec, tmp_path / "latents"
    out.mkdir()
    names = ["latents.json", "latents-00000.safetensors", "latents-00002.safetensors", "features-00000.safetensors"]
    left = [out / f".{name}.4194304-0123abcd.part" for name in names]
    for part in left:
        part.write_bytes(b"torn")
    fill(codec, out)
    assert [part.exists() for part in left] == [False, False, False, True]  # a process may just write the features


@pytest.mark.slow
def test_other_images_are_refused_where_it_goes_on_and_where_it_is_trained_on(start, tmp_path):
    codec, out, photos = load_file(start()).codec, tmp_path / "latents", tmp_path / "photos"
    photos.mkdir()
    for number in range(4):
        Image.new("RGB", (16, 16), (number, 9, 9)).save(photos / f"{number}.bmp")
    data = {"type": "folder", "path": str(photos)}
    fill(codec, out, data=data)
    see(out, data=data)
    again = config(start(), **kept_in(out), data=data, batch_size=4)
    run = Run.create(again, tmp_path / "run", CPU, {})
    run.save()
    run.close()
    Image.new("RGB", (16, 16), (0, 8, 9)).save(photos / "0.bmp")
    for make in (lambda: fill(codec, out, data=data), lambda: see(out, data=data)):
        with pytest.raises(ConfigError, match=r"json: was begun with other images: .* hold something else"):
            make()
    with pytest.raises(ConfigError, match=r"holds latents of images that .*; .*holds features of images that have"):
        Run.create(again, tmp_path / "other", CPU, {})
    Run.resume(tmp_path / "run", CPU).close()  # goes on with the latents that it began with
    for left in out.glob("features*"):
        left.unlink()
    see(out, data=data)
    shutil.rmtree(photos)
    with pytest.raises(ConfigError, match="holds features of other images than its latents"):
        Run.create(again, tmp_path / "other", CPU, {})


@pytest.mark.slow
def test_commands_fill_a_folder_for_a_run(start, tmp_path, command, monkeypatch):
    recipe = tmp_path / "recipe.yaml"
    found = config(start()).model_dump(mode="json")
    about = {"summary": "a test", "licence": "none", "source": "a test", "model": found["model"], "run": found["run"]}
    recipe.write_text(json.dumps(about))
    out = tmp_path / "latents"
    for kind in ("latents", "features"):
        answer = command("precompute", kind, str(recipe), "-o", str(out), "--dtype", "fp16", "--device", "cpu")
        assert answer.code == 0, answer.err
        assert f"{kind} of 20 images" in answer.out
    assert Shards.read(out, "latents").take([3])["latents"].dtype == torch.float16
    run = Run.create(config(tmp_path / "codec-0.safetensors", **kept_in(out)), tmp_path / "run", CPU, {})
    batch = next(run.feed.batches(0))
    run.close()
    assert (batch.latents.dtype, batch.features["toy"].shape[1:]) == (torch.float32, (3,))


@pytest.mark.slow
def test_the_codecs_precision_is_the_runs_or_the_commands_and_is_recorded(start, tmp_path, command, go, monkeypatch):
    seen, encode = [], ToyCodec.encode

    def spied(self, images, *, rng):
        seen.append(self.precision)
        return encode(self, images, rng=rng)

    monkeypatch.setattr(ToyCodec, "encode", spied)
    recipe, out = tmp_path / "recipe.yaml", str(tmp_path / "latents")
    found = config(start(), codec_precision="bf16", feed={"type": "images", "keep_latents": True}, steps=1)
    about = {"summary": "a test", "licence": "none", "source": "a test", "model": MODEL}
    recipe.write_text(json.dumps({**about, "run": found.model_dump(mode="json")["run"]}))
    go(Run.create(found, tmp_path / "run", CPU, {}))
    assert set(seen) == {"bf16"}
    seen.clear()
    assert command("precompute", "latents", str(recipe), "-o", out).code == 0
    assert set(seen) == {"bf16"}
    assert Shards.read(tmp_path / "latents", "latents").about.of["latents"]["precision"] == "bf16"
    answer = command("precompute", "latents", str(recipe), "-o", out, "--precision", "fp32")
    assert "begun otherwise: of.latents.precision was 'bf16' and is none" in answer.err
    assert (
        "--precision: is 'half'; it is one of fp32, bf16"
        in command("precompute", "latents", str(recipe), "-o", out, "--precision", "half").err
    )
    seen.clear()
    assert command("precompute", "latents", str(recipe), "-o", f"{out}32", "--precision", "fp32").code == 0
    assert set(seen) == {"fp32"}


def test_latents_are_refused_to_an_encoder_of_images(start, tmp_path, monkeypatch):
    monkeypatch.setattr(type(TokenizerConfig.read(MODEL).encoder), "reads", "images")
    with pytest.raises(ConfigError, match=r"run\.feed: reads no images, and encoder 'toy' does"):
        Run.create(config(start(), **kept_in(tmp_path / "none")), tmp_path / "run", CPU, {})
