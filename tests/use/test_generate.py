"""precompute and generate: whole sources as token files, and pictures out of a prior."""

import itertools
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flexframe.data.tokenfile import TokenFile
from flexframe.models import modelfile
from flexframe.models.fingerprint import fingerprint
from flexframe.models.generator import Generator
from flexframe.models.tokenizer import Tokenizer
from flexframe.pictures import sheet
from flexframe.rng import Rng
from flexframe.store.load import load
from flexframe.testing.checks import redraw_zeros
from flexframe.train.run import Run
from flexframe.use import precompute
from flexframe.use.decode import decode
from flexframe.use.generate import generate, powers, read_classes, read_texts
from flexframe.use.precompute import precompute_tokens
from flexframe_registry import ConfigError, GeneratorConfig, TokenizerConfig, catalogue
from flexframe_registry.cards import read_training
from flexframe_registry.files import read_json
from flexframe_registry.slots import resolve

DATA = {"type": "scenes", "complexity": 0, "count": 11}
NAMES = ("cat", "dog", "cow")
TOKENIZER = {
    "size": "tiny", "image_size": 16, "length": 6, "codec": "identity", "encoder": "toy",
    "quantizer": {"type": "toy", "levels": [4, 4]}, "masker": {"type": "toy", "every": True}, "decoder": "toy",
}  # fmt: skip


def make_tokenizer(seed=0, **fields):
    torch.manual_seed(seed)
    found = Tokenizer(TokenizerConfig.read({**TOKENIZER, **fields}), {"steps": 2})
    redraw_zeros(found)
    torch.nn.init.normal_(found.quantizer.project.weight, std=0.5)
    torch.nn.init.normal_(found.encoder.registers)
    return found.eval()


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="module")
def generator(tokenizer):
    torch.manual_seed(1)
    prior = {"type": "toy"}
    raw = {"length": 6, "codebook_size": 16, "classes": 3, "class_names": NAMES, "prior": prior}
    found = Generator(GeneratorConfig.read({**raw, "fingerprint": fingerprint(tokenizer)}))
    for parameter in found.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return found.eval().double()  # so that batches of other sizes round to the same codes


@pytest.fixture
def files(tokenizer, generator, tmp_path):
    """Model files of both, the prior naming the tokenizer."""
    modelfile.save(tokenizer.state_dict(), tokenizer.config, tmp_path / "tok.safetensors", sampling={"steps": 2})
    config = generator.config.model_copy(update={"tokenizer": str(tmp_path / "tok.safetensors")})
    modelfile.save(generator.state_dict(), config, tmp_path / "prior.safetensors")
    return tmp_path / "tok.safetensors", tmp_path / "prior.safetensors"


def scenes(**fields):
    return catalogue().build(resolve("source", {**DATA, **fields}), (16, 16))


def pixels(path):
    return np.asarray(Image.open(path))


# --- precompute --------------------------------------------------------------------------------------------------


def test_every_image_has_its_codes_its_label_and_its_id(tokenizer, tmp_path):
    source = scenes()
    told = []
    found = precompute_tokens(
        tokenizer, source, tmp_path / "t.safetensors", model="m", batch_size=4, progress=lambda *at: told.append(at)
    )
    assert (found.count, found.resumed, found.labelled) == (11, 0, True)
    assert told == [(0, 11), (4, 11), (8, 11), (11, 11)]
    file = TokenFile(tmp_path / "t.safetensors")
    images = torch.stack([source[i].image for i in range(11)]).float() / 255
    table, rows = file.table(), file.rows(0, 11)
    assert torch.equal(rows.codes, tokenizer.encode(images, rng=Rng(0, torch.arange(11))).codes)
    assert table.labels.tolist() == [source[i].label for i in range(11)]
    assert (table.lengths == 6).all()
    assert rows.ids == [source[i].id for i in range(11)]
    about = file.about
    assert (about.fingerprint, about.source, about.class_names[3]) == (
        fingerprint(tokenizer), source.config.model_dump(mode="json"), "star",
    )  # fmt: skip


def test_broken_off_it_goes_on_and_gives_the_same_bytes(tokenizer, tmp_path, monkeypatch):
    out = tmp_path / "t.safetensors"
    precompute_tokens(tokenizer, scenes(), tmp_path / "whole.safetensors", model="m", batch_size=3)

    def stop(done, of):
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        precompute_tokens(tokenizer, scenes(), out, model="m", batch_size=3, progress=stop)
    assert not out.exists()
    with pytest.raises(ConfigError, match=r"was begun otherwise: seed was 0 and is 1; repeat that command"):
        precompute_tokens(tokenizer, scenes(), out, model="m", seed=1)
    with pytest.raises(ConfigError, match=r"was begun otherwise: .*count was 11 and is 12"):
        precompute_tokens(tokenizer, scenes(count=12), out, model="m")
    assert precompute_tokens(tokenizer, scenes(), out, model="m", batch_size=2).resumed == 6
    assert out.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert not list(tmp_path.glob("*.part"))
    with pytest.raises(ConfigError, match="is there already"):
        precompute_tokens(tokenizer, scenes(), out, model="m")


def test_other_images_are_refused_where_it_goes_on_and_where_a_prior_is_trained(files, tokenizer, tmp_path):
    photos, out = tmp_path / "photos", tmp_path / "t.safetensors"
    photos.mkdir()
    for number in range(3):
        Image.new("RGB", (16, 16), (number, 9, 9)).save(photos / f"{number}.bmp")
    data = {"type": "folder", "path": str(photos)}

    def tokenize(progress=lambda done, of: None):
        source = catalogue().build(resolve("source", data), (16, 16))
        return precompute_tokens(tokenizer, source, out, model="m", batch_size=1, progress=progress)

    def stop(done, of):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenize(stop)
    Image.new("RGB", (16, 16), (0, 8, 9)).save(photos / "0.bmp")
    with pytest.raises(ConfigError, match=r"part: was begun with other images: .* hold something else; put them back"):
        tokenize()
    Image.new("RGB", (16, 16), (0, 9, 9)).save(photos / "0.bmp")  # as it was, written anew
    assert tokenize().resumed == 2
    feed = {"type": "token-file", "path": str(out)}
    model = {"tokenizer": str(files[0]), "length": 6, "codebook_size": 16, "prior": {"type": "toy"}}
    config = read_training({"model": model, "run": {"data": data, "feed": feed, "steps": 1, "batch_size": 2}})
    Image.new("RGB", (16, 16), (0, 8, 9)).save(photos / "0.bmp")
    with pytest.raises(ConfigError, match=r"holds tokens of images that have changed since: .*--accept-changes"):
        Run.create(config, tmp_path / "run", torch.device("cpu"), {})
    assert not (tmp_path / "run").exists()
    Run.create(config, tmp_path / "run", torch.device("cpu"), {}, accept=True).close()
    shutil.rmtree(photos)  # they need not be there
    Run.create(config, tmp_path / "other", torch.device("cpu"), {}).close()


def test_one_process_at_a_time(tmp_path):
    with precompute.TokenJournal(tmp_path / "x.part"), pytest.raises(ConfigError, match="another process is at work"):
        precompute.TokenJournal(tmp_path / "x.part")
    (tmp_path / "x.part").write_text("no database, and long enough to be told from an empty one" * 50)
    with pytest.raises(ConfigError, match="is not what a precomputation left behind"):
        precompute.TokenJournal(tmp_path / "x.part")


def test_the_commands_two_ways(command, files, tmp_path):
    tok, _ = files
    card = tmp_path / "prior.yaml"
    card.write_text(
        f"summary: x\nkind: generator\nmodel: {{tokenizer: {tok}, classes: 10, prior: toy}}\n"
        "run: {data: {type: scenes, complexity: 0, count: 11}, steps: 2, batch_size: 4}\n"
    )
    one = command("precompute", "tokens", card, "-o", tmp_path / "a.safetensors")
    assert one.code == 0, one.err
    assert "11 images of scenes, 6 tokens each" in one.out
    data = "{type: scenes, complexity: 0, count: 11}"
    assert command("precompute", "tokens", "-m", tok, "--data", data, "-o", tmp_path / "b.safetensors").code == 0
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    done = command(
        "train", card, f"run.feed={{type: token-file, path: {tmp_path / 'a.safetensors'}}}", "-o", tmp_path / "run"
    )
    assert done.code == 0, done.err
    assert "kind='generator'" in done.out
    assert load(tmp_path / "run", kind="generator").config.class_names[0] == "circle"
    for wrong in ((card, "--model", tok, "--data", "scenes"), ("--model", tok), ()):
        answer = command("precompute", "tokens", *wrong, "-o", tmp_path / "c.safetensors")
        assert answer.code == 2
        assert "name a prior's card, or give --model and --data" in answer.err
    answer = command("precompute", "tokens", "toy/digits-tiny", "-o", tmp_path / "c.safetensors")
    assert "describes no prior" in answer.err


# --- generate ----------------------------------------------------------------------------------------------------


def run(generator, tokenizer, folder, **settings):
    return generate(generator, tokenizer, folder, **{"classes": [2, 0], "count": 5, "lengths": [6, 2], **settings})


def test_what_a_generation_leaves(generator, tokenizer, tmp_path):
    told = []
    found = run(generator, tokenizer, tmp_path / "out", progress=lambda *at: told.append(at))
    assert (found.count, found.lengths, found.strip) == (5, (2, 6), True)
    names = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*"))
    pictures = [f"{length}/{i:05d}.png" for length in (2, 6) for i in range(5)]
    sheets = ["generate.json", "grid-2.png", "grid-6.png", "strip.png", "tokens.safetensors"]
    assert names == sorted([*pictures, *sheets])
    assert told[0] == (0, 30)
    assert told[-1] == (30, 30)  # five at each of two lengths, and a strip of five by 1, 2, 4, 6
    assert told == sorted(told)
    file = TokenFile(tmp_path / "out" / "tokens.safetensors")
    assert file.rows(0, 10).ids == pictures
    assert file.table().labels.tolist() == [2, 0, 2, 0, 2] * 2
    assert file.table().lengths.tolist() == [2] * 5 + [6] * 5
    assert pixels(tmp_path / "out" / "strip.png").shape[1] == 12 + 4 * (128 + 12)
    assert json.loads((tmp_path / "out" / "generate.json").read_text())["classes"] == [2, 0]


@pytest.mark.parametrize("at", [0, 1, 4, 11, 13])
def test_a_generation_that_is_broken_off_anywhere_ends_in_the_same_bytes(
    generator, tokenizer, tmp_path, monkeypatch, at
):
    def content(folder):
        return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    run(generator, tokenizer, tmp_path / "whole")
    replace, count = os.replace, itertools.count()

    def killed(*names):
        if next(count) == at:
            raise KeyboardInterrupt
        replace(*names)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        patch.setattr(Path, "unlink", lambda *_, **__: None)  # a killed process deletes nothing
        with pytest.raises(KeyboardInterrupt):
            run(generator, tokenizer, tmp_path / "cut")
    assert list((tmp_path / "cut").rglob("*.part"))
    run(generator, tokenizer, tmp_path / "cut")
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


def test_pictures_are_those_of_the_drawn_codes(generator, tokenizer, tmp_path):
    run(generator, tokenizer, tmp_path / "out", seed=3, sampling={"guidance": 2.0})
    rng = Rng(3, torch.arange(5))
    codes = generator.sample(torch.tensor([2, 0, 2, 0, 2]), rng=rng, sampling={"guidance": 2.0}).codes
    file = TokenFile(tmp_path / "out" / "tokens.safetensors")
    assert torch.equal(file.rows(5, 10).codes, codes)
    assert torch.equal(file.rows(0, 5).codes[:, :2], codes[:, :2])  # a shorter sample is the beginning of a longer
    decode(file, tokenizer, tmp_path / "decoded", seed=3)
    for length in (2, 6):
        for i in range(5):
            name = f"{length}/{i:05d}.png"
            assert np.abs(pixels(tmp_path / "out" / name).astype(int) - pixels(tmp_path / "decoded" / name)).max() <= 1


def test_neither_the_batch_size_nor_the_count_moves_a_picture(generator, tokenizer, tmp_path):
    run(generator, tokenizer, tmp_path / "one")
    run(generator, tokenizer, tmp_path / "two", batch_size=2)
    run(generator, tokenizer, tmp_path / "three", count=3, lengths=[6])
    run(generator, tokenizer, tmp_path / "seed", seed=1)
    one, two, other = (TokenFile(tmp_path / name / "tokens.safetensors").table() for name in ("one", "two", "seed"))
    assert (one.codes == two.codes).all()
    assert (one.codes != other.codes).any()
    assert pixels(tmp_path / "one" / "strip.png").shape == pixels(tmp_path / "two" / "strip.png").shape
    for i in range(3):
        name = f"6/{i:05d}.png"
        for folder in ("two", "three"):
            apart = np.abs(pixels(tmp_path / "one" / name).astype(int) - pixels(tmp_path / folder / name))
            assert apart.max() <= 1


def test_one_fixed_length_has_no_strip(tmp_path, generator):
    fixed = make_tokenizer(masker="full")
    free = Generator(generator.config.model_copy(update={"fingerprint": None})).eval()
    assert not run(free, fixed, tmp_path / "out", lengths=[], count=2).strip
    assert not (tmp_path / "out" / "strip.png").exists()


def test_other_lengths_than_the_one_of_a_tokenizer_are_refused(tmp_path, generator):
    fixed = make_tokenizer(masker="full")
    free = Generator(generator.config.model_copy(update={"fingerprint": None})).eval()
    told = r"--length: 1, 4: the tokenizer is of one length, 6, and other numbers of tokens are no picture to it"
    with pytest.raises(ConfigError, match=told):
        run(free, fixed, tmp_path / "out", lengths=[1, 4, 6])
    assert not (tmp_path / "out").exists()


def test_the_tokenizer_that_does_not_fit_is_named_and_not_the_priors_own(generator, tmp_path):
    other = make_tokenizer(length=4)
    other.id = "toy/other"
    own = Generator(generator.config.model_copy(update={"tokenizer": "toy/own"})).eval()
    with pytest.raises(ConfigError, match=r"model\.length: is 6; toy/other has at most 4 tokens"):
        run(own, other, tmp_path / "out")


def test_powers():
    assert [powers(n) for n in (1, 2, 3, 8)] == [(1,), (1, 2), (1, 2, 3), (1, 2, 4, 8)]


def test_classes_by_number_and_name(generator):
    read = [read_classes(text, generator.config) for text in (None, "1", "cow", "cow, 0", "all")]
    assert read == [[], [1], [2], [2, 0], [0, 1, 2]]
    with pytest.raises(ConfigError, match=r"no class 'cta'. Did you mean 'cat'\? Classes are 0\.\.2; names: cat, dog"):
        read_classes("cta", generator.config)
    with pytest.raises(ConfigError, match="no class '3'"):
        read_classes("3", generator.config)
    free = generator.config.model_copy(update={"classes": None, "class_names": ()})
    with pytest.raises(ConfigError, match="knows no classes"):
        read_classes("1", free)


def test_what_is_refused(generator, tokenizer, tmp_path):
    other = make_tokenizer(seed=5)
    with pytest.raises(ConfigError, match="was trained on codes of another tokenizer"):
        run(generator, other, tmp_path / "out")
    run(generator, other, tmp_path / "forced", count=1, lengths=[1], force=True)
    with pytest.raises(ConfigError, match=r"model\.codebook_size: is 16; that of the tokenizer is 12"):
        run(generator, make_tokenizer(quantizer={"type": "toy", "levels": [4, 3]}), tmp_path / "out")
    with pytest.raises(ConfigError, match=r"--length: 2\.\.7 is not within 1\.\.6"):
        run(generator, tokenizer, tmp_path / "out", lengths=[2, 7])
    with pytest.raises(ConfigError, match=r"sampling\.steps: there is no such setting"):
        run(generator, tokenizer, tmp_path / "out", sampling={"steps": 3})
    with pytest.raises(ConfigError, match=r"decoder\.top_k: there is no such setting"):
        run(generator, tokenizer, tmp_path / "out", decoding={"top_k": 3})
    assert not (tmp_path / "out").exists()
    run(generator, tokenizer, tmp_path / "mine")
    with pytest.raises(
        ConfigError, match=r"holds the pictures of another generation: count was 5 and is 4; name another"
    ):
        run(generator, tokenizer, tmp_path / "mine", count=4)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(ConfigError, match="is there already and not empty"):
        run(generator, tokenizer, tmp_path / "full")


# --- texts -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def worded(tokenizer):
    torch.manual_seed(1)
    raw = {"length": 6, "codebook_size": 16, "prior": "toy", "conditioner": "toy"}
    found = Generator(GeneratorConfig.read({**raw, "fingerprint": fingerprint(tokenizer)})).eval().double()
    found.id = "gpt/toy"
    return found


def test_texts_in_turn_move_pictures_and_are_told(worded, tokenizer, tmp_path):
    strong = {"classes": (), "sampling": {"guidance": 20.0}}
    texts = ["a cat", "a very long dog under a cow"]
    run(worded, tokenizer, tmp_path / "two", texts=texts, count=4, **strong)
    run(worded, tokenizer, tmp_path / "one", texts=texts[:1], count=4, **strong)
    run(worded, tokenizer, tmp_path / "none", count=4, **strong)
    two, one, none = (pixels_of(tmp_path / name / "6") for name in ("two", "one", "none"))
    assert np.array_equal(two[::2], one[::2])
    assert not np.array_equal(two[1::2], one[1::2])
    assert not np.array_equal(one, none)
    record = read_json(tmp_path / "two" / "generate.json", "")
    assert record["texts"] == texts
    assert "texts" not in read_json(tmp_path / "none" / "generate.json", "")


def pixels_of(folder):
    return np.stack([pixels(path) for path in sorted(folder.glob("*.png"))])


def test_texts_of_the_line_and_of_a_file(worded, tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("a  cat \n\na dog\n")
    assert read_texts(["a cow"], file, worded) == ["a cow", "a cat", "a dog"]
    assert read_texts([], None, worded) == []


@pytest.mark.parametrize(
    ("given", "lines", "told"),
    [
        ([" "], None, r"^--text: is empty; say what the picture is to show"),
        (["a b c d e f g"], None, r"^--text: has 7 words or pieces, and conditioner 'toy' reads 6: 'a b c d e f g'"),
        ([], "a\n\na b c d e f g\n", r"^--texts: line 3 of .*texts\.txt: has 7 words or pieces"),
        ([], " \n", r"^--texts: .*texts\.txt holds no text; write one a line"),
    ],
)
def test_texts_that_are_refused(worded, tmp_path, given, lines, told):
    file = None
    if lines is not None:
        file = tmp_path / "texts.txt"
        file.write_text(lines)
    with pytest.raises(ConfigError, match=told):
        read_texts(given, file, worded)


def test_texts_for_a_prior_that_reads_none_and_a_file_that_is_not_there(generator, worded, tmp_path):
    with pytest.raises(ConfigError, match=r"^--text: this prior reads no texts; leave it out"):
        read_texts(["a cat"], None, generator)
    with pytest.raises(ConfigError, match=r"^--texts: cannot read .*no\.txt"):
        read_texts([], tmp_path / "no.txt", worded)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ([], "44 captions of 11 images, by toy-frozen, in $FLEXFRAME_HOME/texts; 11 are longer than the 6"),
        (["model.conditioner=toy"], "conditioner 'toy' learns with the prior: there is nothing to compute before"),
        (["model.conditioner=null"], "describes no prior that reads texts; give one with model.conditioner"),
        (["run.data=digits"], "has a caption; give data with captions"),
    ],
)
def test_texts_before_training(command, files, tmp_path, fields, told):
    card = tmp_path / "card.yaml"
    model = {"tokenizer": str(files[0]), "prior": "toy", "conditioner": "toy-frozen"}
    card.write_text(json.dumps({"summary": "t", "kind": "generator", "model": model, "run": {"data": DATA}}))
    done = command("precompute", "text", card, *fields)
    assert told in done.out + done.err


def test_a_text_below_a_picture_stands_in_lines_within_its_width():
    picture = torch.zeros(3, 16, 16, dtype=torch.uint8)
    word, text = (sheet([[(picture, told)]]) for told in ("a cat", "a large red cat left of a small blue dog"))
    assert word.width == text.width
    assert text.height > word.height
    edge = np.asarray(text)[word.height - 24 :, -10:]  # of the margin beside the words
    assert (edge == 255).all()


def test_the_command(command, files, tmp_path):
    _, prior = files
    options = ["--class", "cow,1", "--length", "2,6", "--count", 3, "--temperature", 0.9]
    more = ["--guidance", 1.5, "--set", "sampling.steady=true", "--set", "decoder.steps=1", "--seed", 4]
    done = command("generate", "--prior", prior, *options, *more, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert "3 pictures of 2, 6 tokens" in done.out
    record = json.loads((tmp_path / "out" / "generate.json").read_text())
    wanted = {"temperature": 0.9, "guidance": 1.5, "steady": True}
    assert record["sampling"] == wanted
    assert (record["decoding"]["steps"], record["classes"]) == (1, [2, 1])
    twice = command(
        "generate", "--prior", prior, "--temperature", 2, "--set", "sampling.temperature=3", "-o", tmp_path / "x"
    )
    assert "sampling.temperature: and --temperature both say so" in twice.err
    long = command("generate", "--prior", prior, "--length", 9, "-o", tmp_path / "x")
    assert "--length: a length of 9; this model's are 1..6" in long.err
