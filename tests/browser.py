"""A headless Chromium, driven over a pipe by its DevTools protocol; needs nothing but the browser.

https://chromedevtools.github.io/devtools-protocol/: requests and answers are JSON, each ended by a zero byte.
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PATH = next((found for found in map(shutil.which, NAMES) if found), None)
PATIENCE_S = 60

needs_browser = pytest.mark.skipif(PATH is None, reason=f"no browser found; looked for {', '.join(NAMES)}")


class Browser:
    """One Chromium without a network, so that anything a page would fetch is missing."""

    def __init__(self, directory: Path) -> None:
        assert PATH is not None
        there, self._out = os.pipe()
        self._in, back = os.pipe()
        options = [
            "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--hide-scrollbars",
            f"--user-data-dir={directory}", "--host-resolver-rules=MAP * ~NOTFOUND", "about:blank",
        ]  # fmt: skip
        # the browser reads requests from descriptor 3 and writes answers to 4
        command = ["bash", "-c", f'exec "$@" 3<&{there} 4>&{back}', "bash", PATH, *options]
        silent = subprocess.DEVNULL
        # in a session of its own, so that no signal of the browser's reaches the tests
        self._process = subprocess.Popen(
            command, pass_fds=(there, back), stdout=silent, stderr=silent, start_new_session=True
        )
        os.close(there)
        os.close(back)
        self._received, self._last = b"", 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """The result of a request."""
        self._last += 1
        number = self._last
        request = {"id": number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        os.write(self._out, json.dumps(request).encode() + b"\0")
        while True:
            message = self._message()
            if message.get("id") == number:
                assert "error" not in message, message["error"]
                return message["result"]
            self.events.append(message)

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._received:
            part = os.read(self._in, 1 << 16)
            assert part, "the browser has ended"
            self._received += part
        first, _, self._received = self._received.partition(b"\0")
        return json.loads(first)

    def close(self) -> None:
        """End the browser."""
        self.call("Browser.close")
        self._process.wait(PATIENCE_S)
        os.close(self._in)
        os.close(self._out)


class Page:
    """An open page, 1200 x 800 pixels, in the light or the dark colour scheme."""

    def __init__(self, browser: Browser, file: Path, scheme: str = "light") -> None:
        self._browser = browser
        browser.events.clear()
        self._target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        attached = browser.call("Target.attachToTarget", targetId=self._target, flatten=True)
        self._session = attached["sessionId"]
        self._call("Runtime.enable")
        self._call("Emulation.setDeviceMetricsOverride", width=1200, height=800, deviceScaleFactor=1, mobile=False)
        self._call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self._call("Page.navigate", url=file.as_uri())
        self._wait_until_ready()

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **parameters)

    def _wait_until_ready(self) -> None:
        end = time.monotonic() + PATIENCE_S
        while self.run("document.body && document.body.dataset.ready") != "yes":
            assert time.monotonic() < end, "the page did not get ready"
            time.sleep(0.05)
        self.settle()

    def run(self, expression: str) -> Any:
        """The value of an expression; promises are waited for, errors fail the test."""
        answer = self._call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def settle(self) -> None:
        """Wait for what the next frame brings."""
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """``mouseMoved``, ``mousePressed``, ``mouseReleased`` or ``mouseWheel`` at shares of the timeline's area."""
        area = "report.timeline.plot.over.getBoundingClientRect()"
        box = self.run(f"(({{ x, y, width, height }}) => [x, y, width, height])({area})")
        at = {"x": box[0] + x * box[2], "y": box[1] + y * box[3]}
        self._call("Input.dispatchMouseEvent", type=kind, **at, **more)
        self.settle()

    def text(self, selector: str) -> str:
        """What is written in an element."""
        return self.run(f"document.querySelector({json.dumps(selector)}).innerText")

    def screenshot(self) -> np.ndarray:
        """Colours in 0..1, shape (800, 1200, 3 or 4)."""
        from matplotlib.image import imread

        png = base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"])
        return np.asarray(imread(io.BytesIO(png), format="png"))

    @property
    def errors(self) -> list[str]:
        """What went wrong on the page."""
        return [str(e["params"]) for e in self._browser.events if e.get("method") == "Runtime.exceptionThrown"]

    def close(self) -> None:
        """Close the page; nothing may have gone wrong."""
        self._browser.call("Target.closeTarget", targetId=self._target)
        assert self.errors == []
