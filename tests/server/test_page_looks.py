"""The chat page with the keyboard alone, in both themes, on a narrow phone."""

from __future__ import annotations

from tests.support.chat_page import ANSWERS, IDLE, Visit, ask
from tests.support.chat_server import ChatServer, delta, says
from tests.support.chromium import Page
from tests.support.hostile_markdown import HOSTILE

pytest_plugins = ["tests.support.page_fixtures"]


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


UNNAMED = """[...document.querySelectorAll('button, input, select, textarea, dialog')].filter((one) =>
    !(one.ariaLabel || one.innerText.trim() || one.closest('label')?.textContent.trim() || one.type === 'file')
).map((one) => one.outerHTML)"""


def test_everything_has_a_name(page: Page, canned: ChatServer) -> None:
    ask(page, "Hello")
    page.press("p", alt=True)
    assert page.evaluate(UNNAMED) == []


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


OUTSIDE = """[...document.querySelectorAll('header > *, main, .msg, .msg .text > *, #composer > *')].filter((one) => {
    const { left, right } = one.getBoundingClientRect();
    return left < 0 || right > innerWidth;
}).map((one) => one.outerHTML.slice(0, 80))"""


def test_a_narrow_phone(visit: Visit, canned: ChatServer) -> None:
    page = visit(canned.url, width=320, height=600)
    canned.says(HOSTILE + "\n" + "long" * 100)
    ask(page, "Hello")
    assert page.evaluate(OUTSIDE) == []
    assert page.evaluate("document.documentElement.scrollWidth") == 320
    assert page.evaluate("getComputedStyle(document.getElementById('side')).visibility") == "hidden"
    page.click("#menu")
    assert page.evaluate("getComputedStyle(document.getElementById('side')).visibility") == "visible"
    page.click("#new")
    assert page.evaluate("getComputedStyle(document.getElementById('side')).visibility") == "hidden"
    page.press("p", alt=True)
    assert page.evaluate("document.getElementById('panel').scrollWidth <= 320")


def test_several_models(visit: Visit, canned: ChatServer) -> None:
    canned.models = [{"id": "one"}, {"id": "two", "max_model_len": 100}]
    page = visit(canned.url)
    page.until("document.getElementById('model').options.length === 2")
    page.evaluate("""(() => { const model = document.getElementById("model");
        model.value = "two"; model.dispatchEvent(new Event("change")); })()""")
    ask(page, "Hello")
    assert canned.asked[0]["model"] == "two"
    page.until("document.getElementById('context').innerText", "46 / 100")


def test_a_model_that_is_being_loaded(visit: Visit, canned: ChatServer) -> None:
    canned.models = [{"id": "one", "status": {"value": "loading"}}]
    page = visit(canned.url)
    page.until("document.getElementById('banner').innerText.includes('being loaded')")
    canned.models = [{"id": "one", "status": {"value": "loaded"}}]
    page.until("document.getElementById('banner').hidden")
