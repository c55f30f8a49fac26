"""The page: whole, self-contained, and right about what it shows."""

from __future__ import annotations

import base64
import io
import re
import shutil
import subprocess
from collections.abc import Mapping
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from flexframe.bench.report import charts, sprites, view, write
from flexframe.bench.runner import Report, run


class Page(HTMLParser):
    """Elements of a page, by tag and class."""

    VOID = frozenset({"meta", "input", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def of(self, name: str) -> list[dict[str, str | None]]:
        return [a for _, a in self.elements if name in (a.get("class") or "").split()]


@pytest.fixture
def report(tokenizer: Any, suite: Any, tmp_path: Path) -> Report:
    models = [("flex<b>", tokenizer()), ("fixed", tokenizer("full"))]
    return run(suite("psnr", "ssim", "frechet", show=5, note="Only a <test>."), models, tmp_path, name="toy")


@pytest.fixture
def text(report: Report) -> str:
    return write(report.results, report.images, report.out / "report.html").read_text()


def test_page_is_well_formed_and_asks_nothing_of_the_network(text: str) -> None:
    page = Page(text)
    assert page.open == []
    assert all(("src" not in a and "href" not in a) or a.get("href", "").startswith("#") for _, a in page.elements)
    urls = re.findall(r"url\((.{20})", text)
    assert urls
    assert all(url.startswith("data:image/png") for url in urls)
    assert "default-src 'none'" in text
    assert "@import" not in text


def test_names_and_notes_are_escaped(text: str) -> None:
    assert "flex&lt;b&gt;" in text
    assert "flex<b>" not in text
    assert "Only a &lt;test&gt;." in text


def test_a_count_that_a_model_lacks_is_an_empty_labelled_tile(text: str) -> None:
    page = Page(text)
    assert [v["data-k"] for v in page.of("variant")] == ["1", "2", "4", "8"] * 2
    assert len(page.of("absent")) == 3
    assert "not offered at 4 tokens" in text
    assert 'max="3" step="1" value="3"' in text


def test_missing_metric_says_why_and_how(text: str) -> None:
    assert "FID: not measured" in text
    assert "needs more than 2,048 images, and there are 40" in text


def test_sprites_are_the_reconstructions(report: Report) -> None:
    made = sprites.make(report.images.real, report.images.fake, [1, 2, 4, 8], 10**7)
    assert len(made.uris) == 1 + 4 + 1
    uri = made.uris[made.fake["fixed"][8]]
    strip = np.array(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB"))
    expected = torch.cat(list(report.images.fake["fixed"][8]), 2).permute(1, 2, 0).numpy()
    assert np.array_equal(strip, expected)


def test_heavy_pictures_are_shrunk_to_the_limit() -> None:
    real = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    made = sprites.make(real, {"a": {1: real}}, [1], 30_000)
    assert (made.height, made.width) == (32, 32)
    assert sum(map(len, made.uris)) <= 30_000
    with pytest.raises(ValueError, match="lower the suite's `show`"):
        sprites.make(real, {"a": {1: real}}, [1], 100)


def test_page_without_images_or_numbers_still_stands(tokenizer: Any, suite: Any, tmp_path: Path) -> None:
    bare = run(suite("frechet", show=0, count=3), [("a", tokenizer())], tmp_path)
    page = Page(write(bare.results, bare.images, tmp_path / "report.html").read_text())
    assert page.of("variant") == page.of("plot") == []
    assert len(page.of("missing")) == 1


def test_many_token_counts_are_thinned(report: Report) -> None:
    models = {"a": {"budgets": {str(k): {} for k in range(1, 101)}}, "b": {"budgets": {"77": {}}}}
    shown = view.stops({"budgets": list(range(1, 101)), "models": models})
    assert shown == [1, 2, 4, 8, 16, 32, 64, 77, 100]
    assert view.spread(shown, 3) == [1, 16, 100]


MEASURE = {"label": "PSNR", "unit": "dB", "digits": 2, "better": "higher"}


def points(*values: tuple[int, float | None, float]) -> list[Mapping[str, Any]]:
    return [{"tokens": k, "bits": bits, "value": v, "tip": f"m\n{v}"} for k, bits, v in values]


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
    assert charts.draw("bits", {"b": series["b"]}, MEASURE) is None


def test_markers_do_not_hide_each_other() -> None:
    series = {name: points((8, 64, 20.0)) for name in "abc"}
    found = [line.points[0].x for line in charts.draw("tokens", series, MEASURE).lines]
    assert all(later - earlier >= 9 for earlier, later in pairwise(found))


@pytest.mark.parametrize(
    ("low", "high", "unit"), [(0.5, 0.9, ""), (20.0, 20.0, "dB"), (51.0, 100.0, "%"), (0.0, 0.0, "%"), (3e-4, 2e4, "")]
)
def test_axes_hold_their_values(low: float, high: float, unit: str) -> None:
    ticks, bottom, top = charts.y_range(low, high, {"unit": unit, "digits": 2})
    assert bottom <= low <= high <= top
    assert len(ticks) >= 2
    assert len({text for _, text in ticks}) == len(ticks)


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = """
<script>
addEventListener("load", () => {
  const seen = [];
  const now = () => [...document.querySelectorAll(".variant")].filter((v) => !v.hidden).map((v) => v.dataset.k).join();
  const press = (key) => document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  seen.push(now()); press("ArrowLeft"); seen.push(now());
  const slider = document.getElementById("k");
  slider.value = 0; slider.dispatchEvent(new Event("input")); seen.push(now());
  press("ArrowLeft"); seen.push(now()); press("ArrowRight"); seen.push(now());
  document.querySelector("[data-axis=bits]").click();
  const shown = [...document.querySelectorAll(".plot")].filter((p) => getComputedStyle(p).display !== "none");
  seen.push(shown.every((p) => p.classList.contains("bits")));
  seen.push(document.documentElement.scrollWidth <= innerWidth);
  document.title = seen.join(" ");
});
</script>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here to drive the page with")
def test_slider_keys_and_axis_in_a_browser(text: str, tmp_path: Path) -> None:
    path = tmp_path / "driven.html"
    path.write_text(text.replace("</body>", DRIVER + "</body>"))
    assert CHROMIUM is not None
    flags = (
        "--headless=new --no-sandbox --disable-gpu --disable-background-networking --disable-component-update "
        "--disable-sync --no-first-run --virtual-time-budget=2000 --dump-dom"
    )
    command = [CHROMIUM, *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    title = re.search("<title>(.*?)</title>", done.stdout)
    assert title is not None, done.stderr[-2000:]
    assert title[1] == "8,8 4,4 1,1 1,1 2,2 true true"
