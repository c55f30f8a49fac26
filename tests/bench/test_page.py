"""The page in a browser, with real keys, a real pointer and the pixels that are shown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from flexframe.bench.report import write
from flexframe.bench.runner import Report, run

from .browser import CHROMIUM, Browser

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here to look at the page with")
LEFT, UP, RIGHT, DOWN, ESCAPE = 37, 38, 39, 40, 27
TILE = "#gallery .lane[data-model='{model}'] .variant:not([hidden]) figure:nth-child({nth}) .tile"


@pytest.fixture
def report(tokenizer: Any, suite: Any, tmp_path: Path) -> Report:
    models = [("flex", tokenizer()), ("fixed", tokenizer("full"))]
    found = run(suite("psnr", "codebook", show=4), models, tmp_path)
    write(found.results, found.images, tmp_path / "report.html")
    return found


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def browser(window: Browser, report: Report) -> Browser:
    """At the report, in a wide, light window."""
    window.resize(*window.size)
    window.scheme("light")
    window.requests.clear()
    window.open((report.out / "report.html").as_uri())
    return window


def shows(seen: np.ndarray, image: Tensor, tolerance: int = 2) -> bool:
    """Whether an element shows an image, however much enlarged: the middles of its pixels are compared."""
    _, height, width = image.shape
    rows = ((np.arange(height) + 0.5) / height * seen.shape[0]).astype(int)
    columns = ((np.arange(width) + 0.5) / width * seen.shape[1]).astype(int)
    wanted = image.permute(1, 2, 0).numpy().astype(int)
    found = seen[rows][:, columns].astype(int)
    inner = np.s_[1:-1, 1:-1]  # the corners are round
    return bool(np.abs(found[inner] - wanted[inner]).max() <= tolerance)


@pytest.mark.slow
def test_moving_the_slider_changes_the_pictures_of_all_models(browser: Browser, report: Report) -> None:
    flex, fixed = report.images.fake["flex"], report.images.fake["fixed"]
    tile, other = TILE.format(model=0, nth=2), TILE.format(model=1, nth=2)
    assert browser.run("document.querySelector('#k').value") == "3"
    before = browser.pixels(tile)
    assert shows(before, flex[8][1])
    assert shows(browser.pixels(other), fixed[8][1])

    browser.key("ArrowLeft", LEFT)
    after = browser.pixels(tile)
    assert shows(after, flex[4][1])
    assert not shows(after, flex[8][1])
    assert not np.array_equal(before, after)
    absent = "document.querySelector('.lane[data-model=\"1\"] .absent').hidden"
    assert browser.run(absent) is False

    browser.click("#k", along=0.02)  # the pointer, on the slider's left end
    assert shows(browser.pixels(tile), flex[1][1])
    browser.key("ArrowRight", RIGHT)  # the slider has the focus now and moves by itself
    assert shows(browser.pixels(tile), flex[2][1])
    assert browser.run("document.querySelector('.slider output').textContent") == "2 tokens"
    browser.click(".ticks button[data-at='3']")
    assert shows(browser.pixels(tile), flex[8][1])
    assert browser.run(absent) is True
    assert all(url.startswith(("file:", "data:", "about:")) for url in browser.requests)
    assert any(url.startswith("data:image") for url in browser.requests)


@pytest.mark.slow
def test_a_model_without_a_count_shows_its_nearest_below_and_says_so(
    window: Browser, tokenizer: Any, suite: Any, tmp_path: Path
) -> None:
    found = run(suite("psnr", show=2), [("long", tokenizer()), ("some", tokenizer())], tmp_path)
    results = dict(found.results)
    results["models"] = {name: {**model} for name, model in results["models"].items()}
    some = results["models"]["some"]
    some["budgets"] = {k: entry for k, entry in some["budgets"].items() if k in ("2", "8")}
    fake = {**found.images.fake, "some": {k: v for k, v in found.images.fake["some"].items() if k in (2, 8)}}
    images = type(found.images)(found.images.real, fake)
    path = write(results, images, tmp_path / "report.html")
    window.open(path.as_uri() + "#tokens=4")
    assert shows(window.pixels(TILE.format(model=0, nth=1)), fake["long"][4][0])
    assert shows(window.pixels(TILE.format(model=1, nth=1)), fake["some"][2][0])
    who = "[...document.querySelectorAll('.lane .variant:not([hidden]) .who')].map((w) => w.innerText)"
    first, second = window.run(who)
    assert "nearest" not in first
    assert "2 tokens, its nearest below 4" in second


@pytest.mark.slow
def test_difference_is_four_times_the_error(browser: Browser, report: Report) -> None:
    tile = TILE.format(model=0, nth=3)
    browser.key("d")
    real, fake = report.images.real[2].int(), report.images.fake["flex"][8][2].int()
    wanted = ((real - fake).abs() * 4).clamp(max=255).byte()
    assert wanted.max() > 40
    assert shows(browser.pixels(tile), wanted, tolerance=6)
    assert "× 4" in browser.run("document.querySelector('#gallery .legend-diff').innerText")
    browser.key("d")
    assert shows(browser.pixels(tile), report.images.fake["flex"][8][2])


@pytest.mark.slow
def test_zoom_follows_slider_and_keys(browser: Browser, report: Report) -> None:
    large = "#close-up figure:nth-child({}) .tile"
    browser.key("z")
    assert browser.pixels(large.format(2)).shape[0] > 150
    assert shows(browser.pixels(large.format(1)), report.images.real[0])
    browser.key("ArrowLeft", LEFT)
    browser.key("ArrowDown", DOWN)
    assert shows(browser.pixels(large.format(2)), report.images.fake["flex"][4][1])
    assert "takes 8 tokens at least" in browser.run("document.querySelector('#close-up').innerText")
    browser.key("Escape", ESCAPE)
    assert browser.run("document.querySelector('#close-up').open") is False
    assert shows(browser.pixels(TILE.format(model=0, nth=1)), report.images.fake["flex"][4][0])
    browser.click(".look[data-place='3']")
    assert shows(browser.pixels(large.format(1)), report.images.real[3])


@pytest.mark.slow
def test_help_axis_theme_and_first_image(browser: Browser, report: Report) -> None:
    browser.key("?")
    assert browser.run("document.querySelector('#help').open") is True
    browser.key("Escape", ESCAPE)
    plots = "[...document.querySelectorAll('.plot')].filter((p) => getComputedStyle(p).display !== 'none')"
    browser.key("t")
    assert browser.run(f"{plots}.every((p) => p.classList.contains('bits')) && {plots}.length > 0") is True
    browser.click("#hero [data-step='1']")
    assert shows(browser.pixels("#hero .truth .tile"), report.images.real[1])
    assert shows(browser.pixels("#hero .line:nth-child(2) .cell .tile"), report.images.fake["flex"][1][1])

    paper = "getComputedStyle(document.body).backgroundColor"
    light = browser.run(paper)
    browser.scheme("dark")
    dark = browser.run(paper)
    assert light != dark
    browser.click("#theme")
    assert browser.run(paper) == light
    browser.click("#theme")
    assert browser.run(paper) == dark


CONTRAST = """
(() => {
  const light = (c) => {
    const [r, g, b] = c.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (e) => {
    const c = getComputedStyle(e).backgroundColor;
    return c.endsWith(", 0)") && e.parentElement ? ground(e.parentElement) : c;
  };
  const low = [];
  for (const e of document.querySelectorAll("main *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.checkVisibility() || e.closest("svg")) continue;
    const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) low.push(`${e.className || e.tagName}: ${e.textContent.trim().slice(0, 30)}`);
  }
  return low;
})()
"""


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_narrow_windows_and_contrast(browser: Browser, scheme: str) -> None:
    browser.scheme(scheme)
    browser.resize(400, 800)
    assert browser.run("document.documentElement.scrollWidth") <= 400
    first = browser.run("document.querySelector('#hero .line:nth-child(2) .cell .tile').getBoundingClientRect().bottom")
    assert first < 800
    assert len(browser.run("[...document.querySelectorAll('.book > svg path')].map((p) => p.id)")) == 2
    swatches = "[...document.querySelectorAll('.swatch')].filter((s) => s.checkVisibility())"
    assert set(browser.run(f"{swatches}.map((s) => s.getBoundingClientRect().width)")) == {12}
    browser.key("z")
    assert browser.run("document.querySelector('#close-up').scrollWidth") <= 400
    browser.key("z")
    assert browser.run(CONTRAST) == []
