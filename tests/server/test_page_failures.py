"""What the chat page says when something fails, and how one goes on."""

from __future__ import annotations

import json

from tests.support.chat_page import ANSWERS, IDLE, Visit, ask, send
from tests.support.chat_server import CUT, ChatServer, Script, chat_server, delta, error
from tests.support.chromium import Page

pytest_plugins = ["tests.support.page_fixtures"]


def test_a_key_is_asked_for(visit: Visit, canned: ChatServer) -> None:
    canned.key = "sesame"
    page = visit(canned.url)
    page.until("document.getElementById('keybox').open")
    page.write("wrong")
    page.press("Enter")
    page.until("document.getElementById('keybox').open && document.getElementById('key').value === ''")
    page.write("sesame")
    page.press("Enter")
    page.until("document.getElementById('model').value", "canned")
    assert ask(page, "Hello") == "Hello"
    page.reload()
    assert ask(page, "Again") == "Again"
    assert "sesame" not in page.evaluate("JSON.stringify(localStorage)")


FAILURES: dict[str, Script] = {
    "too long for the model (5,000 tokens of 4,096)": error(
        400, "context_length_exceeded", type="exceed_context_size_error", n_prompt_tokens=5000, n_ctx=4096
    ),
    "too long for the model. Edit": error(400, "context_length_exceeded"),
    "not you": error(403, message="not you"),
    "The server answered with status 502.": Script(body=[], status=502),
    "it broke": Script([delta(content="Half"), {"error": {"message": "it broke"}}]),
    "ended before the answer did": Script([delta(content="Half"), CUT]),
    "The answer broke off: ": Script([delta(content="Half"), b"data: {\n\n"]),
}


def test_failures_are_told(page: Page, canned: ChatServer) -> None:
    for message, script in FAILURES.items():
        page.press("n", alt=True)
        canned.says(script, "Now it works")
        send(page, "Hello")
        page.until(f"document.querySelector('.failure')?.innerText.includes({json.dumps(message)})")
        assert page.texts(ANSWERS) == ([] if script.body is not None else ["Half"])
        page.click(".failure button")
        page.until(f"[...document.querySelectorAll('{ANSWERS}')].at(-1)?.innerText === 'Now it works' && {IDLE}")
        assert page.texts(".failure") == []
        assert page.texts(".user .text") == ["Hello"]


def test_a_busy_server_is_asked_again(page: Page, canned: ChatServer) -> None:
    canned.says(error(429, headers={"Retry-After": "1"}), error(503, headers={"Retry-After": "1"}), "At last")
    assert ask(page, "Hello") == "At last"
    assert len(canned.asked) == 3
    canned.says(error(429, message="three wait", headers={"Retry-After": "60"}))
    send(page, "Once more")
    said = "The server is busy: three wait · trying again in "
    page.until(f"document.querySelectorAll('.wait')[1]?.innerText.includes({json.dumps(said)})")
    page.press("Escape")
    page.until(IDLE)
    assert page.texts(ANSWERS) == ["At last"]
    assert "There is no answer." in page.text(".failure")


def test_a_server_that_comes_late(visit: Visit, canned: ChatServer) -> None:
    canned.down = True
    page = visit(canned.url)
    assert "status 502" in page.text("#banner")
    send(page, "Hello")
    page.until("document.querySelector('.failure')?.innerText.includes('status 502')")
    canned.down = False
    page.click(".failure button")
    page.until(f"document.querySelector('{ANSWERS}')?.innerText === 'Hello' && {IDLE}")
    assert canned.asked[0]["model"] == "canned"
    assert page.text("#banner") == ""


def test_a_server_that_is_gone(visit: Visit) -> None:
    with chat_server() as canned:
        page = visit(canned.url)
    send(page, "Hello")
    page.until("document.querySelector('.failure')?.innerText.includes('Is it running?')")
    assert page.texts(".user .text") == ["Hello"]


FILL_STORAGE = """(() => {
    for (let n = 1 << 22; n; n >>= 1) {
        try {
            for (let i = 0; i < 3; i++) localStorage.setItem(`${n} ${i}`, "x".repeat(n));
        } catch {
            continue;
        }
    }
})()"""


def test_a_full_storage_is_told(page: Page, canned: ChatServer) -> None:
    page.evaluate(FILL_STORAGE)
    assert ask(page, "Hello" * 20) == "Hello" * 20
    assert "storage is full" in page.text("#banner")
