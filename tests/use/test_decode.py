"""Token files to pictures: which model, which names, and from where it stopped."""

import json
from copy import deepcopy

import numpy as np
import pytest
import torch
from PIL import Image

from flexframe.data.tokenfile import About, Row, TokenFile, write
from flexframe.models.tokenizer import Tokenizer
from flexframe.pictures import to_uint8, whole_png
from flexframe.rng import Rng
from flexframe.use import decode as module
from flexframe.use.decode import compatible, decode, names
from flexframe.use.encode import encode
from flexframe.use.lengths import Listed
from flexframe_registry import ConfigError, cards
from flexframe_registry.slots import resolve

from .test_tokenfile import about

PNGS = ["a.png", "b.png", "b/10.png", "b/2.png", "c.png", "d/e/1.png", "z.png"]
"""What becomes of `photos`."""


@pytest.fixture
def tokens(tiny, photos, tmp_path):
    path = tmp_path / "t.safetensors"
    rule = Listed((1, 8, 3, 5, 2, 8, 7))
    encode(tiny, [photos], path, model="some/model", rule=rule)
    return TokenFile(path)


@pytest.fixture
def run(tiny, tokens, tmp_path):
    def call(out="out", file=None, tokenizer=tiny, **settings):
        return decode(file or tokens, tokenizer, tmp_path / out, **settings)

    return call


def pictures(folder):
    found = {p.relative_to(folder).as_posix(): np.asarray(Image.open(p)) for p in folder.rglob("*.png")}
    return dict(sorted(found.items()))


def made(tmp_path, ids, **changes):
    path = tmp_path / "made.safetensors"
    write(path, about(**changes), lambda: [Row(i, name, np.ones((2, 1), "<u2")) for i, name in enumerate(ids)])
    return TokenFile(path)


# --- pictures ----------------------------------------------------------------------------------------------------


def test_pictures_are_those_of_each_row_by_itself(run, tiny, tokens, tmp_path):
    found = run(seed=4, sampling={"steps": 3, "guidance": 2.0})
    assert (found.count, found.kept) == (7, 0)
    shown, rows = pictures(tmp_path / "out"), tokens.rows(0, 7)
    assert list(shown) == PNGS
    for i, image in enumerate(shown.values()):
        alone = tiny.tokens(rows.codes[i : i + 1, : rows.lengths[i]])
        rng = Rng(4, torch.tensor([i]))
        expected = to_uint8(tiny.decode(alone, rng=rng, sampling={"steps": 3, "guidance": 2.0}))
        assert np.abs(image.astype(int) - expected[0].permute(1, 2, 0).numpy()).max() <= 1
    assert not list((tmp_path / "out").rglob("*.part"))


def test_batch_size_moves_no_picture(run, tmp_path):
    for size in (1, 3, 64):
        run(f"{size}", batch_size=size)
    one, three, all_ = (pictures(tmp_path / f"{size}") for size in (1, 3, 64))
    for name in PNGS:
        assert np.abs(one[name].astype(int) - three[name]).max() <= 1
        assert np.abs(one[name].astype(int) - all_[name]).max() <= 1


def test_a_picture_that_was_damaged_is_decoded_again(run, tmp_path, caplog):
    run()
    path = tmp_path / "out" / "z.png"
    whole = path.read_bytes()
    unseen = []
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        unseen += [bit] * whole_png(bytes(damaged))
    assert unseen == []
    assert whole_png(whole)
    for damaged in (whole[:-1], whole + b"x", b"", whole[:-20] + bytes([whole[-20] ^ 4]) + whole[-19:]):
        path.write_bytes(damaged)
        assert run().kept == 6
        assert path.read_bytes() == whole
    assert "z.png is damaged, and decoded again" in caplog.text


def test_a_length_cuts_and_a_seed_counts(run, tmp_path):
    for name, settings in {"whole": {}, "cut": {"length": 2}, "seed": {"seed": 1}}.items():
        run(name, **settings)
    whole, cut, seed = (pictures(tmp_path / name) for name in ("whole", "cut", "seed"))
    changed = [name for name in PNGS if not np.array_equal(whole[name], cut[name])]
    assert changed == ["b.png", "b/10.png", "b/2.png", "d/e/1.png", "z.png"]  # those of more than two tokens
    assert all(np.abs(whole[name].astype(int) - seed[name]).max() > 1 for name in PNGS)


def test_an_image_draws_by_the_number_it_was_encoded_with(run, tiny, photos, tmp_path):
    """So that what was left out as broken moves no other picture."""
    run("whole")
    (photos / "b.bmp").write_bytes(b"no")
    path = tmp_path / "less.safetensors"
    encode(tiny, [photos], path, model="m", rule=Listed((1, 8, 3, 5, 2, 8, 7)), skip_broken=True)
    run("less", TokenFile(path))
    whole, less = pictures(tmp_path / "whole"), pictures(tmp_path / "less")
    assert list(less) == [name for name in PNGS if name != "b.png"]
    assert all(np.abs(whole[name].astype(int) - less[name]).max() <= 1 for name in less)


def test_steps_are_told_as_they_are_done(run):
    told = []
    run(batch_size=4, sampling={"steps": 2}, progress=lambda done, of: told.append((done, of)))
    assert told == [(0, 7), (2, 7), (4, 7), (4, 7), (5.5, 7), (7, 7), (7, 7)]


def test_settings_of_another_decoder_are_refused(run):
    with pytest.raises(ConfigError, match=r"sampling\.stepps: there is no such setting. Did you mean 'steps'"):
        run(sampling={"stepps": 3})


@pytest.mark.parametrize("length", [0, 9])
def test_a_length_that_is_none_is_told(run, length):
    with pytest.raises(ConfigError, match=rf"--length: {length} is not within 1\.\.8, the longest of"):
        run(length=length)


def test_fewer_tokens_than_a_model_of_one_length_was_trained_at_are_refused(run, tiny):
    fixed = Tokenizer(tiny.config.model_copy(update={"masker": resolve("masker", "full")})).eval()
    with pytest.raises(ConfigError, match=r"--length: 4: this model was trained at 8 tokens alone: fewer are no image"):
        run(tokenizer=fixed, length=4, force=True)
    assert run(tokenizer=fixed, length=8, force=True).count == 7


# --- the right model ---------------------------------------------------------------------------------------------


def other(**changes):
    config = cards().get("toy/digits-tiny").model.model_dump(mode="json") | changes
    torch.manual_seed(7)
    return Tokenizer(type(cards().get("toy/digits-tiny").model).read(config)).eval()


def test_another_model_is_refused_unless_forced(run, tmp_path):
    with pytest.raises(ConfigError, match=r"was encoded by another model \(some/model\).* with --model, or .* --force"):
        run(tokenizer=other())
    assert not (tmp_path / "out").exists()
    assert run(tokenizer=other(), force=True).count == 7


def test_a_model_with_another_decoder_alone_is_the_same(run, tiny):
    trained_on = other(decoder="toy-plain", masker="full")
    for part in ("encoder", "quantizer"):
        getattr(trained_on, part).load_state_dict(getattr(tiny, part).state_dict())
    assert run(tokenizer=trained_on).count == 7


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"length": 4}, "has sequences of 8 tokens; this model's have at most 4"),
        ({"quantizer": {"type": "toy", "levels": [4, 4]}}, r"has tokens of 1 x 512; this model's are of 1 x 16, so it"),
        ({"quantizer": "toy-values"}, r"has tokens of 1 x 512; this model's are of 3 values"),
    ],
)
def test_force_does_not_make_tokens_fit(run, changes, words):
    with pytest.raises(ConfigError, match=words):
        run(tokenizer=other(**changes), force=True)


# --- names -------------------------------------------------------------------------------------------------------


def test_a_suffix_gives_way_unless_two_would_meet(tmp_path):
    ids = ["a.jpg", "b/a.jpg", "b/a.png", "b/c.tar.gif", "d", "e.v2", "f.JPEG"]
    name = names(made(tmp_path, ids))
    assert [name(each) for each in ids] == [
        "a.png", "b/a.jpg.png", "b/a.png", "b/c.tar.png", "d.png", "e.v2.png", "f.png",
    ]  # fmt: skip


@pytest.mark.parametrize("ids", [["a.png", "a.png"], ["a.jpg", "a.png", "a.jpg.png"]])
def test_two_of_one_name_are_told(tmp_path, ids):
    with pytest.raises(ConfigError, match=r"two of its images would be written to 'a(\.jpg)?\.png'"):
        names(made(tmp_path, ids))


@pytest.mark.parametrize("name", ["../x.png", "/tmp/x.png", "a/../../x.png", "a\\..\\x.png", "C:/x.png", "a//b.png"])
def test_no_name_leads_out_of_the_folder(run, tiny, tmp_path, name):
    tampered = tmp_path / "tampered.safetensors"
    facts = TokenFile(tmp_path / "t.safetensors").about
    write(tampered, facts, lambda: [Row(0, name, np.ones((2, 1), "<u2"))])
    with pytest.raises(ConfigError, match=r"tampered\.safetensors: holds .*, which is no id: ids are relative paths"):
        run(file=TokenFile(tampered))
    assert not (tmp_path / "out").exists()


def test_no_link_leads_out_of_the_folder(run, tmp_path):
    run()
    for path in (tmp_path / "out" / "b").iterdir():
        path.unlink()
    (tmp_path / "out" / "b").rmdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "b").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"leads out of .*out, by a link"):
        run()
    assert not list((tmp_path / "elsewhere").iterdir())


# --- broken off, and on again ------------------------------------------------------------------------------------


def test_it_goes_on_where_it_stopped(run, monkeypatch, tmp_path):
    run("whole")
    original, count = module.save, 0

    def breaking(*arguments):
        nonlocal count
        count += 1
        if count == 5:
            raise KeyboardInterrupt
        original(*arguments)

    monkeypatch.setattr(module, "save", breaking)
    with pytest.raises(KeyboardInterrupt):
        run(batch_size=2)
    assert len(pictures(tmp_path / "out")) == 4
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.png")}
    monkeypatch.setattr(module, "save", original)
    assert run().kept == 4
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    whole, found = pictures(tmp_path / "whole"), pictures(tmp_path / "out")
    assert list(found) == PNGS
    assert all(np.abs(whole[name].astype(int) - found[name]).max() <= 1 for name in PNGS)
    assert run().kept == 7


def test_pictures_of_two_runs_are_never_mixed(run, tiny, photos, tokens, tmp_path):
    run()
    for settings, words in (
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"length": 2}, "length was none and is 2"),
        ({"sampling": {"steps": 1}}, "sampling.steps was 2 and is 1"),
        ({"tokenizer": other(), "force": True}, "decoder was .*; fingerprint was .*; sampling.steps was .*"),
    ):
        with pytest.raises(ConfigError, match=f"another decoding: {words}; choose another folder"):
            run(**settings)
    encode(tiny, [photos / "b"], tmp_path / "b.safetensors", model="some/model", rule=Listed((8, 8)))
    with pytest.raises(ConfigError, match="another decoding: tokens_sha256 was"):
        run(file=TokenFile(tmp_path / "b.safetensors"))
    record = json.loads((tmp_path / "out" / "decode.json").read_text())
    assert record["sampling"]["steps"] == 2


def test_a_folder_with_other_things_in_it_is_left_alone(run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").write_bytes(b"mine")
    with pytest.raises(ConfigError, match=r"is no empty folder and has no decode\.json to go on from"):
        run()
    assert (tmp_path / "out" / "a.png").read_bytes() == b"mine"
    (tmp_path / "out" / "decode.json").write_text("[]")
    with pytest.raises(ConfigError, match="another decoding"):
        run()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="is no empty folder"):
        run("file")


def test_a_broken_file_is_told_before_anything_is_written(run, tokens, tmp_path):
    content = bytearray(tokens.path.read_bytes())
    past = len(content) - sum(len(name) for name in tokens.ids())  # the codes end where the ids begin
    content[past - 4 : past - 2] = b"\xff\xff"  # the last of seven present ones, in eight slots of two bytes
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    bad = TokenFile(path)
    assert bad.rows(0, 6).ids == list(tokens.ids())[:6]
    with pytest.raises(ConfigError, match=r"hold token ids \d+\.\.65535"):
        run(file=bad)
    assert not (tmp_path / "out").exists()


# --- precision -----------------------------------------------------------------------------------------------------


def test_tokens_of_another_precision_are_told(tiny, photos, tmp_path, caplog):
    low, files = deepcopy(tiny).bfloat16(), {}
    for name, model in {"float32": tiny, "bfloat16": low}.items():
        encode(model, [photos], tmp_path / f"{name}.safetensors", model="some/model", rule=Listed((8,) * 7))
        files[name] = TokenFile(tmp_path / f"{name}.safetensors")
        assert files[name].about.precision == name
        compatible(files[name], model)
    assert not caplog.records
    told = "was encoded in bfloat16, and this model computes in float32: 3 to 5 % of token ids"
    with pytest.raises(ConfigError, match=f"{told}.*; use the same, encode again, or decode with --force"):
        compatible(files["bfloat16"], tiny)
    with pytest.raises(ConfigError, match="was encoded in float32, and this model computes in bfloat16"):
        compatible(files["float32"], low)
    compatible(files["bfloat16"], tiny, force=True)
    with torch.autocast("cpu", torch.bfloat16):  # the same weights
        compatible(files["float32"], tiny)
    assert [told.split(": 3 to 5")[0].split(" was ")[1] for told in caplog.messages] == [
        "encoded in bfloat16, and this model computes in float32",
        "encoded in float32, and this model computes in bfloat16",
    ]


def test_a_file_of_before_precisions_is_of_float32(tiny, tokens):
    raw = tokens.about.model_dump(mode="json")
    del raw["precision"]
    assert About.read(raw).precision == "float32"
