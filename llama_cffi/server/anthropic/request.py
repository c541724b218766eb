"""What the body of a message of Anthropic's API asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llama_cffi.server.anthropic.turns import read_conversation
from llama_cffi.server.conversation import EFFORTS, REPLY_FIELDS, Conversation, make_conversation
from llama_cffi.server.fields import Asked, Field, read_fields
from llama_cffi.server.messages import MAX_TOOLS, check_size
from llama_cffi.server.problem import unsupported, wrong
from llama_cffi.server.schemas import checked_schema
from llama_cffi.server.values import Facts, items, one_of, strings, typed, whole

if TYPE_CHECKING:
    from llama_cffi.server.exchange import Call

DEFAULT_MAX_TOKENS = 4096
"""What is generated at most where neither the client nor the server says."""


def _thinking(param: str, value: Any, facts: Facts) -> dict[str, Any]:
    """Return whether there is reasoning, of how many tokens at most, and whether it is shown."""
    kind = typed(param, value, dict).get("type")
    found: dict[str, Any] = {}
    if value.get("display") is not None:
        display = one_of("summarized", "omitted")(f"{param}.display", value["display"], facts)
        found["shown"] = display == "summarized"
    if kind == "disabled":
        return {**found, "enable_thinking": False}
    if kind == "enabled":
        found["enable_thinking"] = True
        if value.get("budget_tokens") is not None:
            found["budget"] = whole(f"{param}.budget_tokens", value["budget_tokens"], 0)
        return found
    if kind != "adaptive":
        raise wrong(f"{param}.type", f"must be enabled, disabled or adaptive, got {kind!r:.60}")
    return found


def _output(param: str, value: Any, facts: Facts) -> dict[str, Any]:
    """Return what the text must look like, and how much is thought before it."""
    found: dict[str, Any] = {}
    effort, form = typed(param, value, dict).get("effort"), value.get("format")
    if effort is not None:
        found["reasoning_effort"] = one_of(*EFFORTS)(f"{param}.effort", effort, facts)
    if form is not None:
        kind = typed(f"{param}.format", form, dict).get("type")
        if kind != "json_schema":
            raise wrong(f"{param}.format.type", f"must be json_schema, got {kind!r:.60}")
        found["schema"] = checked_schema(f"{param}.format.schema", form.get("schema"), facts)
    return found


MESSAGE_FIELDS: tuple[Field, ...] = (
    *REPLY_FIELDS,
    Field("stop", ("stop_sequences",), strings(64, 512)),
    Field.of("thinking", _thinking),
    Field.of("output_config", _output),
)
_READ = frozenset(("messages", "system", "tools", "tool_choice"))


@dataclass(frozen=True)
class MessageRequest:
    """A message that was asked for."""

    conversation: Conversation
    shows_thinking: bool
    """Whether the text of reasoning is part of the answer."""


def read_message_request(call: Call) -> MessageRequest:
    """Return what a body asks for; raises :class:`Problem`."""
    body = call.body
    asked = read_fields(call, MESSAGE_FIELDS, _READ)
    messages = read_conversation(body.get("system"), body.get("messages", []), media=call.media)
    tools = _tools(call, body.get("tools"))
    choice, parallel = _choice(body.get("tool_choice"))
    if not parallel:
        asked.options["parallel_tool_calls"] = False
    shown = _take_thinking(asked)
    for option, value in asked.take("output_config", {}).items():
        _put(asked, option, value, "output_config")
    found = make_conversation(call, asked, messages, tools, choice)
    if found.n > 1:
        raise unsupported("n", "there is one reply to a message")
    found.options.setdefault("max_tokens", DEFAULT_MAX_TOKENS)
    return MessageRequest(found, shown)


def _take_thinking(asked: Asked) -> bool:
    """Put what was said of reasoning among the options, and return whether it is shown."""
    thinking = asked.take("thinking", {})
    if "budget" in thinking:
        _put(asked, "reasoning_budget", thinking["budget"], "thinking")
    if "enable_thinking" in thinking:
        given = asked.options.get("chat_template_kwargs", {})
        asked.options["chat_template_kwargs"] = {"enable_thinking": thinking["enable_thinking"], **given}
    return bool(thinking.get("shown", True))


def _put(asked: Asked, option: str, value: Any, name: str) -> None:
    if option in asked.options:
        raise wrong(name, f"and {asked.given[option]} cannot both be given")
    asked.options[option], asked.given[option] = value, name


def _tools(call: Call, value: Any) -> list[Any]:
    """Return the tools in the form of chat completions. Those that Anthropic's servers run are left out."""
    found = []
    for i, tool in enumerate(items("tools", [] if value is None else value, MAX_TOOLS)):
        place = f"tools[{i}]"
        kind = typed(place, tool, dict).get("type")
        if kind not in (None, "custom"):
            if call.service.settings.strict_fields:
                raise unsupported(f"{place}.type", f"must be custom, got {kind!r:.60}")
            call.ignore(f"tools.{typed(f'{place}.type', kind, str)}")
            continue
        function = {"name": typed(f"{place}.name", tool.get("name"), str)}
        if tool.get("description") is not None:
            function["description"] = typed(f"{place}.description", tool["description"], str)
        if tool.get("input_schema") is not None:
            function["parameters"] = typed(f"{place}.input_schema", tool["input_schema"], dict)
        found.append({"type": "function", "function": function})
    check_size(found)
    return found


def _choice(value: Any) -> tuple[Any, bool]:
    """Return which tools must be called, and whether several may be."""
    if value is None:
        return None, True
    kind = typed("tool_choice", value, dict).get("type")
    alone = value.get("disable_parallel_tool_use")
    parallel = alone is None or not typed("tool_choice.disable_parallel_tool_use", alone, bool)
    if kind == "tool":
        name = typed("tool_choice.name", value.get("name"), str)
        return {"type": "function", "function": {"name": name}}, parallel
    words = {"auto": "auto", "any": "required", "none": "none"}
    if not isinstance(kind, str) or kind not in words:
        raise wrong("tool_choice.type", f"must be auto, any, tool or none, got {kind!r:.60}")
    return words[kind], parallel


__all__ = ["DEFAULT_MAX_TOKENS", "MESSAGE_FIELDS", "MessageRequest", "read_message_request"]
