"""A headless Chromium, spoken to over a pipe in the DevTools protocol: standard library only."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--hide-scrollbars", "--remote-debugging-pipe"),
)
WAIT_S = 120.0


def find_chromium() -> str | None:
    """Its path, None where none is installed."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Tab:
    """One tab; what the browser tells of itself gathers in `events`."""

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back = to, back
        self._number, self._rest, self._session = 0, b"", ""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Log", "Runtime", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The answer to one command. Raises `RuntimeError` for a refusal, or none in time."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            told = self._read()
            if told.get("id") != self._number:
                self.events.append(told)
                continue
            if "error" in told:
                raise RuntimeError(f"{method}: {told['error']}")
            result: dict[str, Any] = told["result"]
            return result

    def open(self, url: str, *, width: int, height: int, dark: bool, media: str = "") -> None:
        """Load a page at this width and wait until it has loaded."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 500,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self.events.clear()
        self.call("Page.navigate", url=url)
        while not any(e.get("method") == "Page.loadEventFired" for e in self.events):
            self.events.append(self._read())

    def value(self, expression: str) -> Any:
        """What an expression comes to in the page."""
        told = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return told["result"]["value"]

    def screenshot(self) -> bytes:
        """Of the whole page, as PNG."""
        told = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(told["data"])

    def complaints(self) -> list[str]:
        """Errors and warnings of the console."""
        bad = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
        return [json.dumps(e["params"]) for e in self.events if e.get("method") in bad]

    def requests(self) -> list[str]:
        """Addresses that the page asked for, its data: URIs left out."""
        sent = [e for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        urls = [str(e["params"]["request"]["url"]) for e in sent]
        return [url for url in urls if not url.startswith("data:")]

    def _read(self) -> dict[str, Any]:
        deadline = time.monotonic() + WAIT_S
        while b"\0" not in self._rest:
            left = deadline - time.monotonic()
            if not select.select([self._back], [], [], max(0.0, left))[0]:
                raise RuntimeError(f"Chromium said nothing for {WAIT_S:.0f} s")
            read = os.read(self._back, 1 << 20)
            if not read:
                raise RuntimeError("Chromium ended")
            self._rest += read
        line, self._rest = self._rest.split(b"\0", 1)
        told: dict[str, Any] = json.loads(line)
        return told


@contextmanager
def browsing(chromium: str, profile: Path) -> Iterator[Tab]:
    """A tab of a browser of its own, which ends with the block."""
    their_in, to = os.pipe()
    back, their_out = os.pipe()
    # Chromium reads from descriptor 3 and writes to 4.
    script = f'exec "$@" 3<&{their_in} 4>&{their_out}'
    process = subprocess.Popen(
        ["bash", "-c", script, "bash", chromium, *FLAGS, f"--user-data-dir={profile}"],
        pass_fds=(their_in, their_out),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(their_in)
    os.close(their_out)
    try:
        tab = Tab(to, back)
        yield tab
        os.write(to, json.dumps({"id": 0, "method": "Browser.close"}).encode() + b"\0")
        process.wait(timeout=WAIT_S)
    finally:
        os.close(to)
        os.close(back)
        process.kill()
        process.wait()
