"""What the body of a chat completion asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from llama_cffi.server.fields import FIELDS, Field, read_fields, text_options
from llama_cffi.server.messages import read_messages, read_tools
from llama_cffi.server.problem import unsupported, wrong
from llama_cffi.server.values import Facts, flag, integer, items, one_of, typed, whole

if TYPE_CHECKING:
    from llama_cffi.server.exchange import Call

KWARGS_BYTES = 64 << 10
_RENDERED = ("self", "messages", "tools", "documents", "chat_template", "tokenize", "add_generation_prompt")
_OWNED = frozenset((*_RENDERED, "bos_token", "eos_token", "continue_final_message"))
"""Template variables that the renderer sets itself."""


def _variables(param: str, value: Any, _: Facts) -> dict[str, Any]:
    found: dict[str, Any] = typed(param, value, dict)
    if len(orjson.dumps(found)) > KWARGS_BYTES:
        raise wrong(param, f"has more than {KWARGS_BYTES} bytes")
    if taken := sorted(found.keys() & _OWNED):
        raise wrong(f"{param}.{taken[0]}", "is set by the server")
    if "enable_thinking" in found:
        typed(f"{param}.enable_thinking", found["enable_thinking"], bool)
    return found


def _budget(param: str, value: Any, _: Facts) -> int | None:
    found = whole(param, value, -1)
    return None if found < 0 else found


def _documents(param: str, value: Any, _: Facts) -> list[Any]:
    return [typed(f"{param}[{i}]", one, dict) for i, one in enumerate(items(param, value, 1000))]


def _reasoning_format(param: str, value: Any, facts: Facts) -> str:
    if value in ("none", "deepseek-legacy"):
        raise unsupported(param, f"{value} is not supported; reasoning is in reasoning_content")
    return one_of("auto", "deepseek")(param, value, facts)  # type: ignore[no-any-return]


TEMPLATE_FIELDS: tuple[Field, ...] = (
    Field.of("chat_template_kwargs", _variables),
    Field.of("reasoning_effort", one_of("none", "minimal", "low", "medium", "high", "xhigh", "max")),
    Field.of("documents", _documents),
    Field.of("add_generation_prompt", flag),
)
"""What a conversation is rendered with."""

CHAT_FIELDS: tuple[Field, ...] = (
    *FIELDS,
    *TEMPLATE_FIELDS,
    Field.of("parallel_tool_calls", flag),
    Field.of("reasoning_format", _reasoning_format),
    Field("reasoning_budget", ("reasoning_budget", "reasoning_budget_tokens", "thinking_budget_tokens"), _budget),
    Field.of("parse_tool_calls", flag),
    Field.of("echo", flag),
    Field("want_logprobs", ("logprobs",), flag),
    Field.of("top_logprobs n_probs", integer(0, 100)),
)

_READ = frozenset(("messages", "tools", "tool_choice", "stream_options", "continue_final_message", "modalities"))


@dataclass(frozen=True)
class ChatRequest:
    """A chat completion that was asked for."""

    messages: list[dict[str, Any]]
    options: dict[str, Any]
    """Options of :meth:`AsyncLlama.chat`."""
    n: int
    stream: bool
    include_usage: bool
    echo: str
    """What the reply is shown to begin with."""
    own_limit: bool
    """Whether the time limit is the server's own."""


def read_chat(call: Call) -> ChatRequest:
    """Return what a body asks for; raises :class:`Problem`."""
    body = call.body
    asked = read_fields(call, CHAT_FIELDS, _READ)
    call.service.check_model(asked.take("model"))
    messages = read_messages(body.get("messages", []))
    tools, choice = read_tools(body.get("tools"), body.get("tool_choice"))
    if any(one != "text" for one in items("modalities", body.get("modalities", []), 8)):
        raise unsupported("modalities", "only text can be generated")
    logprobs = _logprobs(asked.take("want_logprobs"), asked.take("top_logprobs"), asked.given)
    if logprobs == 0 and call.service.settings.compat and "top_logprobs" not in asked.given:
        logprobs = 20
    if asked.options.get("max_tokens") == 0:
        raise wrong(asked.given["max_tokens"], "must be at least 1")
    stream, include_usage = read_stream(call, bool(asked.take("stream")))
    n, echo, own_limit = asked.take("n", 1), bool(asked.take("echo")), "max_seconds" not in asked.options
    options = template_options(asked.options)
    options.pop("reasoning_format", None)
    if options.pop("parse_tool_calls", True) is False and tools:
        raise unsupported("parse_tool_calls", "false is not supported with tools")
    if logprobs is not None:
        options["logprobs"] = logprobs
    options = text_options(call, asked)
    if tools:
        options["tools"] = tools
        if choice is not None:
            options["tool_choice"] = choice
    elif choice not in (None, "auto", "none"):
        raise wrong("tool_choice", "asks for a call, but there are no tools")
    messages, prefix = _prefill(call, messages, options)
    if prefix:
        options["prefix"] = prefix
    return ChatRequest(messages, options, n, stream, include_usage, prefix if echo else "", own_limit)


def read_stream(call: Call, stream: bool) -> tuple[bool, bool]:
    """Return whether the answer is a stream, and whether that ends with ``usage``."""
    given = call.body.get("stream_options")
    if given is None:
        return stream, False
    if not stream:
        raise wrong("stream_options", "is for streams: it needs stream=true")
    wanted = typed("stream_options", given, dict).get("include_usage")
    return stream, bool(typed("stream_options.include_usage", False if wanted is None else wanted, bool))


def template_options(options: dict[str, Any]) -> dict[str, Any]:
    """Put the effort of reasoning among the template's variables, in place."""
    effort = options.pop("reasoning_effort", None)
    variables = options.get("chat_template_kwargs", {})
    if effort == "none":
        variables = {"enable_thinking": False, **variables}
    elif effort is not None:
        variables = {"reasoning_effort": effort, **variables}
    if variables:
        options["chat_template_kwargs"] = variables
    return options


def _logprobs(wanted: bool | None, top: int | None, given: dict[str, str]) -> int | None:
    if given.get("top_logprobs") == "n_probs":
        return top or None
    if top is not None and top > 20:
        raise wrong("top_logprobs", f"must be 0 to 20, got {top}")
    if top and not wanted:
        raise wrong("top_logprobs", "needs logprobs=true")
    return (top or 0) if wanted else None


def _prefill(call: Call, messages: list[dict[str, Any]], options: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """Return the messages, and what the reply begins with."""
    add = options.pop("add_generation_prompt", None)
    go_on = call.body.get("continue_final_message")
    if go_on is not None and not isinstance(go_on, bool) and go_on != "content":
        raise unsupported("continue_final_message", "must be true, false or content")
    if add and go_on:
        raise wrong("continue_final_message", "and add_generation_prompt cannot both be true")
    if add is False and not go_on:
        raise unsupported("add_generation_prompt", "false needs continue_final_message=true")
    last = messages[-1]
    if last["role"] != "assistant":
        if go_on:
            raise wrong("continue_final_message", "the last message is not the assistant's")
        return messages, ""
    if not go_on and (add or go_on is False or not call.service.settings.prefill_assistant):
        return messages, ""
    place = f"messages[{len(messages) - 1}]"
    if last.get("tool_calls"):
        raise wrong(f"{place}.tool_calls", "the beginning of a reply cannot have calls")
    if len(messages) == 1:
        raise wrong("messages", "there must be a message before the beginning of the reply")
    return messages[:-1], last["content"]


__all__ = ["CHAT_FIELDS", "TEMPLATE_FIELDS", "ChatRequest", "read_chat", "read_stream", "template_options"]
