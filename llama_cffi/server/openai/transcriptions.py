"""POST /v1/audio/transcriptions: the text of a sound, by a model that hears."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from llama_cffi._util.shown import shown
from llama_cffi.core.media.audio import Audio
from llama_cffi.errors import MediaError
from llama_cffi.prompt.transcription import transcription_messages
from llama_cffi.server.conversation import REPLY_FIELDS, make_conversation
from llama_cffi.server.exchange import Call, takes
from llama_cffi.server.fields import Field, read_fields
from llama_cffi.server.form import Upload
from llama_cffi.server.problem import Problem, unsupported, wrong
from llama_cffi.server.reply_stream import ReplyStream
from llama_cffi.server.response import Answer, Whole, event, json_answer
from llama_cffi.server.values import Facts, one_of, text

if TYPE_CHECKING:
    from llama_cffi.reply.reply import Reply


def _line(limit: int) -> Any:
    """A reader of a text, of which a form may make a number."""

    def read(param: str, value: Any, facts: Facts) -> str:
        found: str = text(limit)(param, str(value) if isinstance(value, (int, float)) else value, facts)
        return found

    return read


TRANSCRIPTION_FIELDS: tuple[Field, ...] = (
    *(one for one in REPLY_FIELDS if "response_format" not in one.names),  # which is another thing here
    Field.of("prompt", _line(64 << 10)),
    Field.of("language", _line(64)),
    Field.of("response_format", one_of("json", "text", "verbose_json", "srt", "vtt", "diarized_json")),
)
_TIMES = "the model tells no times, speakers and languages"
_ELSEWHERE = (
    *("timestamp_granularities", "include", "languages", "keywords", "known_speaker_names"),
    "known_speaker_references",
)
"""Fields that need what these models do not say."""


@takes(form=True)
async def transcriptions(call: Call) -> Answer:
    """Answer with the text of a file."""
    for name in _ELSEWHERE:
        if name in call.body:
            raise unsupported(name, f"is not supported: {_TIMES}")
    llama = call.service.llm.llama
    if llama.projector is None or not llama.projector.audio:
        raise Problem(
            400, "this model takes no sound: it needs a projector for it (--mmproj)", code="unsupported_content"
        )
    asked = read_fields(call, TRANSCRIPTION_FIELDS, frozenset(("file", "chunking_strategy")))
    form = asked.take("response_format", "json")
    if form not in ("json", "text"):
        raise unsupported("response_format", f"must be json or text, got {shown(form)}: {_TIMES}")
    messages = transcription_messages(
        _audio(call.body.get("file")),
        prompt=asked.take("prompt", ""),
        language=asked.take("language", ""),
        template=call.service.settings.chat_template or llama.model.chat_template(),
    )
    # One text is right, and OpenAI's default is 0, too.
    asked.options.setdefault("temperature", 0.0)
    conversation = make_conversation(call, asked, messages, [], None)
    if conversation.n > 1:
        raise unsupported("n", "there is one text of a sound")
    reply = ReplyStream(call, conversation)
    if conversation.stream:
        return call.events(_events(reply))
    async with reply:
        done = (await reply.whole()).done
    if form == "text":
        return Whole(f"{done.text}\n".encode(), type="text/plain; charset=utf-8")
    return json_answer({"text": done.text, "usage": _usage(done)})


def _audio(file: Any) -> Audio:
    if not isinstance(file, Upload):
        raise wrong("file", "must be a file")
    try:
        return Audio(file.data)
    except MediaError as error:
        raise wrong("file", error.message, code="invalid_media") from None


async def _events(reply: ReplyStream) -> AsyncGenerator[bytes, None]:
    async with reply, aclosing(reply.steps()) as each:
        async for steps in each:
            more = "".join(step.text for step in steps if step.what == "more" and step.block.kind == "text")
            if more:
                yield event({"type": "transcript.text.delta", "delta": more})
    done = reply.blocks.done
    yield event({"type": "transcript.text.done", "text": done.text, "usage": _usage(done)})


def _usage(reply: Reply) -> dict[str, Any]:
    counts = reply.usage
    return {
        "type": "tokens",
        "input_tokens": counts.prompt_tokens,
        "output_tokens": counts.completion_tokens,
        "total_tokens": counts.prompt_tokens + counts.completion_tokens,
    }


__all__ = ["TRANSCRIPTION_FIELDS", "transcriptions"]
