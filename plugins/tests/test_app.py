"""The window: what it shows of models, and the page in a browser."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import flexframe
from flexframe.use import window
from flexframe.use.window import Entrant
from flexframe_registry import ConfigError

BROWSER = Path(__file__).resolve().parents[2] / "tests" / "bench" / "browser.py"
spec = importlib.util.spec_from_file_location("browser_of_the_tests", BROWSER)
assert spec is not None
assert spec.loader is not None
browser = importlib.util.module_from_spec(spec)
spec.loader.exec_module(browser)


@pytest.fixture(scope="module")
def flex() -> Entrant:
    return Entrant("flex", flexframe.load("flextok/digits-tiny"), "torchvision-bicubic")


@pytest.fixture(scope="module")
def digit() -> Image.Image:
    source = flexframe.catalogue().build(flexframe.catalogue().get("source", "digits").config(), (16, 16))
    return Image.fromarray(source[0].image.permute(1, 2, 0).contiguous().numpy())


@pytest.mark.slow
def test_a_picture_is_rebuilt_at_the_nearest_length_below(flex: Entrant, digit: Image.Image) -> None:
    assert [flex.length(asked) for asked in (1, 3, 5, 8, 99)] == [1, 2, 4, 8, 8]
    picture, length = flex.at(digit, 3)
    expected = flex.model.decode(flex.encoded(digit).truncate(2), rng=0)
    assert length == 2
    assert np.array_equal(np.asarray(picture), np.asarray(window.shown(expected)))
    assert picture.size == (256, 256)
    fixed = Entrant("fixed", flexframe.load("titok/digits-tiny"), "torchvision-bicubic")
    assert fixed.length(1) == 8


def test_a_difference_is_black_where_nothing_differs(digit: Image.Image) -> None:
    assert np.asarray(window.difference(digit, digit)).max() == 0
    lighter = Image.fromarray(np.full((16, 16, 3), 100, np.uint8))
    assert np.asarray(window.difference(lighter, Image.new("RGB", (16, 16), (90, 110, 100))))[0, 0].tolist() == [
        40,
        40,
        0,
    ]


def test_one_token_is_put_in_anothers_place(flex: Entrant, digit: Image.Image) -> None:
    tokens = flex.encoded(digit)
    changed = window.edited(flex, tokens, 2, [7])
    assert changed.codes[0, 2, 0] == 7
    rest = [i for i in range(8) if i != 2]
    assert torch.equal(changed.codes[0, rest], tokens.codes[0, rest])
    for slot, code, told in (
        (8, [7], "slots of this picture are 0..7"),
        (0, [64_000], "0..63999"),
        (0, [1, 2], "not 2"),
    ):
        with pytest.raises(ConfigError, match=told):
            window.edited(flex, tokens, slot, code)
    assert json.loads(window.record([flex], digit))["flex"]["codes"] == tokens.codes[0].tolist()


def test_without_gradio_one_line_says_how_to_get_it(command, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setitem(sys.modules, "gradio", None)
    answer = command("app", "flextok/digits-tiny")
    told = "flexframe app needs gradio, which is not installed: pip install 'flexframe[app]'"
    assert (answer.code, answer.err.strip()) == (2, f"flexframe: {told}")


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Where the page of two models is served, by a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = ["flextok/digits-tiny", "titok/digits-tiny", "--port", str(port), "--device", "cpu"]
    env = {**os.environ, "GRADIO_TEMP_DIR": str(tmp_path / "gradio"), "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen([sys.executable, "-m", "flexframe", "app", *given], env=env, stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/"
    try:
        for _ in range(240):
            assert process.poll() is None
            try:
                urllib.request.urlopen(url, timeout=5).close()
                break
            except OSError:
                time.sleep(0.5)
        yield url
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.skipif(browser.CHROMIUM is None, reason="no Chromium here to look at the page with")
@pytest.mark.skipif(find_spec("gradio") is None, reason="gradio is not installed")
def test_a_picture_is_uploaded_the_slider_moved_and_the_pictures_change(
    address: str, tmp_path: Path, digit: Image.Image
) -> None:
    digit.save(tmp_path / "digit.png")
    with browser.Browser(tmp_path / "profile", seconds=90) as page:
        page.open(address)
        page.wait("document.querySelector('#picture input[type=file]') !== null")
        root = page.ask("DOM.getDocument")["root"]["nodeId"]
        node = page.ask("DOM.querySelector", nodeId=root, selector="#picture input[type=file]")["nodeId"]
        page.ask("DOM.setFileInputFiles", nodeId=node, files=[str(tmp_path / "digit.png")])
        images = [f"document.querySelector('#made-{i} img')" for i in range(2)]
        page.wait(" && ".join(f"{image} !== null" for image in images))
        first = [page.run(f"{image}.src") for image in images]
        label = "document.querySelector('#made-0').innerText"
        assert "8 tokens" in page.run(label)
        page.run(
            "(() => { const e = document.querySelector('#tokens input[type=range]'); e.value = 1; "
            "for (const kind of ['input', 'change', 'pointerup']) "
            "e.dispatchEvent(new Event(kind, {bubbles: true})) })()"
        )
        page.wait(f"{label}.includes('1 token') && {images[0]}.src !== {json.dumps(first[0])}")
        page.click("#differences input")
        page.wait(f"{images[1]}.src !== {json.dumps(first[1])}")
        elsewhere = [url for url in page.requests if not url.startswith((address, "data:", "blob:"))]
    assert not elsewhere
