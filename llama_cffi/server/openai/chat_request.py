"""What the body of a chat completion asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llama_cffi.server.conversation import REPLY_FIELDS, Conversation, make_conversation
from llama_cffi.server.fields import Field, read_fields
from llama_cffi.server.messages import read_messages, read_tools
from llama_cffi.server.problem import unsupported, wrong
from llama_cffi.server.values import Facts, flag, integer, items, one_of, typed

if TYPE_CHECKING:
    from llama_cffi.server.exchange import Call


def _reasoning_format(param: str, value: Any, facts: Facts) -> str:
    if value in ("none", "deepseek-legacy"):
        raise unsupported(param, f"{value} is not supported; reasoning is in reasoning_content")
    return one_of("auto", "deepseek")(param, value, facts)  # type: ignore[no-any-return]


CHAT_FIELDS: tuple[Field, ...] = (
    *REPLY_FIELDS,
    Field.of("reasoning_format", _reasoning_format),
    Field.of("parse_tool_calls", flag),
    Field.of("echo", flag),
    Field("want_logprobs", ("logprobs",), flag),
    Field.of("top_logprobs n_probs", integer(0, 100)),
    Field.of("return_progress", flag),
    Field.of("timings_per_token", flag),
)

_READ = frozenset(("messages", "tools", "tool_choice", "stream_options", "modalities"))


@dataclass(frozen=True)
class ChatRequest:
    """A chat completion that was asked for."""

    conversation: Conversation
    include_usage: bool
    return_progress: bool
    timings_per_token: bool
    echo: str
    """What the reply is shown to begin with."""


def read_chat(call: Call) -> ChatRequest:
    """Return what a body asks for; raises :class:`Problem`."""
    body = call.body
    asked = read_fields(call, CHAT_FIELDS, _READ)
    messages = read_messages(body.get("messages", []), media=call.media)
    tools, choice = read_tools(body.get("tools"), body.get("tool_choice"))
    if any(one != "text" for one in items("modalities", body.get("modalities", []), 8)):
        raise unsupported("modalities", "only text can be generated")
    logprobs = _logprobs(asked.take("want_logprobs"), asked.take("top_logprobs"), asked.given)
    if logprobs == 0 and call.service.settings.compat and "top_logprobs" not in asked.given:
        logprobs = 20
    if logprobs is not None:
        asked.options["logprobs"] = logprobs
    if asked.options.get("max_tokens") == 0:
        raise wrong(asked.given["max_tokens"], "must be at least 1")
    include_usage = read_stream_options(call, bool(asked.options.get("stream")))
    asked.take("reasoning_format")
    if asked.options.pop("parse_tool_calls", True) is False and tools:
        raise unsupported("parse_tool_calls", "false is not supported with tools")
    progress, times, echo = (bool(asked.take(name)) for name in ("return_progress", "timings_per_token", "echo"))
    found = make_conversation(call, asked, messages, tools, choice, last=f"messages[{len(messages) - 1}]")
    return ChatRequest(found, include_usage, progress, times, found.prefix if echo else "")


def read_stream_options(call: Call, stream: bool) -> bool:
    """Return whether the stream ends with ``usage``."""
    given = call.body.get("stream_options")
    if given is None:
        return False
    if not stream:
        raise wrong("stream_options", "is for streams: it needs stream=true")
    wanted = typed("stream_options", given, dict).get("include_usage")
    return bool(typed("stream_options.include_usage", False if wanted is None else wanted, bool))


def _logprobs(wanted: bool | None, top: int | None, given: dict[str, str]) -> int | None:
    if given.get("top_logprobs") == "n_probs":
        return top or None
    if top is not None and top > 20:
        raise wrong("top_logprobs", f"must be 0 to 20, got {top}")
    if top and not wanted:
        raise wrong("top_logprobs", "needs logprobs=true")
    return (top or 0) if wanted else None


__all__ = ["CHAT_FIELDS", "ChatRequest", "read_chat", "read_stream_options"]
