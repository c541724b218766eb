"""The conversation of Anthropic's API as that of chat completions, which the package takes."""

from __future__ import annotations

import re
from typing import Any

from llama_cffi.server.messages import (
    MAX_MESSAGES,
    MEDIA,
    join_message,
    join_parts,
    not_text,
    read_content,
    read_part,
    read_turns,
)
from llama_cffi.server.problem import wrong
from llama_cffi.server.request_media import RequestMedia
from llama_cffi.server.values import items, typed

CALL_ID = "toolu_"
"""What the ids of calls begin with to clients; the rest of it is the id that the model knows."""
_STAMP = re.compile(r"\A(x-anthropic-billing-header:[^\n]*?\bcch=)[^;\n]{1,32}(?=;)")
"""A stamp of Claude Code that is another one with each request, and would keep all that follows from being found in
memory."""
_JOINT = "\n"
"""What stands between text blocks, which clients send as paragraphs."""
_ROLES = ("user", "assistant", "system")


def read_system(value: Any) -> str:
    """Return the system text."""
    if isinstance(value, str):
        return _without_stamp(value)
    return _JOINT.join(
        _without_stamp(_text(typed(f"system[{i}]", one, dict), one.get("type"), f"system[{i}]", "text"))
        for i, one in enumerate(items("system", value, MAX_MESSAGES))
    )


def _without_stamp(text: str) -> str:
    return _STAMP.sub(r"\1fffff", text)


def read_conversation(system: Any, messages: Any, *, media: RequestMedia | None = None) -> list[dict[str, Any]]:
    """Return the messages; :class:`Problem` names the place of what is wrong. Those of one role in a row are joined.
    ``media`` are refused by default.
    """
    found: list[dict[str, Any]] = []
    text = "" if system is None else read_system(system)
    if text:
        found.append({"role": "system", "content": text})
    for i, one in enumerate(read_turns("messages", messages)):
        place = f"messages[{i}]"
        role = typed(f"{place}.role", typed(place, one, dict).get("role"), str)
        if role not in _ROLES:
            raise wrong(f"{place}.role", f"must be one of {', '.join(_ROLES)}, got {role!r:.60}")
        content = one.get("content")
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        blocks, where = items(f"{place}.content", blocks, MAX_MESSAGES), f"{place}.content"
        said = _assistant(role, blocks, where) if role == "assistant" else _user(role, blocks, where, media=media)
        for message in said:
            if found and found[-1]["role"] == message["role"] != "tool":
                join_message(found[-1], message, "" if role == "assistant" else _JOINT)
            else:
                found.append(message)
    return found


def _user(role: str, blocks: list[Any], place: str, *, media: RequestMedia | None) -> list[dict[str, Any]]:
    """Return the results of calls first: they follow the message with the calls."""
    results: list[dict[str, Any]] = []
    parts: list[str | list[Any]] = []
    for i, block in enumerate(blocks):
        where = f"{place}[{i}]"
        kind = typed(where, block, dict).get("type")
        if kind == "tool_result" and role == "user":
            results.append(_result(block, where, media=media))
        elif kind == "image" and role == "user":
            parts.append([read_part(block, where, media=media)])
        else:
            parts.append(_text(block, kind, where, "text, image, tool_result" if role == "user" else "text"))
    if parts or not results:
        results.append({"role": role, "content": join_parts(parts, _JOINT)})
    return results


def _result(block: dict[str, Any], place: str, *, media: RequestMedia | None) -> dict[str, Any]:
    content = block.get("content")
    said = "" if content is None else read_content(content, f"{place}.content", _JOINT, media=media)
    failed = block.get("is_error")
    if failed is not None and typed(f"{place}.is_error", failed, bool):
        if isinstance(said, list):
            said = join_parts(["Error: ", said], "")
        elif not said.lower().startswith("error"):
            said = f"Error: {said}" if said else "Error"
    return {"role": "tool", "tool_call_id": _id(f"{place}.tool_use_id", block.get("tool_use_id")), "content": said}


def _assistant(role: str, blocks: list[Any], place: str) -> list[dict[str, Any]]:
    text, reasoning = "", ""
    calls: list[dict[str, Any]] = []
    for i, block in enumerate(blocks):
        where = f"{place}[{i}]"
        kind = typed(where, block, dict).get("type")
        if kind == "thinking":
            reasoning += typed(f"{where}.thinking", block.get("thinking"), str)
        elif kind == "tool_use":
            name = typed(f"{where}.name", block.get("name"), str)
            arguments = typed(f"{where}.input", block.get("input"), dict)
            function = {"name": name, "arguments": arguments}
            calls.append({"id": _id(f"{where}.id", block.get("id")), "type": "function", "function": function})
        elif kind != "redacted_thinking":
            text += _text(block, kind, where, "text, thinking, redacted_thinking, tool_use")
    message: dict[str, Any] = {"role": role, "content": text}
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = calls
    return [message]


def _text(block: dict[str, Any], kind: Any, place: str, allowed: str) -> str:
    if kind == "text":
        text: str = typed(f"{place}.text", block.get("text"), str)
        return text
    if isinstance(kind, str) and kind in MEDIA:
        raise not_text(place, kind)
    raise wrong(f"{place}.type", f"must be one of {allowed}, got {kind!r:.60}")


def _id(place: str, value: Any) -> str:
    found: str = typed(place, value, str)
    return found.removeprefix(CALL_ID)


__all__ = ["CALL_ID", "read_conversation", "read_system"]
