"""The commands show, doctor and init: what they tell, of what, and how they fail."""

import json
import re
import socket
import sys

import pytest
import torch

import flexframe
from flexframe import doctor
from flexframe.commands.describe import flops, size
from flexframe.doctor import examine, offline
from flexframe.models import modelfile
from flexframe_registry import cards, catalogue
from flexframe_registry.manager import ONLY, create_manager, manager

CARD = "toy/digits-tiny"


def row(answer, *words):
    """The one line that begins with these words, without them."""
    lines = [line.split() for line in answer.out.splitlines()]
    (found,) = [line[len(words) :] for line in lines if tuple(line[: len(words)]) == words]
    return found


def failed(answer):
    assert (answer.code, answer.out) == (2, "")
    return answer.err


@pytest.fixture
def unmeasured(monkeypatch):
    """Sizes alone: measuring every use of a large model takes seconds."""
    from flexframe.models import profile

    monkeypatch.setattr(profile, "USES", ())
    whole = profile.measure

    def measure(config, sampling, *, uses=("pass", "encode", "decode", "train"), **settings):
        found = whole(config, sampling, uses=(), **settings)
        costs = {(use, p): profile.Cost({}, 0, failed="left out") for use in uses for p in profile.PRECISIONS}
        return profile.Profile(found.parts, found.batch_size, costs)

    monkeypatch.setattr(profile, "measure", measure)


@pytest.mark.slow
def test_show_a_card_tells_all_that_is_promised(command, checked):
    answer = command("show", CARD, "--batch-size", 4)
    assert answer.code == 0, answer.err
    assert row(answer, "total")[:2] == ["7,187", "7,187"]
    assert row(answer, "encoder", "toy")[0] == "3,104"
    assert row(answer, "licence") == ["Apache-2.0"]
    assert row(answer, "size")[:3] == ["16", "x", "16"]
    assert row(answer, "latents")[:5] == ["3", "x", "16", "x", "16,"]
    assert row(answer, "bits", "9", "a") == ["token,", "72", "an", "image", "at", "full", "length"]
    assert row(answer, "tokens", "1") == ["2", "4", "8"]
    assert row(answer, "bits", "9", "18") == ["36", "72"]
    assert row(answer, "sampling") == ["steps", "3,", "guidance", "1.5"]
    read, place, attention, layers = 2 * 16 * 48 * 16, 2 * 16 * 2 * 16, 2 * 2 * 8 * 16 * 16, 2 * 2 * 2 * 8 * 16 * 32
    assert row(answer, "encode", "encoder") == [f"{(read + place + attention + layers) / 1000:.2f}", "KFLOP"]
    assert row(answer, "decode", "decoder,", "one", "pass")[-1] == "KFLOP"
    assert "memory for a batch of 4" in answer.out
    assert len(row(answer, "at", "once")) == 4
    assert "an estimate" in answer.out
    assert "a multiply and an add are two" in answer.out
    assert "7.5" in row(answer, "psnr_by_tokens")[5]
    assert "suite digits, 359 held-out images" in answer.out


def test_show_says_which_numbers_are_published(command, unmeasured):
    assert row(command("show", "toy/published"), "rfid")[:2] == ["2.21", "published:"]


def test_show_a_model_file_and_its_folder(command, unmeasured, tmp_path):
    assert command("init", CARD, "-o", tmp_path / "model").code == 0
    for where in (tmp_path / "model", tmp_path / "model" / "model.safetensors"):
        answer = command("show", where)
        assert answer.code == 0, answer.err
        assert row(answer, "origin") == ["random", "weights,", "not", "trained"]
        assert row(answer, "seed") == ["0"]
        assert row(answer, "total")[0] == "7,187"
        assert row(answer, "sampling")[:2] == ["guidance", "1.5,"]


@pytest.mark.parametrize("steps", [4, 2])
def test_show_a_run_finished_or_not(command, unmeasured, create, go, steps):
    run = create("run", "run.steps=4", "run.checkpoint_every=2", "run.freeze=[encoder]")
    if steps == 4:
        go(run)
    answer = command("show", run.folder)
    assert answer.code == 0, answer.err
    assert f"on digits, {4 if steps == 4 else 0} of 4 steps done" in answer.out
    assert ("the run is unfinished" in answer.out) == (steps != 4)
    assert row(answer, "encoder", "toy")[:2] == ["3,104", "0"]  # frozen


def test_show_a_card_of_ones_own(command, unmeasured, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(f"base: {CARD}\nsummary: my [own]\nmodel: {{length: 4}}\n")
    answer = command("show", path)
    assert answer.code == 0, answer.err
    assert row(answer, "what") == ["my", "[own]"]
    assert row(answer, "tokens", "up", "to")[0] == "4,"


def test_show_config_of_a_file_is_what_it_was_saved_with(command, tmp_path):
    from ruamel.yaml import YAML

    command("init", CARD, "-o", tmp_path / "a.safetensors", "length=4")
    shown = YAML(typ="safe", pure=True).load(command("show", tmp_path / "a.safetensors", "--config").out)
    assert shown["model"]["length"] == 4
    assert "overrides: length=4" in shown["source"]


def test_show_tells_the_cause_of_all_that_is_not_known(command, monkeypatch):
    from flexframe.models import profile

    whole = profile.measure

    def measure(*args, **settings):
        found = whole(*args, **settings, uses=("encode",))
        broken = profile.Cost({}, 0, failed="it is broken")
        costs = {(use, p): broken for use in profile.USES for p in profile.PRECISIONS if (use, p) != ("pass", "bf16")}
        costs["decode", "bf16"] = profile.Cost({}, 0, failed="it is odd")
        return profile.Profile(found.parts, found.batch_size, costs | found.costs)

    monkeypatch.setattr(profile, "measure", measure)
    answer = command("show", CARD)
    assert answer.code == 0, answer.err
    assert row(answer, "one", "pass,", "decode,", "train", "cannot", "be", "measured:") == ["it", "is", "broken"]
    assert row(answer, "decode", "in", "bf16", "cannot", "be", "measured:") == ["it", "is", "odd"]
    assert row(answer, "encode", "encoder")[1].endswith("FLOP")


def test_show_and_doctor_tell_that_counting_does_not_work(command, monkeypatch):
    from flexframe.models import profile

    monkeypatch.setattr(profile, "_FORMULAS", {})
    shown = " ".join(command("show", CARD).out.split())
    assert "one pass, encode, decode, train cannot be measured: counting does not work with torch" in shown
    monkeypatch.setattr(doctor, "CHECKS", {"profile": doctor.CHECKS["profile"]})
    answer = command("doctor", "--json")
    assert answer.code == 1
    (broken,) = json.loads(answer.out)["findings"]
    assert (broken["section"], broken["name"], broken["state"]) == ("profile", "FLOPs and memory", "broken")
    assert f"counting does not work with torch {torch.__version__}" in broken["text"]


def test_show_needs_something_on_this_disk(command, tmp_path):
    assert "no card named 'toy/digits-tyny'" in failed(command("show", "toy/digits-tyny"))
    assert "there is no kind 'quantiser'. Did you mean 'quantizer'?" in failed(command("show", "quantiser/toy"))
    assert "flexframe import hf:someone/model" in failed(command("show", "hf:someone/model"))
    (tmp_path / "empty").mkdir()
    assert "holds no model.safetensors" in failed(command("show", tmp_path / "empty"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{not json")
    assert "config.json: cannot be read" in failed(command("show", tmp_path / "run"))


def test_numbers_are_written_with_units():
    assert [flops(n) for n in (0, 999, 96_863_256_576, 5.798e13, 2e15)] == [
        "0", "999.0 FLOP", "96.86 GFLOP", "57.98 TFLOP", "2.000 PFLOP",
    ]  # fmt: skip
    assert [size(n) for n in (0, 999, 2048, 1303.3 * 2**20, 5 * 2**40)] == [
        "0 B", "999 B", "2.00 KiB", "1.27 GiB", "5.00 TiB",
    ]  # fmt: skip


# --- init --------------------------------------------------------------------------------------------------------


def test_init_is_a_function_of_the_seed(command, tmp_path):
    states, headers = {}, {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.manual_seed(123 + len(states))  # which must not matter
        before = torch.get_rng_state()
        assert command("init", CARD, "-o", tmp_path / name, "--seed", seed).code == 0
        assert torch.equal(torch.get_rng_state(), before)
        headers[name], states[name] = modelfile.read(tmp_path / name / "model.safetensors")
    assert headers["a"] == headers["b"]
    assert headers["a"]["about"]["seed"] == 0
    assert headers["c"]["about"]["seed"] == 1
    assert "random" in headers["a"]["about"]["origin"]
    assert all(torch.equal(states["a"][name], states["b"][name]) for name in states["a"])
    assert not torch.equal(states["a"]["encoder.registers"], states["c"]["encoder.registers"])


def test_init_gives_what_an_untrained_model_is(command, tmp_path, pictures):
    answer = command("init", CARD, "-o", tmp_path / "plain")
    assert "7,187 random parameters, seed 0" in answer.out
    plain = flexframe.load(tmp_path / "plain")
    assert plain.config == cards().get(CARD).model
    assert plain.sampling.steps == 3
    assert len(plain.encode(pictures).codes.unique()) > 1


def test_init_takes_overrides(command, tmp_path):
    answer = command("init", CARD, "-o", tmp_path / "a.safetensors", "decoder=toy-plain", "model.length=4")
    assert answer.code == 0, answer.err
    model = flexframe.load(tmp_path / "a.safetensors")
    assert (model.config.decoder.type, model.config.length) == ("toy-plain", 4)
    assert command("init", CARD, "-o", tmp_path / "b.safetensors", "sampling.steps=3").code == 0
    assert flexframe.load(tmp_path / "b.safetensors").sampling.steps == 3


def test_init_overwrites_only_when_told(command, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_text("mine")
    assert "--force" in failed(command("init", CARD, "-o", path))
    assert path.read_text() == "mine"
    assert command("init", CARD, "-o", path, "--force").code == 0
    assert flexframe.load(path).config == cards().get(CARD).model


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((CARD,), "-o: is required"),
        ((CARD, "-o", "a.bin"), "neither a folder nor ends in .safetensors"),
        ((CARD, "-o", "a", "run.steps=3"), "run.steps=3: is of a run"),
        ((CARD, "-o", "a", "quantiser=toy"), "there is no such setting. Did you mean 'quantizer'?"),
        (("toy/digits-tyny", "-o", "a"), "Did you mean 'toy/digits-tiny'?"),
    ],
)
def test_init_tells_a_mistake_and_writes_nothing(command, tmp_path, monkeypatch, words, told):
    monkeypatch.chdir(tmp_path)
    assert told in failed(command("init", *words))
    assert list(tmp_path.iterdir()) == []


# --- doctor ------------------------------------------------------------------------------------------------------


def of(section, findings):
    return {each.name: each for each in findings if each.section == section}


@pytest.fixture(scope="module")
def health():
    return examine()


def test_doctor_looks_at_everything_and_this_machine_is_well(health):
    assert list(dict.fromkeys(each.section for each in health)) == list(doctor.CHECKS)
    assert [each for each in health if each.state == "broken"] == []
    versions = of("versions", health)
    assert versions["torch"].text == torch.__version__.partition("+")[0]
    assert {"python", "torchvision", "numpy", "flexframe", "flexframe-toy"} <= versions.keys()
    assert re.search(r"[\d.]+ of [\d.]+ GiB memory free", of("devices", health)["cpu"].text)
    assert {"bf16", "compile", "flex attention"} <= of("torch", health).keys()
    assert of("profile", health)["FLOPs and memory"].text == "counted right of a small network"
    assert re.match(r"14 components, 5 cards \(flexframe-toy", of("plugins", health)["toy"].text)
    assert "toy-values" in of("components", health)["quantizer"].text
    assert of("metrics", health)["psnr"].text == "can be computed"
    assert "GiB free" in of("disk", health)["here"].text


def test_doctor_command_prints_the_same(command, health, monkeypatch):
    monkeypatch.setattr(doctor, "examine", lambda on_section: health)
    answer = command("doctor")
    assert answer.code == 0
    for each in health:
        assert each.name.strip() in answer.out
    told = json.loads(command("doctor", "--json").out)
    assert told["usable"] is True
    assert [f["name"] for f in told["findings"]] == [each.name for each in health]


@pytest.fixture
def anew():
    """Plugins are looked for anew, and after the test again."""
    for known in (cards, catalogue, manager):
        known.cache_clear()
    yield
    for known in (cards, catalogue, manager):
        known.cache_clear()


def test_a_broken_plugin_is_told_and_the_exit_code_is_1(command, install, monkeypatch, anew):
    install("brokenplug", "raise RuntimeError('does not start')")
    monkeypatch.setenv(ONLY, "standard,brokenplug")
    done = command("doctor", "--json")  # not a fork: where autograd has begun its threads, a fork cannot go backward
    assert done.code == 1, done.err
    told = json.loads(done.out)
    assert told["usable"] is False
    (broken,) = [each for each in told["findings"] if each["state"] == "broken"]
    assert (broken["section"], broken["name"]) == ("plugins", "brokenplug")
    assert "does not start" in broken["text"]


def test_a_component_without_its_module_is_broken(forked, install, tmp_path):
    source = """
from typing import Literal
from flexframe_registry import CodecConfig, Component, MaskerConfig, hookimpl

class NoCode(MaskerConfig):
    "Its module was forgotten."
    type: Literal["no-code"] = "no-code"

class NoLibrary(MaskerConfig):
    "Its library is not here."
    type: Literal["no-library"] = "no-library"

@hookimpl
def flexframe_components():
    return [Component(NoCode, "plug_half.masker:M"), Component(NoLibrary, "plug_code:M")]
"""
    install("plug_half", source)
    (tmp_path / "plug_code.py").write_text("import no_such_library")
    code = (
        "import json; from flexframe.doctor import examine;"
        "print(json.dumps({f.name: f.state for f in examine() if f.section == 'components'}))"
    )
    done = forked(code, FLEXFRAME_PLUGINS="standard,plug_half")
    assert done.returncode == 0, done.stderr
    states = json.loads(done.stdout)
    assert states["masker no-code"] == "broken"
    assert states["masker no-library"] == "missing"


FAULTY = """
from typing import Literal
from flexframe_registry import Component, QuantizerConfig, hookimpl

def config(name, answer):
    class Odd(QuantizerConfig):
        type: Literal[name] = name

        def tokens(self, length, features):
            return answer(length)
    return Odd

def lost(length):
    return {}["lost"]

@hookimpl
def flexframe_components():
    from flexframe_registry import TokenSpec

    def fine(length):
        return TokenSpec(length, 8, 1, 16)
    codes = {"no-class": "faulty_parts:Missing", "other-class": "pathlib:Path", "no-code": "faulty_parts.gone:A"}
    codes |= {"raising": "faulty_raising:A"}
    answers = {"lost": lost, "nothing": lambda length: None, "number": lambda length: 5}
    odd = [Component(config(name, answer), "pathlib:Path") for name, answer in answers.items()]
    return odd + [Component(config(name, fine), target) for name, target in codes.items()]
"""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lost", "plugin 'faulty' (faulty 1.0) failed: KeyError: 'lost'; --debug shows where, for its author"),
        (
            "nothing",
            "quantizer.tokens: quantizer 'nothing' answers None, and its contract is TokenSpec; its author has to",
        ),
        ("number", "quantizer.tokens: quantizer 'number' answers 5"),
        ("no-class", "quantizer 'no-class' of faulty 1.0: faulty_parts:Missing cannot be imported: AttributeError"),
        (
            "other-class",
            "quantizer 'other-class' of faulty 1.0: pathlib:Path is no Quantizer; its author has to derive",
        ),
        ("no-code", "quantizer 'no-code' of faulty 1.0 cannot be imported: No module named 'faulty_parts.gone'"),
        ("raising", "quantizer 'raising' of faulty 1.0: faulty_raising:A cannot be imported: RuntimeError: no device"),
    ],
)
def test_a_fault_of_a_plugin_is_one_line_that_names_it(forked, install, tmp_path, name, words):
    install("faulty", FAULTY)
    (tmp_path / "faulty_parts.py").write_text("")
    (tmp_path / "faulty_raising.py").write_text("raise RuntimeError('no device')")
    given = ("train", "toy/digits-tiny", f"quantizer={name}", "-o", "run", "--device", "cpu")
    done = forked("from flexframe.cli import main; main()", *given)
    assert done.returncode in (1, 2)
    (line,) = done.stderr.splitlines()
    assert words in line
    assert "not expected" not in line


@pytest.mark.slow
def test_a_run_that_cannot_be_read_is_not_shown_as_if_it_could(command, tmp_path):
    path = tmp_path / "odd.yaml"
    path.write_text("base: toy/digits-tiny\nrun: {init: 5, data: {type: digits}}\n")
    assert "run.init: is a list" in command("show", path, "--config").err
    assert "doubt: run.init: is a list" in command("show", path).err


def test_a_name_that_two_provide_is_told(forked, install):
    source = """
from flexframe_registry import Component, hookimpl
from flexframe_standard import DigitsConfig

@hookimpl
def flexframe_components():
    return [Component(DigitsConfig, "flexframe_standard.sources.digits:Digits")]
"""
    install("twice", source)
    done = forked("from flexframe.cli import main; main()", "doctor", "--json", FLEXFRAME_PLUGINS="standard,twice")
    assert done.returncode == 1, done.stderr
    plugins = {f["name"]: f for f in json.loads(done.stdout)["findings"] if f["section"] == "plugins"}
    assert "source 'digits' is provided by both" in plugins["duplicated part"]["text"]
    assert plugins["standard"]["state"] == "ok"


def test_a_torchvision_that_does_not_fit_is_told_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    found = {rest[0]: rest for rest in doctor.CHECKS["versions"]()}
    _, text, state = found["import torchvision"]
    assert state == "broken"
    assert "import of torchvision halted" in text
    assert f"torch is {torch.__version__.partition('+')[0]}" in text
    assert "pip install --upgrade --force-reinstall torch torchvision" in text


def test_weights_that_a_metric_lacks_are_told_without_the_network(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    found = of("metrics", examine())
    assert found["frechet"].state == "missing"
    assert "the doctor uses no network" in found["frechet"].text
    assert "download https://" in found["frechet"].text
    assert not (tmp_path / "hub" / "checkpoints").is_dir() or not list((tmp_path / "hub" / "checkpoints").iterdir())


def test_cached_weights_are_listed_with_their_size(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "net.pth").write_bytes(bytes(3 * 2**20))
    found = {rest[0].strip(): rest[1] for rest in doctor.CHECKS["weights"]()}
    assert found["torch hub"].endswith("1 files")
    assert found["net.pth"] == "3.0 MiB"


def test_a_check_that_fails_is_told_and_the_others_go_on(monkeypatch):
    def fail():
        yield "first", "is fine"
        raise RuntimeError("no such\nluck")

    monkeypatch.setattr(doctor, "CHECKS", {"one": fail, "two": lambda: [("name", "text")]})
    found = [(each.section, each.name, each.text, each.state) for each in examine()]
    assert found == [
        ("one", "first", "is fine", "ok"),
        ("one", "this check failed", "RuntimeError: no such luck", "broken"),
        ("two", "name", "text", "ok"),
    ]


def test_offline_is_offline_and_ends():
    before = socket.getaddrinfo
    with pytest.raises(OSError, match="uses no network"), offline():
        socket.create_connection(("127.0.0.1", 9))
    assert socket.getaddrinfo is before
    assert create_manager(points=False).broken == []
