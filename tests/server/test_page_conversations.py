"""What a person does with the chat page: asks, stops, goes on, edits, finds conversations again."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llama_cffi.runtime import demo_path
from tests.support.chat_page import ANSWERS, FILE, IDLE, Visit, ask, fill, go_on, send, set_option, wait_for
from tests.support.chat_server import ChatServer, delta, ending
from tests.support.chromium import Page
from tests.support.llama_server import find_server, running_server

if TYPE_CHECKING:
    from tests.server.conftest import Running

pytest_plugins = ["tests.support.page_fixtures"]


def test_a_conversation_with_a_model(visit: Visit, server: Running) -> None:
    page = visit(f"{server.url}/")
    set_option(page, "max_tokens", "12")
    set_option(page, "seed", "1")
    first = ask(page, "Tell me a story.")
    assert first
    assert re.match(r"12 tokens · [\d.,]+ tokens/s · prompt \d+", page.text(".assistant .bar > :last-child"))
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
    assert page.texts(ANSWERS) == told
    assert page.texts(".user .text") == ["Tell me a story.", "Another one."]


def test_an_answer_that_was_cut_goes_on(visit: Visit, server: Running) -> None:
    page = visit(f"{server.url}/")
    set_option(page, "max_tokens", "5")
    begin = ask(page, "Tell me a story.")
    go_on(page)
    page.until(f"document.querySelector('{ANSWERS}').innerText.length > {len(begin)} && {IDLE}")
    assert page.texts(ANSWERS)[0].startswith(begin)
    assert len(page.texts(".msg")) == 2


def test_the_page_of_llama_server(visit: Visit, tmp_path: Path) -> None:
    """It is theirs as well: what it sends and shows beyond OpenAI's API is what llama-server has."""
    program = find_server()
    if program is None:
        pytest.skip("no llama-server (python scripts/build_libllama.py --tool llama-server)")
    folder = tmp_path / "page"
    folder.mkdir()
    (folder / "index.html").write_bytes(FILE.read_bytes())
    options = ("-t", 1, "-c", 1024, "-np", 1, "--no-warmup", "-lv", 1, "--path", folder)
    with running_server(program, Path(demo_path()), *options, log=tmp_path / "log") as theirs:
        url = f"http://127.0.0.1:{theirs.port}/"
        page = visit(url)
        set_option(page, "max_tokens", "6")
        begin = ask(page, "Tell me a story.")
        assert re.match(r"6 tokens · [\d.,]+ tokens/s · prompt \d+", page.text(".assistant .bar > :last-child"))
        assert page.text("#context").endswith(" / 1,024")
        go_on(page)
        page.until(f"document.querySelector('{ANSWERS}').innerText.length > {len(begin)} && {IDLE}")
        assert page.texts(ANSWERS)[0].startswith(begin)


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
    assert page.evaluate("document.activeElement.id") == "box"


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


def test_a_number_out_of_range_is_not_sent(page: Page, canned: ChatServer) -> None:
    page.press("p", alt=True)
    fill(page, "[name=temperature]", "-1")
    assert page.text("[name=temperature] + .wrong") != ""
    fill(page, "[name=max_tokens]", "2.5")
    assert page.text("[name=max_tokens] + .wrong") != ""
    fill(page, "[name=seed]", "0")
    page.press("Escape")
    ask(page, "Hello")
    assert {"temperature", "max_tokens"}.isdisjoint(canned.asked[0])
    assert canned.asked[0]["seed"] == 0


def test_llama_server_is_asked_for_progress(visit: Visit, canned: ChatServer) -> None:
    canned.props = {"default_generation_settings": {"params": {"temperature": 0.8, "top_k": 40}, "n_ctx": 2048}}
    more, end = threading.Event(), threading.Event()
    told = {"total": 400, "cache": 100, "processed": 200, "time_ms": 10}
    timings = {"cache_n": 5, "prompt_n": 7, "predicted_n": 2, "predicted_per_second": 12.34}
    canned.says(
        [{**delta(), "prompt_progress": told}, more, {**delta(content="Hi"), "timings": timings}, end, ending()]
    )
    page = visit(canned.url)
    page.press("p", alt=True)
    assert page.evaluate("document.querySelector('[name=top_k]').placeholder") == "40"
    page.press("Escape")
    send(page, "Hello")
    page.until("document.querySelector('.wait').innerText.trim()", "Reading the prompt: 200 of 400 tokens")
    assert page.evaluate("document.querySelector('.wait progress').value") == 0.5
    more.set()
    page.until(
        "document.querySelector('.assistant .bar').innerText.trim()",
        "2 tokens · 12.3 tokens/s · prompt 12, 5 from memory",
    )
    assert page.text("#context") == "14 / 2,048"
    end.set()
    page.until(IDLE)
    asked = canned.asked[0]
    assert (asked["return_progress"], asked["timings_per_token"]) == (True, True)


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


def test_conversations_are_listed_renamed_deleted_and_moved(
    page: Page, canned: ChatServer, visit: Visit, tmp_path: Path
) -> None:
    ask(page, "First chat")
    page.click("#new")
    ask(page, "Second chat")
    assert page.texts("#chats .name") == ["Second chat", "First chat"]
    fill(page, "#title", "Renamed")
    page.press("Enter")
    assert page.texts("#chats .name") == ["Renamed", "First chat"]
    page.press("ArrowDown", alt=True)
    assert page.texts(ANSWERS) == ["First chat"]
    page.save_files_in(tmp_path)
    page.click("#export")
    kept = wait_for(tmp_path / "chats.json")
    page.click("#chats .on [aria-label=Delete]")
    assert page.texts("#chats .name") == ["Renamed"]
    page.click("#banner button.line")
    assert sorted(page.texts("#chats .name")) == ["First chat", "Renamed"]
    kept["chats"] += [{"nodes": 3}, 7]
    other = visit(canned.url)
    give_file(other, json.dumps(kept))
    other.until("document.querySelectorAll('#chats li').length === 2")
    assert sorted(other.texts("#chats .name")) == ["First chat", "Renamed"]
    give_file(other, "{")
    other.until("document.getElementById('banner').innerText.includes('was not imported')")


def test_what_another_tab_does(page: Page, canned: ChatServer) -> None:
    ask(page, "Mine")
    name = page.evaluate("Object.keys(localStorage).find((one) => one.includes(':chat:'))")
    page.click(".user [aria-label=Edit]")
    fill(page, ".edit textarea", "Half written")
    chat = page.evaluate(f"localStorage.getItem({json.dumps(name)})")
    stores(page, "llama_cffi:chat:another-one", chat.replace(name.rpartition(":")[2], "another-one"))
    assert page.texts("#chats .name") == ["Mine", "Mine"]
    assert page.evaluate("document.querySelector('.edit textarea').value") == "Half written"
    stores(page, name, chat.replace("Mine", "Theirs"))
    assert page.texts(".user .text, .assistant .text") == ["Theirs", "Theirs"]


def stores(page: Page, name: str, value: str) -> None:
    """Store something as another tab does."""
    page.evaluate(f"localStorage.setItem({json.dumps(name)}, {json.dumps(value)})")
    page.evaluate(f"dispatchEvent(new StorageEvent('storage', {{ key: {json.dumps(name)} }}))")


def test_a_name_can_be_typed_while_an_answer_ends(page: Page, canned: ChatServer) -> None:
    more = threading.Event()
    canned.says([delta(content="One."), more, ending()])
    send(page, "Hello")
    page.until(f"document.querySelector('{ANSWERS}')?.innerText", "One.")
    fill(page, "#title", "Half a na")
    more.set()
    page.until(IDLE)
    page.write("me")
    page.press("Enter")
    assert page.texts("#chats .name") == ["Half a name"]
    fill(page, "#title", " ")
    page.press("Enter")
    assert page.evaluate("document.getElementById('title').value") == "Hello"


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
    calls = {**node, "role": "assistant", "calls": [1, {"id": 2}], "stats": {"made": "x"}}
    tree = [{**node, "id": "b", "parent": "c"}, node, {**node, "id": "d", "parent": "a", "pick": "a"}]
    odd: list[Any] = [
        *(1, "x", None, []),
        {"nodes": [1, None, {}]},
        {"nodes": [{**node, "content": {"a": 1}, "stats": 5, "calls": "no"}]},
        {"id": "12345678", "nodes": tree},
        {"id": "x" * 30, "title": 5, "nodes": [calls]},
    ]
    for i, value in enumerate(odd):
        page.evaluate(f"localStorage.setItem('llama_cffi:chat:{i}', {json.dumps(json.dumps(value))})")
    page.evaluate("localStorage.setItem('llama_cffi:chat:z', '{')")
    page.evaluate("""localStorage.setItem('llama_cffi:settings', '{"theme": "pink", "sampling": 5, "extra": 7}')""")
    page.reload()
    for _ in range(4):
        page.press("ArrowDown", alt=True)
    assert sorted(page.texts("#chats .name")) == ["New chat", "New chat", "New chat", "kept"]
    page.press("n", alt=True)
    assert ask(page, "Hello") == "Hello"
