"""Models in the form of the code bases whose importers read them: there and back, to the bit."""

import json
from pathlib import Path
from shutil import copy

import pytest
import torch

from flexframe import load
from flexframe.importing import open_foreign, understood
from flexframe.importing.export import exported
from flexframe.importing.verify import verify_folder
from flexframe.testing.golden import shared
from flexframe_registry import ConfigError

GOLDEN = shared(Path(__file__)) / "golden"
CASES = (
    "flextok_tiny", "flextok_tiny_vae", "flowmo/tokenizer", "gigatok/tokenizer", "restok/tokenizer",
    "semanticist/tokenizer", "one_d_piece/generator", "titok_tiny/vae", "titok_tiny/rar", "titok_tiny/pixel_vqgan",
)  # fmt: skip
golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no golden tensors at {GOLDEN}; set FLEXFRAME_SHARED")


def alone(case, folder):
    """A checkpoint without its cases, by which an importer may settle what its config does not say."""
    folder.mkdir()
    for file in (GOLDEN / case).iterdir():
        if file.is_file() and not file.name.startswith("case"):
            copy(file, folder)
    return folder


@golden
@pytest.mark.parametrize("case", CASES)
def test_other_weights_go_back_to_where_an_import_takes_them_from(case, tmp_path):
    source, importer = understood(open_foreign(alone(case, tmp_path / "checkpoint")))
    draws, state = torch.Generator().manual_seed(0), importer.convert(source).state
    other = {name: torch.randn(value.shape, generator=draws) if value.is_floating_point() else value
             for name, value in state.items()}  # fmt: skip
    made = exported(other, source, importer)  # which sees that it imports as the same model again
    assert made.keys() == {*source.tensors}
    assert any(not torch.equal(value.float(), source.tensors[name].float()) for name, value in made.items())


@pytest.mark.slow
@golden
def test_an_import_is_exported_and_verified(command, tmp_path):
    case = GOLDEN / "gigatok" / "tokenizer"
    assert command("import", case, "-o", tmp_path / "ours").code == 0
    answer = command("export", "model", tmp_path / "ours", "-o", tmp_path / "theirs", "--to", "reference")
    assert answer.code == 0, answer.err
    for file in case.glob("case*.safetensors"):
        copy(file, tmp_path / "theirs")
    assert all(each.passed for each in verify_folder(tmp_path / "theirs"))
    first, again = load(tmp_path / "ours").state_dict(), load(tmp_path / "theirs").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in first.items())


@golden
def test_an_importer_that_computes_and_another_model_are_told(tmp_path):
    source, importer = understood(open_foreign(GOLDEN / "gigatok" / "tokenizer"))
    state = dict(importer.convert(source).state)

    class Doubling:
        def convert(self, given):
            converted = importer.convert(given)
            held = {name: value * 2 if value.is_floating_point() else value for name, value in converted.state.items()}
            return type(converted)(converted.config, held)

    with pytest.raises(ConfigError, match=r"its importer computes .* and cannot be run backwards"):
        exported(state, source, Doubling())
    del state[next(iter(state))]
    with pytest.raises(ConfigError, match="is of another model"):
        exported(state, source, importer)


@pytest.mark.slow
def test_a_model_as_onnx_computes_what_torch_does(python, tmp_path):
    """In a process of its own: checks of shapes, which tests are run with, fix the batch that is traced."""
    for library in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(library)
    code, folder = "import flexframe.cli as c; c.main()", tmp_path / "out"
    answer = python(code, "export", "model", "titok/digits-tiny", "-o", folder)
    assert answer.returncode == 0, answer.stderr
    said = json.loads((folder / "about.json").read_text())
    assert said["files"].keys() == {"encoder.onnx", "decoder.onnx"}
    assert said["files"]["encoder.onnx"]["error"] == 0
    assert said["files"]["decoder.onnx"]["error"] < 1e-5
    import onnxruntime

    session, model = onnxruntime.InferenceSession(folder / "encoder.onnx"), load("titok/digits-tiny")
    images = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    (codes,) = session.run(None, {"images": images.numpy()})
    assert torch.equal(torch.from_numpy(codes), model.encode(images).codes)
