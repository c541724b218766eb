"""What the body of a response of OpenAI's API asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llama_cffi.engine.sampling_params import SamplingParams
from llama_cffi.server.conversation import EFFORTS, REPLY_FIELDS, Conversation, make_conversation
from llama_cffi.server.fields import Asked, Field, read_fields
from llama_cffi.server.messages import MAX_TOOLS, read_tools
from llama_cffi.server.openai.items import read_conversation, read_items
from llama_cffi.server.problem import Problem, unsupported, wrong
from llama_cffi.server.schemas import response_schema
from llama_cffi.server.values import Facts, flag, integer, items, one_of, text, typed

if TYPE_CHECKING:
    from llama_cffi.server.exchange import Call

LOGPROBS = "message.output_text.logprobs"
_SUMMARIES = ("auto", "concise", "detailed")


def _format(param: str, value: Any, facts: Facts) -> Any:
    form = typed(param, value, dict).get("format")
    return None if form is None else response_schema(f"{param}.format", form, facts)


def _reasoning(param: str, value: Any, facts: Facts) -> dict[str, str]:
    found = {}
    for key, words in (("effort", EFFORTS), ("summary", _SUMMARIES)):
        if typed(param, value, dict).get(key) is not None:
            found[key] = one_of(*words)(f"{param}.{key}", value[key], facts)
    return found


def _metadata(param: str, value: Any, facts: Facts) -> dict[str, str]:
    found: dict[str, str] = typed(param, value, dict)
    if len(found) > 16:
        raise wrong(param, f"has {len(found)} keys, more than 16")
    for key, one in found.items():
        text(64 << 2)(f"{param}: a key", key, facts)
        text(512 << 2)(f"{param}.{key}", one, facts)
    return found


def _include(param: str, value: Any, _: Facts) -> list[str]:
    return [typed(f"{param}[{i}]", one, str) for i, one in enumerate(items(param, value, 64))]


def _truncation(param: str, value: Any, facts: Facts) -> None:
    if one_of("auto", "disabled")(param, value, facts) == "auto":
        raise unsupported(param, "auto is not supported: nothing is cut off a conversation")


RESPONSE_FIELDS: tuple[Field, ...] = (
    *REPLY_FIELDS,
    Field("max_tokens", ("max_output_tokens",), integer(1)),
    Field("schema", ("text",), _format),
    Field.of("reasoning", _reasoning),
    Field.of("metadata", _metadata),
    Field.of("include", _include),
    Field.of("top_logprobs", integer(0, 20)),
    Field.of("truncation", _truncation),
    Field.of("instructions", text(16 << 20)),
    Field.of("user", text(512)),
    Field.of("store", flag),
    Field.of("previous_response_id", text(256)),
)
_READ = frozenset(("input", "tools", "tool_choice", "stream_options"))
_ELSEWHERE = ("conversation", "prompt", "background")
"""Fields that need what OpenAI's servers keep."""
_TOOL_KEYS = ("name", "description", "parameters", "strict")
_FORMAT_KEYS = ("type", "name", "description", "schema", "strict")


@dataclass(frozen=True)
class ResponseRequest:
    """A response that was asked for."""

    conversation: Conversation
    echoed: dict[str, Any]
    """What the answer repeats of the request."""
    items: list[Any] | None
    """The conversation, where it is kept with the response."""


def read_response_request(call: Call) -> ResponseRequest:
    """Return what a body asks for; raises :class:`Problem`."""
    body = call.body
    for name in _ELSEWHERE:
        if body.get(name) not in (None, False):
            raise unsupported(name, "is not supported; send the whole input")
    asked = read_fields(call, RESPONSE_FIELDS, frozenset((*_READ, *_ELSEWHERE)))
    instructions, previous = asked.take("instructions"), asked.take("previous_response_id")
    given, earlier = read_items(body.get("input")), [] if previous is None else _earlier(call, previous)
    conversation = read_conversation(instructions, given, earlier, media=call.media)
    kept = asked.take("store", True) and call.service.responses.limit > 0
    flat, tools, choice = _tools(call, body.get("tools"), body.get("tool_choice"))
    reasoning, include, top = asked.take("reasoning", {}), asked.take("include", []), asked.take("top_logprobs")
    if "effort" in reasoning:
        if "reasoning_effort" in asked.options:
            raise wrong("reasoning", "and reasoning_effort cannot both be given")
        asked.options["reasoning_effort"] = reasoning["effort"]
    if top or LOGPROBS in include:
        asked.options["logprobs"] = top or 0
    if asked.options.get("max_tokens") == 0:
        raise wrong(asked.given["max_tokens"], "must be at least 1")
    echoed = {
        "instructions": instructions,
        "metadata": asked.take("metadata", {}),
        "max_output_tokens": asked.options.get("max_tokens"),
        "previous_response_id": previous,
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "store": kept,
        "text": {"format": _shown_format(body.get("text"))},
        "tool_choice": "auto" if body.get("tool_choice") is None else body["tool_choice"],
        "tools": flat,
        "top_logprobs": top or 0,
        "truncation": "disabled",
        **_numbers(asked, call.service.llm.llama.default_sampling),
    }
    user = asked.take("user")
    if user is not None:
        echoed["user"] = user
    found = make_conversation(call, asked, conversation, tools, choice, last="input")
    if found.n > 1:
        raise unsupported("n", "there is one response to a request")
    return ResponseRequest(found, echoed, [*earlier, *given] if kept else None)


def earlier_items(call: Call) -> list[Any]:
    """Return the items of the conversation that a body goes on with; none where that cannot be."""
    name = call.body.get("previous_response_id")
    try:
        return _earlier(call, name) if isinstance(name, str) else []
    except Problem:
        return []  # reading the body says so


def _earlier(call: Call, name: str) -> list[Any]:
    """Return the items of the conversation up to and with an earlier response."""
    if call.service.responses.limit < 1:
        message = "is not supported without --response-store: send the whole input"
        raise unsupported("previous_response_id", message)
    try:
        return call.service.responses.get(name).items
    except Problem as problem:
        raise wrong("previous_response_id", problem.message, code="previous_response_not_found") from None


def _numbers(asked: Asked, defaults: SamplingParams) -> dict[str, Any]:
    """Return the options that were taken, the defaults included."""
    return {
        "temperature": asked.options.get("temperature", defaults.temperature),
        "top_p": asked.options.get("top_p", defaults.top_p),
        "parallel_tool_calls": asked.options.get("parallel_tool_calls", True),
    }


def _shown_format(given: Any) -> dict[str, Any]:
    form = None if given is None else given.get("format")
    if form is None:
        return {"type": "text"}
    found = {key: form[key] for key in _FORMAT_KEYS if form.get(key) is not None}
    return {"name": "schema", **found} if found["type"] == "json_schema" else found


def _tools(call: Call, tools: Any, choice: Any) -> tuple[list[Any], list[Any], Any]:
    """Return the functions as they are here and as chat completions have them, and which of them must be called.

    Tools that OpenAI's servers run are left out.
    """
    flat, nested = [], []
    for i, tool in enumerate(items("tools", [] if tools is None else tools, MAX_TOOLS)):
        kind = typed(f"tools[{i}].type", typed(f"tools[{i}]", tool, dict).get("type"), str)
        if kind != "function":
            if call.service.settings.strict_fields:
                raise unsupported(f"tools[{i}].type", f"must be function, got {kind!r:.60}")
            call.ignore(f"tools.{kind}")
            continue
        function = {key: tool[key] for key in _TOOL_KEYS if tool.get(key) is not None}
        flat.append({"type": "function", "strict": None, "parameters": None, **function})
        nested.append({"type": "function", "function": function})
    if isinstance(choice, dict) and choice.get("type") == "function":
        typed("tool_choice.name", choice.get("name"), str)
        choice = {"type": "function", "function": choice}
    found, choice = read_tools(nested, choice)
    return flat, found, choice


__all__ = ["RESPONSE_FIELDS", "ResponseRequest", "earlier_items", "read_response_request"]
