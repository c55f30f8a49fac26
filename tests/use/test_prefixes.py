"""An encoder whose tokens hang on how many are kept: whoever wants another number of them encodes the images anew."""

import pytest
import torch

from flexframe.bench.extremes import rebuild
from flexframe.bench.runner import run
from flexframe.data.tokenfile import TokenFile
from flexframe.models.fingerprint import fingerprint
from flexframe.models.generator import Generator
from flexframe.pictures import psnr_of, to_uint8
from flexframe.rng import Rng
from flexframe.use.decode import decode
from flexframe.use.encode import encode, load
from flexframe.use.generate import generate
from flexframe.use.inputs import entries
from flexframe.use.lengths import Listed
from flexframe.use.precompute import precompute_tokens
from flexframe.use.reconstruct import reconstruct
from flexframe_registry import ConfigError, GeneratorConfig, SuiteConfig

from .test_generate import DATA, make_tokenizer, scenes

SHORT = 2


@pytest.fixture(scope="module")
def counting():
    return make_tokenizer(encoder={"type": "toy", "counting": True})


def of(photos):
    """Images by id, as commands read them."""
    found = sorted(entries([photos]), key=lambda entry: entry.id)
    return {entry.id: load(entry, (16, 16), "torchvision-bicubic") for entry in found}


def at(tokenizer, image, number, length, seed=0):
    """Tokens of an image that was encoded for this length."""
    return tokenizer.encode(image[None].float() / 255, lengths=length, rng=Rng(seed, torch.tensor([number])))


def test_tokens_of_fewer_are_no_first_ones(counting, pictures):
    whole = counting.encode(pictures)
    anew = counting.encode(pictures, lengths=SHORT)
    assert not torch.equal(anew.codes, whole.truncate(SHORT).codes)  # else the tests below show nothing
    assert torch.equal(counting.shortened(whole, pictures, SHORT).codes, anew.codes)
    plain = make_tokenizer()
    tokens = plain.encode(pictures)
    assert torch.equal(plain.shortened(tokens, pictures, SHORT).codes, plain.encode(pictures, lengths=SHORT).codes)


def test_a_token_file_holds_each_image_encoded_for_its_length_and_says_so(counting, photos, tmp_path):
    images, lengths = of(photos), (6, 2, 1, 5, 2, 6, 3)
    path = encode(counting, [photos], tmp_path / "t.safetensors", model="m", rule=Listed(lengths), batch_size=3).path
    file = TokenFile(path)
    assert not file.about.prefixes
    rows = file.rows(0, len(file))
    for number, (image, length) in enumerate(zip(images.values(), lengths, strict=True)):
        assert torch.equal(rows.codes[number, :length], at(counting, image, number, length).codes[0])
    with pytest.raises(ConfigError, match=r"--length.*hang on how many are kept.*encode the images again"):
        decode(file, counting, tmp_path / "out", model="m", length=SHORT)
    assert not (tmp_path / "out").exists()


def test_strips_and_benchmarks_are_of_images_encoded_for_each_length(counting, photos, tmp_path):
    strips, _ = reconstruct(counting, [photos], lengths=[SHORT, 6], count=2, sampling={"steps": 2})
    shown = list(of(photos).values())[:2]
    for number, (image, strip) in enumerate(zip(shown, strips, strict=True)):
        tokens = at(counting, image, number, SHORT)
        expected = to_uint8(counting.decode(tokens, rng=Rng(0, torch.tensor([number])), sampling={"steps": 2}))[0]
        assert strip.psnr[SHORT] == pytest.approx(psnr_of(image, expected), abs=1e-4)

    suite = SuiteConfig.read({"data": {**DATA, "count": 4}, "budgets": [SHORT, 6], "metrics": ["psnr"], "show": 0})
    report = run(suite, [("m", counting)], tmp_path / "bench", name="mine", batch_size=3)
    source = scenes(count=4)
    originals, pictures = rebuild(source, {"m": (counting, [SHORT])}, range(4), seed=0, device=torch.device("cpu"))
    results = report.results
    for number, image in enumerate(originals):
        tokens = at(counting, image, number, SHORT)
        expected = counting.decode(tokens, rng=Rng(0, torch.tensor([number])))[0]
        assert torch.equal(pictures["m"][SHORT][number], to_uint8(expected[None])[0])
        error = (expected - image / 255).square().mean()
        assert results["per_image"]["m"][str(SHORT)]["psnr"][number] == pytest.approx(
            float(-10 * error.log10()), abs=1e-3
        )
    used = next(iter(results["protocols"].values()))["use"]
    assert used["tokens"] == "encoded anew for each number"


def test_a_prior_of_fewer_tokens_takes_no_first_ones(counting, tmp_path):
    torch.manual_seed(0)
    raw = {"length": 6, "codebook_size": 16, "prior": {"type": "toy"}, "fingerprint": fingerprint(counting)}
    prior = Generator(GeneratorConfig.read(raw)).eval()
    with pytest.raises(ConfigError, match=r"--length.*hang on how many are kept, and the prior draws 6"):
        generate(prior, counting, tmp_path / "out", count=1, lengths=[SHORT])
    path = precompute_tokens(counting, scenes(), tmp_path / "t.safetensors", model="m").path
    assert not TokenFile(path).about.prefixes
