"""Pictures and sound in the chat page: added, shown, sent, kept, exported."""

from __future__ import annotations

import io
import json
import wave
from base64 import b64decode, b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llama_cffi import AsyncLlama, Image, Llama
from tests.support.chat_page import ANSWERS, IDLE, Visit, ask, send, wait_for
from tests.support.chat_server import ChatServer
from tests.support.chromium import Page
from tests.support.media_kinds import FILES, TEMPLATE, open_llama, write_kind
from tests.support.pictures import photograph
from tests.support.sounds import tone, wav

pytest_plugins = ["tests.support.page_fixtures"]

PNG = FILES["gemma3"]["gray"]
DROP = """(type, text) => {
    const carried = new DataTransfer();
    const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
    carried.items.add(new File([bytes], "cat.png", { type: "image/png" }));
    const target = document.getElementById("box");
    if (type === "paste") target.dispatchEvent(new ClipboardEvent(type, { clipboardData: carried, bubbles: true }));
    else target.dispatchEvent(new DragEvent(type, { dataTransfer: carried, bubbles: true, cancelable: true }));
}"""

STORE = """new Promise((resolve) => {
    const opened = indexedDB.open("llama_cffi");
    opened.onsuccess = () => {
        const asked = opened.result.transaction("media", "readwrite").objectStore("media").%s();
        asked.onsuccess = () => resolve(asked.result ?? null);
    };
})"""
N_KEPT = STORE % "count"
FORGET = STORE % "clear"


@pytest.fixture
def able(canned: ChatServer) -> ChatServer:
    """A server whose model takes pictures and sound."""
    canned.props = {"default_generation_settings": {"params": {}}, "modalities": {"vision": True, "audio": True}}
    return canned


@pytest.fixture
def cat(tmp_path: Path) -> Path:
    path = tmp_path / "cat.png"
    path.write_bytes(PNG)
    return path


def add(page: Page, *paths: Path) -> None:
    """Add files, and wait until they are there."""
    n = page.evaluate("document.querySelectorAll('#tray li').length") + len(paths)
    page.choose_files("#files", *paths)
    page.until(f"document.querySelectorAll('#tray li').length === {n}")


def parts(asked: dict[str, Any]) -> list[dict[str, Any]]:
    """The parts of the last message of a request."""
    return list(asked["messages"][-1]["content"])


def content(part: dict[str, Any]) -> bytes:
    """The bytes of a part."""
    if part["type"] == "input_audio":
        return b64decode(part["input_audio"]["data"])
    return b64decode(part["image_url"]["url"].partition(";base64,")[2])


def test_a_picture_is_sent_shown_and_kept(visit: Visit, able: ChatServer, cat: Path) -> None:
    able.says("A cat.", "Gray.", "A dog.")
    page = visit(able.url)
    add(page, cat)
    assert ask(page, "What is it?") == "A cat."
    image, text = parts(able.asked[0])
    assert content(image) == PNG
    assert text == {"type": "text", "text": "What is it?"}
    assert page.evaluate("document.getElementById('tray').hidden")
    page.until("document.querySelector('.user img')?.naturalWidth > 0")
    page.until(N_KEPT, 1)
    page.reload()
    page.until("document.querySelector('.user img')?.naturalWidth > 0")
    assert ask(page, "Its color?") == "Gray."
    first, answer, last = able.asked[1]["messages"]
    assert (content(first["content"][0]), answer["content"], last["content"]) == (PNG, "A cat.", "Its color?")
    # Another text for the same picture.
    page.click(".user [aria-label=Edit]")
    page.write(" Really?")
    page.press("Enter")
    page.until(f"{IDLE} && document.querySelector('{ANSWERS}').innerText === 'A dog.'")
    image, text = parts(able.asked[2])
    assert content(image) == PNG
    assert "Really?" in text["text"]


def test_a_message_may_be_nothing_but_a_picture(visit: Visit, able: ChatServer, cat: Path) -> None:
    able.says("A cat.")
    page = visit(able.url)
    add(page, cat, cat)
    page.click("#tray li:first-child button")
    assert page.evaluate("document.querySelectorAll('#tray li').length") == 1
    page.click("#send")
    page.until(f"{IDLE} && document.querySelector('{ANSWERS}') !== null")
    (image,) = parts(able.asked[0])
    assert content(image) == PNG
    assert page.text("#chats .on .name") == "cat.png"


@pytest.mark.parametrize("how", ["paste", "drop"])
def test_pictures_are_pasted_and_dropped(visit: Visit, able: ChatServer, cat: Path, how: str) -> None:
    able.says("A cat.")
    page = visit(able.url)
    data = json.dumps(b64encode(PNG).decode())
    if how == "drop":
        page.evaluate(f"({DROP})('dragover', {data})")
        assert page.evaluate("document.body.classList.contains('over')")
    page.evaluate(f"({DROP})({how!r}, {data})")
    page.until("document.querySelectorAll('#tray img').length === 1")
    assert not page.evaluate("document.body.classList.contains('over')")
    ask(page, "What is it?")
    assert content(parts(able.asked[0])[0]) == PNG


def test_large_pictures_are_made_smaller_and_others_become_png(visit: Visit, able: ChatServer, tmp_path: Path) -> None:
    files = {"wide.png": photograph(3000, 20, seed=1), "picture.svg": b"<svg", "no.png": b"not a picture"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    able.says("Wide.")
    page = visit(able.url)
    add(page, tmp_path / "wide.png")
    for name in ("picture.svg", "no.png"):
        page.choose_files("#files", tmp_path / name)
        page.until(f"document.getElementById('banner').innerText.includes('{name} was not added: it cannot be read')")
    ask(page, "What?")
    (image, _) = parts(able.asked[0])
    data = content(image)
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")) == (2048, 14)


def test_sound_becomes_wav_of_one_channel(visit: Visit, able: ChatServer, tmp_path: Path) -> None:
    samples = tone(0.5, rate=44100)
    (tmp_path / "beep.wav").write_bytes(wav(samples, 44100, channels=2))
    able.says("A beep.")
    page = visit(able.url)
    add(page, tmp_path / "beep.wav")
    assert page.evaluate("document.querySelector('#tray audio') !== null")
    ask(page, "What?")
    (sound, _) = parts(able.asked[0])
    assert sound["input_audio"]["format"] == "wav"
    with wave.open(io.BytesIO(content(sound))) as found:
        assert (found.getnchannels(), found.getsampwidth(), found.getframerate()) == (1, 2, 24000)
        assert abs(found.getnframes() - 12000) <= 16
        frames = found.readframes(found.getnframes())
    loudest = max(abs(int.from_bytes(frames[i : i + 2], "little", signed=True)) for i in range(0, len(frames), 2))
    assert 0.4 < loudest / 32767 < 0.6


def test_sound_is_recorded(visit: Visit, able: ChatServer) -> None:
    able.says("A beep.")
    page = visit(able.url)
    page.allow("audioCapture")
    page.click("#mic")
    page.until("document.getElementById('mic').getAttribute('aria-pressed') === 'true'")
    assert page.evaluate("new Promise((resolve) => setTimeout(() => resolve(true), 400))")
    page.click("#mic")
    page.until("document.querySelectorAll('#tray audio').length === 1")
    assert page.evaluate("document.getElementById('mic').getAttribute('aria-pressed')") == "false"
    ask(page, "What?")
    with wave.open(io.BytesIO(content(parts(able.asked[0])[0]))) as found:
        assert found.getnframes() > 2400


def test_only_what_the_model_takes_is_offered(visit: Visit, canned: ChatServer, cat: Path) -> None:
    page = visit(canned.url)
    assert page.evaluate("document.getElementById('add').hidden && document.getElementById('mic').hidden")
    page.choose_files("#files", cat)
    page.until("document.getElementById('banner').innerText.includes('cat.png was not added: the model takes no pic')")
    canned.props = {"default_generation_settings": {"params": {}}, "modalities": {"vision": True, "audio": False}}
    page.reload()
    page.until("!document.getElementById('add').hidden")
    assert page.evaluate("document.getElementById('mic').hidden")
    assert page.evaluate("document.getElementById('files').accept") == "image/*"


def test_exports_have_the_pictures_and_deleted_chats_lose_them(
    visit: Visit, able: ChatServer, cat: Path, tmp_path: Path
) -> None:
    able.says("A cat.", "Still.")
    page = visit(able.url)
    add(page, cat)
    ask(page, "What is it?")
    page.save_files_in(tmp_path)
    page.click("#export")
    exported = tmp_path / "chats.json"
    (url,) = wait_for(exported)["media"].values()
    assert b64decode(url.partition(";base64,")[2]) == PNG
    page.click("#chats .on .tool")
    page.reload()
    page.until(N_KEPT, 0)
    page.choose_files("#file", exported)
    page.until("document.querySelector('.user img')?.naturalWidth > 0")
    assert page.evaluate(N_KEPT) == 1
    ask(page, "And now?")
    assert content(able.asked[-1]["messages"][0]["content"][0]) == PNG


def test_a_picture_that_is_gone_is_named(visit: Visit, able: ChatServer, cat: Path) -> None:
    able.says("A cat.")
    page = visit(able.url)
    add(page, cat)
    ask(page, "What is it?")
    page.until(N_KEPT, 1)
    page.evaluate(FORGET)
    page.reload()
    send(page, "And now?")
    page.until("document.querySelector('.failure')?.innerText.includes('“cat.png” is no longer kept in this browser')")
    assert len(able.asked) == 1


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory, assets: Path) -> Iterator[Llama]:
    with open_llama(write_kind(tmp_path_factory.mktemp("media"), "qwen2vl", assets)) as llm:
        yield llm


def test_a_model_sees_it(visit: Visit, llm: Llama, cat: Path) -> None:
    from llama_cffi.server.run import bind
    from llama_cffi.server.settings import Settings
    from tests.server.conftest import serving

    settings = json.dumps({"sampling": {"temperature": 0, "max_tokens": 6}})
    with serving(bind("127.0.0.1", 0), Settings(chat_template=TEMPLATE), AsyncLlama(llm)) as (_, server):
        page = visit(server.url)
        page.evaluate(f"localStorage.setItem('llama_cffi:settings', {json.dumps(settings)})")
        page.reload()
        page.until("!document.getElementById('add').hidden")
        add(page, cat)
        ask(page, "What is it?")
        found = page.evaluate("JSON.parse(Object.entries(localStorage).find(([name]) => name.includes(':chat:'))[1])")
    said = [{"role": "user", "content": [Image(PNG), "What is it?"]}]
    expected = llm.chat(said, chat_template=TEMPLATE, max_tokens=6, temperature=0)
    assert found["nodes"][-1]["content"] == expected.text
    assert found["nodes"][-1]["stats"]["prompt"] == expected.usage.prompt_tokens
