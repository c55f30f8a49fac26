"""Images to token files: the same bytes whatever the batch size, and however often it was broken off."""

import sqlite3
import time

import pytest
import torch

import flexframe
from flexframe.data.images import BrokenImage
from flexframe.data.tokenfile import TokenFile
from flexframe.models.tokenizer import Tokenizer
from flexframe.rng import Rng
from flexframe.use import encode as module
from flexframe.use.encode import encode, load
from flexframe.use.inputs import entries
from flexframe.use.journal import ImageJournal
from flexframe.use.lengths import Fixed, Listed, Table, read_rule
from flexframe_registry import ConfigError, UnknownName, cards

from .conftest import IDS, picture, png, tar


@pytest.fixture
def run(tiny, photos, tmp_path):
    """Encodes `photos` with the small FlexTok."""

    def call(out="t.safetensors", inputs=None, tokenizer=tiny, **settings):
        settings = {"model": "some/model", "rule": Fixed(8)} | settings
        return encode(tokenizer, inputs or [photos], tmp_path / out, **settings)

    return call


def read(path):
    file = TokenFile(path)
    file.check()
    return file.rows(0, len(file))


# --- what is in the file -----------------------------------------------------------------------------------------


def test_tokens_are_those_of_each_image_by_itself(run, tiny, photos, tmp_path):
    found = run(seed=3)
    assert (found.count, found.tokens, found.resumed, found.broken) == (7, 56, 0, 0)
    rows = read(found.path)
    assert rows.ids == IDS
    assert rows.index.tolist() == list(range(7))
    for i, entry in enumerate(sorted(entries([photos]), key=lambda e: e.id)):
        image = load(entry, (16, 16), "torchvision-bicubic")[None].float() / 255
        expected = tiny.encode(image, rng=Rng(3, torch.tensor([i])))
        assert torch.equal(rows.codes[i], expected.codes[0])
    assert len(rows.codes.unique()) > 20  # else this shows little


def test_the_file_says_what_it_is(run):
    about = TokenFile(run(seed=3, resize="torchvision-bilinear", rule=Fixed(4)).path).about
    assert (about.model, about.seed, about.image_size) == ("some/model", 3, (16, 16))
    assert (about.length, about.codebooks, about.codebook_size) == (8, 1, 512)
    assert about.preprocessing["resize"] == "torchvision-bilinear"
    assert about.lengths == {"rule": "fixed", "length": 4}


def test_a_shard_gives_the_tokens_of_the_files(run, photos, tmp_path):
    files = {p.relative_to(photos).as_posix(): p.read_bytes() for p in photos.rglob("*.*") if p.suffix != ".txt"}
    shard = tar(tmp_path / "s.tar", dict(sorted(files.items(), reverse=True)))
    run("folder"), run("shard", [shard])
    assert (tmp_path / "folder").read_bytes() == (tmp_path / "shard").read_bytes()


def test_neither_batch_size_nor_threads_move_a_byte(run, tmp_path):
    for size, workers in ((1, 1), (3, 2), (7, 4), (64, 1)):
        run(f"{size}", batch_size=size, workers=workers, rule=Listed((1, 8, 3, 5, 2, 8, 7)))
    assert len({(tmp_path / f"{size}").read_bytes() for size in (1, 3, 7, 64)}) == 1


@pytest.mark.parametrize("quantizer", ["toy-values", {"type": "toy", "levels": [8, 8, 8], "split": True}], ids=str)
def test_other_kinds_of_codes(run, tmp_path, quantizer):
    config = cards().get("toy/digits-tiny").model.model_dump(mode="json") | {"quantizer": quantizer}
    torch.manual_seed(0)
    tokenizer = Tokenizer(type(cards().get("toy/digits-tiny").model).read(config)).eval()
    spec = tokenizer.spec.tokens
    rows = read(run(tokenizer=tokenizer, rule=Fixed(5)).path)
    assert rows.codes.shape == (7, 5, spec.dim if spec.codebook_size is None else spec.codebooks)
    found = sorted(entries([tmp_path / "photos"]), key=lambda entry: entry.id)
    images = torch.stack([load(entry, (16, 16), "torchvision-bicubic") for entry in found])
    expected = tokenizer.encode(images.float() / 255).codes[:, :5]
    torch.testing.assert_close(rows.codes, expected)


# --- lengths -----------------------------------------------------------------------------------------------------


def test_lengths_are_fixed_listed_or_of_a_table(run, tmp_path):
    whole = read(run("whole").path)
    some = [1, 8, 3, 5, 2, 4, 7]
    table = tmp_path / "lengths.csv"
    table.write_text("id,length\n" + "".join(f'"{i}",{k}\n' for i, k in reversed(list(zip(IDS, some, strict=True)))))
    for name, rule, lengths in (
        ("fixed", Fixed(3), [3] * 7),
        ("listed", Listed(tuple(some)), some),
        ("table", Table(table, 8), some),
    ):
        found = run(name, rule=rule)
        rows = read(found.path)
        assert rows.lengths.tolist() == lengths
        assert found.tokens == sum(lengths)
        assert rows.codes.shape[1] == max(lengths)
        for i, k in enumerate(lengths):
            assert torch.equal(rows.codes[i, :k], whole.codes[i, :k])
            assert not rows.codes[i, k:].any()


def test_an_allocator_chooses_by_each_image_alone(run, tiny, tmp_path):
    rule = read_rule(None, "toy", ["gain=1.0"], tiny)
    rule.allocator.choose = lambda tokenizer, images, rng: (images[:, 0, 0, 0] * 8).ceil().clamp(1, 8).long()
    lengths = {size: read(run(f"{size}", rule=rule, batch_size=size).path).lengths.tolist() for size in (1, 3)}
    assert lengths[1] == lengths[3]
    assert len(set(lengths[1])) > 1  # else this shows little
    record = TokenFile(tmp_path / "1").about.lengths
    assert record["allocator"] == {"type": "toy", "gain": 1.0}
    assert record["provider"].startswith("flexframe-toy ")
    assert "rests_on" not in record
    rule.allocator.rests_on = lambda: {"head_sha256": "ab"}
    assert rule.record() == {**record, "rests_on": {"head_sha256": "ab"}}


def test_a_rule_is_read_from_the_command_line(tiny, tmp_path):
    assert read_rule(None, None, [], tiny) == Fixed(8)
    assert read_rule("4", None, [], tiny) == Fixed(4)
    assert read_rule("4,8,1", None, [], tiny) == Listed((4, 8, 1))
    (tmp_path / "t.csv").write_text("")
    assert read_rule(f"@{tmp_path / 't.csv'}", None, [], tiny) == Table(tmp_path / "t.csv", 8)
    for arguments, kind, words in (
        (("9", None, []), ConfigError, r"--lengths: a length of 9; this model's are 1\.\.8"),
        (("4,0", None, []), ConfigError, "--lengths: a length of 0"),
        (("4,x", None, []), ConfigError, "--lengths: 'x' is no whole number"),
        (("4,", None, []), ConfigError, "--lengths: '' is no whole number"),
        (("@nowhere.csv", None, []), ConfigError, "there is no file 'nowhere.csv'"),
        (("4", "toy", []), ConfigError, "name one of the two"),
        ((None, None, ["gain=3"]), ConfigError, "gain=3: is a setting of an allocator"),
        ((None, "tyo", []), UnknownName, "no allocator named 'tyo'. Did you mean 'toy'"),
        ((None, "toy", ["gian=3"]), ConfigError, "gian: there is no such setting. Did you mean 'gain'"),
        ((None, "toy", ["gain=9"]), ConfigError, "a gain of 9.0 is more than the 8 tokens of this model"),
    ):
        with pytest.raises(kind, match=words):
            read_rule(*arguments, tiny)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a.png,3\nnone.png,3\n", "t.csv, line 2: there is no image 'none.png' among the inputs"),
        ("a.png,3\n\na.png,4\n", "t.csv, line 3: image 'a.png' has a length already"),
        ("a.png,3\n", "t.csv: gives no length for image 'b.bmp'"),
        ("a.png;3\n", "t.csv, line 1: has 1 columns, not the two"),
        ("a.png,9\n", r"t.csv, line 1: a length of 9; this model's are 1\.\.8"),
        ("a.png,many\n", "t.csv, line 1: 'many' is no whole number"),
        (b"\xff\xfe\x00a", "t.csv: is no CSV file in UTF-8"),
    ],
)
def test_a_table_that_does_not_fit_is_told(run, tmp_path, text, words):
    path = tmp_path / "t.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=words):
        run(rule=Table(path, 8))


def test_a_list_of_the_wrong_length_is_told(run):
    for some in ((1,) * 6, (1,) * 8):
        with pytest.raises(ConfigError, match=f"lists {len(some)} lengths for 7 images"):
            run(rule=Listed(some))


def test_an_allocator_that_chooses_nonsense_is_told(run, tiny):
    rule = read_rule(None, "toy", [], tiny)
    rule.allocator.choose = lambda tokenizer, images, rng: torch.full((len(images),), 9)
    with pytest.raises(ValueError, match=r"allocator 'toy' chose lengths 9\.\.9 .* one each in 1\.\.8"):
        run(rule=rule)


# --- what cannot be read -----------------------------------------------------------------------------------------


@pytest.fixture
def broken(photos):
    (photos / "b" / "2.png").write_bytes(png(5)[:300])
    (photos / "c.PNG").write_bytes(b"no image")


@pytest.mark.usefixtures("broken")
def test_a_broken_image_is_named(run, tmp_path):
    with pytest.raises(
        BrokenImage,
        match=r"cannot read image .*photos/b/2\.png: .*; repair or remove the file, or go on without it by --skip",
    ):
        run()
    assert not (tmp_path / "t.safetensors").exists()


@pytest.mark.usefixtures("broken")
def test_broken_images_are_left_out_on_request_and_move_no_other(run, photos, tmp_path):
    with pytest.raises(BrokenImage):
        run(batch_size=2)  # goes on below from the first two images
    found = run(skip_broken=True, batch_size=2)
    assert (found.count, found.broken, found.resumed) == (5, 2, 2)
    assert [reason.split(":")[0].split("/")[-1] for reason in found.reasons] == ["2.png", "c.PNG"]
    rows = read(found.path)
    assert rows.ids == [name for name in IDS if name not in ("b/2.png", "c.PNG")]
    assert rows.index.tolist() == [0, 1, 2, 5, 6]
    run("again", skip_broken=True)
    assert (tmp_path / "again").read_bytes() == found.path.read_bytes()


@pytest.mark.usefixtures("broken")
def test_broken_images_of_an_earlier_run_are_not_forgotten(run, monkeypatch, tmp_path):
    interrupt(monkeypatch, after=5)
    with pytest.raises(KeyboardInterrupt):
        run(skip_broken=True, batch_size=1)
    with pytest.raises(BrokenImage, match=r"b/2\.png"):
        run()


def test_nothing_but_broken_images_is_an_error(run, tmp_path):
    (tmp_path / "x.png").write_bytes(b"no")
    with pytest.raises(ConfigError, match="none of the 1 images can be read; the first: cannot read image"):
        run(inputs=[tmp_path / "x.png"], skip_broken=True)


# --- broken off, and on again ------------------------------------------------------------------------------------


def interrupt(monkeypatch, after):
    """The user's Ctrl-C once `after` images are encoded."""
    original = module._encode

    def breaking(tokenizer, work, *rest):
        if work[0][0] >= after:
            monkeypatch.setattr(module, "_encode", original)
            raise KeyboardInterrupt
        return original(tokenizer, work, *rest)

    monkeypatch.setattr(module, "_encode", breaking)


@pytest.mark.parametrize("after", [2, 6])
def test_it_goes_on_where_it_stopped_to_the_same_bytes(run, monkeypatch, tmp_path, after):
    rule = Listed((1, 8, 3, 5, 2, 8, 7))
    run("whole", rule=rule)
    interrupt(monkeypatch, after)
    with pytest.raises(KeyboardInterrupt):
        run(rule=rule, batch_size=1)
    assert (tmp_path / "t.safetensors.part").exists()
    told = []
    found = run(rule=rule, batch_size=4, progress=lambda done, of: told.append((done, of)))
    assert found.resumed == after
    assert told[0] == (after, 7)
    assert told[-1] == (7, 7)
    assert found.path.read_bytes() == (tmp_path / "whole").read_bytes()
    assert not list(tmp_path.glob("*.part*"))


def test_killed_it_goes_on_to_the_same_bytes(run, forked, photos, model, tmp_path):
    """A process killed outright in the midst of the work."""
    run("whole", tokenizer=flexframe.load(model), model="m")
    done = forked(KILLED, model, photos, tmp_path / "t.safetensors")
    assert done.returncode == -9, done.stderr
    assert not (tmp_path / "t.safetensors").exists()
    found = run(tokenizer=flexframe.load(model), model="m")
    assert found.resumed == 4
    assert found.path.read_bytes() == (tmp_path / "whole").read_bytes()


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
import flexframe
from flexframe import files
from flexframe.use import encode as module
from flexframe.use.lengths import Fixed

torch.set_num_threads(1)
files.COMMIT_EVERY = 0
def told(done, of):
    if done == 4:
        os.kill(os.getpid(), signal.SIGKILL)
module.encode(flexframe.load(sys.argv[1]), [sys.argv[2]], Path(sys.argv[3]), model="m", rule=Fixed(8), batch_size=2,
              progress=told)
"""


@pytest.fixture
def half(run, monkeypatch):
    """An encoding broken off after two images."""
    interrupt(monkeypatch, after=2)
    with pytest.raises(KeyboardInterrupt):
        run(batch_size=1)


@pytest.mark.usefixtures("half")
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"seed": 1}, "was begun otherwise: seed was 0 and is 1; repeat the first command, or delete this file"),
        ({"model": "other"}, "model was 'some/model' and is 'other'"),
        (
            {"resize": "torchvision-bilinear"},
            "preprocessing.resize was 'torchvision-bicubic' and is 'torchvision-bilinear'",
        ),
        ({"rule": Fixed(7)}, "lengths.length was 8 and is 7"),
        ({"rule": Listed((8,) * 7)}, "lengths.length was 8 and is none; lengths.rule was 'fixed' and is 'listed'"),
    ],
)
def test_other_settings_are_told(run, settings, words):
    with pytest.raises(ConfigError, match=rf"t\.safetensors\.part: .*{words}"):
        run(**settings)


@pytest.mark.usefixtures("half")
def test_another_model_is_told(run):
    torch.manual_seed(5)
    with pytest.raises(ConfigError, match="was begun otherwise: fingerprint was"):
        run(tokenizer=Tokenizer(cards().get("toy/digits-tiny").model).eval())


@pytest.mark.usefixtures("half")
def test_other_images_are_told(run, photos):
    picture(9).save(photos / "new.png")
    with pytest.raises(ConfigError, match=r"was begun with other images: they were 7, and are 8 now; repeat the first"):
        run()
    (photos / "new.png").unlink()
    time.sleep(0.01)
    picture(9).save(photos / "z.png")
    with pytest.raises(ConfigError, match=r"was begun with other images: .*, and some were written since"):
        run()


def test_where_nothing_was_done_nothing_is_left_to_hinder_the_next(run, monkeypatch, tmp_path):
    interrupt(monkeypatch, after=0)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert not list(tmp_path.glob("*.part*"))
    assert run(seed=1, rule=Fixed(2)).resumed == 0


def test_killed_before_the_first_image_it_may_begin_otherwise(run, photos, tmp_path):
    journal = ImageJournal(tmp_path / "t.safetensors.part")
    journal.fill(entries([photos / "b"]), {"seed": 5})
    journal.db.close()
    assert (run().count, run("again").resumed) == (7, 0)


def test_two_processes_do_not_write_one_file(run, tmp_path):
    other = sqlite3.connect(tmp_path / "t.safetensors.part", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(ConfigError, match="another process is at work on it"):
        run()
    other.close()
    assert run().count == 7


def test_a_part_that_is_none_is_told(run, tmp_path):
    (tmp_path / "t.safetensors.part").write_bytes(b"something else entirely" * 100)
    with pytest.raises(ConfigError, match=r"is not what an encoding left behind .*; delete it to start over"):
        run()


def test_a_listing_that_was_broken_off_is_begun_anew(run, monkeypatch, tmp_path):
    def breaking(*given):
        yield from list(entries(*given))[:3]
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "entries", breaking)
    with pytest.raises(KeyboardInterrupt):
        run()
    monkeypatch.undo()
    assert (run().count, read(tmp_path / "t.safetensors").ids) == (7, IDS)


# --- what is refused at once -------------------------------------------------------------------------------------


def test_two_images_of_one_id_are_told(run, photos):
    with pytest.raises(ConfigError, match=r"a\.png: two images have this id: .*/photos/a\.png and .*/photos/a\.png"):
        run(inputs=[photos, photos / "a.png"])
    assert run(inputs=[photos / "b" / "2.png", photos / "a.png"]).count == 2


def test_an_output_that_is_there_is_kept(run, tmp_path):
    (tmp_path / "t.safetensors").write_text("mine")
    with pytest.raises(ConfigError, match=r"t\.safetensors: is there already; delete it or choose another -o"):
        run()
    assert (tmp_path / "t.safetensors").read_text() == "mine"
    assert run("new/folder/t.safetensors").path == tmp_path / "new" / "folder" / "t.safetensors"


def test_images_in_their_own_order(run, photos):
    rows = read(run(inputs=[photos / "z.png", photos / "b", photos / "a.png"]).path)
    assert rows.ids == ["z.png", "10.jpg", "2.png", "a.png"]


def test_pixels_are_held_for_two_batches_at_most(run, monkeypatch, tmp_path):
    """However many images there are."""
    big = tar(tmp_path / "big.tar", {f"{i:03}.png": png(i) for i in range(60)})
    alive, most = set(), 0
    original = module._load

    def counted(entry, *rest):
        nonlocal most
        alive.add(entry.id)
        most = max(most, len(alive))
        return original(entry, *rest)

    monkeypatch.setattr(module, "_load", counted)
    encoding = module._encode

    def encoded(tokenizer, work, *rest):
        found = list(encoding(tokenizer, work, *rest))
        alive.difference_update(entry.id for _, entry, _ in work)
        return found

    monkeypatch.setattr(module, "_encode", encoded)
    assert run(inputs=[big], batch_size=5).count == 60
    assert most <= 10
