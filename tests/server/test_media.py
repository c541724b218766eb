"""Images and sound over HTTP: the answers are those of the calls in Python, in every dialect."""

from __future__ import annotations

import threading
from base64 import b64encode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from llama_cffi import Image, Llama
from tests.support.media_kinds import FILES, TEMPLATE, open_llama, write_kind
from tests.support.served import Served, served

PNG = FILES["gemma3"]["gray"]
DATA = b64encode(PNG).decode()
URL = f"data:image/png;base64,{DATA}"
CAT = Image(PNG)
OPTIONS: dict[str, Any] = {"max_tokens": 5, "temperature": 0}


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory, assets: Path) -> Iterator[Llama]:
    with open_llama(write_kind(tmp_path_factory.mktemp("media"), "qwen2vl", assets)) as llm:
        yield llm


@pytest.fixture(scope="module")
def server(llm: Llama) -> Iterator[Served]:
    pytest.importorskip("starlette", reason="needs the extra llama-cffi[server]")
    from llama_cffi.server.settings import Settings

    with served(llm, Settings(chat_template=TEMPLATE)) as server:
        yield server


def expected(llm: Llama, content: Any) -> str:
    said = [{"role": "user", "content": content}]
    return llm.chat(said, chat_template=TEMPLATE, **OPTIONS).text


def test_chat_completions_and_responses_take_images(llm: Llama, server: Served) -> None:
    text = expected(llm, ["What is", "it?", CAT])
    parts = [{"type": "text", "text": "What is"}, {"type": "text", "text": "it?"}]
    parts += [{"type": "image_url", "image_url": {"url": URL}}]  # type: ignore[dict-item]
    body = {"messages": [{"role": "user", "content": parts}], **OPTIONS}
    answer = server.ask("/v1/chat/completions", body).json()
    assert answer["choices"][0]["message"]["content"] == text
    # The image was in memory, and its cells are reused.
    details = answer["usage"]["prompt_tokens_details"]
    assert details["cached_tokens"] == answer["usage"]["prompt_tokens"] - 1
    parts = [{"type": "input_text", "text": "What is"}, {"type": "input_text", "text": "it?"}]
    parts += [{"type": "input_image", "image_url": URL}]
    asked = {"input": [{"role": "user", "content": parts}], "max_output_tokens": 5, "temperature": 0}
    answer = server.ask("/v1/responses", asked).json()
    assert answer["output"][-1]["content"][0]["text"] == text


def test_messages_take_images_also_as_results_of_tools(llm: Llama, server: Served) -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": DATA}}
    body = {"messages": [{"role": "user", "content": [{"type": "text", "text": "What?"}, image]}], **OPTIONS}
    answer = server.ask("/v1/messages", body).json()
    assert answer["content"][0]["text"] == expected(llm, ["What?", CAT])
    call = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "Here"}, image]}
    said = [
        {"role": "user", "content": "Look"},
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [result]},
    ]
    counted = server.ask("/v1/messages/count_tokens", {"messages": said}).json()["input_tokens"]
    alike: list[dict[str, Any]] = [
        {"role": "user", "content": "Look"},
        {"role": "assistant", "tool_calls": [{"function": {"name": "look", "arguments": {}}}]},
        {"role": "tool", "content": ["Here", CAT]},
    ]
    assert counted == len(llm.tokenize_chat(alike, chat_template=TEMPLATE))


def test_what_cannot_be_is_refused_with_its_place(server: Served) -> None:
    for part, code, place in (
        ({"type": "image_url", "image_url": {"url": "https://a.example/a.png"}}, "unsupported_parameter", "image_url"),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}, "invalid_media", "image_url"),
        ({"type": "image_url", "image_url": {"url": "/etc/passwd"}}, "invalid_media", "image_url"),
        ({"type": "image_url", "image_url": {}}, "invalid_messages", "image_url"),
        ({"type": "video_url", "video_url": {"url": URL}}, "unsupported_content", "only text"),
    ):
        said = [{"role": "user", "content": [{"type": "text", "text": "a"}, part]}]
        answer = server.ask("/v1/chat/completions", {"messages": said, **OPTIONS})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (400, code)
        assert "messages[0].content[1]" in error["message"]
        assert place in error["message"]
    sound = {"type": "input_audio", "input_audio": {"data": b64encode(FILES["llama"]["220 Hz"]).decode()}}
    said = [{"role": "user", "content": [sound]}]
    answer = server.ask("/v1/chat/completions", {"messages": said, **OPTIONS})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_parameter")
    assert "messages[0].content[0]: the projector of qwen2vl.gguf takes no sound" in answer.json()["error"]["message"]


def test_the_beginning_of_a_reply_has_no_image(server: Served) -> None:
    part = {"type": "image_url", "image_url": {"url": URL}}
    parts: list[Any] = [{"type": "text", "text": "a"}, part]
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": parts}]
    for path in ("/v1/chat/completions", "/v1/chat/completions/input_tokens"):
        error = server.ask(path, {"messages": said, **OPTIONS}).json()["error"]
        assert (error["code"], error["param"]) == ("invalid_value", "messages[1].content"), error
    parts = [{"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": URL}]
    said = [said[0], {"role": "assistant", "content": parts}]
    error = server.ask("/v1/responses", {"input": said, "max_output_tokens": 5}).json()["error"]
    assert (error["code"], error["param"]) == ("invalid_value", "input.content"), error


class _Host(BaseHTTPRequestHandler):
    """A host with one picture and one sound, whatever it is asked for."""

    def do_GET(self) -> None:
        data = PNG if self.path.endswith(".png") else b"<html>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Host) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_images_of_hosts_that_are_allowed_are_fetched_in_every_dialect(llm: Llama, host: str) -> None:
    from llama_cffi.server.settings import Settings

    url, text = f"http://{host}/a.png", expected(llm, ["What?", CAT])
    with served(llm, Settings(chat_template=TEMPLATE, media_hosts=(host,), response_store=4)) as server:
        parts = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": url}}]
        body = {"messages": [{"role": "user", "content": parts}], **OPTIONS}
        answer = server.ask("/v1/chat/completions", body).json()
        assert answer["choices"][0]["message"]["content"] == text
        for part in ({"type": "input_image", "image_url": url}, {"type": "input_file", "file_url": url}):
            said = [{"role": "user", "content": [{"type": "input_text", "text": "What?"}, part]}]
            asked = {"input": said, "max_output_tokens": 5, "temperature": 0}
            answer = server.ask("/v1/responses", asked).json()
            assert answer["output"][-1]["content"][0]["text"] == text
        # The URL is asked again when the conversation goes on.
        more = {"input": "And?", "previous_response_id": answer["id"], "max_output_tokens": 5}
        assert server.ask("/v1/responses", more).json()["status"] in ("completed", "incomplete")
        image = {"type": "image", "source": {"type": "url", "url": url}}
        said = [{"role": "user", "content": [{"type": "text", "text": "What?"}, image]}]
        answer = server.ask("/v1/messages", {"messages": said, **OPTIONS}).json()
        assert answer["content"][0]["text"] == text
        result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [image]}
        call = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"type": "image", "source": image}}
        said = [
            {"role": "user", "content": "Look"},
            {"role": "assistant", "content": [call]},
            {"role": "user", "content": [result]},
        ]
        assert server.ask("/v1/messages/count_tokens", {"messages": said}).json()["input_tokens"] > 20


def test_what_cannot_be_fetched_is_refused_with_its_place(llm: Llama, host: str) -> None:
    from llama_cffi.server.settings import Settings

    with served(llm, Settings(chat_template=TEMPLATE, media_hosts=(host,))) as server:
        for url, code, words in (
            ("http://127.0.0.1:1/a.png", "unsupported_parameter", "not among the hosts"),
            ("http://user:word@a.example/", "unsupported_parameter", "user name or password"),
            (f"http://{host}/page.html", "invalid_media", "not an image"),
        ):
            part = {"type": "image_url", "image_url": {"url": url}}
            said = [{"role": "user", "content": [{"type": "text", "text": "a"}, part]}]
            answer = server.ask("/v1/chat/completions", {"messages": said, **OPTIONS})
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (400, code), error
            assert "messages[0].content[1]" in error["message"]
            assert words in error["message"]


def test_clients_are_told_what_the_model_takes(server: Served) -> None:
    props = server.ask("/props").json()
    assert props["modalities"] == {"vision": True, "audio": False, "video": False}
    assert props["media_marker"] == "<__media__>"
    assert server.ask("/v1/models").json()["data"][0]["capabilities"] == ["completion", "multimodal"]
