"""POST /v1/audio/speech: the sound of a text, by a model that speaks."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llama_cffi._util.shown import shown
from llama_cffi.core.media.audio import Audio
from llama_cffi.core.media.formats.wav import pcm16, pcm16_header
from llama_cffi.errors import MediaError
from llama_cffi.reply.completion import FinishReason
from llama_cffi.server.body import Disconnected
from llama_cffi.server.exchange import Call
from llama_cffi.server.fields import FIELDS, Field, read_fields
from llama_cffi.server.problem import Problem, unsupported, wrong
from llama_cffi.server.response import Answer, Whole, event, start_message
from llama_cffi.server.values import integer, number, one_of, text, wrong_type

if TYPE_CHECKING:
    from starlette.types import Send

    from llama_cffi.aio.speech import AsyncSpeechStream

DEFAULT_VOICE = "default"
"""The model's own voice."""
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "seed", "max_seconds")
SPEECH_FIELDS: tuple[Field, ...] = (
    *(one for one in FIELDS if one.option in (*_SAMPLING, "sse_ping_interval")),
    Field.of("language", text(64)),
    Field.of("max_frames", integer(1)),
    Field.of("response_format", one_of("wav", "pcm", "mp3", "opus", "aac", "flac")),
    Field.of("stream_format", one_of("audio", "sse")),
    Field.of("speed", number(0.25, 4)),
    Field.of("instructions", text(64 << 10)),
    Field.of("model", text(256)),
)
_RATE = "x-audio-sample-rate"
"""The header with the samples per second, which raw samples do not tell."""


async def speech(call: Call) -> Answer:
    """Answer with the sound of a text: a WAV file, or samples as they are computed."""
    service = call.service
    llm = service.llm
    projector = llm.llama.projector
    if projector is None or projector.speech is None:
        raise Problem(
            400,
            "this model does not speak: it needs a projector with a generator of speech (--mmproj)",
            code="unsupported_content",
        )
    asked = read_fields(call, SPEECH_FIELDS, frozenset(("input", "voice")))
    service.check_model(asked.take("model"))
    form, stream_form = asked.take("response_format", "wav"), asked.take("stream_format", "audio")
    if form not in ("wav", "pcm"):
        raise unsupported("response_format", f"must be wav or pcm, got {shown(form)}: nothing here compresses sound")
    if asked.take("speed", 1.0) != 1.0:
        raise unsupported("speed", "must be 1: the model has one speed")
    if asked.take("instructions", "").strip():
        raise unsupported("instructions", "is not supported: the model takes none")
    options, limit = asked.options, service.settings.request_timeout
    options["max_seconds"] = min(options.get("max_seconds", limit), limit)
    voice = _voice(call)
    if voice is not None:
        options["voice"] = voice
    stream = llm.stream_speech(_input(call), **options)
    try:
        rate = await stream.start()
        if stream_form == "sse":
            return call.events(_events(stream, rate, form))
        if form == "pcm":
            return Samples(_samples(stream), {"content-type": "audio/pcm", _RATE: str(rate)})
    except BaseException:
        await stream.aclose()
        raise
    async with stream:
        sound = await stream.result()
        _check_end(stream)
    return Whole(sound.wav(), type="audio/wav", headers={_RATE: str(rate)})


def _input(call: Call) -> str:
    found = call.body.get("input")
    if not isinstance(found, str):
        raise wrong_type("input", "a text", found)
    if not found.strip():
        raise wrong("input", "is empty")
    return found


def _voice(call: Call) -> Audio | None:
    """Return the sound of the voice that is asked for, None for the model's own."""
    given = call.body.get("voice", DEFAULT_VOICE)
    name = given.get("id") if isinstance(given, dict) else given
    if not isinstance(name, str):
        raise wrong_type("voice", "a name, or an object with an id", given)
    voices: Mapping[str, Audio] = call.service.settings.voices
    if name in voices:
        return voices[name]
    if name == DEFAULT_VOICE:
        return None
    if name[:5].lower() == "data:":
        try:
            return Audio(name)
        except MediaError as error:
            raise wrong("voice", error.message, code="invalid_media") from None
    known = ", ".join(dict.fromkeys((*voices, DEFAULT_VOICE)))
    raise wrong("voice", f"must be {known}, or a data: URL of a sound, got {shown(name)} (serve --voice adds names)")


def _check_end(stream: AsyncSpeechStream) -> None:
    """Raise where a sound is not whole because its time was over."""
    if stream.finish_reason is FinishReason.DEADLINE:
        raise Problem(504, "the speech took too long: its sound is not whole", code="timeout")


async def _samples(stream: AsyncSpeechStream) -> AsyncGenerator[bytes, None]:
    async with stream:
        async for piece in stream:
            yield pcm16(piece)
        _check_end(stream)


async def _events(stream: AsyncSpeechStream, rate: int, form: str) -> AsyncGenerator[bytes, None]:
    start = pcm16_header(rate) if form == "wav" else b""
    async with aclosing(_samples(stream)) as samples:
        async for piece in samples:
            yield event({"type": "speech.audio.delta", "audio": base64.b64encode(start + piece).decode()})
            start = b""
    n_input, n_output = stream.n_prompt, stream.n_frames
    usage = {"input_tokens": n_input, "output_tokens": n_output, "total_tokens": n_input + n_output}
    yield event({"type": "speech.audio.done", "usage": usage})


@dataclass
class Samples:
    """An answer of bytes that come as they are computed.

    The status waits for the first ones. When something fails later, the connection ends: a part of a sound must not
    look like all of it.
    """

    pieces: AsyncGenerator[bytes, None]
    headers: Mapping[str, str]
    _began: bool = False

    async def send(self, send: Send, headers: Mapping[str, str]) -> int:
        """See :class:`Answer`."""
        try:
            async with aclosing(self.pieces) as pieces:
                async for piece in pieces:
                    await self._begin(send, headers)
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
        except Exception:
            if not self._began:
                raise
            raise Disconnected from None
        await self._begin(send, headers)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return 200

    async def _begin(self, send: Send, headers: Mapping[str, str]) -> None:
        if not self._began:
            self._began = True
            await send(start_message(200, {**self.headers, **headers}))

    async def cut(self, send: Send, problem: Problem) -> bool:
        """See :class:`~llama_cffi.server.response.Stream`."""
        return self._began


__all__ = ["DEFAULT_VOICE", "SPEECH_FIELDS", "Samples", "speech"]
