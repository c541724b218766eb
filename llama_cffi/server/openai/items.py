"""The items of OpenAI's responses as messages of chat completions, which the package takes."""

from __future__ import annotations

from typing import Any

from llama_cffi.server.messages import MAX_MESSAGES, join_message, read_content, read_message, read_turns
from llama_cffi.server.problem import unsupported, wrong
from llama_cffi.server.request_media import RequestMedia
from llama_cffi.server.values import items, typed, wrong_type

CALL_ID = "call_"
"""What the ids of calls begin with to clients; the rest of it is the id that the model knows."""
_ROLES = ("user", "assistant", "system", "developer")
_KINDS = "message, function_call, function_call_output, reasoning"


def read_items(value: Any) -> list[Any]:
    """Return the items of an input, of which a text is one."""
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not isinstance(value, list):
        raise wrong_type("input", "a text or a list of items", value)
    return read_turns("input", value)


def read_conversation(
    instructions: str | None, given: list[Any], earlier: list[Any], *, media: RequestMedia | None = None
) -> list[dict[str, Any]]:
    """Return items, after those of an ``earlier`` response, as messages; :class:`Problem` names what is wrong.

    System texts at the beginning become one, and so do the items of one turn of the model.
    """
    found: list[dict[str, Any]] = []
    if instructions:
        found.append({"role": "system", "content": instructions})
    if len(given) + len(earlier) > MAX_MESSAGES:
        raise wrong("input", f"has more than {MAX_MESSAGES} items, with those of the responses before it")
    places = [*("previous_response_id" for _ in earlier), *(f"input[{i}]" for i in range(len(given)))]
    for place, item in zip(places, [*earlier, *given], strict=True):
        message = _message(typed(place, item, dict), place, media=media)
        if message is None:
            continue
        if message["role"] == "assistant" and found and found[-1]["role"] == "assistant":
            join_message(found[-1], message)
        elif message["role"] == "system" and [one["role"] for one in found] == ["system"]:
            join_message(found[0], message, "\n\n")
        else:
            found.append(message)
    if not found:
        raise wrong("input", "has nothing to reply to")
    return found


def _message(item: dict[str, Any], place: str, *, media: RequestMedia | None) -> dict[str, Any] | None:
    kind = item.get("type")
    if kind is None and "role" in item:
        kind = "message"
    if kind == "message":
        if item.get("role") not in _ROLES:
            raise wrong(f"{place}.role", f"must be one of {', '.join(_ROLES)}, got {item.get('role')!r:.60}")
        return read_message({"role": item["role"], "content": item.get("content")}, place, media=media)
    if kind == "function_call":
        function = {key: typed(f"{place}.{key}", item.get(key), str) for key in ("name", "arguments")}
        calls = [{"id": _call_id(item, place), "type": "function", "function": function}]
        return {"role": "assistant", "content": "", "tool_calls": calls}
    if kind == "function_call_output":
        content = read_content(item.get("output"), f"{place}.output", media=media)
        return {"role": "tool", "tool_call_id": _call_id(item, place), "content": content}
    if kind == "reasoning":
        text = _texts(item, "content", place) or _texts(item, "summary", place)
        # What was encrypted elsewhere cannot be read.
        return {"role": "assistant", "content": "", "reasoning_content": text} if text else None
    if kind == "item_reference":
        raise unsupported(f"{place}.type", "item_reference is not supported: nothing is kept of a response")
    raise wrong(f"{place}.type", f"must be one of {_KINDS}, got {kind!r:.60}")


def _call_id(item: dict[str, Any], place: str) -> str:
    found: str = typed(f"{place}.call_id", item.get("call_id"), str)
    return found.removeprefix(CALL_ID)


def _texts(item: dict[str, Any], key: str, place: str) -> str:
    parts = [] if item.get(key) is None else items(f"{place}.{key}", item[key], 1024)
    found = []
    for i, part in enumerate(parts):
        where = f"{place}.{key}[{i}]"
        found.append(typed(f"{where}.text", typed(where, part, dict).get("text"), str))
    return "\n".join(found)


__all__ = ["CALL_ID", "read_conversation", "read_items"]
