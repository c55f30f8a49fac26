"""The commands show, doctor and init on real models and plugins; on toys: tests/test_inspect.py."""

import re
import sys

import pytest
import torch

import flexframe
from flexframe import doctor
from flexframe.doctor import examine
from flexframe.models import modelfile
from flexframe_registry import cards

pytestmark = pytest.mark.slow

CARD = "flextok/digits-tiny"
FLEXTOK = {"d12-d12": 341_258_521, "d18-d18": 949_144_729, "d18-d28": 2_540_129_177}
TITOK = {"s-128": 83_674_639, "l-32": 641_054_735, "bl-64-vae": 389_418_100}


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


# --- show --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "total"),
    [*((f"flextok/{name}", n) for name, n in FLEXTOK.items()), *((f"titok/{name}", n) for name, n in TITOK.items())],
)
def test_show_counts_the_published_parameters(command, unmeasured, unchecked, name, total):
    answer = command("show", name)
    assert answer.code == 0, answer.err
    assert row(answer, "total")[0] == f"{total:,}"
    assert "not known" in answer.out
    assert "left out" in answer.out


@pytest.mark.parametrize("name", FLEXTOK)
def test_the_reference_stores_tables_that_are_buffers_here(name):
    card = cards().get(f"flextok/{name}")
    tables = 256 * (card.model.encoder.width + card.model.decoder.width)
    told = card.file.metrics["parameters"]
    assert told["value"] == FLEXTOK[name] + tables
    assert f"({tables:,})" in told["origin"]


def test_show_a_card_tells_all_that_is_promised(command, unchecked):
    answer = command("show", CARD, "--batch-size", 4)
    assert answer.code == 0, answer.err
    assert row(answer, "total")[:2] == ["435,190", "435,190"]
    assert row(answer, "encoder", "registers")[0] == "101,696"
    assert row(answer, "licence") == ["Apache-2.0"]
    assert row(answer, "size")[:3] == ["16", "x", "16"]
    assert row(answer, "latents")[:5] == ["3", "x", "16", "x", "16,"]
    assert row(answer, "bits", "15.97")[:2] == ["a", "token,"]
    assert row(answer, "tokens", "1") == ["2", "4", "8"]
    assert row(answer, "bits", "16") == ["32", "64", "128"]
    assert row(answer, "sampling") == ["steps", "20,", "guidance", "1.5"]
    assert row(answer, "encode", "encoder") == ["5.100", "MFLOP"]
    assert row(answer, "decode", "decoder,", "one", "pass") == ["8.057", "MFLOP"]
    assert row(answer, "decoder,", "40", "passes:")[-2:] == ["322.3", "MFLOP"]
    assert "memory for a batch of 4" in answer.out
    assert len(row(answer, "at", "once")) == 4
    assert "an estimate" in answer.out
    assert "a multiply and an add are two" in answer.out
    assert "22.36" in row(answer, "psnr_by_tokens")[5]
    assert "suite digits, 359 held-out images" in answer.out


def test_show_says_which_numbers_are_published(command, unmeasured):
    assert row(command("show", "titok/l-32"), "rfid")[:2] == ["2.21", "published:"]


def test_show_without_a_codecs_library_shows_the_rest(command, monkeypatch, tmp_path, unchecked):
    from flexframe.models import profile

    whole = profile.measure

    def measure(*args, **settings):
        found = whole(*args, **settings, uses=("encode",))
        left = {(use, p): profile.Cost({}, 0, failed="left out") for use in profile.USES for p in profile.PRECISIONS}
        return profile.Profile(found.parts, found.batch_size, left | found.costs)

    monkeypatch.setattr(profile, "measure", measure)
    path = tmp_path / "mine.yaml"
    path.write_text(
        f"base: {CARD}\nmodel: {{codec: {{type: vae}}, image_size: 32, decoder: {{patch: 2}}, encoder: {{patch: 2}}}}\n"
    )
    monkeypatch.setitem(sys.modules, "diffusers", None)
    answer = command("show", path)
    assert answer.code == 0, answer.err
    assert row(answer, "codec", "vae") == ["unknown"]
    assert "without the codec: codec 'vae' needs diffusers: pip install" in answer.out
    assert row(answer, "encode", "encoder")[1].endswith("FLOP")


def test_init_gives_what_an_untrained_model_is_and_says_so(command, tmp_path, pictures):
    answer = command("init", CARD, "-o", tmp_path / "plain")
    assert "435,190 random parameters, seed 0" in answer.out
    assert "start at zero throughout" in answer.err
    plain = flexframe.load(tmp_path / "plain")
    assert plain.config == cards().get(CARD).model
    assert plain.sampling.steps == 20
    assert plain.encode(pictures).codes.unique().tolist() == [32036]  # the middle of every level
    assert torch.equal(plain.decoder.head.proj.weight, torch.zeros_like(plain.decoder.head.proj.weight))


def test_init_with_zeros_redrawn_gives_tokens_that_vary(command, tmp_path, pictures):
    answer = command("init", CARD, "-o", tmp_path / "redrawn", "--redraw-zeros")
    assert answer.err == ""
    model = flexframe.load(tmp_path / "redrawn")
    tokens = model.encode(pictures)
    assert len(tokens.codes.unique()) > 1
    first, second = (model.decode(tokens, rng=0, sampling={"steps": 2}) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(model.decode(tokens.truncate(1), rng=0, sampling={"steps": 2}), first)
    assert modelfile.read(tmp_path / "redrawn" / "model.safetensors")[0]["about"]["redrawn zeros"] > 0


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
    assert {"python", "torchvision", "numpy", "flexframe", "flexframe-flextok", "flexframe-titok"} <= versions.keys()
    assert re.search(r"[\d.]+ of [\d.]+ GiB memory free", of("devices", health)["cpu"].text)
    assert {"bf16", "compile", "flex attention"} <= of("torch", health).keys()
    assert re.match(r"\d+ components, \d+ cards \(flexframe-flextok", of("plugins", health)["flextok"].text)
    assert "fsq" in of("components", health)["quantizer"].text
    assert of("metrics", health)["psnr"].text == "can be computed"
    assert "GiB free" in of("disk", health)["here"].text


def test_a_missing_extra_is_told_with_what_to_install(monkeypatch):
    from flexframe.doctor import installed

    there = installed.installed
    monkeypatch.setattr(installed, "installed", lambda name: name != "tensorboard" and there(name))
    _, text, state = next(each for each in installed.extras() if each[0] == "flexframe[tensorboard]")
    assert (state, text) == ("missing", "lacks tensorboard; pip install 'flexframe[tensorboard]'")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    found = {each[0]: each for each in installed.components()}
    assert found["codec vae"][2] == "missing"
    assert "pip install diffusers" in found["codec vae"][1]
