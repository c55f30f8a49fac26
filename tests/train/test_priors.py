"""Priors in the one loop: on images, on kept codes, on token files; what is refused; resume."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from flexframe.models import modelfile
from flexframe.models.fingerprint import fingerprint
from flexframe.models.tokenizer import Tokenizer
from flexframe.rng import Rng
from flexframe.store.load import load
from flexframe.testing.checks import redraw_zeros
from flexframe.train.feeds.create import create_feed
from flexframe.train.run import Run
from flexframe.use import precompute
from flexframe.use.encode import encode
from flexframe.use.lengths import Fixed
from flexframe.use.precompute import precompute_tokens
from flexframe_registry import ConfigError, TokenizerConfig, TrainConfig, catalogue, hookimpl, manager
from flexframe_registry.cards import read_training
from flexframe_registry.slots import resolve

CPU = torch.device("cpu")
DATA = {"type": "scenes", "complexity": 0, "count": 20}
TOKENIZER = {
    "size": "tiny", "image_size": 16, "length": 6, "codec": "identity", "encoder": "toy", "quantizer": "toy",
    "masker": "full", "decoder": "toy-plain",
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    torch.manual_seed(0)
    found = Tokenizer(TokenizerConfig.read({**TOKENIZER, "quantizer": {"type": "toy", "levels": [4, 4]}}))
    redraw_zeros(found)
    return found.eval()


@pytest.fixture
def model(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.safetensors"
    modelfile.save(tokenizer.state_dict(), tokenizer.config, path)
    return path


def config(model, run=(), **fields):
    prior = {"type": "toy"}
    raw = {"tokenizer": str(model), "classes": 10, "prior": prior, **fields}
    settings = {"data": DATA, "steps": 4, "batch_size": 6, "log_every": 1, "checkpoint_every": 2}
    settings["optimizer"] = {"warmup": 1}
    return read_training({"model": raw, "run": settings | dict(run)})


VALUES = {"tokenizer": "toy/values", "prior": "toy-means"}
KEPT = {"feed": {"keep_tokens": True}}


def stored(file, **more):
    return {"feed": {"type": "token-file", "path": str(file), **more}}


@pytest.fixture
def train(model, tmp_path, go):
    def make(name="run", run=(), **fields):
        return go(Run.create(config(model, run, **fields), tmp_path / name, CPU, {"guidance": 2.0}))

    return make


def lines(run):
    return [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture
def file(tokenizer, model, tmp_path):
    source = catalogue().build(resolve("source", DATA), (16, 16))
    return precompute_tokens(tokenizer, source, tmp_path / "tokens" / "t.safetensors", model=f"path:{model}").path


# --- what is trained on ------------------------------------------------------------------------------------------


def test_codes_are_the_tokenizers_whichever_way_they_come(tokenizer, model, file):
    ways = ({}, KEPT, stored(file))
    feeds = [create_feed(config(model, run), CPU) for run in ways]
    source = catalogue().build(resolve("source", DATA), (16, 16))
    for batches in zip(*(feed.batches(2) for feed in feeds), strict=True):
        index = batches[0].index
        images = torch.stack([source[i].image for i in index.tolist()]).float() / 255
        wanted = tokenizer.encode(images, rng=Rng(0, index)).codes
        labels = torch.tensor([source[i].label for i in index.tolist()])
        for batch in batches:
            assert torch.equal(batch.index, index)
            assert torch.equal(batch.codes.codes, wanted)
            assert batch.codes.keep.all()
            assert torch.equal(batch.condition.labels, labels)
            assert batch.images is None
    assert feeds[0].training.model.fingerprint == fingerprint(tokenizer)
    assert feeds[0].training.model.class_names[:2] == feeds[2].training.model.class_names[:2] == ("circle", "square")


def test_kept_images_are_tokenized_once(model, monkeypatch):
    seen = []
    encode = Tokenizer.tokenized
    monkeypatch.setattr(Tokenizer, "tokenized", lambda self, images, **more: seen.append(len(images)) or encode(
        self, images, **more))  # fmt: skip
    for _ in create_feed(config(model, {**KEPT, "steps": 12}), CPU).batches(0):
        pass
    assert sum(seen) == 20


@pytest.mark.parametrize("way", [{}, KEPT])
def test_runs_on_images_and_on_their_tokens_are_equal(train, file, way):
    images, tokens = train("images", way), train("tokens", stored(file))
    one, other = (load_file(run.folder / "model.safetensors") for run in (images, tokens))
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, atol=0, rtol=0)


def test_a_shorter_prior_takes_the_first_tokens(model, file):
    feed = create_feed(config(model, stored(file), length=3), CPU)
    assert next(feed.batches(0)).codes.codes.shape == (6, 3, 1)


def test_parts_of_a_batch_have_its_gradients(train):
    one, four = train("one", {"steps": 1, "ema": 0}), train("four", {"steps": 1, "ema": 0, "accumulate": 3})
    for name, value in one.trainee.model.state_dict().items():
        torch.testing.assert_close(four.trainee.model.state_dict()[name], value, atol=1e-6, rtol=1e-4)


WORDED = {"classes": None, "conditioner": "toy-frozen"}


def test_captions_reach_training_in_their_forms(model, file):
    source = catalogue().build(resolve("source", DATA), (16, 16))
    feeds = [create_feed(config(model, run | {"steps": 8}, **WORDED), CPU) for run in ({}, KEPT, stored(file))]
    forms = set()
    for batches in zip(*(feed.batches(2) for feed in feeds), strict=True):
        known = source.read_captions(batches[0].index.tolist())
        for batch in batches:
            assert batch.condition.texts == batches[0].condition.texts
            assert batch.condition.labels is None
            assert not batch.condition.null.any()
        for text, captions in zip(batches[0].condition.texts, known, strict=True):
            forms |= {name for name, caption in captions.items() if caption == text}
    assert forms == {"class", "short", "objects", "long"}
    held = create_feed(config(model, stored(file, held_out=5), **WORDED), CPU)
    first, second = ([batch.condition.texts for batch in held.held_out()] for _ in range(2))
    assert first == second


def test_a_prior_that_reads_texts_trains_and_says_by_which_encoder(train, file):
    for name in ("toy", "toy-frozen"):
        run = train(name, stored(file), classes=None, conditioner=name)
        found = load(run.folder, kind="generator")
        assert found.config.conditioner.type == name
        assert any(key.startswith("conditioner.") for key in found.state_dict()) == (name == "toy")
        assert found.sample(texts=["a red star"]).codes.shape == (1, 6, 1)
    assert found.config.conditioner.weights is not None
    assert lines(run)[-1]["loss"] > 0


def test_data_without_captions_are_refused_for_a_prior_that_reads_texts(model):
    with pytest.raises(ConfigError, match=r"run\.data: has no captions, of 64 images that were looked at"):
        create_feed(config(model, {"data": "digits"}, **WORDED), CPU)


def test_images_without_a_caption_are_told(model, tmp_path, caplog):
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    Image.new("RGB", (16, 16)).save(tmp_path / "b.png")
    (tmp_path / "a.txt").write_text("a star")
    create_feed(config(model, {"data": {"type": "folder", "path": str(tmp_path)}}, **WORDED), CPU)
    told = "run.data: 1 of the 2 images that were looked at have no caption, and are learned without one"
    assert told in caplog.messages


def test_captions_stand_beside_the_images_that_tokens_are_of(model, tokenizer, tmp_path, go):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in "abc":
        Image.new("RGB", (16, 16)).save(photos / f"{name}.png")
        (photos / f"{name}.txt").write_text(f"a {name}")
    encode(tokenizer, [photos], tmp_path / "encoded", model="m", rule=Fixed(6))
    data = {"type": "folder", "path": str(photos)}
    with pytest.raises(
        ConfigError, match=r"encoded: does not say which images its rows are, and the prior reads their"
    ):
        create_feed(config(model, {"data": data, **stored(tmp_path / "encoded")}, **WORDED), CPU)
    source = catalogue().build(resolve("source", data), (16, 16))
    precompute_tokens(tokenizer, source, tmp_path / "t", model="m")
    settings = {"data": data, **stored(tmp_path / "t"), "batch_size": 2}
    go(Run.create(config(model, settings, **WORDED), tmp_path / "run", CPU, {}))
    (photos / "b.txt").write_text("a d")
    with pytest.raises(ConfigError, match=r"its data have changed: .* some have other captions"):
        Run.resume(tmp_path / "run", CPU, settings=["run.steps=8"])
    (photos / "c.png").unlink()
    with pytest.raises(ConfigError, match=r"run\.data: has 2 images, and .* rows of 3, so that captions would stand"):
        create_feed(config(model, settings, **WORDED), CPU)


# --- the run -----------------------------------------------------------------------------------------------------


def test_the_exported_file_is_a_generator(train, tokenizer):
    run = train()
    found = load(run.folder, kind="generator")
    assert found.config == run.config.model
    assert found.config.fingerprint == fingerprint(tokenizer)
    assert found.config.class_names[3] == "star"
    assert (found.config.length, found.config.codebook_size) == (6, 16)
    assert found.sampling.guidance == 2.0
    assert found.sample(torch.tensor([3])).codes.shape == (1, 6, 1)
    assert not any("tokenizer" in name or "encoder" in name for name in run.trainee.state_dict())


def test_the_loss_falls(train):
    run = train(run={"steps": 40, "log_every": 20, "optimizer": {"lr": 1e-1, "warmup": 1}, **KEPT})
    first, last = (line["codes"] for line in lines(run))
    assert last < 0.9 * first


def test_held_out_rows_are_measured_and_not_trained_on(train, file, tokenizer):
    ways = [train("a", {"feed": {"held_out": 5}}), train("b", stored(file, held_out=5))]
    for run in ways:
        assert len(run.feed) == 15
        assert {int(i) for batch in run.feed.batches(0) for i in batch.index} <= set(range(15))
        assert sorted(int(i) for batch in run.feed.held_out() for i in batch.index) == list(range(15, 20))
        with torch.no_grad():
            batches = list(run.feed.held_out())
            model = run.trainee.model.eval()
            each = torch.cat([model(b.codes, b.condition, rng=0)["codes"] for b in batches])
        assert lines(run)[-1]["held_out"] == pytest.approx(each.mean().item(), abs=1e-5)


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(train, model, tmp_path, go):
    class Stop:
        @hookimpl
        def flexframe_step_end(self, run, step, losses):
            if step == 3 and run.folder.name == "cut":
                raise KeyboardInterrupt("stopped")

    settings = {"steps": 6, "feed": {"held_out": 4, "keep_tokens": True}}
    stop = Stop()
    manager().register(stop)
    try:
        with pytest.raises(KeyboardInterrupt):
            train("cut", settings)
    finally:
        manager().unregister(stop)
    run = Run.resume(tmp_path / "cut", CPU)
    assert run.step == 2
    go(run)
    whole = train("whole", settings)
    one, other = (load_file(each.folder / "model.safetensors") for each in (run, whole))
    assert all(torch.equal(one[name], other[name]) for name in one)
    told = [
        [{k: v for k, v in line.items() if k not in ("images_per_s", "data_wait")} for line in lines(each)]
        for each in (run, whole)
    ]
    assert told[0] == told[1]


# --- continuous tokens ------------------------------------------------------------------------------------------


@pytest.fixture
def continuous(tmp_path):
    """A tokenizer of continuous tokens far from mean 0 and deviation 1, its model file, and a file of its tokens."""
    torch.manual_seed(0)
    raw = {**TOKENIZER, "quantizer": {"type": "toy-values", "dim": 3}}
    found = Tokenizer(TokenizerConfig.read(raw)).eval()
    with torch.no_grad():
        found.quantizer.project.weight.mul_(20)
        found.quantizer.project.bias.add_(torch.tensor([5.0, -7.0, 0.0]))
    path = tmp_path / "values.safetensors"
    modelfile.save(found.state_dict(), found.config, path)
    source = catalogue().build(resolve("source", DATA), (16, 16))
    return found, path, precompute_tokens(found, source, tmp_path / "v" / "t.safetensors", model=f"path:{path}").path


def test_the_scale_of_continuous_tokens_is_measured_and_kept(continuous, tmp_path, go):
    tokenizer, model, file = continuous
    source = catalogue().build(resolve("source", DATA), (16, 16))
    values = tokenizer.encode(torch.stack([each.image for each in source]).float() / 255).values.flatten(0, 1)
    ways, fields = ({}, KEPT, stored(file)), {"tokenizer": str(model), "prior": "toy-means"}
    feeds = [create_feed(config(model, way, **fields), CPU) for way in ways]
    for feed in feeds:
        torch.testing.assert_close(torch.tensor(feed.training.model.mean), values.mean(0), atol=1e-4, rtol=1e-4)
        wanted = values.std(0, correction=0)
        torch.testing.assert_close(torch.tensor(feed.training.model.deviation), wanted, atol=1e-4, rtol=1e-4)
    for batches in zip(*(feed.batches(2) for feed in feeds), strict=True):
        for batch in batches:
            assert batch.codes.codes.dtype == torch.float32
            assert torch.equal(batch.codes.codes, batches[0].codes.codes)
    settings = {**stored(file), "steps": 40, "optimizer": {"lr": 0.1, "warmup": 1}}
    run = go(Run.create(config(model, settings, **fields), tmp_path / "values", CPU, {}))
    assert lines(run)[0]["values"] < 3  # about 1 where tokens come scaled, 400 where they do not
    found = load(run.folder, kind="generator")
    assert found.config.mean == feeds[2].training.model.mean
    drawn = found.sample(torch.arange(10).repeat(20), sampling={"temperature": 0.0}).codes
    assert ((drawn.mean((0, 1)) - values.mean(0)).abs() < values.std(0)).all()


def test_a_scale_that_is_given_stays_and_anothers_is_refused(continuous):
    _, model, file = continuous
    fields = {"tokenizer": str(model), "prior": "toy-means"}
    measured = create_feed(config(model, stored(file), **fields), CPU).training.model
    near = {"mean": measured.mean, "deviation": [1.5 * each for each in measured.deviation]}
    far = {"mean": [0.0], "deviation": [0.1]}
    for way in (stored(file), KEPT):
        kept = create_feed(config(model, way, **fields, **near), CPU).training.model
        assert kept.deviation == tuple(near["deviation"])
        with pytest.raises(ConfigError, match=r"model\.mean: and deviation are of other tokens: .* leave both out"):
            create_feed(config(model, way, **fields, **far), CPU)


def test_a_file_of_the_other_sort_of_tokens_is_refused(continuous, model, file):
    _, path, values = continuous
    with pytest.raises(ConfigError, match="holds integer codes, and prior 'toy-means' models continuous tokens"):
        create_feed(config(path, stored(file), prior="toy-means"), CPU)
    with pytest.raises(ConfigError, match="holds continuous tokens, and prior 'toy' models integer codes"):
        create_feed(config(model, stored(values)), CPU)


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "fields", "told"),
    [
        ({"objectives": ["mse"]}, {}, r"run\.objectives: is a tokenizer's, and this trains a prior"),
        ({"feed": {"keep_latents": True}}, {}, r"run\.feed\.keep_latents: there is no such setting.*keep_tokens"),
        (
            {"feed": "images"},
            {},
            r"run\.feed: 'images' feeds a tokenizer, and this trains a generator.*token-file",
        ),
        ({"init": "x"}, {}, r"run\.init: is a tokenizer's"),
        ({**KEPT, "transforms": "flip"}, {}, r"run\.transforms: feed 'tokens' keeps one sequence an image"),
        ({**stored("x"), "transforms": ["flip"]}, {}, r"run\.transforms: feed 'token-file' has one sequence an image"),
        (stored("x", keep_tokens=True), {}, r"run\.feed\.keep_tokens: there is no such setting"),
        ({}, {"codebook_size": 64, "length": 4}, r"model\.codebook_size: is 64; that of .* is 16"),
        ({}, {"codebook_size": 16, "length": 7}, r"model\.length: is 7; .* has at most 6 tokens"),
        ({}, {"tokenizer": None, "length": 4, "codebook_size": 16}, r"model\.tokenizer: name the tokenizer"),
        ({}, {"tokenizer": "nobody/nothing"}, r"is no card and not on this disk.*give codebook_size and length"),
        (
            {},
            {"tokenizer": "toy/values"},
            "'toy' models integer codes, and tokens of 'toy/values' are continuous",
        ),
        (
            {},
            {"tokenizer": "toy/values", "length": 8, "codebook_size": 16},
            r"has continuous tokens \(quantizer 'toy-",
        ),
        ({}, {"prior": "toy-means"}, r"prior 'toy-means' models continuous tokens, and tokens of .* are codes of 16;"),
        ({}, {"prior": "toy-means", "length": 6, "dim": 6}, r"has integer codes .*, and prior 'toy-means' models cont"),
        ({}, {**VALUES, "length": 8, "dim": 5}, r"model\.dim: is 5; that of toy/values is \d+"),
        ({}, {**VALUES, "length": 8, "dim": 5, "codebook_size": 9}, r"give this, of integer codes, or dim"),
        ({}, {**VALUES, "mean": [0.0]}, r"model\.mean: comes with deviation"),
        ({}, {**VALUES, "mean": [0.0, 0.0], "deviation": [1.0]}, r"model\.mean: has 2 numbers, and a token \d+"),
        ({}, {"mean": [0.0], "deviation": [1.0]}, r"model\.mean: has 1 numbers, and integer codes have none"),
    ],
)
def test_configs_that_are_refused(model, run, fields, told):
    with pytest.raises(ConfigError, match=told):
        config(model, run, **fields)


def test_a_tokenizers_run_takes_no_tokens():
    with pytest.raises(ConfigError, match=r"run\.feed: 'token-file' feeds a generator, and this trains a tokenizer"):
        TrainConfig.read({"model": TOKENIZER, "run": {"data": DATA, **stored("x")}})


def test_tokens_of_another_tokenizer_are_refused(tokenizer, model, file):
    state = {name: value + 0.1 for name, value in tokenizer.state_dict().items()}
    modelfile.save(state, tokenizer.config, model)
    with pytest.raises(ConfigError, match=r"holds tokens of another tokenizer \(path:.*make it again"):
        create_feed(config(model, stored(file)), CPU)
    with pytest.raises(ConfigError, match=r"model\.fingerprint: is not that of the run's tokens"):
        create_feed(config(model, fingerprint=fingerprint(tokenizer)), CPU)


def test_tokens_of_other_data_are_refused(model, file):
    other = {**stored(file), "data": {**DATA, "count": 30}}
    with pytest.raises(ConfigError, match=r"run\.data: is not what .* was made of: count was 20 and is 30"):
        create_feed(config(model, other), CPU)


def test_tokens_whose_source_was_recorded_before_a_setting_came_are_of_that_source(
    tokenizer, model, tmp_path, monkeypatch
):
    source, out = catalogue().build(resolve("source", DATA), (16, 16)), tmp_path / "t.safetensors"
    recorded = {key: value for key, value in source.config.model_dump(mode="json").items() if key != "split"}
    about, make = precompute._about, lambda *given: about(*given).model_copy(update={"source": recorded})
    with monkeypatch.context() as before:
        before.setattr(precompute, "_about", make)
        with pytest.raises(InterruptedError):
            precompute_tokens(tokenizer, source, out, model=f"path:{model}", batch_size=5, progress=stop)
    precompute_tokens(tokenizer, source, out, model=f"path:{model}", batch_size=5)
    with monkeypatch.context() as before:
        before.setattr(precompute, "_about", make)
        kept = precompute_tokens(tokenizer, source, tmp_path / "whole.safetensors", model=f"path:{model}").path
    assert len(create_feed(config(model, stored(kept)), CPU)) == 20


def stop(done, of):
    if done >= 10:
        raise InterruptedError


def test_tokens_train_a_prior_without_the_tokenizer_where_its_fingerprint_is_named(tokenizer, model, file):
    fields = {"tokenizer": None, "length": 6, "codebook_size": 16}
    feed = create_feed(config(model, stored(file), **fields, fingerprint=fingerprint(tokenizer)), CPU)
    assert len(feed) == 20
    with pytest.raises(ConfigError, match=r"model\.fingerprint: is not that"):
        create_feed(config(model, stored(file), **fields, fingerprint="0" * 64), CPU)


def test_classes_need_labels_and_as_many(model, tmp_path):
    with pytest.raises(ConfigError, match=r"model\.classes: is 7; the data have 10 classes"):
        create_feed(config(model, classes=7), CPU)
    with pytest.raises(ConfigError, match=r"run\.feed\.held_out: is 20, and the data have 20 rows"):
        create_feed(config(model, {"feed": {"held_out": 20}}), CPU)


def test_without_labels_a_prior_of_classes_is_not_trained(model, tmp_path, go, tokenizer):
    from PIL import Image

    (tmp_path / "photos").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "photos" / "a.png")
    data = {"type": "folder", "path": str(tmp_path / "photos")}
    with pytest.raises(ConfigError, match=r"run\.data: has no labels"):
        go(Run.create(config(model, {"data": data}), tmp_path / "run", CPU, {}))
    go(Run.create(config(model, {"data": data, "steps": 1}, classes=None), tmp_path / "free", CPU, {}))
