"""A headless Chromium that is driven by plain HTTP (WebDriver), without a library."""

import base64
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key that the W3C standard gives


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def answers(url: str, seconds: float = 60) -> None:
    """Wait until a server answers."""
    end = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


class DriverError(Exception):
    """What the driver refuses: an element that is covered, or was drawn anew."""


class Page:
    """A tab."""

    def __init__(self, session: str) -> None:
        self._session = session

    def _call(self, method: str, path: str, **body: Any) -> Any:
        data = None if method == "GET" else json.dumps(body).encode()
        request = urllib.request.Request(
            f"{self._session}/{path}", data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=180) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as exc:
            raise DriverError(exc.read().decode()[:500]) from exc

    def open(self, url: str) -> None:
        self._call("POST", "url", url=url)

    def script(self, code: str, *arguments: Any) -> Any:
        return self._call("POST", "execute/sync", script=code, args=list(arguments))

    def wait_for(self, code: str, seconds: float = 90) -> Any:
        """The first true answer of a script."""
        end = time.monotonic() + seconds
        while not (found := self.script(code)):
            assert time.monotonic() < end, f"{code} stayed {found!r}: {self.text()}"
            time.sleep(0.1)
        return found

    def text(self) -> str:
        return str(self.script("return document.body.innerText"))

    def find(self, css: str) -> list[str]:
        found = self._call("POST", "elements", using="css selector", value=css)
        return [each[_ELEMENT] for each in found]

    def click(self, element: str) -> None:
        self._call("POST", f"element/{element}/click")

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._call("GET", "screenshot")))


def missing() -> str:
    """What is not installed; "" where all is there."""
    for name in ("chromium", "chromedriver"):
        if shutil.which(name) is None:
            return f"{name} is needed: apt-get install chromium chromium-driver"
    return ""


@contextmanager
def chromium(folder: Path) -> Iterator[Page]:
    """A tab of a headless Chromium; the test is skipped where there is none."""
    if why := missing():
        pytest.skip(why)
    port = free_port()
    driver = subprocess.Popen(
        ["chromedriver", f"--port={port}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HOME": str(folder)},
    )
    try:
        answers(f"http://127.0.0.1:{port}/status")
        words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        words += [f"--user-data-dir={folder / 'profile'}", "--window-size=1200,900"]
        options = {"goog:chromeOptions": {"args": words}}
        asked = json.dumps({"capabilities": {"alwaysMatch": options}}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/session", asked, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=180) as answer:
            name = json.load(answer)["value"]["sessionId"]
        page = Page(f"http://127.0.0.1:{port}/session/{name}")
        try:
            yield page
        finally:  # without it the browser outlives its driver
            end = urllib.request.Request(page._session, method="DELETE")
            urllib.request.urlopen(end, timeout=30).close()
    finally:
        driver.terminate()
        driver.wait(30)
