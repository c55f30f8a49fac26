"""What flexframe writes, broken by the hundred: told, or of no consequence; never silently something else."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import pytest
from safetensors.torch import load_file

from flexframe.bench import runner
from flexframe.use import encode, precompute

from .conftest import MODEL, PRIOR
from .frame import Ended, Run, broken

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.usefixtures("unchecked"),
    pytest.mark.filterwarnings("always"),
]
COUNTS = {
    "model": 100, "resumed": 200, "used": 80, "listed": 60, "decode": 140, "token-file": 60, "pictures": 80,
    "encoding": 80, "tokens": 60, "latents": 80, "from-latents": 120, "results": 60, "bench": 30, "partial": 60,
    "generated": 40, "cache": 60,
}  # fmt: skip
"""Cases of each kind."""
DATA = "run.data={type: folder, path: f}"
TRAIN = ("train", "toy/plain", DATA, "run.steps=4", "run.batch_size=4", "run.log_every=1", "run.checkpoint_every=2",
         "--device", "cpu")  # fmt: skip
ENCODE = ("encode", "f", "-m", MODEL, "-o", "t.safetensors", "--device", "cpu")
DECODE = ("decode", "t.safetensors", "-m", MODEL, "-o", "p", "--device", "cpu")
TOKENS = ("precompute", "tokens", "-m", MODEL, "--data", "{type: folder, path: f}", "-o", "t.safetensors")
LATENTS = ("precompute", "latents", "-m", MODEL, "--data", "{type: folder, path: f}", "-o", "l", "--device", "cpu")
GENERATE = ("generate", "--prior", PRIOR, "--class", "all", "--count", "4", "--length", "2,8", "-o", "g",
            "--device", "cpu")  # fmt: skip
BENCH = ("bench", "digits", MODEL, "count=6", "metrics=[psnr, codebook]", "show=2", "-o", "b", "--batch-size", "2",
         "--device", "cpu")  # fmt: skip


class Break(Exception):
    """The power cut."""


@pytest.fixture
def made(whole: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    """Runs commands in the folder to work in, each of which has to work."""
    monkeypatch.chdir(whole)

    def call(*words: object) -> Ended:
        ended = run(*words)
        assert ended.code == 0, ended.err
        return ended

    return call


def contents(*patterns: str) -> Callable[[], object]:
    """The bytes of the files that match."""
    return lambda: {str(path): path.read_bytes() for each in patterns for path in Path().glob(each) if path.is_file()}


def weights(path: str) -> Callable[[], object]:
    return lambda: {name: value.tolist() for name, value in load_file(path).items()}


def settled(path: str) -> Callable[[], object]:
    """Results without times, and without what is computed of them."""

    def strip(value: object) -> object:
        if isinstance(value, dict):
            return {k: strip(v) for k, v in value.items() if k not in ("speed", "manifest", "checksum")}
        return [strip(each) for each in value] if isinstance(value, list) else value

    return lambda: strip(json.loads(Path(path).read_text()))


def stopped(run: Callable[[], object], at: int, monkeypatch: pytest.MonkeyPatch, place: object, name: str) -> None:
    """Run a command whose function of this name raises when it is called for the time `at`."""
    before, calls = getattr(place, name), []

    def counting(*args: object, **kwargs: object) -> object:
        calls.append(name)
        if len(calls) == at:
            raise Break
        return before(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(place, name, counting)
        run()
    assert len(calls) == at


def without(*patterns: str) -> None:
    for path in [path for each in patterns for path in Path().glob(each)]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


# --- models and runs -----------------------------------------------------------------------------------------------


def test_models(whole, run, fuzz):
    fuzz("model", COUNTS["model"], whole, MODEL, lambda: run(*ENCODE), contents("t.safetensors"))


@pytest.fixture
def trained(made):
    made(*TRAIN, "-o", "r")


def test_runs_that_go_on(whole, run, trained, fuzz):
    without("r/model.safetensors", "r/end.json", "r/checkpoints/step-00000004")
    go_on = ("train", "--resume", "r", "--device", "cpu")
    fuzz("resumed", COUNTS["resumed"], whole, "r/**/*", lambda: run(*go_on), weights("r/model.safetensors"))


def test_runs_whose_model_is_used(whole, run, trained, fuzz):
    without("r/model.safetensors")
    words = ("encode", "f", "-m", "r", "-o", "t.safetensors", "--device", "cpu")
    fuzz("used", COUNTS["used"], whole, "r/**/*", lambda: run(*words), contents("t.safetensors"))


def test_runs_that_are_listed(whole, run, trained, fuzz):
    said = []

    def listed() -> Ended:
        said.append(run("runs", "r"))
        return said[-1]

    def rows() -> object:
        return re.sub(r"\d+ s\b", "", said[-1].out)

    fuzz("listed", COUNTS["listed"], whole, "r/*.json*", listed, rows, loose=("log.jsonl",))


# --- tokens and pictures -------------------------------------------------------------------------------------------


def test_token_files_that_are_decoded(whole, run, made, fuzz):
    made(*ENCODE)
    fuzz("decode", COUNTS["decode"], whole, "t.safetensors", lambda: run(*DECODE), contents("p/**/*.png"))


def test_token_files_that_are_trained_on(whole, run, made, fuzz):
    made(*TOKENS)
    (whole / "prior.yaml").write_text(
        f"summary: a\nlicence: a\nsource: a\nkind: generator\nmodel: {{tokenizer: {MODEL}, classes: 2, prior: toy}}\n"
        "run: {data: {type: folder, path: f}, feed: {type: token-file, path: t.safetensors, held_out: 0}}\n"
    )
    words = ("train", "prior.yaml", "run.steps=2", "run.batch_size=4", "-o", "r", "--device", "cpu")
    fuzz(
        "token-file", COUNTS["token-file"], whole, "t.safetensors", lambda: run(*words), weights("r/model.safetensors")
    )


def test_pictures_of_a_decoding_that_was_cut(whole, run, made, fuzz):
    made(*ENCODE)
    made(*DECODE)
    without("p/b/5.png")
    fuzz("pictures", COUNTS["pictures"], whole, "p/**/*", lambda: run(*DECODE), contents("p/**/*.png"))


def test_generations_that_are_repeated(whole, run, made, fuzz):
    made(*GENERATE)
    outcome = contents("g/**/*.png", "g/*.safetensors")
    fuzz("generated", COUNTS["generated"], whole, "g/**/*", lambda: run(*GENERATE), outcome)


# --- what an interrupted command leaves ----------------------------------------------------------------------------


def test_encodings_that_were_cut(whole, run, made, monkeypatch, fuzz):
    words = (*ENCODE, "--batch-size", "2")
    stopped(lambda: run(*words), 2, monkeypatch, encode, "_encode")
    fuzz("encoding", COUNTS["encoding"], whole, "*.part", lambda: run(*words), contents("t.safetensors"))


def test_tokens_that_were_cut(whole, run, made, monkeypatch, fuzz):
    words = (*TOKENS, "--batch-size", "2")
    stopped(lambda: run(*words), 3, monkeypatch, precompute, "Rng")
    fuzz("tokens", COUNTS["tokens"], whole, "*.part", lambda: run(*words), contents("t.safetensors"))


def test_benchmarks_that_were_cut(whole, run, made, monkeypatch, fuzz):
    monkeypatch.setattr(runner, "run", partial(runner.run, save_seconds=0.0))
    stopped(lambda: run(*BENCH), 3, monkeypatch, runner.Head, "samples")
    fuzz("partial", COUNTS["partial"], whole, "b/partial/**/*", lambda: run(*BENCH), settled("b/results.json"))


# --- latents, results, what is kept --------------------------------------------------------------------------------


def test_latents_that_are_made_on(whole, run, made, fuzz):
    made(*LATENTS)
    fuzz("latents", COUNTS["latents"], whole, "l/latents.json", lambda: run(*LATENTS), contents("l/*.safetensors"))


def test_latents_and_features_that_are_trained_on(whole, run, made, fuzz):
    objective = ("decoder=toy", "run.objectives=[toy]", f"run.init=[{{from: {MODEL}, parts: [codec]}}]")
    card = ("toy/plain", "codec=toy", "encoder.patch=2", "decoder.patch=2", DATA, *objective)
    made("precompute", "latents", *card, "-o", "l", "--device", "cpu")
    made("precompute", "features", *card, "-o", "l", "--device", "cpu")
    words = ("train", *card, "run.feed={type: latents, path: l}", "run.steps=2", "run.batch_size=3", "-o", "r",
             "--device", "cpu")  # fmt: skip
    fuzz("from-latents", COUNTS["from-latents"], whole, "l/*", lambda: run(*words), weights("r/model.safetensors"))


def test_results_that_are_compared(whole, run, made, fuzz):
    made(*BENCH)
    shutil.copytree("b", "c")
    said: list[Ended] = []

    def explained() -> Ended:
        said.append(run("explain", "b", "c"))
        return said[-1]

    fuzz("results", COUNTS["results"], whole, "b/results.json", explained, lambda: said[-1].out)


def test_results_that_are_measured_again(whole, run, made, fuzz):
    made(*BENCH)
    fuzz("bench", COUNTS["bench"], whole, "b/results.json", lambda: run(*BENCH), settled("b/results.json"))


def test_what_is_kept_of_shards_and_broken_images(whole, run, made, tmp_path, faults):
    """It is made anew where it is lost, whatever it says."""
    made("encode", "f", "-m", MODEL, "-o", "known.safetensors", "--device", "cpu")
    pack(whole / "s.tar", sorted((whole / "f").rglob("*.png")))
    words = [
        ("precompute", "tokens", "-m", MODEL, "--data", f"{{type: {kind}, path: {path}, broken: skip}}", "-o")
        for kind, path in (("folder", "f"), ("tar", "s.tar"))
    ]
    home = tmp_path / "home"

    def both(name: str) -> Iterable[bytes]:
        for number, each in enumerate(words):
            made(*each, path := f"{name}-{number}.safetensors")
            yield Path(path).read_bytes()
            Path(path).unlink()

    wanted = list(both("first"))
    assert len([path for path in home.rglob("*") if path.is_file()]) >= 3
    kept = home.with_name("kept")
    shutil.copytree(home, kept)
    for name, rng in faults.draws("cache", COUNTS["cache"]):
        shutil.rmtree(home)
        shutil.copytree(kept, home)
        with faults.of(name):
            path = broken(rng, home, "*/*")
            assert list(both("again")) == wanted, path
    faults.none()


def pack(path: Path, files: Sequence[Path]) -> None:
    with tarfile.open(path, "w") as shard:
        for each in files:
            shard.add(each, each.name)


def test_there_are_enough_of_them():
    assert sum(COUNTS.values()) >= 1200
