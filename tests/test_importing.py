"""Checkpoints of strangers: opened without running anything, bounded, each fault told in one error."""

import json
import pickle
import struct
from io import BytesIO

import pytest
import torch
from safetensors.torch import save_file

from flexframe.data.images import BrokenImage, read_image
from flexframe.data.tokenfile import TokenFile
from flexframe.importing import Settings, compare, open_foreign, understood
from flexframe.importing.plain import MAX_CONFIG, MAX_DEPTH, parse, read_config
from flexframe.importing.verify import markdown, titles, verify_folder
from flexframe.models.modelfile import read as read_model_file
from flexframe.testing.golden import assert_parity
from flexframe.testing.refusals import WEIGHTS, Bomb
from flexframe_registry import ConfigError


@pytest.fixture
def folder(tmp_path):
    """A checkpoint of nobody's format."""
    save_file({"a.weight": torch.zeros(2), "b.weight": torch.ones(3)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"a": {"width": 2, "odd": 1}, "b": 3}))
    return tmp_path


def test_folders_of_a_table_are_told_apart(tmp_path):
    folders = [tmp_path / name for name in ("one", "two/tokenizer", "three/tokenizer")]
    assert titles(folders) == ["one", "two/tokenizer", "three/tokenizer"]
    assert titles(folders[1:2]) == ["tokenizer"]


def refused(path, match, **options):
    with pytest.raises(ConfigError, match=match) as told:
        open_foreign(path, **options)
    assert len(str(told.value).splitlines()) == 1
    return str(told.value)


# --- weights -----------------------------------------------------------------------------------------------------


def test_tensors_are_read_on_demand(folder):
    source = open_foreign(folder)
    assert sorted(source.tensors) == ["a.weight", "b.weight"]
    assert source.tensors.shape("b.weight") == (3,)
    assert source.tensors["b.weight"].sum() == 3


@pytest.mark.parametrize("refusal", WEIGHTS, ids=lambda each: each.name)
def test_weights_that_are_broken_or_hostile_are_refused(folder, refusal):
    refusal(folder, open_foreign)


@pytest.mark.parametrize("suffix", ["bin", "pt", "pth"])
def test_a_pickle_is_one_by_its_suffix(tmp_path, suffix):
    path, mark = tmp_path / f"model.{suffix}", tmp_path / "ran"
    path.write_bytes(pickle.dumps(Bomb(mark)))
    refused(path, r"nothing in it was run")
    assert not mark.exists()


def test_a_plain_torch_file_is_read(tmp_path):
    torch.save({"a": torch.arange(3.0)}, tmp_path / "model.bin")
    assert open_foreign(tmp_path / "model.bin").tensors["a"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", ["model.safetensors", "model.bin", "model"])
@pytest.mark.parametrize("content", [b"", b"ab", b"\x80\x02", b"PK\x03\x04junk", b"x" * 100])
def test_a_file_of_rubbish_is_one_error(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, "fetch it again|nothing in it was run")


def header_file(path, header, body=b""):
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


@pytest.mark.parametrize(
    "offsets", [[0, 1 << 40], [4, 0], [0, 4], [-8, 0], [0, 8.5], [1 << 62, (1 << 62) + 8]], ids=str
)
def test_a_header_that_lies_about_offsets_is_one_error(tmp_path, offsets):
    path = tmp_path / "model.safetensors"
    header_file(path, {"a": {"dtype": "F32", "shape": [2], "data_offsets": offsets}}, b"\0" * 8)
    refused(path, "is not a whole safetensors file")


def test_overlapping_tensors_are_one_error(tmp_path):
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    header_file(tmp_path / "model.safetensors", {"a": entry, "b": entry}, b"\0" * 8)
    refused(tmp_path / "model.safetensors", "is not a whole safetensors file")


def test_a_header_longer_than_the_file_is_one_error(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    refused(tmp_path / "model.safetensors", "is not a whole safetensors file")


def test_several_weights_are_not_guessed_between(tmp_path):
    for name in "ab":
        save_file({"x": torch.zeros(1)}, tmp_path / f"{name}.safetensors")
    refused(tmp_path, r"holds a\.safetensors, b\.safetensors; name the one file")


def test_shards_are_one_checkpoint(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "m-1.safetensors")
    save_file({"b": torch.zeros(1)}, tmp_path / "m-2.safetensors")
    index = {"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert sorted(open_foreign(tmp_path).tensors) == ["a", "b"]


STATE = {"enc.a": torch.zeros(1), "dec.a": torch.ones(2)}


@pytest.mark.parametrize(
    ("stem", "suffix", "write"),
    [
        ("model", "safetensors", save_file),
        ("pytorch_model", "bin", torch.save),
        ("diffusion_pytorch_model", "safetensors", save_file),
        ("diffusion_pytorch_model", "bin", torch.save),
    ],
)
def test_an_index_of_any_usual_name_is_followed(stem, suffix, write, tmp_path):
    for number, (name, tensor) in enumerate(STATE.items()):
        write({name: tensor}, tmp_path / f"{stem}-{number}.{suffix}")
    index = {"weight_map": {name: f"{stem}-{number}.{suffix}" for number, name in enumerate(STATE)}}
    (tmp_path / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))
    assert sorted(open_foreign(tmp_path).tensors) == sorted(STATE)


@pytest.mark.parametrize(
    "wrap",
    ["module.{}", "_orig_mod.{}", "module._orig_mod.{}", "_fsdp_wrapped_module.{}", "module.module.{}"],
)
def test_names_go_without_what_torch_puts_around_a_model(wrap, tmp_path):
    save_file({wrap.format(name): tensor for name, tensor in STATE.items()}, tmp_path / "model.safetensors")
    tensors = open_foreign(tmp_path).tensors
    assert sorted(tensors) == ["dec.a", "enc.a"]
    assert tensors["dec.a"].tolist() == [1, 1]
    assert tensors.shape("dec.a") == (2,)


def test_names_go_without_what_torch_puts_around_a_part(tmp_path):
    save_file({"enc._orig_mod.a": torch.zeros(1), "dec.module.a": torch.ones(2)}, tmp_path / "model.safetensors")
    assert sorted(open_foreign(tmp_path).tensors) == ["dec.module.a", "enc.a"]
    save_file({"enc._orig_mod.a": torch.zeros(1), "enc.a": torch.ones(2)}, tmp_path / "model.safetensors")
    refused(tmp_path, "differ in the wrappers of their names alone")


OPTIMIZER = {"state": {0: {"step": torch.zeros(1)}}, "param_groups": [{"lr": 0.1}]}


@pytest.mark.parametrize(
    "held",
    [
        {"state_dict": STATE, "epoch": 3},
        {"model": STATE, "optimizer": OPTIMIZER},
        {"ema": {"module": STATE, "decay": 0.99}},
        {"model": {"state_dict": {f"module.{name}": value for name, value in STATE.items()}}},
    ],
    ids=["lightning", "with-optimizer", "ema", "nested"],
)
def test_the_one_set_of_tensors_of_a_file_is_found(held, tmp_path):
    torch.save(held, tmp_path / "model.bin")
    assert sorted(open_foreign(tmp_path / "model.bin").tensors) == ["dec.a", "enc.a"]


def test_one_of_several_sets_of_tensors_is_asked_for(tmp_path):
    path, other = tmp_path / "model.bin", {name: value + 1 for name, value in STATE.items()}
    torch.save({"model": STATE, "ema": {"shadow": {**other, "decay": 0.9}, "b": STATE}}, path)
    refused(path, "holds tensors under 'model', 'ema.b'; say which with --entry NAME")
    assert open_foreign(path, entry="model").tensors["enc.a"].tolist() == [0]
    source = open_foreign(path, entry="ema.shadow")
    assert source.tensors["enc.a"].tolist() == [1]
    assert source.entry == "ema.shadow"
    refused(path, "no tensors under 'emma'; there is 'model', 'ema.b'", entry="emma")
    for name, write in (("m.safetensors", save_file), ("m.bin", torch.save)):  # an entry by its names alone
        write({**{f"ema.{n}": t for n, t in other.items()}, **STATE}, tmp_path / name)
        assert open_foreign(tmp_path / name, entry="ema").tensors["enc.a"].tolist() == [1]
        refused(tmp_path / name, "has no tensor", entry="avg")


def test_an_average_beside_the_model_is_told_and_found_by_its_beginning(tmp_path):
    path, other = tmp_path / "model.ckpt", {name: value + 1 for name, value in STATE.items()}
    average = {**{f"ema_model.{n}": t for n, t in other.items()}, "ema_model.decay": torch.ones(1)}
    held = {**{f"model.{n}": t for n, t in STATE.items()}, **average, "loss.a": torch.ones(1)}
    torch.save({"state_dict": held, "epoch": 1}, path)
    with pytest.raises(ConfigError, match=r"same tensors under 'model', 'ema_model': say which with --entry NAME"):
        understood(open_foreign(path))
    for entry in ("ema_model", "state_dict.ema_model"):
        assert open_foreign(path, entry=entry).tensors["enc.a"].tolist() == [1]
    torch.save({f"net.{n}": t for n, t in held.items() if n != "loss.a"}, path)
    with pytest.raises(ConfigError, match=r"same tensors under 'net.model', 'net.ema_model'"):
        understood(open_foreign(path))
    torch.save({"state_dict": {**STATE, "decay": 0.9}}, path)
    refused(path, "something else than tensors by name; if they are under 'state_dict', say so with --entry NAME")
    assert sorted(open_foreign(path, entry="state_dict").tensors) == ["dec.a", "enc.a"]


def test_beginnings_of_names_are_replaced(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"module.net.enc.a": torch.zeros(1), "module.net.dec.a": torch.ones(2)}, path)
    for old in ("module.net.enc.", "net.enc."):  # as the file has it, and as an error tells it
        assert sorted(open_foreign(path, rename={old: "net.encoder."}).tensors) == ["net.dec.a", "net.encoder.a"]
    source = open_foreign(path, rename={"net.": ""})
    assert sorted(source.tensors) == ["dec.a", "enc.a"]
    assert source.renamed == {"net.": ""}
    refused(path, "no tensor whose name begins with 'ned.': 'net.dec.a'", rename={"ned.": ""})
    refused(path, "two tensors of the name 'a'", rename={"net.enc.": "", "net.dec.": ""})


def test_a_beginning_that_no_importer_knows_is_left_out_and_told(tmp_path, monkeypatch):
    class Known:
        def recognises(self, source):
            return "enc.a" in source.tensors

    monkeypatch.setattr("flexframe.importing.catalogue", lambda: Catalogue())
    monkeypatch.setattr("flexframe.importing.resolve", lambda kind, name: name)

    class Catalogue:
        def names(self, kind):
            return ["known", "lost", "careless"]

        def build(self, name):
            if name == "lost":
                raise ImportError("importer 'lost' of mine 1.0 cannot be imported: No module named 'mine.times'")
            return Known() if name == "known" else Careless()

    class Careless:
        def recognises(self, source):
            return source.settings["version"] > 1

    save_file({f"tokenizer.net.{name}": tensor for name, tensor in STATE.items()}, tmp_path / "model.safetensors")
    source, importer = understood(open_foreign(tmp_path))
    assert isinstance(importer, Known)
    assert source.tensors["dec.a"].tolist() == [1, 1]
    assert [note.partition(", ")[0] for note in source.notes] == [
        "all names of its tensors begin with 'tokenizer.'",
        "all names of its tensors begin with 'net.'",
        "importer 'lost' of mine 1.0 cannot be imported: No module named 'mine.times'; it was passed over",
        "importer 'careless' failed: KeyError: 'version'; it was passed over",
    ]
    save_file({"a.b": torch.zeros(1), "c.b": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=r"is of no format known here .*; importer 'lost' of .*; importer 'careless'"):
        understood(open_foreign(tmp_path))


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model"])
def test_a_pointer_of_git_lfs_is_told_as_one(name, tmp_path):
    (tmp_path / name).write_bytes(POINTER)
    told = "is a pointer of git-lfs and not the file itself; run `git lfs pull`"
    refused(tmp_path / name, told)
    for read in (read_config, read_model_file, TokenFile):
        with pytest.raises(ConfigError, match=told):
            read(tmp_path / name)
    for file in (tmp_path / name, BytesIO(POINTER)):
        with pytest.raises(BrokenImage, match=told):
            read_image(file, "image")


@pytest.mark.parametrize("name", ["../m-1.safetensors", "/etc/passwd", "lost.safetensors"])
def test_an_index_cannot_point_elsewhere(tmp_path, name):
    index = {"weight_map": {"a": name}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(tmp_path, "names files that are not beside it")


# --- configs -----------------------------------------------------------------------------------------------------


def test_a_config_of_ten_megabytes_is_refused_unread(folder, monkeypatch):
    (folder / "config.json").write_text("[" * (10 << 20))
    monkeypatch.setattr(json, "loads", lambda *_: pytest.fail("parsed it"))
    refused(folder, "a config has at most")


@pytest.mark.parametrize("text", ["[" * 1000 + "]" * 1000, '{"a":' * 1000 + "1" + "}" * 1000, "(" * 100_000])
def test_a_config_too_deep_is_refused_unparsed(folder, text):
    (folder / "config.json").write_text(text)
    refused(folder, f"more than {MAX_DEPTH} brackets")


def test_deep_yaml_is_refused(folder):
    (folder / "config.json").unlink()
    (folder / "config.yaml").write_text("\n".join(" " * i + f"a{i}:" for i in range(1000)))
    refused(folder, "no config nests so deep")


@pytest.mark.parametrize("text", ["[1, 2]", "{", "{'a': 1}", "\x00"])
def test_a_config_that_is_no_json_mapping_is_one_error(folder, text):
    (folder / "config.json").write_text(text)
    refused(folder, "config.json")


def test_yaml_builds_nothing(tmp_path, folder):
    mark = tmp_path / "ran"
    (folder / "config.json").unlink()
    (folder / "config.yaml").write_text(f"a: !!python/object/apply:os.system ['touch {mark}']\n")
    refused(folder, "cannot be read")
    assert not mark.exists()


def test_metadata_is_read_as_literals(tmp_path):
    values = {
        "encoder": str({"width": 2, "none": None, "flag": True, "f": 0.5}),
        "_target_": "some.Name",
        "vae": "None",
    }
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors", metadata={"format": "pt", **values})
    settings = open_foreign(tmp_path).settings
    assert settings["encoder"] == {"width": 2, "none": None, "flag": True, "f": 0.5}
    assert settings["_target_"] == "some.Name"
    assert settings["vae"] is None
    assert "format" not in settings


@pytest.mark.parametrize(
    "text", ["{'a': __import__('os').system('true')}", "{'a': open('x')}", "[x for x in ()]", "{'a': 1 + b}", "{" * 200]
)
def test_metadata_that_is_code_is_refused(tmp_path, text):
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors", metadata={"encoder": text})
    refused(tmp_path, "metadata 'encoder'")


def test_metadata_too_long_is_refused(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors", metadata={"vae": "{" + " " * MAX_CONFIG + "}"})
    refused(tmp_path, "a config has at most")


@pytest.mark.parametrize("text", ["{1: 2}", "{'a': b'x'}", "{'a': {1, 2}}", "{'a': 1j}"])
def test_what_is_no_plain_data_is_refused(tmp_path, text):
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors", metadata={"vae": text})
    refused(tmp_path, "no plain data|is no text")


def test_brackets_within_text_do_not_nest():
    assert parse(json.dumps({"a": "[" * 500}), "here") == {"a": "[" * 500}


def test_a_config_with_a_comment_and_an_apostrophe_is_read(tmp_path):
    (tmp_path / "c.yaml").write_text("# it's one\na: 1e-4\nb: [1, 2]\n")
    assert read_config(tmp_path / "c.yaml") == {"a": 1e-4, "b": [1, 2]}


# --- what a user assumes and drops -------------------------------------------------------------------------------


def test_assumptions_are_laid_on_and_kept(folder):
    source = open_foreign(folder, assume={"a.depth": 4, "c.d.e": "x"})
    assert source.settings["a"] == {"width": 2, "odd": 1, "depth": 4}
    assert source.settings["c"] == {"d": {"e": "x"}}
    assert source.assumed == {"a.depth": 4, "c.d.e": "x"}


def test_what_is_dropped_is_gone_settings_and_tensors(folder):
    source = open_foreign(folder, drop=["a.odd", "b"])
    assert source.settings == {"a": {"width": 2}}
    assert list(source.tensors) == ["a.weight"]
    assert source.dropped == ("a.odd", "b")


def test_dropping_what_is_not_there_is_told(folder):
    refused(folder, "neither a setting nor a tensor 'a.od'", drop=["a.od"])


def test_assuming_below_a_value_is_told(folder):
    refused(folder, "'b' is 3, which has no settings below it", assume={"b.c": 1})


# --- settings read one by one ------------------------------------------------------------------------------------


def test_what_nobody_read_is_listed_with_path_and_value():
    settings = Settings({"a": {"b": 1, "c": [2]}, "d": "x", "e": 5})
    assert settings.child("a").number("b") == 1
    assert settings.take("e", int) == 5
    with pytest.raises(ConfigError) as told:
        settings.finish()
    assert [path for path, _ in told.value.problems] == ["a.c", "d"]
    assert "--drop a.c" in str(told.value)
    assert "[2]" in str(told.value)


def test_a_child_that_was_read_through_leaves_nothing():
    settings = Settings({"a": {"b": 1}, "c": {"x": 1, "y": {"z": 2}}})
    settings.child("a").number("b")
    assert settings.unread() == [("c", {"x": 1, "y": {"z": 2}})]
    settings.ignore("c")
    assert settings.unread() == []
    settings.finish()


def test_a_child_that_nobody_looked_into_is_listed_whole():
    settings = Settings({"a": {"b": 1}})
    settings.child("a")
    assert settings.unread() == [("a", {"b": 1})]


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda s: s.number("lost"), "a.lost: is not given; if you know it, say --assume a.lost=VALUE"),
        (lambda s: s.number("zero"), "a.zero: is 0; expected at least 1"),
        (lambda s: s.number("yes"), "a.yes: is True; expected int"),
        (lambda s: s.take("word", float), "a.word: is 'wrd'; expected float"),
        (lambda s: s.numbers("list"), "a.list: is [1, 'x']; expected whole numbers above 0"),
        (lambda s: s.choice("word", ("word", "other")), "Did you mean 'word'"),
        (lambda s: s.child("zero"), "a.zero: is 0; expected dict"),
    ],
)
def test_a_setting_of_another_kind_is_told(read, message):
    settings = Settings({"a": {"zero": 0, "yes": True, "word": "wrd", "list": [1, "x"]}}).child("a")
    with pytest.raises(ConfigError) as told:
        read(settings)
    assert message in str(told.value)


def test_whole_numbers_pass_for_fractions_and_not_the_other_way():
    assert Settings({"a": 2}).take("a", float) == 2.0
    with pytest.raises(ConfigError):
        Settings({"a": 2.0}).take("a", int)


# --- comparisons -------------------------------------------------------------------------------------------------


def test_comparisons_pass_and_fail_where_they_should():
    ones = torch.ones(3)
    assert compare("c", "t", ones + 1e-5, ones).passed
    assert not compare("c", "t", ones + 1e-4, ones).passed
    assert compare("c", "t", ones * 100 + 1e-4, ones * 100, rtol=1e-5).passed
    assert not compare("c", "t", torch.ones(2), ones).passed
    assert not compare("c", "t", ones * float("nan"), ones).passed
    assert not compare("c", "t", ones * 100 * float("nan"), ones * 100).passed
    ids = torch.arange(3)
    assert compare("c", "t", ids, ids).passed
    wrong = compare("c", "t", ids + torch.tensor([0, 0, 1]), ids)
    assert (wrong.error, wrong.largest, wrong.passed) == (1, 3, False)


def test_a_tolerance_grows_with_large_entries_and_with_no_others():
    def tolerance(largest, *given):
        return compare("c", "t", torch.zeros(2), torch.tensor([0.0, -largest]), *given).tolerance

    assert [tolerance(largest) for largest in (0.0, 0.1, 1.0, 5.0)] == [2e-5] * 4
    assert tolerance(26.0) == pytest.approx(32 * 2**-23 * 26)
    assert tolerance(5.0, 2e-4) == tolerance(26.0, 2e-4) == 2e-4
    assert tolerance(26.0, 1e-8, 1e-3) == pytest.approx(0.026)
    golden = torch.tensor([0.1, 26.0])
    sampled = golden + torch.tensor([0.0, 3.6e-5])  # as another processor draws it
    assert compare("c", "t", sampled, golden).passed
    assert not compare("c", "t", golden + torch.tensor([0.0, 2e-4]), golden).passed
    assert not compare("c", "t", golden[:1] + 3.6e-5, golden[:1]).passed
    assert_parity("t", sampled, golden)
    with pytest.raises(AssertionError, match=r"largest error 3\.60e-05 of 2e-05"):
        assert_parity("t", golden[:1] + 3.6e-5, golden[:1])
    with pytest.raises(AssertionError, match=r"golden \(2,\)"):
        assert_parity("t", golden[:1], golden)
    with pytest.raises(AssertionError, match="1 of 2 differ"):
        assert_parity("t", torch.tensor([0, 1]), torch.tensor([0, 2]))


def test_nothing_to_compare_with_is_told(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"holds no case\*\.safetensors"):
        verify_folder(folder)
    with pytest.raises(ConfigError, match="is no folder"):
        verify_folder(tmp_path / "lost")


def test_the_table_tells_failures():
    found = [
        compare("c", "t", torch.ones(1), torch.zeros(1)),
        compare("c", "ids", torch.ones(1).long(), torch.ones(1).long()),
    ]
    text = markdown([("one", found)])
    assert "1 of 2 within tolerance" in text
    assert "| c | `t` | 1.0e+00 | 2e-05 | **no** |" in text
    assert "| c | `ids` | 0 of 1 | 0 | ok |" in text
