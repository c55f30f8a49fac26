"""The page: whole, self-contained, and right about what it shows. What it does in a browser is in test_page.py."""

from __future__ import annotations

import base64
import copy
import io
import json
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from flexframe.bench import intervals, table
from flexframe.bench.intervals import Interval
from flexframe.bench.report import charts, pictures, samples, training, verdicts, view, write
from flexframe.bench.report.numbers import Column, Numbers
from flexframe.bench.runner import Gallery, Report, run


class Page(HTMLParser):
    """Elements of a page, by tag and class."""

    VOID = frozenset({"meta", "input", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text.append(data)

    def of(self, name: str) -> list[dict[str, str | None]]:
        return [a for _, a in self.elements if name in (a.get("class") or "").split()]


@pytest.fixture(scope="module")
def report(tokenizer: Any, suite: Any, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Two models' report. Not to be changed."""
    models = [("flex<b>", tokenizer()), ("fixed", tokenizer("full"))]
    metrics = ("psnr", "ssim", "codebook", "frechet")
    out = tmp_path_factory.mktemp("out")
    return run(suite(*metrics, show=5, note="Only a </script><test>."), models, out, name="toy")


@pytest.fixture(scope="module")
def text(report: Report) -> str:
    return write(report.results, report.images, report.out / "report.html").read_text()


def said(text: str) -> str:
    """What the page says, in one line."""
    return " ".join(" ".join(Page(text).text).split())


def test_page_is_well_formed_and_asks_nothing_of_the_network(text: str) -> None:
    page = Page(text)
    assert page.open == []
    assert all(("src" not in a and "href" not in a) or a.get("href", "").startswith("#") for _, a in page.elements)
    urls = re.findall(r"url\((.{20})", text)
    assert urls
    assert all(url.startswith("data:image/png") for url in urls)
    assert "default-src 'none'" in text
    loaded = re.findall(r"<(?:script|style)[ >].*?</(?:script|style)>", text, re.S)
    assert len(loaded) == 3
    assert not re.search(
        r"@import|https?:|[^:]//\w+\.\w", " ".join(re.sub(r"base64,[^)]*", "", part) for part in loaded)
    )


def test_names_and_notes_are_escaped_also_where_the_script_reads_them(text: str) -> None:
    assert "flex&lt;b&gt;" in text
    assert "flex<b>" not in text
    assert "Only a &lt;/script&gt;&lt;test&gt;." in text
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])  # type: ignore[index]
    assert [model["name"] for model in data["models"]] == ["flex<b>", "fixed"]
    assert data["stops"][data["start"]] == 8


def test_every_picture_and_control_has_a_name(text: str) -> None:
    page = Page(text)
    pictured = [a for _, a in page.elements if a.get("role") == "img"]
    assert len(pictured) > 30
    assert all(a.get("aria-label") for a in pictured)
    assert all(a.get("aria-label") for tag, a in page.elements if tag == "input")
    assert all("s0" in a["class"] or "fake" in a["class"] for a in page.of("tile"))


def test_first_rows_show_every_model_at_every_count(text: str) -> None:
    page = Page(text)
    cells = [a["data-k"] for tag, a in page.elements if tag == "span" and a.get("class") == "cell"]
    assert cells == ["1", "2", "4", "8", "8"]
    assert text.count("not offered at 4 tokens") == 1
    assert "The same images, rebuilt by two models, each at its own numbers of tokens" in text


def test_gallery_holds_each_count_once_and_says_what_a_model_takes(text: str) -> None:
    assert [v["data-k"] for v in Page(text).of("variant")] == ["1", "2", "4", "8", "8"]
    assert "takes 8 tokens at least" in said(text)


def test_missing_metric_says_why_and_how(text: str) -> None:
    assert "FID: not measured" in said(text)
    assert "needs more than 2,048 images, and there are 40" in text


def test_sheets_are_the_reconstructions(report: Report) -> None:
    keep = [0, 2, 3]
    made = pictures.make(report.images.real, report.images.fake, [10, 11, 12, 13, 14], [1, 2, 4, 8], keep)
    assert len(made.uris) == 1 + 4 + 1
    assert made.numbers == [10, 12, 13]
    uri = made.uris[made.fake["fixed"][8]]
    strip = np.array(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB"))
    expected = torch.cat(list(report.images.fake["fixed"][8][keep]), 2).permute(1, 2, 0).numpy()
    assert np.array_equal(strip, expected)


def test_sheets_break_into_rows_and_places_follow() -> None:
    images = torch.arange(10, dtype=torch.uint8)[:, None, None, None].expand(10, 3, 4, 4).contiguous()
    made = pictures.make(images, {}, list(range(10)), [], list(range(10)))
    sheet = np.array(Image.open(io.BytesIO(base64.b64decode(made.uris[0].split(",")[1]))).convert("RGB"))
    assert sheet.shape == (8, 32, 3)
    for i in range(10):
        x, y = (int(v) for v in re.findall(r"\d+", made.at(i)))
        assert (sheet[4 * y : 4 * y + 4, 4 * x : 4 * x + 4] == i).all()


def test_large_pictures_are_webp_and_near(text: str) -> None:
    ramp = torch.linspace(0, 255, 128).to(torch.uint8).expand(1, 3, 128, 128).contiguous()
    uri = pictures.uri(ramp)
    assert uri.startswith("data:image/webp")
    back = np.array(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB"))
    assert np.abs(back.astype(int) - ramp[0].permute(1, 2, 0).numpy()).mean() < 3
    assert "WebP" not in text


@pytest.mark.slow
def test_a_page_over_the_limit_shows_fewer_pictures_and_says_so(report: Report, tmp_path: Path) -> None:
    noise = torch.randint(0, 256, (16, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    heavy = Gallery(noise, {name: dict.fromkeys(rows, noise) for name, rows in report.images.fake.items()})
    whole = write(report.results, heavy, tmp_path / "whole.html").stat().st_size
    path = write(report.results, heavy, tmp_path / "less.html", limit=whole - 20_000)
    assert path.stat().st_size <= whole - 20_000
    found = re.search(r"(\d+) of 16 pictures are left out here", path.read_text())
    assert found is not None
    assert int(found[1]) in (8, 12)
    with pytest.raises(ValueError, match="with 1 images, and the limit is 10,000; raise `limit`"):
        write(report.results, heavy, tmp_path / "none.html", limit=10_000)


def test_page_without_images_or_numbers_still_stands(tokenizer: Any, suite: Any, tmp_path: Path) -> None:
    bare = run(suite("frechet", show=0, count=3), [("a", tokenizer())], tmp_path)
    page = Page(write(bare.results, bare.images, tmp_path / "report.html").read_text())
    assert page.of("variant") == page.of("plot") == page.of("tile") == []
    assert len(page.of("missing")) == 1


def test_best_and_worst_images_are_those_of_the_values(report: Report, text: str) -> None:
    values = np.array(report.results["per_image"]["fixed"]["8"]["psnr"])
    assert report.images.further is not None
    part = said(text)[said(text).index("Best and worst images") :]
    fixed = part[part.index("fixed 8 tokens") :]
    told = [int(n) for n in re.findall(r"dB image (\d+)", fixed)[:6]]
    assert told[:3] == list(np.argsort(-values, kind="stable")[:3])
    assert told[3:] == list(np.argsort(values)[:3])


def test_many_token_counts_are_thinned() -> None:
    models = {"a": {"budgets": {str(k): {} for k in range(1, 101)}}, "b": {"budgets": {"77": {}}}}
    shown = view.stops({"budgets": list(range(1, 101)), "models": models})
    assert shown == [1, 2, 4, 8, 16, 32, 64, 77, 100]
    assert view.spread(shown, 3) == [1, 16, 100]


# --- numbers, intervals and verdicts ---------------------------------------------------------------------------------


def test_numbers_have_the_bootstrap_intervals_of_their_images(report: Report, text: str) -> None:
    numbers = Numbers(report.results)
    lead = numbers.lead
    assert lead is not None
    values = np.array(report.results["per_image"]["fixed"]["8"]["psnr"])
    found = numbers.interval(lead, "fixed", 8)
    half = 1.96 * values.std() / len(values) ** 0.5
    assert found is not None
    assert found.low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert f"{found.low:.2f} – {found.high:.2f}" in text
    assert "percentile bootstrap over the 40 images" in said(text)
    assert "no interval" not in text
    results = {**report.results, "per_image": {}}
    assert text != (bare := write(results, report.images, report.out / "bare.html").read_text())
    assert "PSNR in dB higher is better; no interval" in said(bare)


def test_numbers_of_two_protocols_never_share_a_column(report: Report, tmp_path: Path) -> None:
    results = copy.deepcopy(report.results)
    for entry in results["models"]["fixed"]["budgets"].values():  # type: ignore[index]
        entry["metrics"]["psnr"]["protocol"] = "0ther000." + entry["metrics"]["psnr"]["protocol"].split(".")[1]
    numbers = Numbers(results)
    first, second = [c for c in numbers.columns if c.name == "psnr"]
    assert (second.protocol, second.label) == ("0ther000", "PSNR (0ther000)")
    assert numbers.value(first, "flex<b>", 8) is not None
    assert numbers.value(second, "flex<b>", 8) is numbers.value(first, "fixed", 8) is None
    assert numbers.compare(first, ("flex<b>", 8), ("fixed", 8)) is None
    judged = verdicts.judge(numbers)
    assert [c.name for c in judged.columns] == ["ssim"]
    text = write(results, report.images, tmp_path / "two.html").read_text()
    assert re.findall(r'<th class="num">PSNR \((\w+)\)<', text) == [first.protocol, "0ther000"]
    assert "measured under another protocol" in text


def forged(values: Mapping[str, Mapping[int, tuple[float | None, list[float]]]], better: str = "higher") -> dict:
    """Results of a number `m`: by model and token count the bits, and the values of the images."""
    return {
        "measures": {"m": {"label": "M", "better": better, "unit": "", "digits": 2, "note": ""}},
        "models": {
            name: {
                "budgets": {
                    str(k): {"bits": bits, "metrics": {"m": {"value": float(np.mean(v)), "protocol": "p.u"}}}
                    for k, (bits, v) in lanes.items()
                }
            }
            for name, lanes in values.items()
        },
        "per_image": {n: {str(k): {"m": v} for k, (_, v) in lanes.items()} for n, lanes in values.items()},
    }


def test_verdicts_are_at_equal_tokens_or_equal_bits_and_name_who_is_apart() -> None:
    base = np.random.default_rng(0).normal(20, 3, 50)
    noise = np.random.default_rng(1).normal(0, 1, 50)
    noise -= noise.mean()
    results = forged(
        {
            "a": {4: (64.0, list(base)), 16: (256.0, list(base + 5))},
            "b": {16: (256.0, list(base + noise))},
            "c": {8: (64.0, list(base + noise))},
            "d": {99: (None, list(base))},
        }
    )
    judged = verdicts.judge(Numbers(results))
    assert [(r.first, r.second, r.equal, r.at) for r in judged.rows] == [
        ("a", "b", "tokens", "16 tokens (256 bits an image)"),
        ("a", "c", "bits", "64 bits (4 and 8 tokens)"),
    ]
    (better,), (open_,) = (r.cells for r in judged.rows)
    assert better is not None
    assert open_ is not None
    assert (better.verdict, better.difference) == ("better", pytest.approx(5))
    assert (open_.verdict, open_.difference) == ("not distinguishable", pytest.approx(0, abs=1e-9))
    assert judged.apart == [("a", "d"), ("b", "c"), ("b", "d"), ("c", "d")]
    told = dict(verdicts.strengths(Numbers(results), judged))
    assert told["a"][:2] == ["4 tokens (the fewest): M 20.39", "16 tokens (the most): M 25.39"]
    assert told["a"][2].startswith("at 16 tokens (256 bits an image) better than b by 5.00 of M (")
    assert told["a"][3].startswith("at 64 bits (4 and 8 tokens) not told apart from c by M (")
    assert told["b"] == ["16 tokens (its only length): M 20.39"]
    assert told["c"][1].startswith("at 64 bits (4 and 8 tokens) not told apart from a by M (")


def test_the_conclusion_stands_first(report: Report, text: str) -> None:
    page = said(text)
    assert page.index("On 40 images, by PSNR: only flex<b> makes a picture of fewer than 8 tokens (") < page.index(
        "Each row is"
    )


def test_what_few_tokens_keep_and_what_comes_with_more_is_told() -> None:
    def of(*shares: float) -> dict[int, tuple[float | None, list[float]]]:
        return {
            k: (16.0 * k, [100.0] * round(v) + [0.0] * round(100 - v)) for k, v in zip((1, 4), shares, strict=False)
        }

    results = forged({"a": of(10, 60), "b": of(50)})
    ways = {
        "shape": {"a": (10, 60), "b": (50,)},
        "light": {"a": (96, 97), "b": (80,)},
        "hue": {"a": (98, 99), "b": (97,)},
    }
    for name, shares in ways.items():
        results["measures"][name] = {
            **results["measures"]["m"], "label": f"{name.title()} right, other judge", "unit": "%", "digits": 1,
            "by": "other judge", "chance": 10.0,
        }  # fmt: skip
        for model, values in shares.items():
            for entry, value in zip(results["models"][model]["budgets"].values(), values, strict=True):
                entry["metrics"][name] = {"value": value, "protocol": "s.u", "original": 99.0}
    results["models"]["a"]["codec_is"] = "b"
    numbers = Numbers(results)
    told = dict(verdicts.strengths(numbers, verdicts.judge(numbers)))
    assert told["a"][0] == "at 1 token light and hue right: 96.0 to 98.0 % of the pictures, and 99.0 % of the originals"
    assert "Shape right at 1 and 4 tokens: 10.0, 60.0 % (originals 99.0, by chance 10.0)" in told["a"]
    assert told["b"][0] == "the codec of a, which it bounds: no competitor of theirs"
    assert "Light right 80.0 % (originals 99.0)" in told["b"]
    assert verdicts.judge_of(numbers) == "other judge"


def test_lower_is_better_where_the_measure_says_so() -> None:
    base = np.random.default_rng(0).normal(20, 3, 50)
    values = {"a": {4: (None, list(base))}, "b": {4: (None, list(base + 1))}}
    judged = verdicts.judge(Numbers(forged(values, "lower")))
    assert [cell.verdict for row in judged.rows for cell in row.cells if cell] == ["better"]
    assert judged.rows[0].at == "4 tokens (continuous and continuous)"


def test_distances_have_intervals_of_their_subsets() -> None:
    results = forged({"a": {4: (64.0, [28.0])}, "b": {4: (64.0, [29.0])}}, "lower")
    results["per_image"] = {}
    subsets = {"a": [31.0, 33.5, 30.2, 32.7], "b": [32.1, 34.4, 31.3, 33.6]}
    for name, values in subsets.items():
        results["models"][name]["budgets"]["4"]["metrics"]["m"]["subsets"] = {"size": 10, "values": values}
    numbers = Numbers(results)
    column = numbers.columns[0]
    assert numbers.interval(column, "a", 4) == intervals.subset_interval(28.0, subsets["a"])
    found = numbers.compare(column, ("a", 4), ("b", 4))
    assert found is not None
    assert found.verdict == "better"
    assert found.high - found.low < 1


def test_values_that_are_not_what_a_number_is_the_mean_of_give_no_interval() -> None:
    results = forged({"a": {4: (64.0, list(np.arange(20.0)))}})
    numbers = Numbers(results)
    assert numbers.interval(numbers.columns[0], "a", 4) is not None
    results["models"]["a"]["budgets"]["4"]["metrics"]["m"]["value"] = 3.0
    numbers = Numbers(results)
    assert numbers.interval(numbers.columns[0], "a", 4) is None


# --- samples ---------------------------------------------------------------------------------------------------------


def test_samples_of_priors_are_shown_by_length(report: Report, tmp_path: Path) -> None:
    for i in range(3):
        Image.new("RGB", (16, 16), (80 * i, 10, 20)).save(tmp_path / f"{i}.png")
    rows = [
        {
            "prior": "gpt/toy",
            "length": k,
            "files": ["0.png", "1.png", "2.png"],
            "labels": [0, 1, "a <two>"],
            "about": "hot",
        }
        for k in (16, 4)
    ]
    results = {**report.results, "samples": rows}
    text = write(results, report.images, tmp_path / "drawn.html").read_text()
    assert Page(text).open == []
    assert "gpt/toy hot 4 tokens 0 1 a <two> 16 tokens 0 1 a <two>" in said(text)
    drawn = samples.read(results, tmp_path)[0].rows[0]
    sheet = np.array(Image.open(io.BytesIO(base64.b64decode(drawn.uri.split(",")[1]))).convert("RGB"))
    assert sheet[5, 20].tolist() == [80, 10, 20]
    many = [{"prior": "p", "length": 1, "files": ["1.png"] * 20}]
    assert samples.read({"samples": many}, tmp_path)[0].rows[0].more == 4


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"prior": "p", "length": 1}, "needed are files, length, prior"),
        ({"prior": "p", "length": 1, "files": ["no.png"]}, "no.png, which is no readable image"),
        ({"prior": "p", "length": 1, "files": []}, "0 files"),
        ({"prior": "p", "length": 1, "files": ["x", "y"], "labels": [1]}, "2 files and 1 labels"),
    ],
)
def test_samples_that_cannot_be_shown_are_refused(entry: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        samples.read({"samples": [entry]}, tmp_path)


# --- charts ----------------------------------------------------------------------------------------------------------

MEASURE = {"label": "PSNR", "unit": "dB", "digits": 2, "better": "higher"}


def points(*values: tuple[int, float | None, float], half: float | None = None) -> list[Mapping[str, Any]]:
    return [
        {"tokens": k, "bits": bits, "value": v, "tip": f"m\n{v}", "interval": half and Interval(v - half, v + half)}
        for k, bits, v in values
    ]


def test_curves_rise_on_a_binary_logarithm() -> None:
    series = {"a": points((1, 8, 10.0), (2, 16, 12.0), (4, 32, 14.0)), "b": points((4, None, 13.0))}
    chart = charts.draw("tokens", series, MEASURE)
    a, b = chart.lines
    xs, ys = [p.x for p in a.points], [p.y for p in a.points]
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1])
    assert ys == sorted(ys, reverse=True)
    assert len(b.points) == 1
    assert [label for _, label in chart.x_ticks] == ["1", "2", "4"]
    over_bits = charts.draw("bits", series, MEASURE)
    assert [line.model for line in over_bits.lines] == [0]
    assert over_bits.absent == ["b"]
    (level,) = over_bits.levels  # continuous tokens: a value across all bits
    assert (level.model, level.text) == (1, "b: 4 continuous tokens")
    assert a.points[2].y < level.y < a.points[1].y
    assert charts.draw("bits", {"b": series["b"]}, MEASURE) is None


def test_intervals_are_to_the_scale_and_inside_the_chart() -> None:
    chart = charts.draw("tokens", {"a": points((1, 8, 10.0), (2, 16, 12.0), half=3.0)}, MEASURE)
    first, second = chart.lines[0].points
    scale = (first.y - second.y) / 2
    for p in (first, second):
        assert p.low - p.y == pytest.approx(3 * scale)
        assert p.y - p.high == pytest.approx(3 * scale)
        assert chart.top <= p.high < p.low <= chart.bottom


def test_texts_of_levels_stand_where_nothing_else_does() -> None:
    flat = {"a": points((1, 8, 98.0), (2, 16, 98.1), (4, 32, 98.0), half=2.0), "b": points((4, None, 98.2))}
    (level, real) = charts.draw("bits", flat, MEASURE, {"originals": 98.6, "by chance": 12.5}).levels
    assert level.place is None  # markers and intervals are all along it
    assert (real.model, real.text) == (None, "originals")
    steep = {"a": points((1, 8, 10.0), (2, 16, 50.0), (4, 32, 90.0)), "b": points((4, None, 98.0))}
    (level, chance) = charts.draw("bits", steep, MEASURE, {"originals": None, "by chance": 12.5}).levels
    assert level.place is not None
    assert chance.text == "by chance"


def test_few_images_bound_the_use_of_a_codebook() -> None:
    assert charts.bound([[(2, 2), (0, 6)]]) == pytest.approx(100 * np.log(5) / np.log(9))
    assert charts.bound([[(8, 1), (0, 7)]]) is None


def test_settings_in_words_leave_out_what_is_off() -> None:
    assert view.settings({"steps": 5, "apg": False, "apg_eta": 0.0, "cut_off": 2}) == "steps 5, cut off 2"


def test_markers_do_not_hide_each_other_and_what_moved_is_told() -> None:
    series = {name: points((8, 64, 20.0)) for name in "abc"}
    drawn = charts.draw("tokens", series, MEASURE)
    found = [line.points[0].x for line in drawn.lines]
    assert all(later - earlier >= 9 for earlier, later in pairwise(found))
    assert drawn.moved == ["b at 8 tokens", "c at 8 tokens"]
    apart = {"a": points((8, 64, 20.0)), "b": points((8, 64, 30.0))}
    assert charts.draw("tokens", apart, MEASURE).moved == []


def test_a_line_without_room_for_its_text_is_named_below_the_chart() -> None:
    level = {"a": points((1, 2, 99.1), (32, 64, 99.1))}
    drawn = charts.draw("bits", level, MEASURE, {"originals": 99.1, "by chance": 99.1})
    assert drawn.unlettered == [(None, "originals 99.10"), (None, "by chance 99.10")]
    level["b"] = points((2, None, 99.1), (4, None, 99.1))
    drawn = charts.draw("bits", level, MEASURE)
    assert drawn.unlettered == [(1, "b, of continuous tokens: 99.10 at 2, 99.10 at 4")]
    roomy = charts.draw("bits", {"a": points((1, 2, 10.0), (2, 4, 20.0))}, MEASURE, {"originals": 90.0})
    assert roomy.unlettered == []


def test_the_page_names_every_line_and_marker_out_of_place(report: Report, tmp_path: Path) -> None:
    results = copy.deepcopy(report.results)
    for model in results["models"].values():
        for entry in model["budgets"].values():
            entry["metrics"]["psnr"] |= {"value": 20.0, "original": 20.0}
    text = said(write(results, report.images, tmp_path / "lines.html").read_text())
    assert "Dotted: originals 20.00" in text
    assert "Moved right of its place, where it would hide another marker: fixed at 8 tokens." in text


@pytest.mark.parametrize(
    ("low", "high", "unit"), [(0.5, 0.9, ""), (20.0, 20.0, "dB"), (51.0, 100.0, "%"), (0.0, 0.0, "%"), (3e-4, 2e4, "")]
)
def test_axes_hold_their_values(low: float, high: float, unit: str) -> None:
    ticks, bottom, top = charts.y_range(low, high, {"unit": unit, "digits": 2})
    assert bottom <= low <= high <= top
    assert len(ticks) >= 2
    assert len({text for _, text in ticks}) == len(ticks)


def test_use_of_a_codebook_falls_and_ends_where_codes_are_unused() -> None:
    path = charts.use([[(7, 1), (3, 2), (0, 5)]])
    steps = [tuple(map(float, step.split())) for step in path.removeprefix("M").split("L")]
    xs, ys = [x for x, _ in steps], [y for _, y in steps]
    assert (xs[0], ys[0]) == (0.0, pytest.approx(2.0))  # the most frequent, at the top left
    assert xs == sorted(xs)
    assert ys == sorted(ys)
    assert xs[-1] == pytest.approx(100 * np.log(4) / np.log(9), abs=0.01)  # three of eight codes
    assert charts.use([[(0, 8)]]) == ""
    everything = charts.use([[(1, 4)], [(1, 4)]])
    assert everything.endswith("100.00 2.00")


# --- training, tables and what is said once --------------------------------------------------------------------------


def test_training_is_as_the_card_says_or_as_the_file_does() -> None:
    run = {"data": {"type": "scenes", "split": "train"}, "batch_size": 16, "accumulate": 2}
    models = {"a": {"trained": {"step": 1000, "run": run}}, "b": {"trained": {}}}
    results = {"models": models}
    assert training.of(results, "a").images == "32,000 in its last run"
    assert training.of(results, "a").on == "scenes, train"
    assert training.of(results, "b").images == "–"
    assert training.of(results, "a").sentence == "scenes, train, images seen 32,000 in its last run"
    assert training.of(results, "b").sentence == ""
    card = {"images": 90_000, "minutes": 22.0, "on": "drawn scenes", "machine": "one core"}
    told = training.of({**results, "training": {"a": card}}, "a")
    assert (told.images, told.time, told.steps) == (
        "90,000 in all stages",
        "22 min of one core",
        "1,000 in its last run",
    )
    assert training.of({**results, "training": {"a": {"images": "5 (twice)", "minutes": 180}}}, "a").time == "3.0 h"


def test_judges_are_named_with_whom_they_taught() -> None:
    measures = {
        "x": {"by": "first judge", "who": "a small network"},
        "y": {"by": "second judge", "who": "another"},
        "z": {"label": "PSNR"},
    }
    training_of = {"a": {"on": "scenes", "taught_by": ["first judge"]}, "b": {"on": "scenes"}}
    results = {"measures": measures, "models": {"a": {}, "b": {}}, "training": training_of}
    assert training.judges(results) == [
        ("first judge", "a small network. It taught a, so that its numbers flatter there"),
        ("second judge", "another. It taught none of these"),
    ]
    results["models"]["mine"] = {}  # of a run, which has no card
    assert training.judges(results)[1][1] == "another. It taught none of these; of mine no card says"
    assert training.judges({**results, "measures": {"z": measures["z"]}}) == []


def test_columns_are_packed_into_tables_by_metric() -> None:
    protocols = "p", "s", *"cccccc", "j", *"dddddd", "k"
    columns = [Column(str(i), {}, protocol, True) for i, protocol in enumerate(protocols)]
    assert view.packed(columns, 7) == [[0, 1, 8, 15], [2, 3, 4, 5, 6, 7], [9, 10, 11, 12, 13, 14]]
    assert view.packed(columns[2:8], 4) == [[0, 1, 2, 3], [4, 5]]


def test_a_measure_that_repeats_another_is_shown_where_they_differ() -> None:
    each = list(np.arange(20.0))
    results = forged({"a": {4: (64.0, each)}})
    results["measures"]["again"] = {**results["measures"]["m"], "label": "Again", "repeats": "m"}
    numbers = results["models"]["a"]["budgets"]["4"]["metrics"]
    numbers["again"] = dict(numbers["m"])
    assert [column.name for column in Numbers(results).columns] == ["m"]
    assert table.columns(results) == [("m", "p")]
    numbers["again"]["value"] += 1
    assert [column.name for column in Numbers(results).columns] == ["m", "again"]
