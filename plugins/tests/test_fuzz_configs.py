"""Cards, configs, plugins and command lines that nobody would write, by the hundred: each is a clean error or works.

Seeded, so that a case that fails is named by its number and fails again. What is drawn is mostly nearly right: a card
of the project with one setting changed, a part with one odd field, a command with one odd word.
"""

from __future__ import annotations

import io
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
from PIL import Image
from ruamel.yaml import YAML

from flexframe import cli
from flexframe_registry import (
    Component,
    ConfigError,
    QuantizerConfig,
    RunConfig,
    TokenSpec,
    UnknownName,
    cards,
    catalogue,
    create_manager,
    hookimpl,
)
from flexframe_registry.cards import card, find_cards
from flexframe_registry.catalogue import Catalogue
from flexframe_registry.files import put
from flexframe_registry.manager import Manager
from flexframe_registry.models import PARTS, TokenizerConfig
from flexframe_registry.slots import resolve

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.usefixtures("unchecked"),
    pytest.mark.filterwarnings("ignore:the card .* does not say so:FutureWarning"),  # a card may lack its `kind`
]
EACH = 160
"""Cases of each kind."""
SMALL = (0, 1, -1, 2, 3, 7, 16, 0.5, -0.25, 1e-9)
LARGE = (1e308, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**40, 1_000_000_007)
OTHER = (
    None,
    True,
    False,
    "",
    " ",
    "tiny",
    "vq",
    "none",
    "5",
    "1e3",
    "64x96",
    "[/x]",
    "\x1b[31m",
    "../..",
    "a" * 300,
    "caf\u00e9",
    "\u202e",
    float("inf"),
    float("nan"),
    [],
    [1],
    [[1]],
    ["a", 1],
    [None],
    {},
    {"type": "vq"},
    {"type": 5},
    {"type": None},
    {"type": "fsq", "levels": [8, 0]},
    {"a": {"b": 1}},
    {"": 1},
    [{"type": "flip"}, {"type": "flip"}],
)


def value(rng: random.Random) -> Any:
    return rng.choice(rng.choice((SMALL, LARGE, OTHER)))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """A command's exit code and what it printed; what it does at length is left out."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("flexframe.train.loop.train", lambda run, console: run.close())

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["flexframe", *words])
        out, err = io.StringIO(), io.StringIO()
        remarks = warnings.catch_warnings(action="default")  # none ends a command
        with remarks, redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0), out.getvalue(), err.getvalue()

    return call


def clean(code: int, out: str, err: str) -> None:
    """See that a command worked, or said in a line what is wrong."""
    told = f"{code} {err[-1500:]}"
    for word in ("not expected", "Traceback", " failed: ", "<flexframe", "object at 0x"):
        assert word not in err + out, told
    assert code in (0, 2), told
    if code == 2 and "\u256d" not in err:  # the frame of an answer about options
        lines = [line for line in err.splitlines() if not line.startswith(("warning: ", "doubt: "))]
        assert len(lines) == 1, told
        assert lines[0].startswith("flexframe: "), told
        assert len(lines[0]) > len("flexframe: ") + 10, told


# --- cards -------------------------------------------------------------------------------------------------------


def places(data: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every setting of nested data."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, inner in items:
        yield (*above, str(key))
        yield from places(inner, (*above, str(key)))


def changed(rng: random.Random, data: dict[str, Any]) -> dict[str, Any]:
    """A card with one to three settings odd, missing, misspelt or new."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        path = list(rng.choice(list(places(data))))
        how = rng.random()
        if how < 0.6:
            data = put(data, path, value(rng))
        elif how < 0.75 and not path[-1].isdecimal():
            data = put(data, [*path[:-1], rng.choice(("typ", "stepz", "size", "type", "base", "5"))], value(rng))
        else:
            holder: Any = data
            for word in path[:-1]:
                holder = holder[int(word) if isinstance(holder, list) else word]
            if isinstance(holder, dict):
                holder.pop(path[-1], None)
    return data


def test_cards(run, tmp_path, faults):
    for number, (case, rng) in enumerate(faults.draws("card", EACH)):
        name = rng.choice(cards().names())
        path = tmp_path / f"{number}.yaml"
        whole = card(name).file.model_dump(mode="json", exclude_unset=True, exclude={"base", "weights"})
        data = changed(rng, YAML(typ="safe", pure=True).load(io.StringIO(dumped(whole))))
        path.write_text(dumped(data), encoding="utf-8")
        with faults.of(f"{case} of {name}: {dumped(data)!r}"):
            code, out, err = run("show", path.name, "--config")
            clean(code, out, err)
            if code == 0:
                (tmp_path / "again.yaml").write_text(out, encoding="utf-8")
                assert card(str(tmp_path / "again.yaml")).described == card(str(path)).described
            if code == 0 and "run" in data:
                clean(*run("train", path.name, "run.data=digits", "run.stepz=1"))
    faults.none()


def dumped(data: Any) -> str:
    file = io.StringIO()
    YAML(typ="safe", pure=True).dump(data, file)
    return file.getvalue()


# --- parts -------------------------------------------------------------------------------------------------------

MODEL = {"size": "tiny", "image_size": 16, "length": 8, "encoder": "vit", "quantizer": "fsq", "decoder": "vit"}


def part_of(component: Component, fields: dict[str, Any], size: Any) -> None:
    """Read a part, and a model that has it; both read back as what they are."""
    config = resolve(component.kind, fields, size)
    assert type(config).read(config.model_dump(mode="json")) == config
    if component.kind in PARTS:
        model = TokenizerConfig.read({**MODEL, component.kind: config})
        assert TokenizerConfig.read(model.model_dump(mode="json")) == model
        assert all(text for _, text in [*config.obstacles(model.spec), *config.doubts(model.spec, 100)])


def test_parts(faults):
    every = sorted(catalogue(), key=lambda each: (each.kind, each.name))
    for case, rng in faults.draws("part", EACH):
        component = rng.choice(every)
        fields: dict[str, Any] = {"type": component.name}
        for _ in range(rng.choice((1, 1, 2))):
            fields[rng.choice(list(component.config.model_fields))] = value(rng)
        with faults.of(f"{case}: {component.kind} {fields}"):
            problems = refused(partial(part_of, component, fields, rng.choice((None, "tiny", "large"))))
            assert all(text and "object at 0x" not in text for _, text in problems)
    faults.none()


def refused(ask: Callable[[], object]) -> Sequence[tuple[str, str]]:
    """The problems of what is asked for; none where it works."""
    try:
        ask()
    except ConfigError as error:
        return error.problems
    return ()


# --- plugins -----------------------------------------------------------------------------------------------------


def plugin(rng: random.Random, folder: Path) -> Any:
    """A plugin with one or two faults, or none."""

    class Fine(QuantizerConfig):
        """Codes as they should be."""

        type: Literal["fuzzed"] = "fuzzed"

        def tokens(self, length: int, features: int) -> TokenSpec:
            return TokenSpec(length, 4, 1, 16)

    class Nameless(QuantizerConfig):
        pass

    fine = Component(Fine, "flexframe_quantizers.fsq:Fsq")

    def halfway() -> Iterator[Component]:
        yield fine
        raise KeyError("lost")

    answers: list[Callable[[], Any]] = [
        lambda: [fine], lambda: [fine, fine], lambda: None, lambda: 5, lambda: [5], lambda: [None], lambda: "fine",
        lambda: [Fine], lambda: [Component(Nameless, "a:A")], lambda: [Component(int, "a:A")], lambda: {}["lost"],
        lambda: [Component(Fine, "")], lambda: [Component(Fine, "no.such:A")], lambda: [Component(Fine, "os:nothing")],
        halfway, lambda: [Component(QuantizerConfig, "a:A")], lambda: 1 / 0, lambda: [Component(None, "a:A")],
    ]  # fmt: skip
    shelves: list[Callable[[], Any]] = [
        list, lambda: [folder], lambda: None, lambda: 5, lambda: [None], lambda: [folder / "nowhere"],
        lambda: str(folder), lambda: {}["lost"], lambda: [5], lambda: folder,
    ]  # fmt: skip
    components, given = rng.choice(answers), rng.choice(shelves)

    class Plugin:
        @hookimpl
        def flexframe_components(self) -> Any:
            return components()

        @hookimpl
        def flexframe_cards(self) -> Any:
            return given()

    return Plugin()


def use(manager: Manager) -> None:
    """Use all that a plugin gives: what is wrong with it is told where it is asked for, with whose it is."""
    found, shelf = Catalogue(manager.components(), manager.broken), find_cards(manager)
    assert all(each.plugin and len(each.error) > 5 for each in manager.broken)
    for component in found:
        told = refused_or_missing(component.load)
        assert not told or "quantizer 'fuzzed' of" in told, told
    for name in shelf.names():
        for ask in (shelf.line, shelf.get):
            told = refused_or_missing(partial(ask, name))
            assert not told or "odd" in told, told


def refused_or_missing(ask: Callable[[], object]) -> str:
    try:
        ask()
    except (ConfigError, UnknownName, ImportError) as error:
        return str(error)
    return ""


def test_plugins(tmp_path, faults):
    words = ("base: 5", "summary: 5", "- 1", "", "summary: a\nmodel: {5: 5}", "base: odd/a", "summary: [", "a: &a [*a]")
    for number, (case, rng) in enumerate(faults.draws("plugin", EACH)):
        folder = tmp_path / str(number) / "cards"
        (folder / "odd").mkdir(parents=True)
        for name in "ab":
            (folder / "odd" / f"{name}.yaml").write_text(rng.choice(words))
        with faults.of(case):
            use(create_manager([plugin(rng, folder)], points=False))
    faults.none()


# --- command lines -----------------------------------------------------------------------------------------------

LINES = (
    "list quantizer",
    "show titok/digits-tiny --config",
    "show decoder/flow",
    "show digits",
    "runs empty",
    "train titok/digits-tiny quantizer=vq run.steps=1 -o new --device cpu",
    "train gpt/scenes-64-flextok run.steps=1 -o new --device cpu",
    "train --resume empty --device cpu",
    "init titok/digits-tiny length=4 -o new/a.safetensors --force",
    "init flextok/digits-tiny decoder=vit -o new --force",
    "bench digits-smoke nowhere count=2 metrics=[psnr] -o out --device cpu",
    "bench-samples scenes-64-samples nowhere count=2 -o out --device cpu",
    "encode odd.png -m titok/digits-tiny -o t.safetensors --lengths 4 --device cpu",
    "encode good.png -m titok/digits-tiny -o t.safetensors --device cpu",
    "decode odd.safetensors -o pictures --device cpu",
    "decode t.safetensors -o pictures --length 2 --device cpu",
    "reconstruct good.png -m titok/digits-tiny -o grid.png --count 1 --device cpu",
    "generate --prior nowhere --class star --length 4 --count 1 -o out --device cpu",
    "precompute tokens -m titok/digits-tiny --data folder -o t.safetensors --device cpu",
    "precompute latents titok/digits-tiny run.data=folder -o latents --device cpu",
    "precompute features titok/digits-tiny run.data=folder -o latents --device cpu",
    "plot empty -o curves.png --metric loss --smooth 2",
    "explain odd.json odd.json",
    "import odd.safetensors -o model",
    "verify empty --table table.md",
    "new-plugin my-method -o new-plugin",
)
"""Commands as they may be given; each is cheap or ends early."""
WORDS = (
    "flextok/digits-tiny",
    "titok/digits-tiny",
    "gpt/scenes-64-flextok",
    "digits-smoke",
    "quantizer",
    "run",
    "decoder/flow",
    "odd.yaml",
    "odd.json",
    "odd.safetensors",
    "odd.tar",
    "odd.png",
    "empty",
    "nowhere",
    "nowhere.yaml",
    "[/x]",
    "",
    " ",
    "quantizer=vq",
    "quantizer=",
    "=3",
    "a.b.c=1",
    "run.steps=1",
    "run.steps=x",
    "run.data={",
    "run.data.path=nowhere",
    "length=1e9",
    "image_size=64x96",
    "model.length=2",
    "run..x=1",
    "codec:grid/taef2",
    "path:nowhere",
    "card:nowhere",
    "data=digits",
    "count=2",
    "metrics=[psnr]",
    "metrics=psnr",
    "metrics.9.type=x",
    "budgets=[0]",
    "x" * 300,
    "*",
    "..",
    "\x1b[2J",
)
GIVEN = (
    "cpu", "0", "-1", "1", "99999999999999999999", "x", "new", "new/a.safetensors", "sampling.steps=x",
    "decoder.steps=1", "allocator.target=1", "5,6", "@nowhere.csv", "psnr", "fp32", "", "digits",
    "{type: scenes", "loss", "nan", "odd.yaml",
)  # fmt: skip


def odd_line(rng: random.Random) -> list[str]:
    """A command with one or two words changed, left out, twice or new."""
    words = rng.choice(LINES).split()
    for _ in range(rng.choice((1, 1, 2))):
        place, how = rng.randrange(1, len(words) + 1), rng.random()
        if words[0] in ("train", "init") and how < 0.5:
            words.insert(2, setting(rng))
        elif how < 0.75 and place < len(words):
            words[place] = rng.choice((*WORDS, *GIVEN))
        elif how < 0.85:
            words.insert(place, rng.choice((*WORDS, *GIVEN, "--nothing", "-x", "--", "--debugg", "--help")))
        elif place < len(words):
            words[place : place + 1] = rng.choice(([], [words[place]] * 2))
    return words


def setting(rng: random.Random) -> str:
    """`key.path=value` of a model or a run."""
    component = rng.choice([each for each in catalogue() if each.kind in (*PARTS, "optimizer", "feed", "source")])
    places = {"optimizer": "run.optimizer", "feed": "run.feed", "source": "run.data"}
    keys = [f"{places.get(component.kind, component.kind)}.{name}" for name in component.config.model_fields]
    keys += [*TokenizerConfig.model_fields, *(f"run.{name}" for name in RunConfig.model_fields)]
    return f"{rng.choice(keys)}={dumped(rng.choice(rng.choice((SMALL, OTHER)))).strip().removesuffix('...').strip()}"


def test_command_lines(run, tmp_path, faults):
    (tmp_path / "empty").mkdir()
    Image.new("RGB", (20, 30), "teal").save(tmp_path / "good.png")
    odd = {"yaml": b"base: 5", "json": b"{}", "safetensors": b"\0" * 9, "tar": b"x" * 600, "png": b"x"}
    for name, content in odd.items():
        (tmp_path / f"odd.{name}").write_bytes(content)
    for case, rng in faults.draws("line", EACH):
        words = odd_line(rng)
        with faults.of(f"{case}: {words}"):
            clean(*run(*words))
    faults.none()


def test_there_are_enough_of_them():
    kinds = [name for name in globals() if name.startswith("test_")]
    assert EACH * (len(kinds) - 1) >= 600
