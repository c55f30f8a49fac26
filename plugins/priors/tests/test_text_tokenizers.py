"""A tokenizer whose decoder reads texts, as TA-TiTok's: trained, measured and drawn for by them."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console as Terminal

import flexframe
from flexframe.bench.reconstructions import Texts
from flexframe.models.tokenizer import Tokenizer
from flexframe.store.load import load
from flexframe.train.console import Console
from flexframe.train.loop import train
from flexframe.train.run import Run
from flexframe.use.decode import decode
from flexframe.use.generate import generate
from flexframe.use.reconstruct import reconstruct
from flexframe.use.stream import stream
from flexframe.use.window import Entrant
from flexframe_registry import ConfigError, SuiteConfig, TokenizerConfig, catalogue, suite
from flexframe_registry.cards import read_training

pytest.importorskip("flexframe_titok")
TEXTS = ["a red star", "a large blue ring"]
VIT = {"type": "vit", "width": 32, "depth": 1, "heads": 2, "patch": 4, "text": {"width": 16, "length": 8}}


def model(encoder=None, **fields):
    shape = {
        "image_size": 16, "length": 4, "codec": "identity", "quantizer": {"type": "fsq", "levels": [5, 5]},
        "encoder": {"type": "latent-tokens", "width": 32, "depth": 1, "heads": 2, "patch": 4}, "decoder": VIT,
    }  # fmt: skip
    return {**shape, **({} if encoder is None else {"conditioner": t5(encoder)}), **fields}


def t5(encoder, **fields):
    return {"type": "t5", "model": str(encoder), "width": 16, "length": 8, **fields}


def training(raw, feed="images", **data):
    run = {"data": {"type": "scenes", "complexity": 1, "count": 16, **data}, "steps": 3, "batch_size": 4, "feed": feed,
           "optimizer": {"lr": 1e-2, "warmup": 1}, "sample_every": 3, "sample_count": 2}  # fmt: skip
    return read_training({"model": raw, "run": run})


def tokenizer(encoder, **fields):
    torch.manual_seed(0)
    found = Tokenizer(TokenizerConfig.read(model(encoder, **fields))).eval()
    for parameter in found.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return found


@pytest.mark.slow
def test_training_reads_captions_and_the_file_says_what_embeds_them(encoders, tmp_path):
    runs = {}
    for name, raw, feed in (
        ("feed", model(), {"type": "images", "texts": t5(encoders["t5"])}),
        ("model", model(encoders["t5"]), "images"),
    ):
        run = Run.create(training(raw, feed), tmp_path / name, torch.device("cpu"), {})
        before = run.trainee.model.decoder.text_guidance_proj.weight.clone()
        train(run, Console(Terminal(file=io.StringIO())))
        runs[name] = load(tmp_path / name)
        assert not torch.equal(runs[name].decoder.text_guidance_proj.weight, before)
        assert list((tmp_path / name / "samples").glob("*.png"))
    one, other = runs.values()
    assert one.config.conditioner == other.config.conditioner
    assert one.config.conditioner.weights == catalogue().build(one.config.conditioner).settled().weights
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_texts_are_embedded_for_the_decoder(encoders):
    tok = tokenizer(encoders["t5"])
    tokens = tok.encode(torch.rand(2, 3, 16, 16))
    one, other = (tok.decode(tokens, texts=texts) for texts in (TEXTS, TEXTS[::-1]))
    assert torch.equal(one, tok.decode(tokens, condition=tok.told(TEXTS)))
    assert (one - other).abs().max() > 1e-3
    torch.testing.assert_close(tok.decode(tokens, texts=[TEXTS[1], TEXTS[0]])[:1], other[:1])
    none = tok.decode(tokens, texts=[None, TEXTS[1]])
    torch.testing.assert_close(none[1], one[1])
    assert (none[0] - one[0]).abs().max() > 1e-3


def test_texts_that_do_not_fit_are_refused(encoders):
    tok = tokenizer(encoders["t5"])
    tokens = tok.encode(torch.rand(2, 3, 16, 16))
    with pytest.raises(ValueError, match="texts are one a row of 2, and by themselves; there is 1 of them"):
        tok.decode(tokens, texts=TEXTS[:1])
    with pytest.raises(ValueError, match="this decoder is guided by text"):
        tok.decode(tokens)
    plain = tokenizer(None)
    with pytest.raises(ValueError, match="is given texts, and no conditioner is set; give a condition with embeddings"):
        plain.decode(tokens, texts=TEXTS)
    with pytest.raises(ValueError, match="is given texts, and it reads none; give none"):
        tokenizer(None, decoder={**VIT, "text": None}).decode(tokens, texts=TEXTS)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"decoder": {**VIT, "text": None}}, "conditioner: is 't5', and decoder 'vit' reads no texts as it is set"),
        ({"conditioner": "words"}, "conditioner: 'words' learns with a prior, and there is none here; name an encoder"),
        (
            {"decoder": {**VIT, "text": {"width": 16, "length": 7}}},
            "conditioner: gives up to 8 vectors 16 wide, and decoder 'vit' reads up to 7 of 16; set the one like",
        ),
        (
            {"decoder": {**VIT, "text": {"width": 12, "length": 8}}},
            "conditioner: gives up to 8 vectors 16 wide, and decoder 'vit' reads up to 8 of 12; set the one like",
        ),
    ],
)
def test_conditioners_that_are_refused(encoders, fields, told):
    with pytest.raises(ConfigError, match=f"^{told}"):
        TokenizerConfig.read(model(encoders["t5"], **fields))


def test_trainings_that_are_refused(encoders, tmp_path):
    def feed(config):
        return catalogue().build(config.run.feed, config, torch.device("cpu"))

    with pytest.raises(ConfigError, match=r"^run\.feed\.texts: decoder 'vit' reads texts, and nothing embeds any"):
        feed(training(model()))
    with pytest.raises(ConfigError, match=r"^run\.feed\.texts: is another than model\.conditioner; leave one of the"):
        feed(training(model(encoders["t5"]), {"type": "images", "texts": t5(encoders["other"])}))
    with pytest.raises(
        ConfigError, match="texts: 'words' learns with a prior, and there is none here; name an encoder"
    ):
        training(model(), {"type": "images", "texts": "words"})
    digits = training(model(encoders["t5"])).model_copy()
    data = read_training({"model": model(encoders["t5"]), "run": {"data": {"type": "digits", "split": "train"}}})
    with pytest.raises(ConfigError, match=r"^run\.data: has no captions, .* leave model\.conditioner and"):
        feed(digits.model_copy(update={"run": data.run}))


SUITE = {"data": {"type": "scenes", "split": "val", "count": 6, "complexity": 1}, "metrics": ["psnr"], "show": 2}


def measured(tmp_path, tok, name="out", **changes):
    path = tmp_path / f"{name}.yaml"
    path.write_text(json.dumps({**SUITE, **changes}))
    return flexframe.bench(path, tok, out=tmp_path / name, device="cpu").results


@pytest.mark.slow
def test_a_benchmark_reads_the_captions_of_its_images(encoders, tmp_path):
    tok = tokenizer(encoders["t5"])
    tok.save(tmp_path / "m.safetensors")
    tok = load(str(tmp_path / "m.safetensors"))
    found = measured(tmp_path, tok)
    (name,) = found["models"]
    source = catalogue().build(suite(str(tmp_path / "out.yaml")).data, (16, 16))
    images = torch.stack([each.image for each in source.samples(range(6))]).float() / 255
    captions = [[*each.values()][-1] for each in source.read_captions(range(6))]
    assert len(set(captions)) > 1
    rebuilt = (tok.decode(tok.encode(images), texts=captions) * 255).round() / 255
    psnr = -10 * (rebuilt - images).square().mean((1, 2, 3)).log10()
    assert found["per_image"][name]["4"]["psnr"] == pytest.approx(psnr.tolist(), abs=2e-3)
    assert "the caption of each image that says most" in json.dumps(found["protocols"])


@pytest.mark.slow
def test_classes_with_names_stand_for_captions(encoders, tmp_path):
    tok, images = tokenizer(encoders["t5"]), []
    for i, name in enumerate(("red", "ring")):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.new("RGB", (16, 16), (100 * i, 50, 90)).save(tmp_path / "images" / name / "a.png")
        images.append(torch.tensor([100 * i, 50, 90]).view(3, 1, 1).expand(3, 16, 16) / 255)
    found = measured(tmp_path, tok, data={"type": "folder", "path": str(tmp_path / "images")}, show=0)
    assert "A photo of a <class>." in json.dumps(found["protocols"])
    given = torch.stack(images)
    rebuilt = (tok.decode(tok.encode(given), texts=["A photo of a red.", "A photo of a ring."]) * 255).round() / 255
    psnr = -10 * (rebuilt - given).square().mean((1, 2, 3)).log10()
    (name,) = found["models"]
    assert found["per_image"][name]["4"]["psnr"] == pytest.approx(psnr.tolist(), abs=2e-3)


@pytest.mark.slow
def test_images_without_captions_among_others_have_no_text_in_whatever_batch(encoders, tmp_path):
    """Not their class's: what an image is decoded by does not hang on those beside it."""
    (tmp_path / "images" / "ring").mkdir(parents=True)
    for i in range(4):
        Image.new("RGB", (16, 16), (60 * i, 50, 90)).save(tmp_path / "images" / "ring" / f"{i}.png")
    (tmp_path / "images" / "ring" / "0.txt").write_text("a red star")
    data, tok = {"type": "folder", "path": str(tmp_path / "images")}, tokenizer(encoders["t5"])
    source = catalogue().build(SuiteConfig.read({**SUITE, "data": data}).data, (16, 16))
    texts = Texts()
    texts.see(source, [tok])
    assert texts.of(tok, range(4)) == {"texts": ["a red star", None, None, None]}
    assert [texts.of(tok, [i])["texts"] for i in range(4)] == [["a red star"], [None], [None], [None]]


def test_images_without_words_are_refused(encoders, tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(3):
        Image.new("RGB", (16, 16), (80 * i, 0, 0)).save(tmp_path / "images" / f"{i}.png")
    data = {"type": "folder", "path": str(tmp_path / "images")}
    with pytest.raises(ConfigError, match="decodes with texts, and the suite's images have neither captions nor named"):
        measured(tmp_path, tokenizer(encoders["t5"]), data=data)
    with pytest.raises(ConfigError, match="reads texts, and names no encoder of them; set its `conditioner`"):
        measured(tmp_path, tokenizer(None))


def prior(tok, **fields):
    from flexframe.models.generator import Generator
    from flexframe_registry import GeneratorConfig

    torch.manual_seed(1)
    shape = {"length": 4, "codebook_size": 25, "prior": {"type": "gpt", "width": 32, "depth": 1, "heads": 2}}
    words = {"conditioner": {"type": "words", "width": 16, "depth": 1, "heads": 2, "length": 8}}
    return Generator(GeneratorConfig.read({**shape, **words, **fields})).eval()


def test_a_prior_draws_and_the_decoder_reads_the_same_text(encoders, tmp_path):
    from flexframe.pictures import to_uint8
    from flexframe.rng import Rng

    tok = tokenizer(encoders["t5"])
    drawing = prior(tok)
    generate(drawing, tok, tmp_path / "drawn", texts=TEXTS, count=3)
    texts = [TEXTS[0], TEXTS[1], TEXTS[0]]
    rng = Rng(0, torch.arange(3))
    codes = drawing.sample(texts=texts, rng=rng).codes
    expected = to_uint8(tok.decode(tok.tokens(codes), texts=texts, rng=rng))
    for i in range(3):
        found = torch.from_numpy(np.asarray(Image.open(tmp_path / "drawn" / "4" / f"{i:05d}.png")).copy())
        assert torch.equal(found.permute(2, 0, 1), expected[i])
    classes = prior(tok, conditioner=None, classes=2)
    for call in (generate, stream):
        with pytest.raises(ConfigError, match="its decoder reads texts, and there are none; give --text"):
            call(classes, tok, tmp_path / "no", classes=[0], count=2)
    with pytest.raises(ConfigError, match="it names no encoder of them; set its `conditioner`"):
        generate(drawing, tokenizer(None), tmp_path / "no", texts=TEXTS)


def test_latents_without_captions_are_refused(encoders):
    raw = model(encoders["t5"])
    config = training(raw, {"type": "latents", "path": "latents"})
    with pytest.raises(ConfigError, match=r"^run\.feed: has no captions, and decoder 'vit' reads texts; set run\.feed"):
        catalogue().build(config.run.feed, config, torch.device("cpu"))


def test_what_has_no_texts_says_so(encoders, tmp_path):
    from flexframe.data.tokenfile import TokenFile
    from flexframe.use.encode import encode
    from flexframe.use.lengths import Fixed

    tok = tokenizer(encoders["t5"])
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    with pytest.raises(ConfigError, match="its decoder reads texts, and there are none; this page has none"):
        Entrant("m", tok, "torchvision-bicubic")
    with pytest.raises(ConfigError, match="its decoder reads texts, and there are none; `flexframe bench` takes the"):
        reconstruct(tok, [tmp_path / "a.png"])
    tok.save(tmp_path / "m.safetensors")
    tok = load(str(tmp_path / "m.safetensors"))
    encode(tok, [tmp_path / "a.png"], tmp_path / "a.safetensors", model="m", rule=Fixed(4))
    with pytest.raises(ConfigError, match="its decoder reads texts, and there are none; a file of tokens holds none"):
        decode(TokenFile(tmp_path / "a.safetensors"), tok, tmp_path / "out")
