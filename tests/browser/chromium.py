"""A headless Chromium, spoken to over its DevTools protocol; and axe-core, which is put into its pages.

No driver is installed: the protocol is JSON over a web socket, and the client of that comes with uvicorn.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import httpx
from websockets.sync.client import ClientConnection, connect

from tests.conftest import PATIENCE
from tests.process import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
AXE = "axe-core@4.14.1"
_AXE_SHA512 = (
    "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="
)


def axe_core() -> str:
    """The source of axe-core (MPL-2.0), fetched from the npm registry once and checked each time."""
    folder = ROOT / ".cache" / "npm"
    folder.mkdir(parents=True, exist_ok=True)
    package = folder / f"{AXE.replace('@', '-')}.tgz"
    if not package.exists():
        subprocess.run(
            ["npm", "pack", "--silent", AXE], cwd=folder, check=True, capture_output=True
        )
    digest = hashlib.sha512(package.read_bytes()).digest()
    assert base64.b64encode(digest).decode() == _AXE_SHA512, f"{package} is not what was published"
    with tarfile.open(package) as archive:
        source = archive.extractfile("package/axe.min.js")
        assert source is not None
        return source.read().decode()


class Chromium:
    """A browser of its own profile, closed at the end of the block."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM, "these tests need Chromium: apt-get install chromium"
        self._log = profile.with_suffix(".log").open("w+")
        self.process = subprocess.Popen(
            [
                CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                "--no-first-run", "--disable-background-networking", "--disable-component-update",
                "--hide-scrollbars", "--lang=en-GB", "--remote-debugging-port=0",
                f"--user-data-dir={profile}", "about:blank",
            ],
            stdout=subprocess.DEVNULL,
            stderr=self._log,
        )  # fmt: skip
        self.port = self._port()

    def _port(self) -> int:
        end = time.monotonic() + 2 * PATIENCE
        while time.monotonic() < end:
            said = Path(self._log.name).read_text(errors="replace")
            if found := re.search(r"DevTools listening on ws://127\.0\.0\.1:(\d+)/", said):
                return int(found[1])
            assert self.process.poll() is None, said
            time.sleep(0.05)
        raise AssertionError("Chromium did not start")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._log.close()

    @contextmanager
    def tab(self) -> Iterator[Tab]:
        opened = httpx.put(f"http://127.0.0.1:{self.port}/json/new", timeout=PATIENCE).json()
        with connect(opened["webSocketDebuggerUrl"], max_size=None) as socket:
            yield Tab(socket)
            httpx.get(f"http://127.0.0.1:{self.port}/json/close/{opened['id']}", timeout=PATIENCE)


class Tab:
    """One page. ``complaints`` are console errors, broken policies and uncaught errors; ``asked``
    are the addresses that it has loaded anything from.
    """

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._last = 0
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self._loaded = False
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the DevTools protocol, and its result."""
        self._last += 1
        self._socket.send(json.dumps({"id": self._last, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(PATIENCE))
            if message.get("id") == self._last:
                assert "error" not in message, message["error"]
                return message["result"]
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        told = message.get("params", {})
        match message.get("method"):
            case "Page.loadEventFired":
                self._loaded = True
            case "Network.requestWillBeSent":
                self.asked.append(told["request"]["url"])
            case "Runtime.exceptionThrown":
                self.complaints.append(told["exceptionDetails"]["text"])
            case "Log.entryAdded" if told["entry"]["level"] == "error":
                self.complaints.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")
            case "Runtime.consoleAPICalled" if told["type"] == "error":
                self.complaints.append(str(told["args"]))

    def open(self, url: str) -> Self:
        self._loaded = False
        self.call("Page.navigate", url=url)
        end = time.monotonic() + PATIENCE
        while not self._loaded:
            assert time.monotonic() < end, f"{url} did not load"
            self.call("Runtime.evaluate", expression="0")
            time.sleep(0.01)
        return self

    def run(self, script: str) -> Any:
        """The value of an expression on the page, awaited."""
        result = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def until(self, script: str) -> None:
        """Until the expression is true on the page."""
        end = time.monotonic() + PATIENCE
        while not self.run(f"Boolean({script})"):
            assert time.monotonic() < end, f"never came true: {script}"
            time.sleep(0.02)

    def type(self, text: str) -> None:
        """Into what has the focus, as from an input method."""
        self.call("Input.insertText", text=text)

    def press(self, key: str, *, shift: bool = False) -> None:
        """A key by its name, as from a keyboard."""
        code = {"Enter": 13, "Tab": 9, "ArrowRight": 39, "ArrowLeft": 37, "End": 35, "Home": 36}[
            key
        ]
        told = {
            "key": key,
            "code": key,
            "windowsVirtualKeyCode": code,
            "modifiers": 8 if shift else 0,
        }
        text = {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **told, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **told)

    def look(self, *, dark: bool = False, width: int = 1000, height: int = 1100) -> None:
        """Colours and size of the window, as the person has set them. Nothing moves."""
        self.call(
            "Emulation.setEmulatedMedia",
            features=[
                {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
                {"name": "prefers-reduced-motion", "value": "reduce"},
            ],
        )
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip

    def picture(self, path: Path) -> None:
        """The whole page as PNG."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def violations(self, axe: str) -> list[str]:
        """What axe-core finds, one line a rule: impact, rule, places."""
        self.run(f"{axe}; undefined")
        found = self.run("axe.run().then((done) => done.violations)")
        return [
            f"{one['impact']} {one['id']}: {[node['target'] for node in one['nodes']]}"
            for one in found
        ]
