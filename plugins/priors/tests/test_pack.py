"""Token files packed in the bits that a prior needs, and read back."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from flexframe.data.tokenfile import About, Row, TokenFile, write
from flexframe.models.generator import Generator
from flexframe.parts import LikelihoodPrior
from flexframe.tokens import Codes, Condition
from flexframe.use import pack as packing
from flexframe_registry import ConfigError, GeneratorConfig

pytest.importorskip("constriction")
GPT = {"type": "gpt", "width": 16, "depth": 1, "heads": 2}
MODELS = {
    "gpt": {"codebook_size": 30, "codebooks": 2, "prior": GPT},
    "gpt of digits": {"codebook_size": 30, "codebooks": 2, "classes": 3, "prior": GPT | {"split": [5, 6]}},
    "rar": {"codebook_size": 30, "codebooks": 1, "classes": 3,
            "prior": {"type": "rar", "width": 16, "depth": 1, "heads": 2}},
}  # fmt: skip


def generator(name):
    torch.manual_seed(0)
    made = Generator(GeneratorConfig.read({"length": 6, **MODELS[name]})).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    made.id = f"of/{name.replace(' ', '-')}"
    return made


def tokens(path, codebooks, count=70, labels=True, **about):
    """More than a block of rows of every length; the ids are no digits and no prefix of each other."""
    rng = np.random.default_rng(0)
    given = {"model": "a/b", "fingerprint": "0" * 64, "length": 6, "dim": 4, "codebooks": codebooks,
             "codebook_size": 30, "image_size": (8, 8), "preprocessing": {}, "seed": 0, "lengths": {},
             "flexframe": "0"}  # fmt: skip
    rows = [
        Row(2 * i, f"ä{i % 7}/{i}.png", rng.integers(0, 30, (1 + i % 6, codebooks)), i % 3 if labels else None)
        for i in range(count)
    ]
    write(path, About(**(given | about)), lambda: rows)
    return TokenFile(path)


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_what_is_packed_is_read_back_to_the_byte(name, labels, tmp_path):
    prior = generator(name)
    file = tokens(tmp_path / "t", MODELS[name]["codebooks"], labels=labels)
    done = packing.pack(file, prior, tmp_path / "p", prior="of/it")
    assert packing.unpack(tmp_path / "p", prior, tmp_path / "again") == file.count == done.count
    assert (tmp_path / "again").read_bytes() == (tmp_path / "t").read_bytes()
    rows, given = file.rows(0, file.count), labels and "classes" in MODELS[name]
    condition = None
    if "classes" in MODELS[name]:
        told = torch.arange(file.count) % 3 if given else None
        condition = Condition(torch.full((file.count,), not given), told)
    keep = torch.arange(file.longest) < rows.lengths[:, None]
    nats = -prior.prior.log_prob(Codes(rows.codes, keep), condition).double().sum()
    assert done.bits == pytest.approx(float(nats) / np.log(2), rel=2e-3, abs=2 * 64)  # two blocks, whole words
    assert done.bits != pytest.approx(done.plain_bits, rel=0.02)
    assert packing.read_how(tmp_path / "p").labelled == given


@pytest.mark.parametrize(
    ("names", "told"), [((), True), (("a", "b", "c"), True), (("b", "a", "c"), False), (("a", "b"), False)]
)
def test_classes_of_other_names_are_not_told(names, told, tmp_path, caplog):
    prior = generator("gpt of digits")
    prior.config = prior.config.model_copy(update={"class_names": ("a", "b", "c")})
    file = tokens(tmp_path / "t", 2, class_names=names)
    packing.pack(file, prior, tmp_path / "p", prior="of/it")
    assert packing.read_how(tmp_path / "p").labelled == told
    assert [f"{file.path}: its classes are not those of of/it, which is told none"] * (not told) == caplog.messages
    packing.unpack(tmp_path / "p", prior, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "t").read_bytes()


def test_a_prior_that_is_elsewhere_now_is_asked_for(command, tmp_path):
    packing.pack(tokens(tmp_path / "t", 2), generator("gpt"), tmp_path / "p", prior="path:runs/mine")
    answer = command("unpack", tmp_path / "p", "-o", tmp_path / "again", "--device", "cpu")
    assert answer.code == 2
    assert "was packed with runs/mine, which is not there, seen from this folder; say with" in answer.err.replace(
        "\n", " "
    )


def test_what_cannot_be_packed_is_told(tmp_path, monkeypatch):
    prior = generator("gpt")
    with pytest.raises(ConfigError, match="models the codes of another tokenizer than a/b"):
        packing.pack(tokens(tmp_path / "one", 1), prior, tmp_path / "p", prior="x")
    with pytest.raises(ConfigError, match="models the codes of another tokenizer"):
        packing.pack(tokens(tmp_path / "long", 2, length=7), prior, tmp_path / "p", prior="x")
    with monkeypatch.context() as patch:
        patch.setattr(type(prior.prior), "walk", LikelihoodPrior.walk)
        with pytest.raises(ConfigError, match=r"is a 'gpt', which does not say how likely each symbol is"):
            packing.pack(tokens(tmp_path / "m", 2), prior, tmp_path / "p", prior="x")
    file = tokens(tmp_path / "t", 2)
    (tmp_path / "p").touch()
    with pytest.raises(ConfigError, match="is there already"):
        packing.pack(file, prior, tmp_path / "p", prior="x")
    assert "flexframe[pack]" in packing.EXTRA


def test_another_prior_and_other_chances_are_told(tmp_path, monkeypatch):
    prior = generator("gpt")
    packing.pack(tokens(tmp_path / "t", 2), prior, tmp_path / "p", prior="of/it")
    with pytest.raises(ConfigError, match=r"packed|is packed; flexframe unpack .*/p -o"):
        TokenFile(tmp_path / "p")
    with pytest.raises(ConfigError, match="is no packed file of this version: its metadata names"):
        packing.read_how(tmp_path / "t")
    other = generator("gpt")
    torch.nn.init.normal_(other.prior.norm.weight, std=0.5)
    with pytest.raises(ConfigError, match="was packed with another prior than of/gpt: of/it"):
        packing.unpack(tmp_path / "p", other, tmp_path / "again")
    monkeypatch.setattr(packing, "weights", lambda model: packing.read_how(tmp_path / "p").weights)
    with pytest.raises(ConfigError, match=r"images 0 to 63 come to other ids: .* not the same to the last bit"):
        packing.unpack(tmp_path / "p", other, tmp_path / "again")
    assert not (tmp_path / "again").exists()
    with (tmp_path / "p").open("r+b") as file:
        file.seek(-40, 2)
        byte = file.read(1)
        file.seek(-40, 2)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(ConfigError, match="pack the tokens again"):
        packing.unpack(tmp_path / "p", prior, tmp_path / "again")


def test_a_packed_file_is_read_by_as_many_threads_as_it_was_written_by(command, tmp_path, monkeypatch):
    Image.new("RGB", (64, 64), (90, 30, 9)).save(tmp_path / "a.png")
    ours = ("-m", "flextok/scenes-64", "-p", "gpt/scenes-64-flextok", "--lengths", 2, "--device", "cpu")
    threads = torch.get_num_threads()
    try:
        done = command("encode", tmp_path / "a.png", *ours, "-o", tmp_path / "p", "--threads", 3)
        assert done.code == 0, done.err
        torch.set_num_threads(1)
        assert packing.read_how(tmp_path / "p").threads == 3
        assert command("unpack", tmp_path / "p", "-o", tmp_path / "t", "--device", "cpu").code == 0
        assert torch.get_num_threads() == 3
        monkeypatch.setattr(packing, "_sum", lambda codes, lengths: b"")
        answer = command("unpack", tmp_path / "p", "-o", tmp_path / "v", "--device", "cpu", "--threads", 2)
        assert "threads 2) as where they were coded" in answer.err.replace("\n", " ")
        assert "threads 3); unpack it as it was there" in answer.err.replace("\n", " ")
    finally:
        torch.set_num_threads(threads)


def test_what_cannot_be_packed_is_told_before_anything_is_encoded(command, tmp_path, monkeypatch):
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    given = ("encode", tmp_path / "a.png", "-m", "titok/digits-tiny", "-o", tmp_path / "t", "--device", "cpu")
    answer = command(*given, "-p", "gpt/scenes-64-titok-16")
    assert answer.code == 2
    assert "models the codes of another tokenizer than titok/digits-tiny" in answer.err.replace("\n", " ")
    monkeypatch.setitem(sys.modules, "constriction", None)
    answer = command(*given, "-p", "gpt/scenes-64-titok-16")
    assert "entropy coding needs constriction: pip install 'flexframe[pack]'" in answer.err.replace("\n", " ")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
