"""What a person does with the chat page in a browser."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from tests.support.chromium import Page

FILE = Path(__file__).resolve().parents[2] / "llama_cffi" / "server" / "page.html"
IDLE = "document.getElementById('stop').hidden"
"""An expression: nothing is being answered."""
ANSWERS = ".assistant .text"


class Visit(Protocol):
    """Opens an address as a browser that knows nothing; ``media`` are features such as ``prefers_color_scheme``."""

    def __call__(self, url: str, *, width: int = 1100, height: int = 800, **media: str) -> Page: ...


def focus(page: Page, selector: str) -> None:
    """Give an element the focus."""
    page.evaluate(f"document.querySelector({json.dumps(selector)}).focus()")


def fill(page: Page, selector: str, text: str) -> None:
    """Replace what a field says."""
    focus(page, selector)
    page.evaluate("document.activeElement.select()")
    page.write(text)


def send(page: Page, text: str) -> None:
    """Send a message."""
    focus(page, "#box")
    page.write(text)
    page.press("Enter")


def ask(page: Page, text: str) -> str:
    """Send a message, and return the last answer when nothing is being answered."""
    send(page, text)
    page.until(IDLE)
    return page.texts(ANSWERS)[-1]


def set_option(page: Page, name: str, text: str) -> None:
    """Set one of the options."""
    page.press("p", alt=True)
    fill(page, f"#{name}, [name={name}]", text)
    page.press("Escape")


def go_on(page: Page) -> None:
    """Let an answer that was cut go on."""
    page.evaluate("[...document.querySelectorAll('.acts button')].find((one) => one.innerText === 'Continue').click()")


def wait_for(path: Path) -> Any:
    """The JSON of a file that is being written."""
    for _ in range(1000):
        with suppress(OSError, ValueError):
            return json.loads(path.read_text(encoding="utf-8"))
        time.sleep(0.01)
    raise AssertionError(f"there is no {path.name}")


__all__ = ["ANSWERS", "FILE", "IDLE", "Visit", "ask", "fill", "focus", "go_on", "send", "set_option", "wait_for"]
