"""A conversation that a body asks for, in whichever dialect: what all of them have in common."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from llama_cffi.server.fields import FIELDS, Asked, Field, text_options
from llama_cffi.server.problem import unsupported, wrong
from llama_cffi.server.values import Facts, flag, items, one_of, typed, whole

if TYPE_CHECKING:
    from llama_cffi.server.exchange import Call

KWARGS_BYTES = 64 << 10
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
"""Words for how much is thought before the answer."""

_LOOKS = ("tools", "documents", "chat_template", "chat_template_kwargs", "prefix")
"""Options that say what a conversation looks like."""
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


def _go_on(param: str, value: Any, _: Facts) -> bool:
    if not isinstance(value, bool) and value != "content":
        raise unsupported(param, "must be true, false or content")
    return bool(value)


TEMPLATE_FIELDS: tuple[Field, ...] = (
    Field.of("chat_template_kwargs", _variables),
    Field.of("reasoning_effort", one_of(*EFFORTS)),
    Field.of("documents", _documents),
    Field.of("add_generation_prompt", flag),
)
"""What a conversation is rendered with."""

REPLY_FIELDS: tuple[Field, ...] = (
    *FIELDS,
    *TEMPLATE_FIELDS,
    Field.of("continue_final_message", _go_on),
    Field.of("parallel_tool_calls", flag),
    Field("reasoning_budget", ("reasoning_budget", "reasoning_budget_tokens", "thinking_budget_tokens"), _budget),
)
"""What all requests for a reply have."""


@dataclass(frozen=True)
class Conversation:
    """A reply that was asked for."""

    messages: list[dict[str, Any]]
    options: dict[str, Any]
    """Options of :meth:`AsyncLlama.chat`."""
    stream: bool
    n: int
    prefix: str
    """What the reply begins with already."""
    own_limit: bool
    """Whether the time limit is the server's own."""


def make_conversation(
    call: Call,
    asked: Asked,
    messages: list[dict[str, Any]],
    tools: list[Any],
    choice: Any,
    *,
    last: str = "messages",
) -> Conversation:
    """Return what a body asks for, which the dialect has read; ``last`` is the place of the last message in it.

    Messages, tools and the choice among these are in the form of OpenAI's chat completions. Raises :class:`Problem`.
    """
    stream, n, own_limit = bool(asked.take("stream")), asked.take("n", 1), "max_seconds" not in asked.options
    add, go_on = asked.options.pop("add_generation_prompt", None), asked.options.pop("continue_final_message", None)
    template_options(asked.options)
    options = text_options(call, asked, n)
    if call.service.settings.chat_template is not None:
        options["chat_template"] = call.service.settings.chat_template
    if tools:
        options["tools"] = tools
        if choice is not None:
            options["tool_choice"] = choice
    elif choice not in (None, "auto", "none"):
        raise wrong("tool_choice", "asks for a call, but there are no tools")
    prefix = ""
    if _is_prefilled(call, messages, add, go_on):
        prefix = _beginning(messages, last)
        messages = messages[:-1]
    if prefix:
        options["prefix"] = prefix
    return Conversation(messages, options, stream, n, prefix, own_limit)


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


async def count_prompt(call: Call, asked: Conversation) -> int:
    """Return the number of tokens that the reply would go on from; raises what is wrong with the conversation."""
    llama = call.service.llm.llama
    options = {name: asked.options[name] for name in _LOOKS if name in asked.options}
    return len(await asyncio.to_thread(lambda: llama.tokenize_chat(asked.messages, **options)))


def _is_prefilled(call: Call, messages: list[dict[str, Any]], add: bool | None, go_on: bool | None) -> bool:
    """Whether the last message is the beginning of the reply."""
    if add and go_on:
        raise wrong("continue_final_message", "and add_generation_prompt cannot both be true")
    if add is False and not go_on:
        raise unsupported("add_generation_prompt", "false needs continue_final_message=true")
    if messages[-1]["role"] != "assistant":
        if go_on:
            raise wrong("continue_final_message", "the last message is not the assistant's")
        return False
    return bool(go_on) or not (add or go_on is False or not call.service.settings.prefill_assistant)


def _beginning(messages: list[dict[str, Any]], place: str) -> str:
    """Return the text of the last message."""
    if messages[-1].get("tool_calls"):
        raise wrong(f"{place}.tool_calls", "the beginning of a reply cannot have calls")
    if len(messages) == 1:
        raise wrong(place.partition("[")[0], "there must be a message before the beginning of the reply")
    text = messages[-1]["content"]
    if not isinstance(text, str):
        raise wrong(f"{place}.content", "the beginning of a reply must be text")
    return text


__all__ = [
    "EFFORTS",
    "REPLY_FIELDS",
    "TEMPLATE_FIELDS",
    "Conversation",
    "count_prompt",
    "make_conversation",
    "template_options",
]
