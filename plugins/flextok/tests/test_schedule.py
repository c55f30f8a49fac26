"""A guidance schedule in a model's settings of use: saved, loaded, decoded, benchmarked, given on a command line."""

import json

import pytest
import torch
from PIL import Image

import flexframe
from flexframe.bench import runner
from flexframe.data.tokenfile import TokenFile
from flexframe.models import modelfile
from flexframe.models.tokenizer import Tokenizer
from flexframe.nn.init import redraw_zeros
from flexframe.use.decode import decode
from flexframe.use.encode import encode
from flexframe.use.lengths import Listed
from flexframe_flextok import FlowSampling
from flexframe_registry import SuiteConfig, TokenizerConfig
from flexframe_registry.options import read_settings

SCHEDULE = [[0.0, 1.0], [0.5, 1.0], [1.0, 5.0]]
CONFIG = {
    "size": "tiny", "image_size": 16, "length": 4, "encoder": "registers", "quantizer": "fsq", "decoder": "flow",
    "masker": "pow2",
}  # fmt: skip


@pytest.fixture
def path(tmp_path):
    """The file of a model whose guidance follows a schedule."""
    torch.manual_seed(0)
    sampling = {"steps": 2, "guidance": SCHEDULE}
    model = Tokenizer(TokenizerConfig.read(CONFIG), sampling)
    redraw_zeros(model)
    file = tmp_path / "model.safetensors"
    modelfile.save(model.state_dict(), model.config, file, sampling=model.sampling.model_dump(exclude_unset=True))
    return file


def test_it_is_saved_and_loaded_and_moves_the_picture(path):
    model = flexframe.load(path)
    assert isinstance(model.sampling, FlowSampling)
    assert model.sampling.guidance == ((0.0, 1.0), (0.5, 1.0), (1.0, 5.0))
    tokens = model.encode(torch.rand(2, 3, 16, 16))
    images = model.decode(tokens)
    assert torch.equal(images, model.decode(tokens, sampling={"steps": 2, "guidance": SCHEDULE}))
    assert not torch.equal(images, model.decode(tokens, sampling={"guidance": 1.0}))


@pytest.mark.slow
def test_it_is_part_of_what_a_measured_number_is_of(path, tmp_path):
    suite = SuiteConfig.read({"data": "digits", "count": 4, "metrics": ["psnr"], "budgets": [4], "show": 0})
    results = runner.run(suite, [("a", flexframe.load(path))], tmp_path / "out").results
    (record,) = (each["use"] for each in results["protocols"].values())
    assert (record["sampling"]["steps"], record["sampling"]["guidance"]) == (2, SCHEDULE)
    assert json.loads((tmp_path / "out/results.json").read_text())["protocols"] == results["protocols"]
    again = runner.run(suite, [("a", flexframe.load(path))], tmp_path / "again").results
    other = flexframe.load(path, overrides=["sampling.guidance=3"])
    moved = runner.run(suite, [("a", other)], tmp_path / "moved").results
    assert list(again["protocols"]) == list(results["protocols"])
    assert list(moved["protocols"]) != list(results["protocols"])


def test_a_token_file_is_decoded_by_it(path, tmp_path):
    model, photo = flexframe.load(path), tmp_path / "photo.png"
    Image.new("RGB", (16, 16), (200, 40, 90)).save(photo)
    encode(model, [photo], tmp_path / "tokens.safetensors", model=f"path:{path}", rule=Listed((4,)))
    decode(TokenFile(tmp_path / "tokens.safetensors"), model, tmp_path / "png", model=f"path:{path}")
    (record,) = (json.loads(each.read_text()) for each in (tmp_path / "png").glob("*.json"))
    assert record["sampling"]["guidance"] == SCHEDULE


@pytest.mark.parametrize(
    "words",
    [(("--guidance", "[[0, 1], [0.5, 1], [1, 5]]"), ()), ((), ("sampling.guidance=[[0, 1], [0.5, 1], [1, 5]]",))],
)
def test_a_command_line_can_say_it(words):
    assert FlowSampling().laid(read_settings(FlowSampling, *words)) == FlowSampling(guidance=SCHEDULE)
