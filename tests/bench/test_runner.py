"""The runner: what is measured, that it does not depend on the batch, and what results.json says."""

from __future__ import annotations

import errno
import json
import os
import re
import threading
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from rich.progress import Progress

from flexframe.bench import protocol, rehearsal, runner, table
from flexframe.bench.passes import Head
from flexframe.bench.reconstructions import Reconstruct
from flexframe.bench.rehearsal import rehearse
from flexframe.bench.report import write
from flexframe.bench.runner import Report, run
from flexframe.bench.table import best_models, columns, not_offered, print_table, reasons
from flexframe.models.tokenizer import Tokenizer
from flexframe.rng import Rng
from flexframe_registry import ConfigError, catalogue
from flexframe_registry import suite as shipped
from flexframe_registry.files import read_json


@pytest.fixture(scope="module")
def report(tokenizer: Any, suite: Any, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Three models of unlike kinds, most metrics. Not to be changed."""
    models = [
        ("flex", tokenizer(sampling={"noise": 0.05})),
        ("fixed", tokenizer("full")),
        ("smooth", tokenizer({"type": "toy", "every": True}, quantizer={"type": "toy-round", "continuous": True})),
    ]
    metrics = ("psnr", "ssim", "codebook", {"type": "classifier", "data": "digits", "limit": 300}, "frechet")
    out = tmp_path_factory.mktemp("out")
    return run(suite(*metrics, budgets=[1, 3, 8], show=4), models, out, name="toy", batch_size=16)


def test_numbers_do_not_depend_on_the_batch(tokenizer: Any, suite: Any, tmp_path: Path) -> None:
    found = []
    for size in (1, 16, 16):
        models = [("a", tokenizer(sampling={"noise": 0.1})), ("b", tokenizer("full"))]
        found.append(run(suite("psnr", count=20, seed=3), models, tmp_path / str(size), batch_size=size).results)
    for other in found[1:]:
        assert other["codes_sha256"] == found[0]["codes_sha256"]
        assert other["protocols"] == found[0]["protocols"]
        for model, budgets in other["per_image"].items():
            for k, values in budgets.items():
                assert values["psnr"] == pytest.approx(found[0]["per_image"][model][k]["psnr"], abs=1e-4)


def test_codes_at_a_budget_are_those_of_encoding_at_it(tokenizer: Any, report: Report) -> None:
    model = tokenizer()
    images = torch.rand(5, 3, 16, 16)
    full = model.encode(images)
    assert torch.equal(full.truncate(4).codes, model.encode(images, lengths=4).codes)


def test_results_hold_the_protocol_of_each_number(report: Report) -> None:
    results = read_json(report.out / "results.json")
    assert results == json.loads(json.dumps(report.results))
    assert results["schema"] == protocol.SCHEMA
    assert results["budgets"] == [1, 3, 8]
    flex = results["models"]["flex"]
    assert list(flex["budgets"]) == ["1", "8"]
    assert flex["budgets"]["8"]["bits"] == 64
    assert flex["parameters"]["total"] == sum(flex["parameters"][p] for p in ("encoder", "quantizer", "decoder"))
    assert len(flex["fingerprint"]) == 64
    number = flex["budgets"]["8"]["metrics"]["psnr"]
    record = results["protocols"][number["protocol"]]
    assert record["measure"]["count"] == 40
    assert record["measure"]["data_sha256"] == results["protocol"]["data_sha256"]
    assert record["measure"]["metric"] == {"type": "psnr", "cap": 100.0, "rounded": False}
    assert {"flexframe", "torch"} <= set(record["measure"]["versions"])
    assert record["use"]["sampling"] == {"noise": 0.05}
    assert record["use"]["budget"] == 8
    values = results["per_image"]["flex"]["8"]["psnr"]
    assert len(values) == 40
    assert number["value"] == pytest.approx(sum(values) / 40)


def test_numbers_under_one_protocol_share_the_first_half_of_its_id(report: Report) -> None:
    models = report.results["models"]
    ids = {name: models[name]["budgets"]["8"]["metrics"]["psnr"]["protocol"].split(".") for name in models}
    assert len({measured for measured, _ in ids.values()}) == 1
    assert ids["flex"][1] != ids["fixed"][1]


def test_what_cannot_be_measured_says_why(report: Report) -> None:
    smooth = report.results["models"]["smooth"]["budgets"]["3"]
    assert smooth["bits"] is None
    assert smooth["metrics"]["usage"] == {"value": None, "why": smooth["metrics"]["perplexity"]["why"]}
    told = reasons(report.results)
    assert any(labels == ["FID"] for labels in told.values())
    assert any("Codes used (smooth)" in labels for labels in told.values())


def test_more_tokens_reconstruct_better(report: Report) -> None:
    values = [b["metrics"]["psnr"]["value"] for b in report.results["models"]["smooth"]["budgets"].values()]
    assert values == sorted(values)


def test_gallery_holds_the_first_images(report: Report) -> None:
    assert report.images.real.shape == (4, 3, 16, 16)
    assert {name: sorted(rows) for name, rows in report.images.fake.items()} == {
        "flex": [1, 8], "fixed": [8], "smooth": [1, 3, 8],
    }  # fmt: skip
    assert all(len(row) == 4 for rows in report.images.fake.values() for row in rows.values())


def test_models_of_unlike_sizes_are_refused(tokenizer: Any, suite: Any, tmp_path: Path) -> None:
    other = tokenizer()
    other.config = other.config.model_copy(update={"image_size": (32, 32)})
    with pytest.raises(ValueError, match="a 16 x 16, b 32 x 32"):
        run(suite(), [("a", tokenizer()), ("b", other)], tmp_path)
    with pytest.raises(ValueError, match="named twice"):
        run(suite(), [("a", tokenizer()), ("a", tokenizer())], tmp_path)
    with pytest.raises(ValueError, match="at least one model"):
        run(suite(), [], tmp_path)


def test_pictures_that_are_not_finite_end_it_at_once_and_are_told(tokenizer: Any, suite: Any, tmp_path: Path) -> None:
    broken = tokenizer()
    broken.decoder.mean = torch.full_like(broken.decoder.mean, torch.nan)
    with pytest.raises(ConfigError, match=r"b: pictures of images 0 to 3 from 1 tokens hold values that"):
        run(suite(count=8), [("a", tokenizer()), ("b", broken)], tmp_path, batch_size=4)


def test_suites_that_cannot_be_are_refused(tokenizer: Any, suite: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="wants 1000 images and the source has 359"):
        run(suite(count=1000), [("a", tokenizer())], tmp_path)
    with pytest.raises(ValueError, match="both give 'psnr'"):
        run(suite("psnr", {"type": "psnr", "cap": 50}), [("a", tokenizer())], tmp_path)


def test_a_disk_that_takes_nothing_is_told_before_anything_is_measured(
    tokenizer: Any, suite: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(**_: Any) -> Any:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "/somewhere/tmp1a2b")

    monkeypatch.setattr("flexframe.files.TemporaryFile", refuses)
    monkeypatch.setattr("flexframe.bench.passes.Pass.run", lambda *_: pytest.fail("it measures"))
    with pytest.raises(OSError, match=r"Read-only file system: '.*out/results\.json'"):
        run(suite(count=8), [("a", tokenizer())], tmp_path / "out")


def test_budgets_that_no_model_is_offered_at_are_told(tokenizer: Any, suite: Any, tmp_path: Path) -> None:
    models = [("flex", tokenizer()), ("fixed", tokenizer("full"))]
    results = run(suite("psnr", budgets=[3, 4, 5]), models, tmp_path).results
    assert not_offered(results) == {"flex": [3, 5], "fixed": [3, 4, 5]}
    text = printed(results)
    assert "flex is not offered at 3, 5 tokens" in text
    assert "fixed is not offered at 3, 4, 5 tokens" in text
    told = "budgets: no model is offered at 3, 5 tokens: flex is at 1, 2, 4, 8; ask for some of these"
    with pytest.raises(ConfigError, match=re.escape(told)):
        run(suite("psnr", budgets=[3, 5]), models[:1], tmp_path / "none")
    models[1:] = [("tail", tokenizer({"type": "toy", "every": True}))]
    with pytest.raises(ConfigError, match=re.escape("at 9, 10 tokens: flex is at 1, 2, 4, 8; tail is at 1..8; ask")):
        run(suite("psnr", budgets=[9, 10]), models, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_page_stands_where_a_model_is_not_offered(tokenizer: Any, suite: Any, tmp_path: Path) -> None:
    models = [("flex", tokenizer()), ("fixed", tokenizer("full"))]
    found = run(suite("psnr", budgets=[4], show=2), models, tmp_path)
    assert "fixed" in write(found.results, found.images, tmp_path / "report.html").read_text()


def test_progress_reaches_its_end(tokenizer: Any, suite: Any, tmp_path: Path) -> None:
    with Progress(console=Console(quiet=True)) as progress:
        run(suite(count=10), [("a", tokenizer())], tmp_path, batch_size=4, progress=progress)
    assert progress.finished


def test_the_next_images_are_read_while_models_work(
    tokenizer: Any, suite: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, read, began = tokenizer(), list[int](), threading.Event()
    samples, encode = Head.samples, type(model).encode

    def noted(self: Any, indices: Any) -> Any:
        read.append(indices[0])
        if indices[0] == 4:
            began.set()
        return samples(self, indices)

    def waiting(self: Any, images: Any, **rest: Any) -> Any:
        assert began.wait(20), "the second batch is not read before the first one is encoded"
        return encode(self, images, **rest)

    monkeypatch.setattr(Head, "samples", noted)
    monkeypatch.setattr(type(model), "encode", waiting)
    run(suite("psnr", count=10, show=0), [("a", model)], tmp_path, batch_size=4)
    assert read == [0, 4, 8]  # each once


def test_uint8_rounds_half_to_even_and_clamps() -> None:
    images = torch.tensor([-1.0, 0.5 / 255, 1.5 / 255, 2.5 / 255, 2.0])
    assert protocol.to_uint8(images).tolist() == [0, 0, 2, 2, 255]


def test_digest_does_not_depend_on_batches() -> None:
    whole, parts = protocol.Digest(), protocol.Digest()
    stream = torch.arange(24).reshape(6, 4)
    whole.add(stream)
    for row in stream.split([1, 3, 2]):
        parts.add(row)
    assert whole.hex() == parts.hex()
    with pytest.raises(ValueError, match="stream"):
        whole.add(stream[:, :2])


def printed(results: dict[str, Any]) -> str:
    console = Console(width=100, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    print_table(results, console)
    console.file.close()
    return console.export_text()


def test_table_fits_a_terminal(report: Report) -> None:
    text = printed(report.results)
    assert max(map(len, text.splitlines())) <= 100
    assert "fixed is not offered at 1, 3 tokens" in text
    assert "FID: not measured" in text


@pytest.mark.parametrize("width", [240, 80])
def test_table_of_many_numbers_fits_and_tells_each_thing_once(report: Report, width: int) -> None:
    results = json.loads(json.dumps(report.results))
    note, own = "share of pictures in which the judge reads it right", results["measures"]
    results["measures"] = {}
    for name in ("shape", "colour of what lies in front", "light", "number"):
        for judge in ("first", "second"):
            label = f"{name.title()} right, {judge} judge"
            about = {"label": label, "better": "higher", "unit": "%", "digits": 1, "note": note, "chance": 12.5}
            results["measures"][f"{judge}_{name}"] = {**about, "by": f"{judge} judge", "who": f"that of seed {judge}"}
            for model in results["models"].values():
                for entry in model["budgets"].values():
                    entry["metrics"][f"{judge}_{name}"] = {"value": 50.0, "protocol": f"{judge}.use"}
    results["measures"] |= own
    results["models"]["runs/" + "long/" * 12 + "smooth"] = results["models"].pop("smooth")
    console = Console(width=width, record=True, file=StringIO())  # no terminal, as a pipe is: 240 are its to use
    print_table(results, console)
    text = console.export_text()
    assert max(len(line.rstrip()) for line in text.splitlines()) <= min(width, table.PLAIN)
    assert "…" not in text
    plain = " ".join(text.split())
    assert plain.count(note) == 1
    assert plain.count("second judge: that of seed second") <= plain.count("first judge: that of seed first") == 1
    assert "Shape right" in plain
    assert "Number right" in plain.partition("also measured, in results.json and not here")[2]
    assert "runs/long/" in text
    assert "long/smooth" in text  # folded, not cut


def test_best_is_marked_only_where_models_compete(report: Report) -> None:
    assert best_models(report.results, "psnr", 3) == []
    assert best_models(report.results, "psnr", 8) == ["smooth"]
    assert best_models(report.results, "usage", 8) == []


def test_numbers_of_other_protocols_stand_in_other_columns_and_do_not_compete(report: Report) -> None:
    results = json.loads(json.dumps(report.results))
    assert [name for name, _ in columns(results)].count("psnr") == 1
    number = results["models"]["smooth"]["budgets"]["8"]["metrics"]["psnr"]
    number["protocol"] = "0badcafe." + number["protocol"].partition(".")[2]
    assert [key for name, key in columns(results) if name == "psnr"][1] == "0badcafe"
    assert best_models(results, "psnr", 8) == []
    own = next(key for name, key in columns(results) if name == "psnr")
    assert best_models(results, "psnr", 8, own) in (["flex"], ["fixed"], [])
    assert "smooth" not in best_models(results, "psnr", 8, own)
    text = printed(results)
    assert "0badcafe" in "".join(text.split())
    assert "PSNR: measured under several protocols, which do not compare" in text
    rows = [line.split() for line in text.splitlines() if line.strip().startswith("smooth")]
    value = f"{number['value']:.2f}"
    assert sum(value in row for row in rows) == 1
    assert any(row[row.index(value) - 1] == "–" for row in rows if value in row)  # the first PSNR column is empty


@pytest.mark.parametrize("name", ["digits-smoke", "digits"])
def test_shipped_suites_can_be_read(name: str) -> None:
    assert shipped(name).data.type == "digits"
    assert shipped(name).data.split == "val"


def test_what_is_kept_of_a_batch_does_not_hold_the_batch(
    tokenizer: Any, suite: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []

    class Watch(runner.Pass):
        def measure(self, index: Any, bar: Any = None) -> None:
            super().measure(index, bar)
            kept.append(sum(t.untyped_storage().nbytes() for t in (*self.shown, *self.entrants[0].lanes[0].shown)))

    monkeypatch.setattr(runner, "Pass", Watch)
    run(suite("psnr", count=40, show=3, budgets=[8]), [("a", tokenizer())], tmp_path, batch_size=4)
    assert kept == [2 * 3 * 3 * 16 * 16] * 10


def test_a_codec_that_is_another_model_is_told(tokenizer: Any) -> None:
    inner, outer, other = (tokenizer("full") for _ in range(3))
    outer.codec.basis = torch.nn.Parameter(inner.decoder.basis.detach().clone())
    other.codec.basis = torch.nn.Parameter(inner.decoder.basis.detach() + 2)
    with torch.no_grad():
        for model in (outer, other):
            model.encoder.basis += 1
            model.decoder.basis += 1
    entrants = Reconstruct([("inner", inner), ("outer", outer), ("other", other)]).entrants(torch.device("cpu"))
    assert [each.codec_is for each in entrants] == [None, "inner", None]


def test_reencoding_is_what_encoding_again_by_hand_gives(tokenizer: Any, suite: Any, tmp_path: Path) -> None:
    model, rounds = tokenizer(sampling={"noise": 0.1}), {"type": "re-encoding", "rounds": 3}
    smooth = tokenizer({"type": "toy", "every": True}, quantizer={"type": "toy-round", "continuous": True})
    asked = suite(rounds, {"type": "seed-spread", "seeds": 3}, count=12, budgets=[2, 8], seed=5)
    report = run(asked, [("a", model), ("b", tokenizer("full")), ("c", smooth)], tmp_path, batch_size=5)
    found = report.results["models"]
    real = torch.stack(
        [sample.image for sample in runner.Head(catalogue().build(asked.data, (16, 16)), 12).samples(range(12))]
    )
    rng = Rng(5, torch.arange(12))
    for k in (2, 8):
        seen, kept = real, []
        for _ in range(3):
            codes = model.encode(seen.float() / 255, rng=rng).truncate(k)
            kept.append(codes.codes)
            seen = protocol.to_uint8(model.decode(codes, rng=rng))
        share = 100 * float((kept[0] == kept[1]).all(-1).double().mean())
        mse = (real.double() - seen.double()).square().flatten(1).mean(1).numpy()
        numbers = found["a"]["budgets"][str(k)]["metrics"]
        assert numbers["ids_kept"]["value"] == pytest.approx(share)
        assert numbers["psnr_again"]["value"] == pytest.approx((10 * np.log10(255.0**2 / mse)).mean(), abs=1e-3)
        tokens = model.encode(real.float() / 255, rng=rng).truncate(k)
        made = [model.decode(tokens, rng=Rng(5 + i, torch.arange(12))).double().numpy() * 255 for i in range(3)]
        each = [10 * np.log10(255.0**2 / ((m - real.numpy()) ** 2).mean((1, 2, 3))) for m in made]
        assert numbers["psnr_spread"]["value"] == pytest.approx(np.std(each, 0, ddof=1).mean(), abs=1e-4)
        spread = np.sqrt(np.var(made, 0, ddof=1).mean((1, 2, 3))).mean()
        assert numbers["pixel_spread"]["value"] == pytest.approx(spread, abs=1e-4)
    assert found["b"]["budgets"]["8"]["metrics"]["pixel_spread"]["value"] == pytest.approx(0, abs=1e-9)
    assert "continuous" in found["c"]["budgets"]["8"]["metrics"]["ids_kept"]["why"]
    assert found["c"]["budgets"]["8"]["metrics"]["psnr_again"]["value"] > 0


def test_a_rehearsal_says_what_is_measured_and_missing_and_writes_nothing(
    tokenizer: Any, suite: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    decoded = []
    whole = Tokenizer.decode
    monkeypatch.setattr(Tokenizer, "decode", lambda self, t, **r: decoded.append(len(t.keep)) or whole(self, t, **r))
    asked = suite("psnr", "bits", {"type": "frechet", "weights": "no.pth", "few": True}, count=300, budgets=[1, 8])
    models = [("a", tokenizer()), ("b", tokenizer("full"))]
    found = rehearse(Reconstruct(models), asked)
    assert found.budgets == {"a": [1, 8], "b": [8]}
    assert found.measured == ["PSNR", "Bits an image", "Tokens an image"]
    ((why, labels),) = found.missing.items()
    assert labels == ["FID"]
    assert "no.pth" in why
    assert decoded == [8] * 6  # three lanes, tried twice
    assert 0 < found.seconds < 600
    text = "\n".join(found.lines())
    assert "300 images of 16 x 16" in text
    assert "from the time of 8 images" in text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("seconds", "words"), [(5, "5 seconds"), (600, "10 minutes"), (7200 * 3, "6.0 hours")])
def test_times_are_told_in_words(seconds: float, words: str) -> None:
    assert rehearsal._time(float(seconds)) == words


def test_the_command_tries_a_suite_and_takes_the_first_images(command: Any, tmp_path: Path) -> None:
    tried = command("bench", "digits-smoke@2", "toy/digits-tiny", "--dry-run", "metrics=[psnr]", "-o", tmp_path / "o")
    assert tried.code == 0, tried.err
    assert "64 images of 16 x 16" in tried.out
    assert not (tmp_path / "o").exists()
    done = command("bench", "digits-smoke", "toy/digits-tiny", "--limit", 6, "metrics=[psnr]", "-o", tmp_path / "o")
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "o" / "results.json").read_text())
    assert found["protocol"]["count"] == 6
    assert found["suite"]["note"].startswith("A first look, at 6 images: no number here compares with one of the whole")
    assert "is not here: this flexframe has digits-smoke@2" in command("bench", "digits-smoke@7", "toy/digits-tiny").err
