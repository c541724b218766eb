"""What the chat page shows of what a model says."""

from __future__ import annotations

import json
import threading

from tests.support.chat_page import ANSWERS, IDLE, ask, fill, send, set_option
from tests.support.chat_server import ChatServer, delta, ending, says
from tests.support.chromium import Page
from tests.support.hostile_markdown import HOSTILE

pytest_plugins = ["tests.support.page_fixtures"]


PARTS = f"""(() => {{
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
}})()"""


def test_markdown_is_shown_without_its_tags(page: Page, canned: ChatServer) -> None:
    canned.says(HOSTILE)
    ask(page, "Hello")
    found = page.evaluate(PARTS)
    assert found["tags"] == sorted(
        [
            "h2",
            "strong",
            "code",
            "a",
            "p",
            "div",
            "table",
            "thead",
            "tr",
            "th",
            "td",
            "blockquote",
            "em",
            "ul",
            "ol",
            "li",
            "figure",
            "figcaption",
            "button",
            "svg",
            "path",
            "pre",
            "br",
        ]
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
    "one line": "x" * 420_000,
    "stars": "**a " * 20_000,
    "brackets": "[" * 60_000,
    "quotes": ">" * 20_000 + " deep",
    "items": "".join(f"{' ' * i}- a\n" for i in range(600)),
    "ticks": "".join("`" * (i % 40 + 1) + " " for i in range(8_000)),
    "paragraphs": "a b\n\n" * 3_000,
    "table": "|a|b|\n|-|-|\n" + "|c|d|\n" * 1_000,
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


def test_code_is_copied(page: Page, canned: ChatServer) -> None:
    canned.says("Do:\n\n```sh\nls -l\n  cat\n```\n")
    ask(page, "Hello")
    page.allow("clipboardReadWrite")
    page.click(".code button")
    page.until("navigator.clipboard.readText()", "ls -l\n  cat")
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")  # as in a page without TLS
    page.click(".acts [aria-label=Copy]")
    page.until("document.getElementById('status').innerText", "Copied")
    assert page.evaluate("document.activeElement.ariaLabel") == "Copy"


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
    assert asked == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "strict": True, "schema": {"type": "object"}},
    }
