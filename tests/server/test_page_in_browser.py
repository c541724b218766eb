"""The chat page in Chromium: what a person types, clicks and presses, and what there is to be seen."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.server.conftest import Running
from tests.support.chat_server import CUT, ChatServer, Script, chat_server, delta, ending, error, says
from tests.support.chromium import Browser, Page, find_chromium, running_chromium

pytest.importorskip("starlette", reason="needs the extra llama-cffi[server]")
PROGRAM = find_chromium()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium (apt-get install chromium, or CHROMIUM=PROGRAM)")

IDLE = "document.getElementById('stop').hidden"
BUSY = f"!{IDLE}"
ANSWERS = ".assistant .text"


class Opening(Protocol):
    def __call__(self, url: str = "", **options: Any) -> AbstractContextManager[Page]: ...


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert PROGRAM is not None
    with running_chromium(PROGRAM) as found:
        yield found


@pytest.fixture
def canned() -> Iterator[ChatServer]:
    with chat_server() as server:
        yield server


@pytest.fixture
def page(browser: Browser, canned: ChatServer) -> Iterator[Page]:
    """The page of the server that says what it is told to."""
    with browser.page(canned.url) as found:
        ready(found)
        yield found
        is_clean(found, canned.url)


def ready(page: Page) -> None:
    page.until("document.getElementById('model').value !== '' || !document.getElementById('banner').hidden")


def is_clean(page: Page, url: str) -> None:
    """Nothing was refused by the policy, nothing failed, and nobody else was asked."""
    assert page.evaluate("window.violations") == []
    assert page.failures == []
    assert [one for one in page.requests if not one.startswith((url, "data:", "blob:", "about:"))] == []


def send(page: Page, text: str) -> None:
    page.evaluate("document.getElementById('box').focus()")
    page.write(text)
    page.press("Enter")


def ask(page: Page, text: str) -> str:
    """Send a message and return the answer."""
    send(page, text)
    page.until(IDLE)
    return page.texts(ANSWERS)[-1]


def fill(page: Page, selector: str, text: str) -> None:
    """Replace what a field says."""
    page.evaluate(f"document.querySelector({json.dumps(selector)}).focus()")
    page.evaluate(f"document.querySelector({json.dumps(selector)}).select()")
    page.write(text)


def set_option(page: Page, name: str, text: str) -> None:
    page.press("p", alt=True)
    fill(page, f"#{name}, [name={name}]", text)
    page.press("Escape")


# -- with a model


def test_a_conversation_with_a_model(browser: Browser, server: Running) -> None:
    with browser.page(f"{server.url}/") as page:
        ready(page)
        set_option(page, "max_tokens", "12")
        set_option(page, "seed", "1")
        first = ask(page, "Tell me a story.")
        assert first
        page.until("/^\\d+ tokens? · [\\d.]+ tokens.s · prompt \\d+/.test(document.querySelector('.bar > :last-child') && document.querySelector('.assistant .bar').innerText.trim().split('\\n').at(-1))")
        assert page.text("#context").endswith(" / 1,024")
        assert "limit of tokens" in page.text(".assistant")
        page.click(".assistant [aria-label='Answer again']")
        page.until(IDLE)
        assert page.texts(ANSWERS) == [first]  # with the same seed
        assert page.text(".assistant .bar").startswith("2/2")
        set_option(page, "max_tokens", "400000")
        set_option(page, "extra", '{"ignore_eos": true}')
        send(page, "Another one.")
        page.until(f"document.querySelectorAll('{ANSWERS}')[1]?.innerText.length > 20")
        page.press("Escape")
        page.until(IDLE)
        server.until_idle()
        assert "Stopped." in page.texts(".assistant")[1]
        told = page.texts(ANSWERS)
        page.reload()
        ready(page)
        assert page.texts(ANSWERS) == told
        assert page.texts(".user .text") == ["Tell me a story.", "Another one."]
        is_clean(page, server.url)


def test_an_answer_that_was_cut_goes_on(browser: Browser, server: Running) -> None:
    with browser.page(f"{server.url}/") as page:
        ready(page)
        set_option(page, "max_tokens", "5")
        begin = ask(page, "Tell me a story.")
        page.evaluate("[...document.querySelectorAll('.acts button')].find((one) => one.innerText === 'Continue').click()")
        page.until(f"document.querySelector('{ANSWERS}').innerText.length > {len(begin)} && {IDLE}")
        assert page.texts(ANSWERS)[0].startswith(begin)
        assert len(page.texts(".msg")) == 2
        is_clean(page, server.url)


# -- streams


def test_an_answer_is_there_while_it_grows_and_stays_when_stopped(page: Page, canned: ChatServer) -> None:
    more = threading.Event()
    canned.says([delta(role="assistant", content=None), delta(content="One. Two"), more, delta(content=" three.")])
    send(page, "Count.")
    page.until(f"document.querySelector('{ANSWERS}')?.innerText", "One. Two")
    assert page.text("#live") == "One."
    page.reload()
    assert page.texts(ANSWERS) == ["One. Two"]
    more.set()
    waiting = threading.Event()
    canned.says([delta(content="Four"), waiting])
    page.click(".assistant [aria-label='Answer again']")
    page.until(f"document.querySelector('{ANSWERS}')?.innerText", "Four")
    page.click("#stop")
    page.until(IDLE)
    waiting.set()
    assert "Stopped." in page.text(".assistant")
    assert page.texts(ANSWERS) == ["Four"]
    assert page.evaluate("document.activeElement.id") in ("box", "")


def test_what_is_asked_of_any_server(page: Page, canned: ChatServer) -> None:
    """No field but OpenAI's, where the server is not of llama-server's kind."""
    set_option(page, "system", "Be brief.")
    set_option(page, "temperature", "0.5")
    ask(page, "Hello")
    assert canned.asked == [
        {
            "model": "canned",
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0.5,
        }
    ]
    page.press("p", alt=True)
    assert page.evaluate("document.querySelector('[name=top_k]')") is None
    page.click("#reset")
    page.press("Escape")
    ask(page, "Again")
    assert "temperature" not in canned.asked[1]


def test_llama_server_is_asked_for_progress(browser: Browser, canned: ChatServer) -> None:
    canned.props = {"default_generation_settings": {"params": {"temperature": 0.8, "top_k": 40}, "n_ctx": 2048}}
    more, end = threading.Event(), threading.Event()
    told = {"total": 400, "cache": 100, "processed": 200, "time_ms": 10}
    timings = {"cache_n": 5, "prompt_n": 7, "predicted_n": 2, "predicted_per_second": 12.34}
    canned.says([{**delta(), "prompt_progress": told}, more, {**delta(content="Hi"), "timings": timings}, end, ending()])
    with browser.page(canned.url) as page:
        ready(page)
        page.until("document.getElementById('model').value")
        page.press("p", alt=True)
        assert page.evaluate("document.querySelector('[name=top_k]').placeholder") == "40"
        page.press("Escape")
        send(page, "Hello")
        page.until("document.querySelector('.wait').innerText.trim()", "Reading the prompt: 200 of 400 tokens")
        assert page.evaluate("document.querySelector('.wait progress').value") == 0.5
        more.set()
        page.until("document.querySelector('.assistant .bar').innerText.trim()", "2 tokens · 12.3 tokens/s · prompt 12, 5 from memory")
        assert page.text("#context") == "14 / 2,048"
        end.set()
        page.until(IDLE)
        asked = canned.asked[0]
        assert (asked["return_progress"], asked["timings_per_token"]) == (True, True)
        is_clean(page, canned.url)


# -- conversations


def test_another_wording_is_another_branch(page: Page, canned: ChatServer) -> None:
    canned.says("First", "Second", "Third")
    ask(page, "One")
    ask(page, "Two")
    page.click(".user [aria-label=Edit]")
    fill(page, ".edit textarea", "Uno")
    page.press("Enter")
    page.until(f"document.querySelectorAll('{ANSWERS}')[0]?.innerText === 'Third' && {IDLE}")
    assert page.texts(".user .text, .assistant .text") == ["Uno", "Third"]
    assert canned.asked[2]["messages"] == [{"role": "user", "content": "Uno"}]
    page.click(".user [aria-label='Earlier version']")
    assert page.texts(".user .text, .assistant .text") == ["One", "First", "Two", "Second"]
    page.reload()
    assert page.texts(".user .text, .assistant .text") == ["One", "First", "Two", "Second"]
    page.click(".user [aria-label='Later version']")
    assert page.texts(ANSWERS) == ["Third"]
    # An answer that was edited is what the next request says.
    page.click(".assistant [aria-label=Edit]")
    fill(page, ".edit textarea", "Tercio")
    page.evaluate("document.querySelector('.edit .main').click()")
    ask(page, "Next")
    assert canned.asked[3]["messages"][1] == {"role": "assistant", "content": "Tercio"}


def test_conversations_are_listed_renamed_deleted_and_moved(page: Page, canned: ChatServer, browser: Browser) -> None:
    ask(page, "First chat")
    page.click("#new")
    ask(page, "Second chat")
    assert page.texts("#chats .name") == ["Second chat", "First chat"]
    fill(page, "#title", "Renamed")
    page.press("Enter")
    assert page.texts("#chats .name") == ["Renamed", "First chat"]
    page.press("ArrowDown", alt=True)
    assert page.texts(ANSWERS) == ["First chat"]
    kept = page.evaluate("JSON.stringify(Object.fromEntries(Object.entries(localStorage)))")
    page.click("#chats .on [aria-label=Delete]")
    assert page.texts("#chats .name") == ["Renamed"]
    page.click("#banner button.line")
    assert sorted(page.texts("#chats .name")) == ["First chat", "Renamed"]
    chats = [json.loads(value) for name, value in json.loads(kept).items() if ":chat:" in name]
    with browser.page(canned.url) as other:
        ready(other)
        give_file(other, json.dumps({"format": "llama_cffi.chats", "version": 1, "chats": [*chats, {"nodes": 3}, 7]}))
        other.until("document.querySelectorAll('#chats li').length === 2")
        assert sorted(other.texts("#chats .name")) == ["First chat", "Renamed"]
        give_file(other, "{")
        other.until("document.getElementById('banner').innerText.includes('was not imported')")
        is_clean(other, canned.url)


def give_file(page: Page, text: str) -> None:
    page.evaluate(f"""(() => {{
        const files = new DataTransfer();
        files.items.add(new File([{json.dumps(text)}], "chats.json"));
        document.getElementById("file").files = files.files;
        document.getElementById("file").dispatchEvent(new Event("change"));
    }})()""")


def test_whatever_is_kept_is_read(page: Page, canned: ChatServer) -> None:
    """Other versions of the page, other programs and other people write what they like."""
    node = {"id": "a", "parent": None, "role": "user", "content": "kept", "pick": "a"}
    odd: list[Any] = [
        1, "x", None, [], {"nodes": [1, None, {}]}, {"nodes": [{**node, "content": {"a": 1}, "stats": 5, "calls": "no"}]},
        {"id": "12345678", "nodes": [{**node, "id": "b", "parent": "c"}, node, {**node, "id": "d", "parent": "a", "pick": "a"}]},
        {"id": "x" * 30, "title": 5, "nodes": [{**node, "role": "assistant", "calls": [1, {"id": 2}], "stats": {"made": "x"}}]},
    ]  # fmt: skip
    for i, value in enumerate(odd):
        page.evaluate(f"localStorage.setItem('llama_cffi:chat:{i}', {json.dumps(json.dumps(value))})")
    page.evaluate("localStorage.setItem('llama_cffi:chat:z', '{')")
    page.evaluate("""localStorage.setItem('llama_cffi:settings', '{"theme": "pink"}')""")
    page.reload()
    ready(page)
    for _ in range(4):
        page.press("ArrowDown", alt=True)
        page.until("document.querySelector('#chats .on') !== null")
    assert sorted(page.texts("#chats .name")) == ["New chat", "New chat", "New chat", "kept"]
    page.press("n", alt=True)
    assert ask(page, "Hello") == "Hello"


# -- what a model may say


HOSTILE = """# <img src=x onerror=alert(1)>

<script>alert(2)</script> **<b onclick=alert(3)>bold</b>** `<i>` [click](javascript:alert(4)) [x](data:text/html,y)
![shot](https://example.com/pixel.png) [good](https://example.com/a_(b)?c=1&d=2) https://example.org/x. <https://e.org>
[vb](vbscript:1) [r](//example.com) [f](file:///etc/passwd) [s](JaVaScRiPt:alert\\(1\\))

| a | b |
|---|:-:|
| `x|y` | <svg onload=alert(5)> |

> quoted *text*
> - and a list

1. one
   - nested
   - **more**
2. two

```html
<img src=x onerror=alert(6)>
```

</textarea></script><style>*{display:none}</style>
"""


def test_markdown_is_shown_without_its_tags(page: Page, canned: ChatServer) -> None:
    canned.says(HOSTILE)
    ask(page, "Hello")
    found = page.evaluate(f"""(() => {{
        const text = document.querySelector('{ANSWERS}');
        const all = [...text.querySelectorAll('*')];
        return {{
            tags: [...new Set(all.map((one) => one.localName))].sort(),
            names: [...new Set(all.flatMap((one) => one.getAttributeNames()))].sort(),
            links: [...text.querySelectorAll('a')].map((one) => [one.href, one.rel, one.target]),
            code: text.querySelector('pre code').textContent,
            cells: [...text.querySelectorAll('td')].map((one) => one.textContent),
            nested: text.querySelector('ol > li > ul > li strong').textContent,
        }};
    }})()""")
    assert found["tags"] == sorted(
        "h2 strong code a p div table thead tr th td blockquote em ul ol li figure figcaption button svg path pre br".split()
    )
    assert set(found["names"]) == {"href", "target", "rel", "class", "tabindex", "start", "type", "viewBox", "d"}
    assert [one[0] for one in found["links"]] == [
        "https://example.com/pixel.png", "https://example.com/a_(b)?c=1&d=2", "https://example.org/x", "https://e.org/",
    ]  # fmt: skip
    assert {tuple(one[1:]) for one in found["links"]} == {("noopener noreferrer", "_blank")}
    assert found["code"] == "<img src=x onerror=alert(6)>"
    assert "<svg onload=alert(5)>" in found["cells"]
    assert found["nested"] == "more"
    assert "<script>alert(2)</script>" in page.text(ANSWERS)


def test_pieces_make_the_same_as_the_whole(page: Page, canned: ChatServer) -> None:
    """A text that grew by single characters is shown as after loading the page again."""
    canned.says(says(HOSTILE, 1))
    ask(page, "Hello")
    shown = f"document.querySelector('{ANSWERS}').innerHTML"
    before = page.evaluate(shown)
    page.reload()
    assert page.evaluate(shown) == before


LARGE = {
    "one line": "x" * 500_000,
    "stars": "**a " * 30_000,
    "brackets": "[" * 60_000,
    "quotes": ">" * 20_000 + " deep",
    "items": "".join(f"{' ' * i}- a\n" for i in range(600)),
    "ticks": "".join("`" * (i % 40 + 1) + " " for i in range(8_000)),
    "paragraphs": "a b\n\n" * 8_000,
    "table": "|a|b|\n|-|-|\n" + "|c|d|\n" * 3_000,
    "pipes": "|" * 50_000 + "\n" + "|-" * 50_000,
    "rules": "- " * 40_000 + "x",
    "links": "[a](b" * 10_000,
}


def test_large_texts_do_not_stop_the_page(page: Page, canned: ChatServer) -> None:
    for name, text in LARGE.items():
        page.press("n", alt=True)
        canned.says(says(text, 1 + len(text) // 6))
        ask(page, name)
        assert len(page.evaluate(f"document.querySelector('{ANSWERS}').textContent")) > 500, name
        assert ask(page, "Still there?") == "Still there?"


# -- reasoning, tools, structured output


def test_thoughts_are_folded(page: Page, canned: ChatServer) -> None:
    more = threading.Event()
    canned.says([delta(reasoning_content="Let me <b>think</b>."), more, delta(content="Done."), ending()])
    send(page, "Hello")
    page.until("document.querySelector('.thinking summary')?.innerText", "Thinking…")
    more.set()
    page.until(IDLE)
    assert page.text(".thinking summary").startswith("Thought for ")
    assert page.text(".thinking div") == ""
    page.click(".thinking summary")
    assert page.text(".thinking div") == "Let me <b>think</b>."
    assert page.texts(ANSWERS) == ["Done."]
    ask(page, "And now?")
    assert canned.asked[1]["messages"][1] == {"role": "assistant", "content": "Done."}


TOOL = '[{"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}]'


def test_results_of_tools_are_typed(page: Page, canned: ChatServer) -> None:
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}}
    parts = [{"index": 0, "function": {"arguments": one}} for one in ('{"city": ', '"Rome"}')]
    second = {"index": 1, "id": "call_2", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    canned.says([*(delta(tool_calls=[one]) for one in (call, *parts, second)), ending("tool_calls")], "Warm.")
    set_option(page, "tools", TOOL)
    send(page, "Weather?")
    page.until(f"document.querySelectorAll('.call textarea').length === 2 && {IDLE}")
    assert page.text(".call pre") == '{\n  "city": "Rome"\n}'
    send(page, "Well?")
    assert "results" in page.text("#banner")
    fill(page, ".call textarea", "30 degrees")
    page.evaluate("[...document.querySelectorAll('.assistant .main')].at(-1).click()")
    page.until(f"document.querySelectorAll('.assistant').length === 2 && {IDLE}")
    assert page.texts(ANSWERS)[-1] == "Warm."
    assert page.texts(".call .muted")[0] == "30 degrees"
    assert canned.asked[0]["tools"] == [{"type": "function", "function": json.loads(TOOL)[0]}]
    assert canned.asked[1]["messages"][1:] == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}},
                {"id": "call_2", "type": "function", "function": {"name": "weather", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "content": "30 degrees", "tool_call_id": "call_1"},
        {"role": "tool", "content": "", "tool_call_id": "call_2"},
    ]


def test_structured_answers_are_indented(page: Page, canned: ChatServer) -> None:
    page.press("p", alt=True)
    fill(page, "#schema", '{"type": ')
    assert "this is not JSON" in page.text("#schema + .wrong")
    fill(page, "#schema", '{"type": "object"}')
    assert page.text("#schema + .wrong") == ""
    page.press("Escape")
    canned.says('{"a":[1,"``` **x**"]}')
    ask(page, "Hello")
    assert page.text(".code pre") == '{\n  "a": [\n    1,\n    "``` **x**"\n  ]\n}'
    asked = canned.asked[0]["response_format"]
    assert asked == {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": {"type": "object"}}}


# -- failures


def test_a_key_is_asked_for(browser: Browser, canned: ChatServer) -> None:
    canned.key = "sesame"
    with browser.page(canned.url) as page:
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
        is_clean(page, canned.url)


FULL = error(400, "context_length_exceeded", type="exceed_context_size_error", n_prompt_tokens=5000, n_ctx=4096)


FAILURES: dict[str, Script] = {
    "too long for the model (5,000 tokens of 4,096)": FULL,
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
    busy = error(429, message="three wait", headers={"Retry-After": "1"})
    canned.says(busy, "At last")
    send(page, "Hello")
    page.until("document.querySelector('.wait')?.innerText.includes('three wait Trying again in 1 s.')")
    page.until(IDLE)
    assert page.texts(ANSWERS) == ["At last"]
    canned.says(busy)
    send(page, "Once more")
    page.until("document.querySelectorAll('.wait')[1]?.innerText.includes('Trying again')")
    page.press("Escape")
    page.until(IDLE)
    assert page.texts(ANSWERS) == ["At last"]
    assert "There is no answer." in page.text(".failure")


def test_a_server_that_is_gone(browser: Browser) -> None:
    with chat_server() as canned:
        context = browser.page(canned.url)
        page = context.__enter__()
        ready(page)
    try:
        send(page, "Hello")
        page.until("document.querySelector('.failure')?.innerText.includes('Is it running?')")
        assert page.texts(".user .text") == ["Hello"]
    finally:
        context.__exit__(None, None, None)


def test_a_full_storage_is_told(page: Page, canned: ChatServer) -> None:
    page.evaluate("(() => { try { for (let n = 1 << 22; n; n >>= 1) localStorage.setItem(`x${n}`, 'x'.repeat(n)); } catch {} })()")
    page.evaluate("(() => { for (let i = 0; ; i++) try { localStorage.setItem(`y${i}`, 'x'.repeat(100)) } catch { return } })()")
    page.evaluate("(() => { for (let i = 0; ; i++) try { localStorage.setItem(`z${i}`, '') } catch { return } })()")
    assert ask(page, "Hello" * 20) == "Hello" * 20
    assert "storage is full" in page.text("#banner")


# -- keys, colors, sizes


def test_keys_alone(page: Page, canned: ChatServer) -> None:
    canned.says("First", "Second", "Third")
    page.write("One")
    page.press("Enter", shift=True)
    page.write("line")
    page.press("Enter")
    page.until(f"document.querySelector('{ANSWERS}')?.innerText === 'First' && {IDLE}")
    assert page.texts(".user .text") == ["One\nline"]
    page.press("r", alt=True)
    page.until(f"document.querySelector('{ANSWERS}')?.innerText === 'Second' && {IDLE}")
    page.press("ArrowUp")
    assert page.evaluate("document.activeElement.closest('.edit') !== null")
    page.write(" more")
    page.press("Escape")
    assert page.texts(".user .text") == ["One\nline"]
    # From the message box back to the buttons of the message; each of them shows that it has the focus.
    names = []
    page.evaluate("document.getElementById('box').focus()")
    for _ in range(5):
        page.press("Tab", shift=True)
        names.append(page.evaluate("document.activeElement.ariaLabel"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        assert page.evaluate("getComputedStyle(document.activeElement.parentNode).opacity") == "1"
    assert names == ["Answer again", "Edit", "Copy", "Earlier version", "Edit"]
    page.press("?")
    assert page.evaluate("document.getElementById('shortcuts').open")
    page.press("Escape")
    page.press("/")
    assert page.evaluate("document.activeElement.id") == "box"
    page.press("n", alt=True)
    assert page.texts(".msg") == []
    assert page.evaluate("document.activeElement.id") == "box"


def test_everything_has_a_name(page: Page, canned: ChatServer) -> None:
    ask(page, "Hello")
    page.press("p", alt=True)
    unnamed = page.evaluate("""[...document.querySelectorAll('button, input, select, textarea, dialog')].filter((one) =>
        !(one.ariaLabel || one.innerText.trim() || one.closest('label')?.textContent.trim())).map((one) => one.outerHTML)""")
    assert unnamed == []


LUMINANCE = """(() => {
    const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const of = (color) => {
        canvas.fillStyle = color;
        canvas.fillRect(0, 0, 1, 1);
        const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((one) => one / 255)
            .map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const ground = (node) => {
        const color = getComputedStyle(node).backgroundColor;
        return color === 'rgba(0, 0, 0, 0)' ? ground(node.parentElement) : color;
    };
    return [...document.querySelectorAll('body *')].filter((one) => one.checkVisibility({ opacityProperty: true })
        && [...one.childNodes].some((child) => child.nodeType === 3 && child.data.trim()))
        .map((one) => [ratio(of(getComputedStyle(one).color), of(ground(one))), one.outerHTML.slice(0, 80)])
        .filter(([found]) => found < 4.5);
})()"""


def test_both_themes_can_be_read(page: Page, canned: ChatServer) -> None:
    canned.says([delta(reasoning_content="Hm"), *says(HOSTILE)])
    ask(page, "Hello")
    background = "getComputedStyle(document.body).backgroundColor"
    page.emulate(prefers_color_scheme="light")
    light = page.evaluate(background)
    assert page.evaluate(LUMINANCE) == []
    page.emulate(prefers_color_scheme="dark")
    dark = page.evaluate(background)
    assert page.evaluate(LUMINANCE) == []
    assert light != dark
    page.press("l", alt=True)
    assert page.evaluate(background) == light
    page.click("#theme")
    page.emulate(prefers_color_scheme="light")
    assert page.evaluate(background) == dark
    page.reload()
    assert page.evaluate(background) == dark


def test_a_narrow_phone(browser: Browser, canned: ChatServer) -> None:
    with browser.page(canned.url, width=320, height=600) as page:
        ready(page)
        canned.says(HOSTILE + "\n" + "long" * 100)
        ask(page, "Hello")
        wide = """[...document.querySelectorAll('header > *, main, .msg, .msg .text > *, #composer > *')].filter((one) =>
            one.getBoundingClientRect().right > innerWidth || one.getBoundingClientRect().left < 0).map((one) => one.outerHTML.slice(0, 80))"""
        assert page.evaluate(wide) == []
        assert page.evaluate("document.documentElement.scrollWidth") == 320
        assert page.evaluate("getComputedStyle(document.getElementById('side')).visibility") == "hidden"
        page.click("#menu")
        assert page.evaluate("getComputedStyle(document.getElementById('side')).visibility") == "visible"
        page.click("#new")
        assert page.evaluate("getComputedStyle(document.getElementById('side')).visibility") == "hidden"
        page.press("p", alt=True)
        assert page.evaluate("document.getElementById('panel').scrollWidth <= 320")
        is_clean(page, canned.url)


def test_several_models(browser: Browser, canned: ChatServer) -> None:
    canned.models = [{"id": "one"}, {"id": "two", "max_model_len": 100}]
    with browser.page(canned.url) as page:
        page.until("document.getElementById('model').options.length === 2")
        page.evaluate("""(() => { const model = document.getElementById("model");
            model.value = "two"; model.dispatchEvent(new Event("change")); })()""")
        ask(page, "Hello")
        assert canned.asked[0]["model"] == "two"
        page.until("document.getElementById('context').innerText", "46 / 100")
        is_clean(page, canned.url)


def test_a_model_that_is_being_loaded(browser: Browser, canned: ChatServer) -> None:
    canned.models = [{"id": "one", "status": {"value": "loading"}}]
    with browser.page(canned.url) as page:
        page.until("document.getElementById('banner').innerText.includes('being loaded')")
        canned.models = [{"id": "one", "status": {"value": "loaded"}}]
        page.until("document.getElementById('banner').hidden")


@pytest.mark.skipif("SCREENSHOTS" not in os.environ, reason="SCREENSHOTS=DIR takes them")
def test_screenshots(browser: Browser, canned: ChatServer) -> None:
    folder = Path(os.environ["SCREENSHOTS"])
    canned.props = {"default_generation_settings": {"params": {"temperature": 0.8, "top_k": 40}, "n_ctx": 4096}}
    text = (
        "Here is a small **comparison** of the two, with a [source](https://example.com/paper).\n\n"
        "| method | time | memory |\n|---|---|---|\n| greedy | 1.2 s | 40 MB |\n| beam | 4.8 s | 160 MB |\n\n"
        "## What follows\n\n1. Measure *first*.\n2. Change one thing:\n   - the batch\n   - the `threads`\n\n"
        "```python\ndef fib(n: int) -> int:\n    return n if n < 2 else fib(n - 1) + fib(n - 2)\n```\n\n"
        "> Nothing is as practical as a good theory.\n"
    )
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Rome"}'}}
    for name, media, size in (
        ("light", "light", (1180, 860)), ("dark", "dark", (1180, 860)), ("phone", "light", (320, 640))
    ):  # fmt: skip
        with browser.page(canned.url, width=size[0], height=size[1], prefers_color_scheme=media) as page:
            ready(page)
            page.screenshot(folder / f"{name}-empty.png")
            ask(page, "An older chat about gardens")
            page.press("n", alt=True)
            canned.says([delta(reasoning_content="The user wants a comparison.\nA table is best."), *says(text)])
            ask(page, "Compare greedy and beam search, please.")
            page.screenshot(folder / f"{name}.png")
            page.evaluate("document.querySelector('#log').scrollTop = 0; document.querySelector('.thinking').open = true")
            page.screenshot(folder / f"{name}-thinking.png")
            canned.says([delta(tool_calls=[call]), ending("tool_calls")])
            send(page, "What is the weather in Rome?")
            page.until(f"document.querySelector('.call textarea') && {IDLE}")
            page.screenshot(folder / f"{name}-tools.png")
            page.press("p", alt=True)
            page.screenshot(folder / f"{name}-options.png")
            page.press("Escape")
            page.press("n", alt=True)
            more = threading.Event()
            told = {"total": 4000, "cache": 0, "processed": 1500, "time_ms": 10}
            canned.says([{**delta(), "prompt_progress": told}, more, CUT])
            send(page, "A long prompt " * 12)
            page.until("document.querySelector('.wait')?.innerText.includes('1,500')")
            page.screenshot(folder / f"{name}-prefill.png")
            more.set()
            page.until(IDLE)
            page.screenshot(folder / f"{name}-failure.png")
            page.evaluate("document.activeElement.blur()")
            page.press("?")
            page.screenshot(folder / f"{name}-shortcuts.png")
            if name == "phone":
                page.press("Escape")
                page.click("#menu")
                page.screenshot(folder / f"{name}-chats.png")
