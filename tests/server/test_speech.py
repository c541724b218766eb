"""Speech over HTTP: WAV files, samples and events, as OpenAI's API describes them."""

from __future__ import annotations

import asyncio
import base64
import io
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llama_cffi import Audio, Llama
from llama_cffi.core.media.formats.wav import pcm16, pcm16_header
from tests.support.media_kinds import tone
from tests.support.served import Served, events, served
from tests.support.speech_models import write_speaking_model

httpx = pytest.importorskip("httpx")
pytest.importorskip("starlette", reason="needs the extra llama-cffi[server]")

PATH = "/v1/audio/speech"
BODY: dict[str, Any] = {"model": "served", "input": "Hello there", "voice": "default", "seed": 3, "max_frames": 20}
VOICE = tone(330)


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llama]:
    made = write_speaking_model(tmp_path_factory.mktemp("speech"), "pockettts")
    with Llama(made.model, mmproj=made.projector, n_ctx=512, n_threads=1) as llm:
        yield llm


@pytest.fixture(scope="module")
def server(llm: Llama) -> Iterator[Served]:
    from llama_cffi.server.settings import Settings

    with served(llm, Settings(voices={"alloy": Audio(VOICE)})) as made:
        yield made


@pytest.fixture(scope="module")
def expected(llm: Llama) -> Audio:
    return llm.speak("Hello there", seed=3, max_frames=20)


def test_a_wav_file(server: Served, expected: Audio, assets: Path) -> None:
    from tests.support.openapi import openapi

    asked = {name: value for name, value in BODY.items() if name in ("model", "input")}
    openapi(assets).check("CreateSpeechRequest", {**asked, "voice": "alloy", "response_format": "wav"})
    for fields in ({}, {"response_format": "wav"}, {"speed": 1, "stream_format": "audio", "instructions": " "}):
        found = server.ask(PATH, {**BODY, **fields})
        assert found.status_code == 200, found.text
        assert (found.headers["content-type"], found.headers["x-audio-sample-rate"]) == ("audio/wav", "24000")
        assert found.content == expected.wav()
        with wave.open(io.BytesIO(found.content)) as read:
            assert (read.getnchannels(), read.getsampwidth(), read.getframerate()) == (1, 2, 24000)
            assert read.getnframes() == expected.n_samples


def test_samples(server: Served, expected: Audio) -> None:
    found = server.ask("/audio/speech", {**BODY, "response_format": "pcm"})
    assert (found.status_code, found.headers["content-type"]) == (200, "audio/pcm")
    assert found.headers["x-audio-sample-rate"] == "24000"
    assert found.content == pcm16(expected.samples)


@pytest.mark.parametrize("form", ["wav", "pcm"])
def test_events(server: Served, expected: Audio, assets: Path, form: str) -> None:
    from tests.support.openapi import openapi

    streamed = events(server.ask(PATH, {**BODY, "stream_format": "sse", "response_format": form}))
    for one in streamed:
        openapi(assets).check("CreateSpeechResponseStreamEvent", one)
    data = b"".join(base64.b64decode(one["audio"]) for one in streamed[:-1])
    assert len(streamed) > 2
    assert data == (pcm16_header(24000) if form == "wav" else b"") + pcm16(expected.samples)
    usage = streamed[-1]["usage"]
    assert usage["output_tokens"] == 20
    assert usage["total_tokens"] == usage["input_tokens"] + 20 > 22


def test_voices(server: Served, llm: Llama, expected: Audio) -> None:
    imitated = llm.speak("Hello there", seed=3, max_frames=20, voice=Audio(VOICE))
    assert imitated != expected
    url = "data:audio/wav;base64," + base64.b64encode(VOICE).decode()
    for voice in ("alloy", {"id": "alloy"}, url):
        assert server.ask(PATH, {**BODY, "voice": voice}).content == imitated.wav()
    without = {name: value for name, value in BODY.items() if name != "voice"}
    assert server.ask(PATH, without).content == expected.wav()


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"input": ""}, "input", "invalid_value"),
        ({"input": " \n"}, "input", "invalid_value"),
        ({"input": ["a"]}, "input", "invalid_type"),
        ({"input": None}, "input", "invalid_type"),
        ({"voice": "nova"}, "voice", "invalid_value"),
        ({"voice": 3}, "voice", "invalid_type"),
        ({"voice": {"name": "alloy"}}, "voice", "invalid_type"),
        ({"voice": "data:audio/wav;base64,UklGRg=="}, "voice", "invalid_media"),
        ({"response_format": "mp3"}, "response_format", "unsupported_parameter"),
        ({"response_format": "ogg"}, "response_format", "invalid_value"),
        ({"stream_format": "x"}, "stream_format", "invalid_value"),
        ({"speed": 2}, "speed", "unsupported_parameter"),
        ({"speed": 9}, "speed", "invalid_value"),
        ({"instructions": "sadly"}, "instructions", "unsupported_parameter"),
        ({"max_frames": 0}, "max_frames", "invalid_value"),
        ({"temperature": "hot"}, "temperature", "invalid_type"),
    ],
)
def test_fields_that_cannot_be_honored(server: Served, fields: dict[str, Any], param: str, code: str) -> None:
    body = {name: value for name, value in {**BODY, **fields}.items() if value is not None}
    refused = server.ask(PATH, body)
    error = refused.json()["error"]
    assert (refused.status_code, error["param"], error["code"]) == (400, param, code), refused.text


def test_a_text_that_is_too_long(server: Served) -> None:
    for fields in ({}, {"stream_format": "sse"}, {"response_format": "pcm"}):
        refused = server.ask(PATH, {**BODY, **fields, "input": "word " * 5000})
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "context_length_exceeded")


def test_time_is_over(server: Served) -> None:
    late = server.ask(PATH, {**BODY, "input": "word " * 60, "max_frames": 100_000, "max_seconds": 0.3})
    assert (late.status_code, late.json()["error"]["code"]) in ((504, "timeout"), (503, "aborted"))


def test_a_model_that_does_not_speak() -> None:
    with Llama.demo(n_ctx=128) as silent, served(silent) as server:
        refused = server.ask(PATH, BODY)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "unsupported_content")
        assert server.ask("/props").json()["speech"] is None


def test_what_clients_are_told(server: Served) -> None:
    told = server.ask("/props").json()
    assert told["speech"] == {"sample_rate": 24000, "voices": ["alloy", "default"], "imitates_voices": True}
    assert told["modalities"] == {"vision": False, "audio": False, "video": False}


def test_a_client_that_goes_away_ends_the_speech(server: Served, llm: Llama) -> None:
    async def main() -> None:
        request = {**BODY, "input": "word " * 100, "max_frames": 100_000}
        async with server.llm.stream_speech(request["input"], seed=1) as stream:
            await stream.__anext__()
        transport = httpx.ASGITransport(app=server._app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            asking = asyncio.ensure_future(client.post(PATH, json=request))
            await asyncio.sleep(0.1)
            asking.cancel()
            # The next one would otherwise wait for the end of the first.
            assert (await asyncio.wait_for(client.post(PATH, json=BODY), 30)).status_code == 200

    asyncio.run(main())


def test_openai_hears(server: Served, expected: Audio) -> None:
    openai = pytest.importorskip("openai")
    transport = httpx.ASGITransport(app=server._app)

    async def main() -> None:
        async with openai.AsyncOpenAI(
            base_url="http://localhost/v1", api_key="none", http_client=httpx.AsyncClient(transport=transport)
        ) as client:
            given: dict[str, Any] = {"model": "served", "input": "Hello there"}
            extra = {"seed": 3, "max_frames": 20}
            whole = await client.audio.speech.create(**given, voice="default", response_format="wav", extra_body=extra)
            assert whole.content == expected.wav()
            async with client.audio.speech.with_streaming_response.create(
                **given, voice="default", response_format="pcm", extra_body=extra
            ) as streamed:
                data = b"".join([piece async for piece in streamed.iter_bytes()])
            assert np.array_equal(np.frombuffer(data, "<i2"), np.frombuffer(pcm16(expected.samples), "<i2"))
            with pytest.raises(openai.BadRequestError, match="response_format"):
                await client.audio.speech.create(**given, voice="alloy", response_format="mp3")

    asyncio.run(main())


def test_a_model_in_another_process(llm: Llama, expected: Audio) -> None:
    assert llm.projector is not None
    with (
        Llama(llm.model.path, mmproj=llm.projector.path, n_ctx=512, n_threads=1, isolate=True) as isolated,
        served(isolated) as server,
    ):
        assert server.ask(PATH, BODY).content == expected.wav()
        pcm = server.ask(PATH, {**BODY, "response_format": "pcm"})
        assert pcm.content == pcm16(expected.samples)
