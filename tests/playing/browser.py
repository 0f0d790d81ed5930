"""A headless Chromium, driven over its DevTools protocol."""

import base64
import itertools
import json
import re
import shutil
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

from websockets.sync.client import connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def installed() -> str | None:
    """The path of a Chromium, if there is one."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One page."""

    def __init__(self, url: str, folder: Path, size=(1280, 900)) -> None:
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--no-first-run"]
        options += [f"--user-data-dir={folder}", f"--window-size={size[0]},{size[1]}"]
        self.process = subprocess.Popen([installed(), *options, url], stderr=subprocess.PIPE, text=True)
        line = next(line for line in self.process.stderr if "DevTools listening" in line)
        port = re.search(r":(\d+)/", line)[1]
        self.ids = itertools.count()
        self.open = ExitStack()
        self.socket = self.open.enter_context(connect(self._page(port), max_size=None))

    def _page(self, port: str) -> str:
        from urllib.request import urlopen

        for _ in range(100):
            with urlopen(f"http://127.0.0.1:{port}/json") as reply:
                pages = [page for page in json.load(reply) if page["type"] == "page"]
            if pages:
                return pages[0]["webSocketDebuggerUrl"]
            time.sleep(0.1)
        raise TimeoutError

    def call(self, method: str, **params):
        call = next(self.ids)
        self.socket.send(json.dumps({"id": call, "method": method, "params": params}))
        while (said := json.loads(self.socket.recv(timeout=60))).get("id") != call:
            pass
        return said["result"]

    def value(self, script: str):
        """What an expression is worth in the page."""
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def wait(self, script: str, seconds: float = 60) -> None:
        """Until an expression is true."""
        end = time.monotonic() + seconds
        while not self.value(script):
            assert time.monotonic() < end, f"never became true: {script}"
            time.sleep(0.05)

    def press(self, key: str, until: str | None = None) -> None:
        """Hold a key until an expression is true."""
        text = {"text": key} if len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        if until:
            self.wait(until)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        self.open.close()
        self.process.terminate()
        self.process.wait()
        self.process.stderr.close()
