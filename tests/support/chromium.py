"""Chromium without a window, driven over a pipe in the DevTools protocol: what a person does with a page, tests do."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
SECONDS = 30.0
"""How long one command, or what a test waits for, may take."""

_OPTIONS = (
    *("--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--no-first-run", "--no-proxy-server"),
    *("--disable-gpu", "--disable-dev-shm-usage", "--disable-extensions", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-default-apps", "--disable-breakpad", "--mute-audio"),
    "--use-fake-device-for-media-stream",  # a microphone that beeps
    *("--hide-scrollbars", "--force-color-profile=srgb", "--lang=en-US"),
)
# Chromium reads commands from file 3 and writes to file 4.
_START = """
import fcntl, os, sys
numbers = [fcntl.fcntl(int(one), fcntl.F_DUPFD_CLOEXEC, 10) for one in sys.argv[1:3]]
for number, wanted in zip(numbers, (3, 4)):
    os.dup2(number, wanted)
os.execv(sys.argv[3], sys.argv[3:])
"""
_WATCH = """
    window.violations = [];
    addEventListener("securitypolicyviolation", ({ violatedDirective, blockedURI }) =>
        violations.push(`${violatedDirective} ${blockedURI}`));
"""
_KEYS = {
    "Enter": (13, "\r"), "Escape": (27, ""), "Tab": (9, ""), "Backspace": (8, ""),
    "ArrowUp": (38, ""), "ArrowDown": (40, ""), "Space": (32, " "),
}  # fmt: skip


def find_chromium() -> str | None:
    """The browser: the one that CHROMIUM names, or one in PATH."""
    return os.environ.get("CHROMIUM") or next((found for name in NAMES if (found := shutil.which(name))), None)


class DevToolsError(Exception):
    """A command that the browser refused, an exception in a page, or a browser that does not answer."""


class Browser:
    """A running browser; :func:`running_chromium` makes one."""

    def __init__(self, read: int, write: int) -> None:
        self._read, self._write = read, write
        self._data = b""
        self._n_commands = 0
        self.pages: dict[str, Page] = {}

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """The result of a command; what happens meanwhile is given to the pages."""
        self._n_commands += 1
        number = self._n_commands
        command = {"id": number, "method": method, "params": parameters, **({"sessionId": session} if session else {})}
        os.write(self._write, json.dumps(command).encode() + b"\0")
        end = time.monotonic() + SECONDS
        while True:
            found = self._next(end)
            if found.get("id") == number:
                if "error" in found:
                    raise DevToolsError(f"{method}: {found['error']['message']}")
                result: dict[str, Any] = found["result"]
                return result
            if found.get("sessionId") in self.pages:
                self.pages[found["sessionId"]].happened(found["method"], found["params"])

    def _next(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._data:
            ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
            data = os.read(self._read, 1 << 20) if ready else b""
            if not data:
                raise DevToolsError("the browser does not answer")
            self._data += data
        message, _, self._data = self._data.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    @contextmanager
    def page(self) -> Iterator[Page]:
        """A page that shows nothing yet."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self.pages[session] = Page(self, session, context)
        try:
            for domain in ("Page", "Runtime", "Network"):
                page.call(f"{domain}.enable")
            page.call("Page.addScriptToEvaluateOnNewDocument", source=_WATCH)
            yield page
        finally:
            del self.pages[session]
            self.call("Target.disposeBrowserContext", browserContextId=context)


class Page:
    """A page in a browser."""

    def __init__(self, browser: Browser, session: str, context: str) -> None:
        self._browser, self._session, self._context = browser, session, context
        self.requests: list[str] = []
        """The addresses of everything that was asked for."""
        self.failures: list[str] = []
        """Exceptions that nothing caught, and errors on the console."""
        self._n_loaded = 0

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command for this page."""
        return self._browser.call(method, self._session, **parameters)

    def happened(self, method: str, parameters: dict[str, Any]) -> None:
        """Note an event."""
        if method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            self.failures.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Runtime.consoleAPICalled" and parameters["type"] == "error":
            self.failures.append(str([one.get("value") for one in parameters["args"]]))
        elif method == "Page.loadEventFired":
            self._n_loaded += 1

    def open(self, url: str) -> None:
        """Go to an address, and wait until it is loaded."""
        self._load("Page.navigate", url=url)

    def reload(self) -> None:
        """Load the page once more."""
        self._load("Page.reload")

    def _load(self, method: str, **parameters: Any) -> None:
        n, end = self._n_loaded, time.monotonic() + SECONDS
        self.call(method, **parameters)
        while self._n_loaded == n:
            if time.monotonic() > end:
                raise DevToolsError("the page is not loaded")
            self.evaluate("1")
            time.sleep(0.005)

    def evaluate(self, script: str) -> Any:
        """The value of an expression in the page, or of its promise."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            details = found["exceptionDetails"]
            raise DevToolsError(details.get("exception", {}).get("description", details["text"]))
        return found["result"].get("value")

    def until(self, script: str, value: Any = True) -> Any:
        """Wait until an expression has a value: any that is true, unless one is given."""
        end = time.monotonic() + SECONDS
        while True:
            found = self.evaluate(script)
            if bool(found) if value is True else found == value:
                return found
            if time.monotonic() > end:
                shown = self.evaluate("document.body.innerText")
                raise AssertionError(
                    f"it does not come true: {script} is {found!r}, not {value!r}\n{shown}\n{self.failures}"
                )
            time.sleep(0.01)

    def text(self, selector: str) -> str:
        """The text that an element shows, "" where there is none."""
        return str(self.evaluate(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def texts(self, selector: str) -> list[str]:
        """The texts of all elements of a selector."""
        script = f"[...document.querySelectorAll({json.dumps(selector)})].map((one) => one.innerText.trim())"
        return list(self.evaluate(script))

    def click(self, selector: str) -> None:
        """Click the middle of an element that can be seen."""
        script = f"""(() => {{
            const node = document.querySelector({json.dumps(selector)});
            node.scrollIntoView({{ block: "nearest" }});
            const {{ left, top, width, height }} = node.getBoundingClientRect();
            return [left + width / 2, top + height / 2, width * height];
        }})()"""
        x, y, area = self.evaluate(script)
        assert area > 0, f"{selector} cannot be seen"
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def write(self, text: str) -> None:
        """Write into what has the focus, as one piece."""
        self.call("Input.insertText", text=text)

    def press(self, key: str, *, alt: bool = False, shift: bool = False) -> None:
        """Press a key."""
        number, text = _KEYS.get(key, (ord(key.upper()) if len(key) == 1 else 0, key))
        code = f"Key{key.upper()}" if len(key) == 1 and key.isalpha() else key
        event = {"key": key, "code": code, "windowsVirtualKeyCode": number, "modifiers": alt + 8 * shift}
        typed = {} if alt or not text else {"text": text}
        self.call("Input.dispatchKeyEvent", type="keyDown" if typed else "rawKeyDown", **event, **typed)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def forget(self, url: str) -> None:
        """Forget what pages of an address have kept."""
        self.call("Storage.clearDataForOrigin", origin=url.rstrip("/"), storageTypes="all")

    def allow(self, *permissions: str) -> None:
        """Let the page do what it would have to ask for."""
        self._browser.call("Browser.grantPermissions", permissions=permissions, browserContextId=self._context)

    def save_files_in(self, folder: Path) -> None:
        """Say where files go that the page gives out."""
        where = {"behavior": "allow", "downloadPath": str(folder), "browserContextId": self._context}
        self._browser.call("Browser.setDownloadBehavior", **where)

    def choose_files(self, selector: str, *paths: Path) -> None:
        """Choose files in a field for them."""
        found = self.call("Runtime.evaluate", expression=f"document.querySelector({json.dumps(selector)})")
        files = [str(path) for path in paths]
        self.call("DOM.setFileInputFiles", files=files, objectId=found["result"]["objectId"])

    def resize(self, width: int, height: int) -> None:
        """Give the page a size."""
        phone = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)

    def emulate(self, **media: str) -> None:
        """Set features that style sheets ask for."""
        features = [{"name": name.replace("_", "-"), "value": value} for name, value in media.items()]
        self.call("Emulation.setEmulatedMedia", features=features)

    def screenshot(self, path: Path) -> None:
        """Write what is to be seen as a PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@contextmanager
def running_chromium(program: str) -> Iterator[Browser]:
    """A browser with an empty profile, which ends with the block."""
    commands, write = os.pipe()
    read, events = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        start = [sys.executable, "-c", _START, str(commands), str(events)]
        try:
            process = subprocess.Popen(
                [*start, program, *_OPTIONS, f"--user-data-dir={folder}", "about:blank"],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                pass_fds=(commands, events), start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(commands)
            os.close(events)
        try:
            yield Browser(read, write)
        finally:
            os.close(write)
            os.close(read)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(SECONDS)


__all__ = ["Browser", "DevToolsError", "Page", "find_chromium", "running_chromium"]
