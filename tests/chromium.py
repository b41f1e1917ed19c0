"""A headless Chromium, driven by its DevTools protocol; ``pytest.skip`` where there is none."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


class ProtocolError(Exception):
    """Chromium refuses or cannot answer."""


class Tab:
    """One page, as a person has it: keys, clicks and the wheel go where they would go from a real hand."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._number = 0
        # What the page said to the console, and every address that it asked for.
        self.errors: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict:
        """Call the protocol and return its result."""
        self._number += 1
        self._connection.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv(timeout=120))
            if message.get("id") == self._number:
                if "error" in message:
                    raise ProtocolError(message)
                return message["result"]
            # Others are replies that nobody waits for.
            if "method" in message:
                self._note(message)

    def _note(self, event: dict) -> None:
        values = event["params"]
        if event["method"] == "Runtime.exceptionThrown":
            self.errors.append(values["exceptionDetails"].get("exception", {}).get("description", str(values)))
        elif event["method"] == "Log.entryAdded" and values["entry"]["level"] == "error":
            self.errors.append(f"{values['entry']['text']} {values['entry'].get('url', '')}")
        elif event["method"] == "Network.requestWillBeSent":
            self.requests.append(values["request"]["url"])
        elif event["method"] == "Page.javascriptDialogOpening":
            self.errors.append(f"dialog: {values['type']} {values['message']}")
            accept = {"id": 0, "method": "Page.handleJavaScriptDialog", "params": {"accept": True}}
            self._connection.send(json.dumps(accept))

    def open(self, address: str) -> None:
        self.call("Page.navigate", url=address)

    def reload(self) -> None:
        """Load the page again; what is known of it is gone when this returns."""
        self.js("delete document.body.dataset.ready")
        self.call("Page.reload")

    def js(self, expression: str) -> Any:
        """The value of an expression, promises awaited."""
        reply = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in reply, reply["exceptionDetails"]
        return reply["result"].get("value")

    def wait(self, expression: str, *, seconds: float = 120) -> Any:
        """Wait until an expression is true and return its value."""
        end = time.monotonic() + seconds
        while True:
            try:
                if value := self.js(expression):
                    return value
            except ProtocolError as error:
                # A page that is loaded anew takes what was asked of the old one with it.
                if "navigated" not in str(error):
                    raise
            assert time.monotonic() < end, f"{expression}: never true; errors {self.errors}"
            time.sleep(0.05)

    def text(self, selector: str) -> str:
        return self.js(f"document.querySelector({json.dumps(selector)}).textContent.trim()")

    def place(self, selector: str) -> tuple[float, float]:
        """Where the middle of an element is."""
        element = f"document.querySelector({json.dumps(selector)})"
        self.js(f"{element}.scrollIntoView({{block: 'nearest'}})")
        box = self.js(f"{element}.getBoundingClientRect().toJSON()")
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def click(self, where: str | tuple[float, float]) -> None:
        """Click an element by its selector, or a place."""
        self.drag([self.place(where) if isinstance(where, str) else where])

    def drag(self, path: list[tuple[float, float]]) -> None:
        """Press at the first place, move over the others, let go at the last."""
        self.mouse("mouseMoved", *path[0])
        self.mouse("mousePressed", *path[0], button="left", buttons=1, clickCount=1)
        for place in path[1:]:
            self.mouse("mouseMoved", *place, button="left", buttons=1)
        self.mouse("mouseReleased", *path[-1], button="left", clickCount=1)

    def wheel(self, place: tuple[float, float], steps: int) -> None:
        for _ in range(abs(steps)):
            self.mouse("mouseWheel", *place, deltaX=0, deltaY=100 if steps > 0 else -100)

    def key(self, key: str) -> None:
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=key if len(key) == 1 else "")
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


@contextmanager
def chromium(folder: Path, *, size: tuple[int, int] = (1000, 640)) -> Iterator[Tab]:
    """A tab of a browser of its own, which ends with the block; its files go to ``folder``."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("no Chromium here: install chromium to test the interactive page")
    from websockets.sync.client import connect

    process = subprocess.Popen(
        [
            program,
            "--headless=new",
            "--no-sandbox",
            "--no-first-run",
            "--disable-extensions",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-dev-shm-usage",
            # A page that nobody looks at would get what time others leave.
            "--disable-renderer-backgrounding",
            "--disable-background-timer-throttling",
            "--disable-backgrounding-occluded-windows",
            "--use-angle=swiftshader",
            "--enable-unsafe-swiftshader",
            "--remote-debugging-port=0",
            f"--window-size={size[0]},{size[1]}",
            f"--user-data-dir={folder / 'chromium'}",
            "about:blank",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        port = folder / "chromium" / "DevToolsActivePort"
        end = time.monotonic() + 60
        while not (port.is_file() and len(port.read_text().split()) == 2):
            assert process.poll() is None and time.monotonic() < end, "Chromium did not start"
            time.sleep(0.05)
        number, path = port.read_text().split()
        with connect(f"ws://127.0.0.1:{number}{path}", max_size=None) as browser:
            browser.send(json.dumps({"id": 1, "method": "Target.getTargets"}))
            while (reply := json.loads(browser.recv(timeout=120))).get("id") != 1:
                pass
        page = next(target for target in reply["result"]["targetInfos"] if target["type"] == "page")
        with connect(f"ws://127.0.0.1:{number}/devtools/page/{page['targetId']}", max_size=None) as connection:
            yield Tab(connection)
    finally:
        process.terminate()
        process.wait(20)
