"""The command line: what it answers, and how it fails."""

import json

import pytest
import typer
from ruamel.yaml import YAML

import flexframe
from flexframe import cli
from flexframe.commands.common import names_of
from flexframe.commands.train import fresh_folder
from flexframe.files import write_json
from flexframe.models.modelfile import save
from flexframe_registry import ConfigError, RunConfig, TokenizerConfig, cards, catalogue, suite
from flexframe_registry.cards import card
from flexframe_registry.kinds import KINDS

CARD = "toy/digits-tiny"
QUICK = ("run.batch_size=8", "run.optimizer.warmup=2", "run.log_every=1", "run.checkpoint_every=2")


def only_line(answer):
    """The one line that a failed command says."""
    assert answer.code == 2
    assert answer.out == ""
    (line,) = answer.err.splitlines()
    return line


# --- what is there -----------------------------------------------------------------------------------------------


def test_help_names_every_command(command):
    answer = command("--help")
    assert answer.code == 0
    for name in ("list", "show", "train", "bench", "demo"):
        assert f" {name} " in answer.out


def test_list_has_every_component_card_and_suite(command):
    answer = command("list")
    assert answer.code == 0
    words = {tuple(line.split()[:2]) for line in answer.out.splitlines()}
    assert {(c.kind, c.name) for c in catalogue()} <= words
    assert {pair[1] for pair in words if pair[0] in ("card", "card*")} == set(cards().names())
    assert ("suite", "digits") in words
    assert answer.err == ""


def test_list_may_be_of_one_kind(command):
    answer = command("list", "masker")
    rows = [line.split()[:2] for line in answer.out.splitlines()]
    assert rows[0] == ["kind", "name"]
    assert sorted(row[1] for row in rows[1:] if row[:1] == ["masker"]) == catalogue().names("masker")
    assert "card" not in answer.out


def test_list_fits_a_narrow_terminal_without_who_provides(command, monkeypatch):
    wide = command("list", "quantizer").out
    monkeypatch.setattr("flexframe.commands.list_.out._width", 60)
    narrow = command("list", "quantizer").out
    assert max(map(len, narrow.splitlines())) <= 60
    assert [line.split()[:2] for line in narrow.splitlines() if line[:1] != " "] == [
        line.split()[:2] for line in wide.splitlines()
    ]
    assert set(narrow.split()) <= set(wide.split())
    assert "provided" not in narrow


@pytest.mark.parametrize("kind", ["card", "cards", "suite", "suites", "maskers"])
def test_list_takes_cards_suites_and_plurals(command, kind):
    answer = command("list", kind)
    rows = [line.split()[:2] for line in answer.out.splitlines()]
    one = kind.removesuffix("s")
    names = {"card": cards().names(), "masker": catalogue().names("masker")}.get(one, ["digits", "scenes-64"])
    assert set(names) <= {row[1] for row in rows[1:] if row and row[0].startswith(one)}
    assert {row[0].rstrip("*") for row in rows[1:] if row[0] not in ("*", "differences,")} >= {one}
    assert not {"metric", "quantizer"} & {row[0] for row in rows}


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("run", ["run.steps 1000 Optimizer steps.", "run.optimizer.lr 0.001 Peak learning rate.", "run.init.N.from"]),
        ("card", ["summary required One line for listings.", "weights.path None File beside the card."]),
        ("suite", ["count None Images used", "metrics required Metrics that are computed."]),
        ("tokenizer", ["image_size required Height and width in pixels", "masker full"]),
        ("generator", ["length required The most tokens of"]),
        ("quantizer", ["quantizer toy ", "settings of one: flexframe show quantizer/NAME"]),
        ("digits", ["digits (suite)", "data type: digits, split: val", "metrics psnr; ssim;"]),
        ("kodak-256", ["count 24", "data type: images"]),
    ],
)
def test_show_answers_what_a_config_can_say(command, name, rows):
    answer = command("show", name)
    assert (answer.code, answer.err) == (0, "")
    told = " ".join(answer.out.split())
    for row in rows:
        assert row in told


def test_every_setting_of_a_run_is_shown(command):
    shown = {line.split()[0] for line in command("show", "run").out.splitlines() if line.startswith("run.")}
    assert {f"run.{name}" for name in RunConfig.model_fields} <= shown


def test_a_suites_file_is_shown_and_its_yaml_reads_back(command, tmp_path):
    (tmp_path / "mine.yaml").write_text(command("show", "digits", "--config").out, "utf-8")
    assert suite(str(tmp_path / "mine.yaml")) == suite("digits")
    assert "mine.yaml  (suite)" in command("show", tmp_path / "mine.yaml").out


def test_a_cards_yaml_reads_back_as_the_same_model(command, tmp_path):
    answer = command("show", CARD, "--config")
    assert answer.code == 0
    shown = YAML(typ="safe", pure=True).load(answer.out)
    assert TokenizerConfig.read(shown["model"]) == cards().get(CARD).model
    assert RunConfig.read(shown["run"]) == cards().get(CARD).run
    path = tmp_path / "mine.yaml"
    path.write_text(answer.out)
    assert card(str(path)).train() == cards().get(CARD).train()


@pytest.mark.parametrize("part", ["decoder/toy", "source/digits", "metric/psnr"])
def test_a_parts_settings_are_shown_with_what_they_mean(command, part):
    answer = command("show", part)
    assert answer.code == 0
    assert part.replace("/", " ") in answer.out
    told = " ".join(answer.out.split())
    config = catalogue().get(*part.split("/")).config
    texts = config.documentation()
    for field in config.model_fields:
        if field != "type":
            assert f" {field} " in told
            assert texts[field].split()[0] in told


@pytest.fixture
def old_run(tmp_path):
    """A run's folder, as far as its settings go."""
    folder = tmp_path / "runs" / "old"
    folder.mkdir(parents=True)
    config = card(CARD).train(["quantizer=toy-values", "run.steps=7", "run.data.split=val"])
    write_json(folder / "config.json", {**config.model_dump(mode="json"), "sampling": {"steps": 2}})
    return folder, config


def test_a_run_begins_from_the_settings_of_another(command, old_run, tmp_path):
    folder, config = old_run
    assert card(str(folder)).train() == config
    assert card(str(folder)).train(["run.steps=9"]).run == config.run.model_copy(update={"steps": 9})
    (tmp_path / "mine.yaml").write_text(command("show", folder, "--config").out, "utf-8")
    assert card(str(tmp_path / "mine.yaml")).train() == config
    assert card(str(tmp_path / "mine.yaml")).file.sampling == {"steps": 2}
    (tmp_path / "more.yaml").write_text(f"base: {folder}\nrun: {{steps: 8}}\n")
    assert card(str(tmp_path / "more.yaml")).train() == card(str(folder)).train(["run.steps=8"])
    answer = command("train", folder, "run.steps=1", "run.batch_size=2", "-o", tmp_path / "new", "--device", "cpu")
    assert answer.code == 0, answer.err
    begun = json.loads((tmp_path / "new" / "config.json").read_text())
    assert begun["model"]["quantizer"]["type"] == "toy-values"
    assert begun["sampling"] == {"steps": 2}
    assert "tmp: is a folder that holds no run; name a run's" in only_line(command("train", tmp_path)).replace(
        str(tmp_path), "tmp"
    )


def test_a_saved_model_is_a_card_to_train_from(command, tmp_path):
    assert command("init", CARD, "length=4", "-o", tmp_path / "a.safetensors").code == 0
    (tmp_path / "mine.yaml").write_text(command("show", tmp_path / "a.safetensors", "--config").out, "utf-8")
    assert card(str(tmp_path / "mine.yaml")).model == card(CARD).train(["length=4"]).model


@pytest.mark.parametrize("verb", ["show", "load", "train", "resume"])
def test_a_plugin_that_a_run_was_made_with_and_that_is_not_here_is_named(command, old_run, verb, monkeypatch):
    folder, config = old_run
    raw = config.model_dump(mode="json")
    raw["model"]["quantizer"] = {"type": "gone"}
    write_json(folder / "config.json", raw)
    versions = {"flexframe": "0.1.0", "flexframe-gone": "0.3", "python": "3.11", "some-library": "1.0"}
    write_json(folder / "manifest.json", {"versions": versions})
    if verb == "load":
        monkeypatch.setattr(TokenizerConfig, "model_dump", lambda *_, **__: raw["model"])
        save({}, config.model, folder / "model.safetensors")
        with pytest.raises(ConfigError) as told:
            flexframe.load(folder)
        line = str(told.value)
    else:
        line = only_line(command(*(["train", "--resume"] if verb == "resume" else [verb]), folder))
    assert "no quantizer named 'gone'" in line
    assert "it was made with flexframe-gone 0.3, not installed here: install that first" in line


@pytest.mark.parametrize("name", ["toy/digits-tiny", "toy/plain", "toy/prior"])
def test_every_cards_config_can_be_shown(command, name):
    assert command("show", name, "--config").code == 0


# --- mistakes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["train", CARD, "quantiser=toy"], ["quantiser: there is no such setting", "'quantizer'"]),
        (["train", CARD, "quantizer=toyy"], ["quantizer: no quantizer named 'toyy'", "'toy'"]),
        (["train", CARD, "decoder.depht=3"], ["decoder.depht", "'depth'"]),
        (["train", CARD, "run.stesp=3"], ["run.stesp", "'steps'"]),
        (["train", "toy/digits-tyny"], ["no card named 'toy/digits-tyny'", "'toy/digits-tiny'"]),
        (["train", CARD, "run.steps"], ["run.steps: is not of the form key.path=value"]),
        (["train"], ["name a card to train, or a run's folder with --resume"]),
        (["train", CARD, "--resume", "x"], ["one of the two"]),
        (["train", "--resume", "x", "run.steps=4"], ["x: holds no run to resume"]),
        (["train", "--resume", "x", "--overfit-batch"], ["--overfit-batch: is for a new run"]),
        (["train", "nothere.yaml"], ["nothere.yaml: there is no such file; give a card's file"]),
        (["train", "--resume", "x", "-o", "y"], ["--out: a resumed run stays in its folder"]),
        (["train", "--resume", "no-such-run"], ["no-such-run: holds no run to resume"]),
        (["train", CARD, "--device", "abacus"], ["--device: there is no 'abacus'. Known: auto, cpu, cuda, mps"]),
        (
            ["train", CARD, "run.data={type: folder, path: /no/such}"],
            ["flexframe: run.data.path: there is no folder '/no/such'"],
        ),
        (
            ["bench", "digits-smoke", CARD, "data={type: folder, path: /no/such}"],
            ["flexframe: data.path: there is no folder"],
        ),
        (
            ["bench", "digits-smoke", CARD, "data={type: tar, path: no/such.tar}"],
            ["flexframe: data.path: there is no shard"],
        ),
        (
            ["precompute", "tokens", "-m", CARD, "--data", "{type: folder, path: /no/such}"],
            ["flexframe: --data.path: there is no folder"],
        ),
        (
            ["precompute", "latents", CARD, "run.data={type: tar, path: x.tar}"],
            ["flexframe: run.data.path: there is no"],
        ),
        (
            ["precompute", "features", CARD, "run.data={type: tar, path: x.tar}"],
            ["flexframe: run.data.path: there is no"],
        ),
        (["show", "toy/digits-tyny"], ["'toy/digits-tiny'"]),
        (["show", "decoder/tyo"], ["no decoder named 'tyo'", "'toy'"]),
        (["list", "decodr"], ["no kind named 'decodr'", "'decoder'"]),
        (["bench", "digit", CARD], ["no suite named 'digit'", "'digits'"]),
        (["show", "digits-smok"], ["there is no such suite", "'digits-smoke'"]),
        (["bench", "digits-smoke", "toy/digits-tyny"], ["'toy/digits-tiny'", "no such file or folder"]),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_exit_code_2(command, args, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = only_line(command(*args))
    assert line.startswith("flexframe: ")
    for word in words:
        assert word in line
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_command_or_option_is_told(command):
    for args in (["trian"], ["train", "--otu", "x"]):
        answer = command(*args)
        assert answer.code == 2
        assert "Traceback" not in answer.err


def test_debug_gives_the_traceback(command, monkeypatch):
    monkeypatch.setattr(cli.sys, "argv", ["flexframe", "show", "decoder/tyo", "--debug"])
    with pytest.raises(LookupError, match="tyo"):
        cli.main()


def test_a_mistake_leaves_the_process_with_code_2_and_no_traceback(python):
    done = python("from flexframe.cli import main; main()", "train", CARD, "quantiser=toy")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "Did you mean 'quantizer'?" in done.stderr


def test_a_command_ends_without_a_search_through_all_that_it_holds(python):
    code = "class Circle:\n def __init__(self): self.own = self\n def __del__(self): print('looked at')\n"
    code += "import sys; from flexframe.cli import main; held = [Circle()]; sys.argv[1:] = ['--version']; main()"
    assert "looked at" not in python(code).stdout


def test_a_config_error_is_a_value_error():
    assert issubclass(ConfigError, ValueError)
    assert issubclass(flexframe.UnknownName, LookupError)


# --- training and measuring --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        [CARD, "quantizer=toy-values"],
        [CARD, "decoder=toy-plain", "quantizer=toy-values", "masker=full"],
        ["toy/plain", "decoder=toy", "masker=toy"],
    ],
    ids=" ".join,
)
def test_swaps_by_one_word_train_and_load(command, tmp_path, words):
    folder = tmp_path / "run"
    answer = command("train", *words, "run.steps=2", *QUICK, "-o", folder, "--device", "cpu")
    assert answer.code == 0, answer.err
    assert "trained 2 steps" in answer.out
    found = flexframe.load(folder)
    chosen = dict(word.split("=") for word in words[1:])
    assert {kind: getattr(found.config, kind).type for kind in chosen} == chosen
    assert sum(p.numel() for p in found.parameters()) < 2_000_000


def test_a_run_is_resumed_and_a_finished_one_left(command, tmp_path):
    folder = tmp_path / "run"
    assert command("train", CARD, "run.steps=2", *QUICK, "-o", folder, "--device", "cpu").code == 0
    config = json.loads((folder / "config.json").read_text())
    answer = command("train", "--resume", folder, "--device", "cpu")
    assert (answer.code, "is finished: 2 steps" in answer.out.replace("\n", "")) == (0, True)
    config["run"]["steps"] = 4
    (folder / "config.json").write_text(json.dumps(config))
    answer = command("train", "--resume", folder, "--device", "cpu")
    assert answer.code == 0
    assert "resumed at step 2" in answer.out
    steps = [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]
    assert "holds a run already" in only_line(command("train", CARD, "-o", folder, "--device", "cpu"))


def test_the_same_command_goes_on_or_says_that_it_is_finished(command, tmp_path):
    folder = tmp_path / "run"
    words = ("train", CARD, "run.steps=2", *QUICK, "-o", folder, "--device", "cpu")
    assert command(*words).code == 0
    written = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    answer = command(*words)
    assert (answer.code, "is finished: 2 steps" in answer.out) == (0, True)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == written
    assert command("train", "--resume", folder, "run.steps=3", "--device", "cpu").code == 0
    assert "holds a run already" in only_line(command(*words))


def test_runs_without_a_folder_get_fresh_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(fresh_folder(CARD)) == "runs/toy-digits-tiny"
    (tmp_path / "runs" / "toy-digits-tiny").mkdir(parents=True)
    assert str(fresh_folder(CARD)) == "runs/toy-digits-tiny-2"


def test_a_card_may_be_a_file_that_builds_on_another(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(f"base: {CARD}\nmodel: {{length: 4}}\n")
    assert card(str(path)).model == cards().get(CARD).model.model_copy(update={"length": 4})


def test_bench_measures_models_and_writes_a_page(command, tmp_path, tiny):
    from flexframe.models import modelfile

    for name in ("one", "two"):
        modelfile.save(tiny.state_dict(), tiny.config, tmp_path / f"{name}.safetensors", sampling={"steps": 1})
    suite = tmp_path / "suite.yaml"
    suite.write_text("data: {type: digits, split: val}\ncount: 6\nmetrics: [psnr]\nbudgets: [1, 8]\nshow: 2\n")
    models = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    answer = command("bench", suite, *models, "-o", tmp_path / "out", "--device", "cpu", "--batch-size", 4)
    assert answer.code == 0, answer.err
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    one, two = results["models"].values()
    assert list(one["budgets"]) == ["1", "8"]
    values = [m["budgets"]["8"]["metrics"]["psnr"]["value"] for m in (one, two)]
    assert values[0] == values[1]
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.lstrip().lower().startswith("<!doctype html")
    assert "report.html" in answer.out


@pytest.mark.slow
def test_bench_measures_a_card_file_of_other_sampling_under_its_name(command, tmp_path):
    few, suite = tmp_path / "few.yaml", tmp_path / "suite.yaml"
    few.write_text(f"base: {CARD}\nsampling: {{steps: 1}}\n")
    suite.write_text("data: {type: digits, split: val}\ncount: 4\nmetrics: [psnr]\nbudgets: [8]\nshow: 0\n")
    assert command("bench", suite, few, CARD, "-o", tmp_path / "both", "--device", "cpu").code == 0
    results = json.loads((tmp_path / "both" / "results.json").read_text())
    ours, base = results["models"]["few"], results["models"][CARD]
    assert ours["fingerprint"] == base["fingerprint"]
    assert [model["sampling"]["steps"] for model in (ours, base)] == [1, 3]
    assert {each["use"]["sampling"]["steps"] for each in results["protocols"].values()} == {1, 3}
    for model in (few, CARD):
        assert command("bench", suite, model, "-o", tmp_path / str(model == few), "--device", "cpu").code == 0
    told = command("explain", tmp_path / "False", tmp_path / "True").out
    assert "sampling settings" in told
    assert "sampling.steps: 3 → 1" in told
    assert "ship with toy/digits-tiny, in digits-tiny.safetensors" in command("show", few).out


def test_card_files_that_cannot_be_used_are_told_in_a_line(command, tmp_path):
    for name, text, told in (
        ("odd", "sampling: {stps: 1}", "odd.yaml: sampling.stps: there is no such setting. Did you mean 'steps'?"),
        ("short", "model: {length: 4}", "short.yaml: is a card file without weights, and its `model` is another"),
    ):
        path = tmp_path / f"{name}.yaml"
        path.write_text(f"base: {CARD}\n{text}\n")
        assert told in only_line(command("bench", "digits-smoke", path, "-o", tmp_path / "out", "--device", "cpu"))
        assert not (tmp_path / "out").exists()


def test_models_are_called_by_as_much_of_their_paths_as_tells_them_apart(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("runs1/mine", "runs2/mine", "a/runs1/mine", "runs1/other", "toy"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "few.yaml").touch()
    for given, names in (
        (["runs1/mine", "runs1/other", "few.yaml"], ["mine", "other", "few"]),
        (["runs1/mine", "path:runs2/mine/", "runs1/other"], ["runs1/mine", "runs2/mine", "other"]),
        (["a/runs1/mine", "runs2/mine", "runs1/mine"], ["a/runs1/mine", "runs2/mine", f"{tmp_path.name}/runs1/mine"]),
        ([CARD, f"card:{CARD}-x", "hf:owner/name@main"], [CARD, f"{CARD}-x", "name@main"]),
    ):
        assert names_of(given) == names
    for given in (["runs1/mine", "./runs2/../runs1/mine"], [CARD, f"card:{CARD}"]):
        line = only_line(command("bench", "digits-smoke", *given))
        assert f"{given[1]}: is named twice; name it once, or other settings of use by a card file" in line


def test_the_kinds_of_the_command_line_are_those_of_the_registry():
    assert set(KINDS) == {c.kind for c in catalogue()}


def test_a_plugin_that_ends_the_process_is_told(command, monkeypatch):
    strangers = {"__name__": "stranger.parts"}
    exec("import sys\ndef app():\n    sys.exit(0)", strangers)
    monkeypatch.setattr(cli, "_asked", lambda words: strangers["app"])
    done = command()
    told = "flexframe: stranger.parts, line 3 called sys.exit(0), so that the work is not done; it is of a plugin"
    assert (done.code, told in done.err, done.err.count("\n")) == (1, True, 1)


def test_a_reader_that_has_enough_is_no_plugin_that_ends_the_process(command, monkeypatch):
    closed = {"__name__": "rich.console"}
    exec(
        "import sys\ndef app():\n    try:\n        raise BrokenPipeError\n    except OSError:\n        sys.exit(1)",
        closed,
    )
    monkeypatch.setattr(cli, "_asked", lambda words: closed["app"])
    done = command()
    assert (done.code, done.err) == (1, "")


@pytest.mark.parametrize(
    ("words", "names"),
    [("list --json", ["list"]), ("--quiet bench-samples x", ["bench-samples"])]
    + [(words, None) for words in ("precompute codes", "lst", "--help", "")],
)
def test_the_command_that_is_asked_for_is_built_alone(words: str, names: list[str] | None) -> None:
    found = cli._asked(words.split())
    built = typer.main.get_command(found)
    assert isinstance(built, typer.core.TyperGroup)
    assert list(built.commands) == (names or list(typer.main.get_command(cli.app).commands))
