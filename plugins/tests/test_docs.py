"""The documents: what they name is there, the commands that they give are understood, and their code runs."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import re
import shlex
import shutil
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import typer.main
from PIL import Image

from flexframe.commands.new_plugin import render
from flexframe.commands.sampling import Sampled
from flexframe_registry import cards, catalogue
from flexframe_registry.cards import card
from flexframe_registry.doubts import obstacles, of_card
from flexframe_registry.kinds import KINDS
from flexframe_registry.options import settings_of
from flexframe_registry.slots import resolve

ROOT = Path(__file__).resolve().parents[2]
HOWTOS = sorted(path for path in (ROOT / "docs" / "howto").glob("*.md") if "flexframe_mine" in path.read_text("utf-8"))
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")),
    *(path for path in sorted(ROOT.glob("docs/**/*.md")) if path.name != "LOG.md" and path.parent.name != "adr"),
    *sorted(ROOT.glob("plugins/*/README.md")),
]
README_BYTES = 9 * 1024
FENCE = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
DOTTED = re.compile(r"flexframe(?:_[a-z]+)?(?:\.\w+)+")
FOLDERS = ("flexframe", "registry", "plugins", "tests", "benchmarks", "docs", "tools")
MADE = ("flexframe_mine", "flexframe_plain")
"""Packages that a reader makes."""
READERS = ("plain-grid", "plain-linear", "at-least", "edges", "discs", "=dim", "=csv", "rmsprop", "mlflow")
"""... and their parts."""


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def inline(page: Path) -> Iterator[str]:
    """What a page's text marks as code."""
    yield from INLINE.findall(FENCE.sub("", page.read_text(encoding="utf-8")))


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each line of `flexframe ...` in a page's blocks, without the program's name."""
    for block in FENCE.findall(page.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True) if line.startswith(("flexframe ", "torchrun ")) else []
            if words and words[0] == "torchrun":
                words = words[words.index("flexframe") :] if "flexframe" in words else []
            if words:
                yield words[1:]


def test_the_readme_is_short():
    size = (ROOT / "README.md").stat().st_size
    assert size <= README_BYTES, f"README.md has {size} bytes, above {README_BYTES}; move what is detail to docs/"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_what_a_page_names_is_there(page):
    for text in inline(page):
        if re.fullmatch(rf"(?:{'|'.join(FOLDERS)})/[\w./{{}},*-]+", text) and not any(made in text for made in MADE):
            pattern = re.sub(r"\{[^}]*\}|NN+", "*", text).rstrip("/")
            folders = (ROOT, page.parent, *ROOT.glob("plugins/*"))
            there = text in render("plain") or any(any(folder.glob(pattern)) for folder in folders)
            assert there, f"{name_of(page)} names {text}, and there is none"
        if DOTTED.fullmatch(text) and not text.startswith(MADE) and not text.endswith((".pth", ".toml")):
            assert importable(text), f"{name_of(page)} names {text}, and there is none"


def importable(name: str) -> bool:
    """Whether a dotted name is a module's, or an attribute's of one."""
    words = name.split(".")
    for count in range(len(words), 0, -1):
        module = ".".join(words[:count])
        try:
            found: Any = importlib.import_module(module)
        except ModuleNotFoundError:
            continue
        for word in words[count:]:
            if not hasattr(found, word) and word not in getattr(found, "model_fields", {}):
                return False
            found = getattr(found, word, None)
        return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_are_understood(page):
    from flexframe.cli import app

    known: Any = typer.main.get_command(app)
    for words in commands(page):
        verb, rest = words[0], words[1:]
        command = known
        if not verb.startswith("-"):
            assert verb in known.commands, f"{name_of(page)}: flexframe has no command {verb}"
            command = known.commands[verb]
            if rest and rest[0] in getattr(command, "commands", ()):
                command, rest = command.commands[rest[0]], rest[1:]
        options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        options |= {"--help", "--debug", "--quiet", "--install-completion"}
        options |= settings() if isinstance(command, Sampled) else set()
        for word in rest:
            if word.startswith("-") and not re.match(r"-\d", word):
                assert word.split("=")[0] in options, f"{name_of(page)}: flexframe {verb} has no option {word}"
        if verb == "train":
            read_training(rest)


def test_examples_of_commands_name_what_is_there():
    from flexframe.cli import app

    known: Any = typer.main.get_command(app)
    each = [*known.commands.values(), *known.commands["precompute"].commands.values()]
    words = [word for command in each for word in shlex.split((command.epilog or "").replace("\\[", "["))]
    families = {name.split("/")[0] for name in cards().names()}
    parts = {f"{component.kind}/{component.name}" for component in catalogue()}
    named = [word for word in words if word.split("/")[0] in families or word.split("/")[0] in KINDS]
    assert len(named) > 20
    assert not {word for word in named if "/" in word} - {*cards().names(), *parts}


def settings() -> set[str]:
    """Options that a decoder or a prior which is installed brings to a command."""
    samplings = [each.config.sampling for each in catalogue() if each.kind in ("decoder", "prior")]
    return {setting.option for sampling in samplings for setting in settings_of(sampling)}


def read_training(words: list[str]) -> None:
    """A training's settings, where its card is one that is installed: refused as the command would refuse them, and
    free of doubts."""
    arguments = words[: words.index("-o")] if "-o" in words else words
    if not arguments or not (arguments[0] in cards().names() or (ROOT / arguments[0]).is_file()):
        return
    overrides = [word for word in arguments[1:] if "=" in word and not word.startswith("-")]
    if any("$" in word or any(part in word for part in READERS) for word in overrides):
        return  # a shell's variables, and parts that the reader makes
    chosen = card(str(ROOT / arguments[0]) if arguments[0].endswith(".yaml") else arguments[0])
    training = chosen.train(overrides)
    told = [*obstacles(training), *of_card(chosen, training)]
    assert not told, f"flexframe train {' '.join(words)}: {told}"


@pytest.mark.parametrize("page", HOWTOS, ids=name_of)
def test_a_howto_makes_what_keeps_the_contract(page, tmp_path, monkeypatch):
    """Each file that a page shows is written, and the components are put through the contract kit."""
    from flexframe.testing import checks

    files = re.findall(r"^```python\n# (flexframe_mine/\w+\.py)\n(.*?)^```", page.read_text("utf-8"), re.M | re.DOTALL)
    assert len(files) > 1
    for path, text in files:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    if page.name == "tracker.md":
        (tmp_path / "mlflow.py").write_text(MLFLOW)
        monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "flexframe_mine"]:
        monkeypatch.delitem(sys.modules, name)
    module: ModuleType = importlib.import_module("flexframe_mine")
    try:
        for component in module.flexframe_components():
            for check in checks.of(component.kind):
                check(component, {})
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] in ("flexframe_mine", "mlflow")]:
            del sys.modules[name]


SHORTER = {
    "train": ("run.steps=2", "run.batch_size=4", "run.optimizer.warmup=1", "run.compile=false"),
    "bench": ("count=4", "metrics=[psnr]"),
    "bench-samples": ("count=4", "metrics=[codebook]"),
    "reconstruct": ("--count", "1", "--steps", "1"),
}
"""Settings that make a page's commands short."""
WORDS = {
    r", count: 200000": "",
    r"^((?:run\.data=)?)(\{type: scenes|scenes$)": r"\1{type: scenes, count: 4",
    r"(?<=count: 4)$": "}",
    r"^image_size=384$": "image_size=48",
    r"0000\.\.\d+": "0000..0001",
    r"/(data|shared)/": "shards/",
    r"\$(LR|lr)\b": "1e-4",
    r"\$SEED\b": "0",
    r"^SUITE$": "digits-smoke",
    r"^RECIPE$": "recipe.yaml",
    r"^MODEL\.\.\.$": "titok/digits-tiny",
    r"(?<=data.path=)\S*\.tar$": "shards/train-0000.tar",
    r"^benchmarks/": f"{ROOT}/benchmarks/",
}
"""... and what stands for sizes and names of the reader's, as a pattern, with what this one has. All else is as it is
written."""
APART = {"doctor", "new-plugin", "import", "verify", "stats", "probe", "results"}
"""Commands that have tests of their own and would change what is installed, take long, or need published weights or the
reader's own results."""
CODE = ("README.md", "docs/use.md", "docs/checkpoints.md")
"""Pages whose Python runs as it stands. Elsewhere it is files of a plugin, or pieces."""
ASIDE = ("writing-a-plugin.md", "tracker.md")
"""Pages of a test of their own."""
RUN = [page for page in PAGES if page.name not in ASIDE and {words[0] for words in commands(page)} - APART]
FLEXFRAME = "from flexframe import cli\ncli.main()"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", RUN, ids=name_of)
def test_every_block_runs_as_it_is_written(page, forked, install, tmp_path, monkeypatch):
    """From top to bottom; of writing-a-plugin.md the tests of `new-plugin` say so, of tracker.md the next one."""
    _what_readers_have(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, files, wrong = list[str](), dict[str, str](), list[str]()
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL):
        named = re.match(r"# (?:flexframe_mine/)?([\w-]+)\.(py|yaml)\b", block)
        if named and language == "yaml":
            (tmp_path / f"{named[1]}.yaml").write_text(block, encoding="utf-8")
        elif named:
            files[named[1]] = block
        elif language == "python" and name_of(page) in CODE:
            code.append(block)
    if files:
        install("flexframe_mine", files.pop("__init__"), **files)
    if code:
        done = forked("import flexframe\n" + "\n".join(code))
        assert done.returncode == 0, f"{name_of(page)}: {done.stderr}"
    for words in commands(page):
        if words[0] not in APART:
            given = _given(words, tmp_path, forked)
            done = forked(FLEXFRAME, *given)
            if done.returncode:
                wrong.append(f"flexframe {shlex.join(given)}: {done.stderr}")
    assert not wrong, f"{name_of(page)}:\n" + "\n".join(wrong)


MLFLOW = """
import json, types
def told(*words):
    with open("told.jsonl", "a") as file:
        file.write(json.dumps(words) + "\\n")
def start_run(run_id=None, run_name=None):
    told("start", run_id, run_name)
    return types.SimpleNamespace(info=types.SimpleNamespace(run_id="their-id"))
def set_experiment(name): told("experiment", name)
def log_dict(data, name): told("config", sorted(data), name)
def log_metrics(values, step): told("line", step, sorted(values))
def log_artifact(path, place=None): told("file", path.rpartition("/")[2], place)
def end_run(status): told("end", status)
"""
"""What stands for MLflow, with what the page uses of it."""


@pytest.mark.slow
def test_the_tracker_of_the_page_is_told_of_a_run_and_of_its_going_on(forked, install, tmp_path, monkeypatch):
    page = ROOT / "docs" / "howto" / "tracker.md"
    files = dict(re.findall(r"^```python\n# flexframe_mine/(\w+)\.py\n(.*?)^```", page.read_text(), re.M | re.DOTALL))
    assert len(files["__init__"].splitlines()) + len(files["tracker"].splitlines()) <= 70
    install("flexframe_mine", files.pop("__init__"), **files)
    (tmp_path / "mlflow.py").write_text(MLFLOW)
    (words,) = commands(page)
    for given in ([*words, "run.sample_every=20"], ["train", "--resume", "runs/mine", "run.steps=30"]):
        done = forked(FLEXFRAME, *given)
        assert done.returncode == 0, done.stderr
        assert "observer" not in done.stderr, done.stderr
    told = [json.loads(line) for line in (tmp_path / "told.jsonl").read_text().splitlines()]
    assert [words[:2] for words in told if words[0] in ("start", "end")] == [
        ["start", None], ["end", "FINISHED"], ["start", "their-id"], ["end", "FINISHED"],
    ]  # fmt: skip
    assert [words[1] for words in told if words[0] == "line"] == [10, 20, 30]
    assert {"train/loss", "optimizer/lr", "codes/used", "speed/images_per_s"} <= {*told[3][2]}
    names = {*told[3][2]}
    assert not {name for name in names if any(other.startswith(f"{name}/") for other in names)}, "a file and a folder"
    assert [words[1:] for words in told if words[0] == "file"] == [
        ["step-00000020.png", "samples"], ["model.safetensors", None],
        ["step-00000030.png", "samples"], ["model.safetensors", None],
    ]  # fmt: skip


def _given(words: list[str], folder: Path, forked: Callable[..., Any]) -> list[str]:
    """A page's command as this reader gives it. A run that it names, and that no command before it made, is made."""
    given, before = list[str](), ""
    for word in words:
        for pattern, own in WORDS.items():
            word = re.sub(pattern, own, word)
        if before != "-o" and word.startswith("runs/") and not list(folder.glob(word)):
            prior = ["gpt/scenes-64-flextok", "run.data={type: scenes, count: 4}"]
            card_of = prior if word == "runs/prior" else ["titok/digits-tiny"]
            made = forked(FLEXFRAME, "train", *card_of, *SHORTER["train"], "-o", word.replace("*", "a"))
            assert made.returncode == 0, made.stderr
        if word == "other/results.json":
            (folder / "other").mkdir()
            shutil.copy(folder / "out" / "mine" / "results.json", folder / word)
        given += sorted(str(path.relative_to(folder)) for path in folder.glob(word)) if "*" in word else [word]
        before = word
    few: tuple[str, ...] = ("run.data.count=4",) if re.search(r"-(flextok|steps)\.yaml", " ".join(words)) else ()
    few += ("run.feed.held_out=1",) if "gpt-flextok.yaml" in " ".join(words) else ()
    return [*given, *few, *(() if {"--resume", "--expect"} & {*words} else SHORTER.get(words[0], ()))]


def _what_readers_have(folder: Path) -> None:
    """The images, shards, suite, recipe, checkpoint and imported model that pages name as the reader's."""
    rng = np.random.default_rng(0)
    for place in ("photos", "DIR", "HELD_OUT_DIR", "shards"):
        (folder / place).mkdir()
        for i in range(6):
            Image.fromarray(rng.integers(0, 255, (70, 80, 3), dtype=np.uint8)).save(folder / place / f"{place}-{i}.png")
    for name in ("train-0000", "train-0001", "val-00000", "val-00001"):
        with tarfile.open(folder / "shards" / f"{name}.tar", "w") as shard:
            for path in sorted((folder / "shards").glob("*.png")):
                shard.add(path, f"{name}-{path.name}")
    suite = re.search(
        r"^```yaml\n# (mine\.yaml)\n(.*?)^```", (ROOT / "docs/benchmarks.md").read_text("utf-8"), re.M | re.S
    )
    assert suite is not None
    (folder / suite[1]).write_text(suite[2], encoding="utf-8")
    recipe = {"base": "flextok/photos-64", "run": {"data": {"type": "tar", "path": "shards/train-{0000..0001}.tar"}}}
    (folder / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    weights = cards().get("flextok/digits-tiny").weights_path()
    torch.save({"model_ema": {"weight": torch.zeros(1)}}, folder / "checkpoint-last.pth")
    (folder / "imported").mkdir()
    shutil.copy(weights, folder / "imported" / "model.safetensors")
    stated = {"path": "model.safetensors", "sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}
    card_of = {"base": "flextok/digits-tiny", "weights": stated}
    (folder / "imported" / "card.yaml").write_text(json.dumps(card_of), encoding="utf-8")


def _script(name: str) -> Any:
    """A page's script as a module."""
    about = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(about)
    about.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_gallery_puts_every_quantizer_and_masker_to_use():
    gallery = _script("gallery")
    values = torch.randn(40, 32, generator=torch.Generator().manual_seed(0))
    for name, fields in gallery.QUANTIZERS.items():
        few = fields | {"codebook_size": 8} if fields.get("codebook_size") == 1024 else fields
        quantizer, back = gallery.fitted(resolve("quantizer", few), values)
        left = values - gallery.with_one(gallery.through(quantizer, values)) @ back
        assert left.square().mean() < (values - values.mean(0)).square().mean(), name
    assert {*gallery.MASKERS} == {each.name for each in catalogue() if each.kind == "masker" and "toy" not in each.name}
    assert gallery.maskers().size[0] == 3 * 264 + 8
    assert {f"gallery-{name}" for name in ("quantizers", "lengths", "decoders", "maskers")} == {
        path.stem for path in (ROOT / "docs").glob("gallery-*")
    }


def test_the_page_of_parts_is_what_is_installed():
    parts = _script("parts")
    installed = {each.name for each in importlib.metadata.distributions()}  # one of cards alone has no part
    missing = parts.distributions() - installed
    if missing:
        pytest.skip(f"not installed here: {', '.join(sorted(missing))}")
    assert parts.PAGE.read_text("utf-8") == parts.render(), "run `python docs/parts.py`"
