"""The messages of a request as the package takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from llama_cffi.prompt.media_parts import is_medium
from llama_cffi.server.problem import Problem, unsupported, wrong
from llama_cffi.server.request_media import RequestMedia
from llama_cffi.server.values import items, typed, wrong_type

MAX_MESSAGES, MAX_TOOLS, TOOLS_BYTES = 4096, 128, 256 << 10

_ROLES = {"developer": "system", "function": "tool"}
_TEXTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Parts that are text, and where they have it."""
MEDIA = frozenset(
    (
        *("image", "image_url", "input_image", "video_url", "input_video", "input_audio"),
        *("file", "input_file", "document", "search_result"),
    )
)
"""Parts that are not text."""
_KEPT = ("tool_calls", "tool_call_id", "reasoning_content")


def read_messages(value: Any, *, media: RequestMedia | None = None) -> list[dict[str, Any]]:
    """Return the messages; :class:`Problem` names the place of what is wrong. ``media`` are refused by default."""
    return [read_message(one, f"messages[{i}]", media=media) for i, one in enumerate(read_turns("messages", value))]


def read_turns(param: str, value: Any) -> list[Any]:
    """Return the elements of a conversation, of which there must be one."""
    found = items(param, value, MAX_MESSAGES)
    if not found:
        raise wrong(param, "is empty: there is nothing to reply to")
    return found


def read_message(value: Any, place: str, *, media: RequestMedia | None = None) -> dict[str, Any]:
    """Return one message."""
    message = {key: one for key, one in typed(place, value, dict).items() if one is not None}
    role = typed(f"{place}.role", message.get("role"), str)
    role = _ROLES.get(role, role)
    content = read_content(message.get("content", ""), f"{place}.content", media=media)
    found: dict[str, Any] = {"role": role, "content": content}
    found.update((key, message[key]) for key in _KEPT if key in message)
    if "reasoning" in message:
        found.setdefault("reasoning_content", typed(f"{place}.reasoning", message["reasoning"], str))
    if role == "tool" and "name" in message:
        found["name"] = typed(f"{place}.name", message["name"], str)
    return found


def read_content(value: Any, place: str, joint: str = "", *, media: RequestMedia | None = None) -> str | list[Any]:
    """Return a content that is a text, or text parts between which the ``joint`` is put; parts, where it has media."""
    if isinstance(value, str):
        return value
    parts: list[str | list[Any]] = []
    for i, part in enumerate(items(place, value, MAX_MESSAGES)):
        kind = typed(f"{place}[{i}]", part, dict).get("type")
        if not isinstance(kind, str):
            raise wrong_type(f"{place}[{i}].type", "a string", kind)
        if kind in MEDIA:
            parts.append([read_part(part, f"{place}[{i}]", media=media)])
            continue
        if kind not in _TEXTS:
            raise wrong(f"{place}[{i}].type", f"must be text, got {kind!r:.60}")
        key = _TEXTS[kind]
        parts.append(typed(f"{place}[{i}].{key}", part.get(key), str))
    return join_parts(parts, joint)


def join_parts(parts: Sequence[str | Sequence[Any]], joint: str) -> str | list[Any]:
    """Return contents as one, with the ``joint`` between two texts; where there are media, a list of all parts.

    Beside media, a line break is put between two text parts later on, as llama-server does.
    """
    if all(isinstance(part, str) for part in parts):
        return joint.join(parts)  # type: ignore[arg-type]
    found: list[Any] = []
    for part in parts:
        said: Sequence[Any] = [{"type": "text", "text": part}] if isinstance(part, str) else part
        for one in said:
            if found and joint not in ("", "\n") and found[-1]["type"] == one["type"] == "text":
                found[-1] = {"type": "text", "text": f"{found[-1]['text']}{joint}{one['text']}"}
            else:
                found.append(one)
    return found


def read_part(part: dict[str, Any], place: str, *, media: RequestMedia | None) -> dict[str, Any]:
    """Return a part that is an image or a sound; :class:`Problem` where there are ``media`` of no kind, or this one is
    none.
    """
    kind = part["type"]
    if media is None:
        raise not_text(place, kind)
    source = part.get("source")
    if kind == "image" and isinstance(source, dict):
        part = {"type": "image_url", "image_url": _source_url(source, f"{place}.source")}
    if not is_medium(part):
        raise not_text(place, kind, "text, images and sound")
    return media.read(part, place)


def _source_url(source: dict[str, Any], place: str) -> str:
    """What Anthropic's API has of an image, as a URL."""
    if source.get("type") == "url":
        url: str = typed(f"{place}.url", source.get("url"), str)
        return url
    if source.get("type") != "base64":
        raise wrong(f"{place}.type", f"must be base64 or url, got {source.get('type')!r:.60}")
    data = typed(f"{place}.data", source.get("data"), str)
    return f"data:{typed(f'{place}.media_type', source.get('media_type'), str)};base64,{data}"


def not_text(place: str, kind: str, taken: str = "text") -> Problem:
    """Return the problem of a part that is not what the model takes."""
    message = f"{place}: only {taken} can be given to this model, not {kind}"
    return Problem(400, message, code="unsupported_content", param=f"{place}.type")


def join_message(first: dict[str, Any], second: dict[str, Any], joint: str = "") -> None:
    """Add a message to another one of its role, in place; the ``joint`` is put between their texts."""
    first["content"] = join_parts([one for one in (first["content"], second["content"]) if one], joint)
    thoughts = [one["reasoning_content"] for one in (first, second) if "reasoning_content" in one]
    if thoughts:
        first["reasoning_content"] = "\n".join(thoughts)
    if "tool_calls" in second:
        first["tool_calls"] = [*first.get("tool_calls", ()), *second["tool_calls"]]


def read_tools(tools: Any, choice: Any) -> tuple[list[Any], Any]:
    """Return the tools, and which of them must be called, as the package takes them."""
    found = items("tools", [] if tools is None else tools, MAX_TOOLS)
    for i, tool in enumerate(found):
        if typed(f"tools[{i}]", tool, dict).get("type") != "function":
            raise unsupported(f"tools[{i}].type", "must be function")
        typed(f"tools[{i}].function", tool.get("function"), dict)
    check_size(found)
    if choice is None or choice in ("auto", "none", "required"):
        return found, choice
    kind = typed("tool_choice", choice, dict).get("type")
    if kind == "function":
        _name("tool_choice.function", choice.get("function"))
        return found, choice
    if kind == "allowed_tools":
        allowed = typed("tool_choice.allowed_tools", choice.get("allowed_tools", choice), dict)
        mode = allowed.get("mode", "auto")
        if mode not in ("auto", "required"):
            raise wrong("tool_choice.allowed_tools.mode", f"must be auto or required, got {mode!r:.60}")
        place = "tool_choice.allowed_tools.tools"
        names = [_name(f"{place}[{i}]", typed(f"{place}[{i}]", one, dict).get("function", one))
                 for i, one in enumerate(items(place, allowed.get("tools"), MAX_TOOLS))]  # fmt: skip
        return [tool for tool in found if tool["function"].get("name") in names], mode
    raise wrong("tool_choice.type", f"must be function or allowed_tools, got {kind!r:.60}")


def check_size(tools: list[Any]) -> None:
    """Raise :class:`Problem` for tools that are too large together."""
    if tools and len(orjson.dumps(tools)) > TOOLS_BYTES:
        raise wrong("tools", f"have more than {TOOLS_BYTES} bytes")


def _name(place: str, value: Any) -> str:
    name: str = typed(f"{place}.name", typed(place, value, dict).get("name"), str)
    return name


__all__ = [
    "MAX_MESSAGES",
    "MAX_TOOLS",
    "MEDIA",
    "check_size",
    "join_message",
    "join_parts",
    "not_text",
    "read_content",
    "read_message",
    "read_messages",
    "read_part",
    "read_tools",
    "read_turns",
]
