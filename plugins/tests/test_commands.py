"""The command line with real parts: swaps by one word, an allocator, a prior's own settings. On toys: tests/."""

import json

import pytest
from PIL import Image

import flexframe
from flexframe.data.tokenfile import TokenFile

CPU = ("--device", "cpu")
QUICK = ("run.steps=2", "run.batch_size=8", "run.optimizer.warmup=2", "run.log_every=1", "run.checkpoint_every=2")


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["flextok/digits-tiny", "quantizer=vq"],
        ["flextok/digits-tiny", "decoder=vit", "quantizer=residual-vq", "masker=pow2"],
        ["titok/digits-tiny", "decoder=flow", "quantizer=fsq"],
    ],
    ids=" ".join,
)
def test_swaps_by_one_word_train_and_load(command, tmp_path, words):
    folder = tmp_path / "run"
    answer = command("train", *words, *QUICK, "-o", folder, *CPU)
    assert answer.code == 0, answer.err
    assert "trained 2 steps" in answer.out
    model = flexframe.load(folder)
    chosen = dict(word.split("=") for word in words[1:])
    assert {kind: getattr(model.config, kind).type for kind in chosen} == chosen
    assert sum(p.numel() for p in model.parameters()) < 2_000_000


@pytest.mark.slow
def test_an_allocator_chooses_the_lengths_of_a_token_file(command, tmp_path):
    for i in range(2):
        Image.new("RGB", (16, 16), (90 * i, 40, 200)).save(tmp_path / f"{i}.png")
    settings = ("--set", "allocator.target=99", "--set", "allocator.budgets=[1, 4]")
    given = (tmp_path, "-m", "flextok/digits-tiny", "-o", tmp_path / "t.safetensors", "--allocator", "psnr", *settings)
    answer = command("encode", *given, *CPU)
    assert answer.code == 0, answer.err
    assert TokenFile(tmp_path / "t.safetensors").rows(0, 2).lengths.tolist() == [4, 4]  # none reaches 99 dB


@pytest.mark.slow
def test_a_priors_own_settings_are_options_of_generate(command, tmp_path):
    prior = ("generate", "--prior", "gpt/scenes-64-flextok", "--class", "ring,1", "--length", 2, "--count", 2, *CPU)
    options = ("--temperature", 0.9, "--top-k", 8, "--top-p", 0.95, "--guidance", 1.5, "--no-cache")
    answer = command(*prior, *options, "--set", "decoder.steps=1", "-o", tmp_path / "out")
    assert answer.code == 0, answer.err
    record = json.loads((tmp_path / "out" / "generate.json").read_text())
    given = {"temperature": 0.9, "top_k": 8, "top_p": 0.95, "guidance": 1.5, "cache": False}
    assert {name: record["sampling"][name] for name in given} == given
    assert record["decoding"]["steps"] == 1
    twice = command(*prior, "--top-k", 2, "--set", "sampling.top_k=3", "-o", tmp_path / "x")
    assert (twice.code, "sampling.top_k: and --top-k both say so" in twice.err) == (2, True)
    wrong = command(*prior, "--top-q", 0.9, "-o", tmp_path / "x")
    assert wrong.code == 2
    assert "--top-q: is no option of this command and no setting of prior 'gpt'. Did you mean '--top-p'?" in wrong.err
