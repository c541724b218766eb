"""Fixtures for the chat page in a browser: one browser for all tests, which forgets what each of them has left."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.chat_page import Visit
from tests.support.chat_server import ChatServer, chat_server
from tests.support.chromium import Page, find_chromium, running_chromium

CONNECTED = """document.getElementById("model").value || document.getElementById("keybox").open
    || !document.getElementById("banner").hidden"""
"""An expression: the page has found its server, or says why not."""


@pytest.fixture(scope="session")
def tab() -> Iterator[Page]:
    """The one page of the one browser."""
    pytest.importorskip("starlette", reason="needs the extra llama-cffi[server]")
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium (apt-get install chromium, or CHROMIUM=PROGRAM)")
    with running_chromium(program) as browser, browser.page() as page:
        yield page


@pytest.fixture
def visit(tab: Page) -> Iterator[Visit]:
    """At the end, nothing was refused by the policy, nothing has failed, and no other server was asked."""
    visited: list[str] = []

    def open_page(url: str, *, width: int = 1100, height: int = 800, **media: str) -> Page:
        check()
        tab.resize(width, height)
        tab.emulate(**media)
        tab.forget(url)
        visited.append(url)
        tab.open(url)
        tab.until(CONNECTED)
        return tab

    def check() -> None:
        if visited:
            assert tab.evaluate("window.violations") == []
        assert tab.failures == []
        assert [one for one in tab.requests if not one.startswith((*visited, "data:", "blob:", "about:"))] == []
        tab.requests.clear()

    tab.open("about:blank")
    tab.requests.clear()
    yield open_page
    check()


@pytest.fixture
def canned() -> Iterator[ChatServer]:
    """A server that says what it is told to."""
    with chat_server() as server:
        yield server


@pytest.fixture
def page(visit: Visit, canned: ChatServer) -> Page:
    """The page of that server."""
    return visit(canned.url)
