"""The text of a sound over HTTP: what the model says of it in a conversation, and what llama-server says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llama_cffi import Audio, Llama
from llama_cffi.prompt.transcription import transcription_messages
from tests.support.llama_server import find_server, running_server
from tests.support.media_kinds import TEMPLATE, Kind, open_llama, tone, write_kind
from tests.support.served import Served, events, served

httpx = pytest.importorskip("httpx")
pytest.importorskip("starlette", reason="needs the extra llama-cffi[server]")

PATH = "/v1/audio/transcriptions"
N: dict[str, Any] = {"max_tokens": 12}
SOUNDS = {hertz: tone(hertz) for hertz in (220, 2000)}


@pytest.fixture(scope="module")
def kind(tmp_path_factory: pytest.TempPathFactory, assets: Path) -> Kind:
    return write_kind(tmp_path_factory.mktemp("sound"), "llama", assets)


@pytest.fixture(scope="module")
def llm(kind: Kind) -> Iterator[Llama]:
    with open_llama(kind) as llm:
        yield llm


@pytest.fixture(scope="module")
def server(llm: Llama) -> Iterator[Served]:
    from llama_cffi.server.settings import Settings

    with served(llm, Settings(chat_template=TEMPLATE)) as made:
        yield made


def send(server: Served, data: bytes, **fields: Any) -> Any:
    return server.ask(PATH, data={**N, **fields}, files={"file": ("said.wav", data)})


@pytest.mark.parametrize("hertz", SOUNDS)
@pytest.mark.parametrize("fields", [{}, {"prompt": "What?", "language": "de"}, {"temperature": 2, "seed": 3}])
def test_the_text_is_the_reply_to_the_sound(
    server: Served, llm: Llama, assets: Path, hertz: int, fields: dict[str, Any]
) -> None:
    from tests.support.openapi import openapi

    words = {name: value for name, value in fields.items() if name in ("prompt", "language")}
    numbers = {"temperature": 0, **{name: value for name, value in fields.items() if name not in words}}
    messages = transcription_messages(Audio(SOUNDS[hertz]), **words)
    expected = llm.chat(messages, chat_template=TEMPLATE, **N, **numbers)
    whole = send(server, SOUNDS[hertz], **fields)
    assert whole.status_code == 200, whole.text
    openapi(assets).check("CreateTranscriptionResponseJson", whole.json())
    assert whole.json()["text"] == expected.text
    assert whole.json()["usage"]["input_tokens"] == expected.usage.prompt_tokens
    assert send(server, SOUNDS[hertz], response_format="text", **fields).text == f"{expected.text}\n"
    streamed = events(send(server, SOUNDS[hertz], stream="true", **fields))
    for one in streamed[:-1]:
        openapi(assets).check("TranscriptTextDeltaEvent", one)
    openapi(assets).check("TranscriptTextDoneEvent", streamed[-1])
    assert "".join(one["delta"] for one in streamed[:-1]) == streamed[-1]["text"] == expected.text


def test_what_is_said_to_the_model() -> None:
    sound = Audio(SOUNDS[220])
    (plain,) = transcription_messages(sound)
    assert plain["content"] == [{"type": "text", "text": "Transcribe audio to text"}, sound]
    (told,) = transcription_messages(sound, prompt="What?", language="fr")
    assert told["content"][0]["text"] == "What? (language: fr)"
    system, user = transcription_messages(sound, template="{{ '<|tool_list_start|>' }}")
    assert (system, user) == (
        {"role": "system", "content": "Perform ASR."},
        {"role": "user", "content": [sound]},
    )


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": "srt"}, "response_format"),
        ({"response_format": "x"}, "response_format"),
        ({"timestamp_granularities[]": "word"}, "timestamp_granularities"),
        ({"include[]": "logprobs"}, "include"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": "-1"}, "temperature"),
        ({"stream": "maybe"}, "stream"),
        ({"n": "2"}, "n"),
    ],
)
def test_fields_that_cannot_be_honored(server: Served, fields: dict[str, Any], param: str) -> None:
    refused = send(server, SOUNDS[220], **fields)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


def test_files_that_are_no_sound(server: Served) -> None:
    for data in (b"", b"RIFF", b"a text", SOUNDS[220][:20]):
        refused = send(server, data)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "file"), refused.text
    without = server.ask(PATH, data={"model": "x"}, files={"other": ("a", b"b")})
    assert (without.status_code, without.json()["error"]["param"]) == (400, "file")
    no_form = server.ask(PATH, {"file": "a"})
    assert no_form.status_code == 415
    for data in (
        b"",
        b"--x",
        b"--x\r\n\r\n--x--",
        b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--\r\n",
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nRIFF',
    ):
        cut = server.ask(PATH, content=data, headers={"content-type": "multipart/form-data; boundary=x"})
        assert cut.status_code == 400, (data, cut.text)
    bare = server.ask(PATH, content=b"a", headers={"content-type": "multipart/form-data"})
    assert bare.status_code == 400
    for fields in ({"seed": "1", "seed[]": "2"}, {"seed[]": "2", "seed": "1"}):
        both = send(server, SOUNDS[220], **fields)
        assert (both.status_code, both.json()["error"]["code"]) == (400, "invalid_form"), both.text
        assert "seed is both a value and a list" in both.json()["error"]["message"]
    files = [("x[]", ("a", b"b")), ("x[]", (None, b"c"))]
    assert server.ask(PATH, files=files).json()["error"]["code"] == "invalid_form"


def test_a_model_that_hears_nothing() -> None:
    with Llama.demo(n_ctx=128) as deaf, served(deaf) as server:
        refused = send(server, SOUNDS[220])
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "unsupported_content")


def test_openai_uploads_a_file(server: Served, llm: Llama) -> None:
    openai = pytest.importorskip("openai")
    transport = httpx.ASGITransport(app=server._app)

    async def main() -> str:
        async with openai.AsyncOpenAI(
            base_url="http://localhost/v1",
            api_key="none",
            http_client=httpx.AsyncClient(transport=transport),
        ) as client:
            given = {"model": "served", "file": ("a.wav", SOUNDS[2000]), "extra_body": N}
            found = await client.audio.transcriptions.create(**given)
            text = ""
            async for one in await client.audio.transcriptions.create(**given, stream=True):
                text += one.delta if one.type == "transcript.text.delta" else ""
            assert text == found.text
            return str(found.text)

    expected = llm.chat(transcription_messages(Audio(SOUNDS[2000])), chat_template=TEMPLATE, temperature=0, **N)
    assert asyncio.run(main()) == expected.text


@pytest.mark.skipif(find_server() is None, reason="no llama-server in build/libllama")
def test_llama_server_says_the_same(server: Served, kind: Kind, tmp_path: Path) -> None:
    program = find_server()
    assert program is not None
    (tmp_path / "template").write_text(TEMPLATE)
    options = ("--mmproj", kind.projector, "-c", 2048, "-t", 1, "-np", 1, "--jinja", "--no-warmup")
    with running_server(
        program, kind.model, *options, "--chat-template-file", tmp_path / "template", log=tmp_path / "log"
    ) as theirs:
        for data in SOUNDS.values():
            form = {"data": {**N, "temperature": "0"}, "files": {"file": ("said.wav", data)}}
            found = httpx.post(f"http://127.0.0.1:{theirs.port}{PATH}", timeout=60, **form)
            assert found.status_code == 200, found.text
            assert send(server, data).json()["text"] == json.loads(found.text)["text"]
