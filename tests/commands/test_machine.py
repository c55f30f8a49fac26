"""What other programs read of commands: JSON, exit codes, silence; and the examples that close every help."""

import json
import shlex

import pytest

from flexframe import terminal
from flexframe.files import write_json
from flexframe_registry import cards, catalogue
from flexframe_registry.cards import card

CARD = "toy/digits-tiny"


@pytest.fixture
def runs(tmp_path):
    """Two runs' folders, as far as their settings go."""
    for name, steps, torch in (("a", 7, "2.11"), ("b", 9, "2.14")):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        config = card(CARD).train([f"run.steps={steps}", "run.data.split=val"])
        write_json(folder / "config.json", {**config.model_dump(mode="json"), "sampling": {}})
        write_json(folder / "manifest.json", {"commit": "abc", "date": name, "versions": {"torch": torch}})
        (folder / "log.jsonl").write_text('{"step": 3, "loss": NaN, "lr": 0.1}\n')
    return tmp_path / "runs"


def read(answer, code=0):
    """What a command printed: JSON to the last byte, and no word beside it."""
    assert (answer.code, answer.err) == (code, "")
    return json.loads(answer.out, parse_constant=pytest.fail)


# --- JSON --------------------------------------------------------------------------------------------------------


def test_list_as_json_is_all_that_the_table_has(command):
    rows = read(command("list", "--json"))
    assert {(row["kind"], row["name"]) for row in rows} >= {(c.kind, c.name) for c in catalogue()} | {
        ("card", name) for name in cards().names()
    }
    plain = next(row for row in rows if row["name"] == "toy/plain")
    assert plain == {"kind": "card", "name": "toy/plain", "what": plain["what"], "provider": "", "weights": True}
    assert {row["kind"] for row in read(command("list", "suite", "--json"))} == {"suite"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("decoder/toy", {"kind", "name", "provider", "what", "settings", "sampling"}),
        ("metric/psnr", {"kind", "name", "provider", "what", "settings"}),
        ("run", {"name", "what", "settings"}),
        ("digits", {"name", "kind", "data", "metrics"}),
        (CARD, {"name", "kind", "facts", "parts", "config", "costs", "training_bytes", "budgets", "bits"}),
        ("toy/prior", {"name", "kind", "facts", "parts", "config", "budgets"}),
    ],
)
def test_show_as_json(command, name, keys):
    assert keys <= read(command("show", name, "--json")).keys()


def test_what_is_shown_of_a_kind_and_of_a_config_is_json_too(command):
    assert {row["kind"] for row in read(command("show", "masker", "--json"))} == {"masker"}
    resolved = read(command("show", CARD, "--config", "--json"))
    assert resolved["model"] == card(CARD).described.model_dump(mode="json")
    told = {setting["name"]: setting for setting in read(command("show", "run", "--json"))["settings"]}
    assert told["run.steps"]["default"] == "1000"


def test_runs_as_json(command, runs):
    rows = read(command("runs", runs, "--json"))
    assert {(row["folder"], row["step"], row["steps"]) for row in rows} == {
        (str(runs / "a"), 3, 7), (str(runs / "b"), 3, 9)
    }  # fmt: skip
    assert rows[0]["last"] == {"step": 3, "loss": None, "lr": 0.1}


def test_bench_as_json_is_what_results_json_holds(command, tmp_path, tiny):
    tiny.save(tmp_path / "model.safetensors")
    given = ("bench", "digits-smoke", tmp_path / "model.safetensors", "count=4", "show=1", "metrics=[psnr]")
    answer = command(*given, "-o", tmp_path / "out", "--json", "--quiet")
    printed, kept = read(answer), json.loads((tmp_path / "out" / "results.json").read_text())
    assert printed == {key: value for key, value in kept.items() if key != "checksum"}
    assert "the page: " not in answer.out


# --- differences -------------------------------------------------------------------------------------------------


def test_two_runs_differ_in_settings_and_in_what_they_were_made_with(command, runs):
    answer = read(command("diff", runs / "a", runs / "b", "--json"), 1)
    found = [tuple(each.values()) for each in answer["differences"]]
    assert found == [("run.steps", 7, 9), ("made.versions.torch", "2.11", "2.14")]
    shown = command("diff", runs / "a", runs / "b")
    assert shown.code == 1
    assert ["run.steps", "7", "9"] in [line.split() for line in shown.out.splitlines()]


def test_what_is_the_same_differs_in_nothing(command):
    for name in (CARD, "digits"):
        answer = command("diff", name, name)
        assert (answer.code, answer.out) == (0, "no setting differs\n")


def test_cards_suites_and_parts_of_other_types_are_compared(command, runs):
    found = {each["setting"]: each for each in read(command("diff", CARD, runs / "a", "--json"), 1)["differences"]}
    assert "run.steps" in found
    assert not any(name.startswith("made") for name in found)
    suites = read(command("diff", "digits", "digits-smoke", "--json"), 1)["differences"]
    assert "count" in {each["setting"] for each in suites}
    (runs / "mine.yaml").write_text(f"base: {CARD}\nmodel: {{quantizer: toy-values}}\n")
    swapped = {each["setting"] for each in read(command("diff", CARD, runs / "mine.yaml", "--json"), 1)["differences"]}
    assert {name for name in swapped if name.startswith("model")} == {"model.quantizer.type"}
    assert "no-such" in command("diff", CARD, "no-such").err


# --- silence -----------------------------------------------------------------------------------------------------


def test_quiet_leaves_errors_and_results(command, runs):
    (runs / "a" / "config.json").write_text('{"model": 1, "run": 2}')
    assert "is not the config of a run" in command("runs", runs).err
    for told in (command("runs", runs, "--quiet"), command("--quiet", "runs", runs)):
        assert (told.code, told.err) == (0, "")
        assert "b" in told.out
    assert command("--quiet", "list", "decodr").err.startswith("flexframe: no kind named")
    assert "is not the config of a run" in command("runs", runs).err  # of that command alone


def test_training_in_quiet_says_its_last_line_alone(command, tmp_path):
    quick = ("run.batch_size=2", "run.log_every=1", "run.optimizer.warmup=1", "--device", "cpu")
    answer = command("train", CARD, "run.steps=2", *quick, "-o", tmp_path / "run", "--quiet")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith("trained 2 steps; ")
    assert len(answer.out.splitlines()) == 1


@pytest.mark.slow
def test_a_benchmark_tells_a_log_file_how_far_it_is(command, tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(terminal, "LINE_EVERY", 0)
    tiny.save(tmp_path / "model.safetensors")
    given = ("bench", "digits-smoke", tmp_path / "model.safetensors", "count=4", "show=1", "metrics=[psnr]")
    assert command(*given, "-o", tmp_path / "short", "--batch-size", 2).err == ""  # soon over: its results alone
    monkeypatch.setattr(terminal, "WORTH", 0)
    told = command(*given, "-o", tmp_path / "out", "--batch-size", 2).err.splitlines()
    assert any(" tokens: " in line and "%" in line for line in told)


# --- examples ----------------------------------------------------------------------------------------------------


def leaves(group, *names):
    for name, each in group.commands.items():
        yield from leaves(each, *names, name) if hasattr(each, "commands") else [((*names, name), each)]


def test_every_help_ends_in_examples_that_parse(commands, command):
    for names, each in leaves(commands):
        head, *lines = [line.strip() for line in each.epilog.replace("\\[", "[").splitlines()[1:]]
        assert head == "Examples:"
        assert lines, names
        for line in lines:
            words = shlex.split(line.partition(" && ")[0].partition(" > ")[0])
            assert tuple(words[1 : 1 + len(names)]) == names
            each.make_context(names[-1], words[1 + len(names) :])  # raises where one does not parse
    assert "Examples:" in command("precompute", "latents", "--help").out


def test_help_imports_neither_the_registry_nor_what_it_takes(python):
    code = "import sys, flexframe.cli; print(*sorted(sys.modules))"
    heavy = {"torch", "numpy", "pydantic", "PIL", "jinja2", "huggingface_hub", "flexframe_registry"}
    assert not heavy & set(python(code).stdout.split())
