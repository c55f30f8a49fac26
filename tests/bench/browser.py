"""Chromium for tests, driven by its DevTools protocol over a pipe: real keys, real pointers, real pixels."""

from __future__ import annotations

import base64
import io
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-background-networking "
    "--disable-component-update --disable-sync --no-first-run --hide-scrollbars --force-color-profile=srgb "
    "--remote-debugging-pipe"
)


class Browser:
    """One page in a headless Chromium. Use as a context."""

    def __init__(self, profile: Path, width: int = 1240, height: int = 860, seconds: float = 60) -> None:
        self.profile, self.size, self.seconds = profile, (width, height), seconds
        self.requests: list[str] = []
        self._sent, self._buffer = 0, b""

    def __enter__(self) -> Browser:
        assert CHROMIUM is not None
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()

        def places() -> None:
            # by the protocol the browser reads from 3 and writes to 4; both may be taken by the other's number
            inward, outward = os.dup(to_read), os.dup(to_write)
            os.dup2(inward, 3)
            os.dup2(outward, 4)

        self._process = subprocess.Popen(
            [CHROMIUM, *FLAGS.split(), f"--user-data-dir={self.profile}", "about:blank"],
            preexec_fn=places, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_read)
        os.close(to_write)
        targets = self._ask("Target.getTargets", session=None)["targetInfos"]
        page = next(t["targetId"] for t in targets if t["type"] == "page")
        self._session = self._ask("Target.attachToTarget", session=None, targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime"):
            self.ask(f"{domain}.enable")
        self.resize(*self.size)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def open(self, address: str) -> None:
        """Go to an address, and wait until it has loaded."""
        self.ask("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && location.href === " + json.dumps(address))

    def resize(self, width: int, height: int, scale: float = 1) -> None:
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False
        )

    def scheme(self, name: str) -> None:
        """What the system prefers: dark or light."""
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, condition: str) -> None:
        """Until an expression is true."""
        end = time.monotonic() + self.seconds
        while not self.run(condition):
            assert time.monotonic() < end, f"never true: {condition}"
            time.sleep(0.02)

    def key(self, key: str, code: int = 0) -> None:
        """Press and let go of a key; `code` is its Windows key code, which arrows need."""
        text = {"text": key} if len(key) == 1 else {}
        for kind in ("keyDown", "keyUp"):
            named = {"windowsVirtualKeyCode": code} if code else {}
            self.ask(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, **named, **(text if kind == "keyDown" else {})
            )

    def click(self, selector: str, along: float = 0.5) -> None:
        """Click an element, `along` its width."""
        box = self.box(selector)
        spot = {"x": box["x"] + along * box["width"], "y": box["y"] + box["height"] / 2, "button": "left"}
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, clickCount=1, **spot)

    def box(self, selector: str) -> dict[str, float]:
        """Where an element stands, in the middle of the window."""
        found = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); "
            "e.scrollIntoView({block: 'center', behavior: 'instant'}); return e.getBoundingClientRect().toJSON(); })()"
        )
        assert isinstance(found, dict)
        return found

    def pixels(self, selector: str) -> np.ndarray:
        """What an element shows, as 8-bit RGB."""
        box = self.box(selector)
        x, y = self.run("[scrollX, scrollY]")
        clip = {"x": box["x"] + x, "y": box["y"] + y, "width": box["width"], "height": box["height"], "scale": 1}
        return np.array(Image.open(io.BytesIO(self.shot(clip=clip))).convert("RGB"))

    def shot(self, **settings: Any) -> bytes:
        """A PNG of the window."""
        return base64.b64decode(self.ask("Page.captureScreenshot", format="png", **settings)["data"])

    def ask(self, method: str, **settings: Any) -> dict[str, Any]:
        return self._ask(method, session=self._session, **settings)

    def _ask(self, method: str, session: str | None, **settings: Any) -> dict[str, Any]:
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": settings}
        os.write(self._write, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        while (answer := self._next()).get("id") != self._sent:
            if answer.get("method") == "Network.requestWillBeSent":
                self.requests.append(answer["params"]["request"]["url"])
        assert "error" not in answer, f"{method}: {answer['error']}"
        result = answer["result"]
        assert isinstance(result, dict)
        return result

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + self.seconds
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
            assert ready, "the browser does not answer"
            got = os.read(self._read, 1 << 20)
            assert got, "the browser is gone"
            self._buffer += got
        message, _, self._buffer = self._buffer.partition(b"\0")
        found = json.loads(message)
        assert isinstance(found, dict)
        return found
