"""A headless Chromium, by its DevTools protocol (chromedevtools.github.io/devtools-protocol)."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import websocket

STARTS_WITHIN_S = 60.0
ANSWERS_WITHIN_S = 60.0


def found() -> str | None:
    """The program; None where there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)


class Page:
    """A page in the browser, and what has happened in it."""

    def __init__(self, address: str) -> None:
        self._socket = websocket.create_connection(
            address, timeout=ANSWERS_WITHIN_S, suppress_origin=True
        )
        self._numbers = 0
        self.events: list[dict[str, Any]] = []

    def close(self) -> None:
        """Leave it."""
        self._socket.close()

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a command."""
        self._numbers += 1
        self._socket.send(json.dumps({"id": self._numbers, "method": method, "params": params}))
        while True:
            said = json.loads(self._socket.recv())
            if said.get("id") == self._numbers:
                assert "error" not in said, said
                result: dict[str, Any] = said["result"]
                return result
            self.events.append(said)

    def open(self, path: Path) -> None:
        """Show a file, and wait until it is loaded."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")
        self.ask("Page.navigate", url=path.as_uri())
        while self.run("document.readyState + location.protocol") != "completefile:":
            time.sleep(0.05)

    def run(self, script: str) -> Any:
        """What JavaScript evaluates to."""
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def prefers(self, scheme: str) -> None:
        """Be a browser of somebody who likes it `light` or `dark`."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.ask("Emulation.setEmulatedMedia", features=features)

    def picture(self, path: Path, width: int, height: int) -> None:
        """Write it as PNG."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot")["data"]))

    def said(self, *methods: str) -> list[dict[str, Any]]:
        """What has happened of that kind."""
        return [event["params"] for event in self.events if event["method"] in methods]


@contextmanager
def page(program: str, folder: Path) -> Iterator[Page]:
    """A browser with an empty page; `folder` is for what it keeps."""
    line = [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    line += ["--no-first-run", "--remote-debugging-port=0", f"--user-data-dir={folder}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*line, "about:blank"], stdout=log, stderr=log)
    try:
        with closing(Page(_address(folder, process))) as shown:
            yield shown
    finally:
        process.terminate()
        process.wait()


def _address(folder: Path, process: subprocess.Popen[bytes]) -> str:
    import urllib.request

    deadline = time.monotonic() + STARTS_WITHIN_S
    port = folder / "DevToolsActivePort"
    while time.monotonic() < deadline and process.poll() is None:
        if port.exists() and port.read_text().count("\n"):
            url = f"http://127.0.0.1:{port.read_text().splitlines()[0]}/json/list"
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(url, timeout=10) as answer:
                pages = json.load(answer)
            for each in pages:
                if each["type"] == "page":
                    return str(each["webSocketDebuggerUrl"])
        time.sleep(0.1)
    raise AssertionError(f"the browser did not start: {(folder / 'log').read_text()[-2000:]}")
