"""Pictures of the chat page, to be looked at: ``python -m tests.support.page_screenshots FOLDER``."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from tests.support.chat_page import IDLE, ask, send
from tests.support.chat_server import CUT, ChatServer, Script, chat_server, delta, ending, says
from tests.support.chromium import Page, find_chromium, running_chromium

ANSWER = """Here is a small **comparison** of the two, with a [source](https://example.com/paper).

| method | time | memory |
|---|---|---|
| greedy | 1.2 s | 40 MB |
| beam | 4.8 s | 160 MB |

## What follows

1. Measure *first*.
2. Change one thing:
   - the batch
   - the `threads`

```python
def fib(n: int) -> int:
    return n if n < 2 else fib(n - 1) + fib(n - 2)
```

> Nothing is as practical as a good theory.
"""
CALL = {"index": 0, "id": "c", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Rome"}'}}
SIZES = {"light": (1180, 860), "dark": (1180, 860), "phone": (320, 640)}


def take(page: Page, server: ChatServer, folder: Path, name: str) -> None:
    """Take the pictures of one size and theme."""

    def shot(what: str) -> None:
        page.screenshot(folder / f"{name}-{what}.png")

    page.until("document.getElementById('model').value")
    shot("empty")
    ask(page, "An older chat about gardens")
    page.press("n", alt=True)
    server.says([delta(reasoning_content="The user wants a comparison.\nA table is best."), *says(ANSWER)])
    ask(page, "Compare greedy and beam search, please.")
    shot("answer")
    page.evaluate("document.querySelector('#log').scrollTop = 0; document.querySelector('.thinking').open = true")
    shot("thinking")
    server.says([delta(tool_calls=[CALL]), ending("tool_calls")])
    send(page, "What is the weather in Rome?")
    page.until(f"document.querySelector('.call textarea') && {IDLE}")
    shot("tools")
    page.press("p", alt=True)
    shot("options")
    page.press("Escape")
    page.press("n", alt=True)
    more = threading.Event()
    told = {"total": 4000, "cache": 0, "processed": 1500, "time_ms": 10}
    server.says(Script([{**delta(), "prompt_progress": told}, more, CUT]))
    send(page, "A long prompt " * 12)
    page.until("document.querySelector('.wait')?.innerText.includes('1,500')")
    shot("prefill")
    more.set()
    page.until(IDLE)
    shot("failure")
    page.evaluate("document.activeElement.blur()")
    page.press("?")
    shot("shortcuts")
    page.press("Escape")
    if name == "phone":
        page.click("#menu")
        shot("chats")


def main(folder: Path) -> None:
    """Take them all."""
    program = find_chromium()
    if program is None:
        sys.exit("there is no Chromium")
    for name, (width, height) in SIZES.items():
        with chat_server() as server, running_chromium(program) as browser, browser.page() as page:
            server.props = {"default_generation_settings": {"params": {"temperature": 0.8, "top_k": 40}, "n_ctx": 4096}}
            page.resize(width, height)
            page.emulate(prefers_color_scheme="dark" if name == "dark" else "light")
            page.open(server.url)
            take(page, server, folder, name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
