"""Messages of a conversation: checked and converted to one form."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from llama_cffi._util.shown import shown
from llama_cffi.core.media.audio import Audio
from llama_cffi.core.media.image import Image
from llama_cffi.core.media.video import Video
from llama_cffi.errors import MessageError, UnsupportedError
from llama_cffi.prompt.marking import NAME
from llama_cffi.prompt.media_parts import is_medium, medium_of, read_medium

Message = Mapping[str, Any]
"""``role`` and ``content`` as in OpenAI's API: text, a list of parts, or None beside ``tool_calls``. Parts are text,
images and sound: mappings, or ``str``, :class:`Image`,
:class:`Audio` and :class:`Video` values."""

Content = str | Sequence["str | Image | Audio | Video | Mapping[str, Any]"]
"""What a message says: a text, or a list of parts."""


def as_messages(messages: str | Sequence[Message]) -> Sequence[Message]:
    """Return a conversation as a list; a single str is one message of the user."""
    return [{"role": "user", "content": messages}] if isinstance(messages, str) else _check_list(messages)


def check_history(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Return messages as :func:`check_messages` does; the list may be empty."""
    return check_messages(messages) if len(_check_list(messages)) else []


def _check_list(messages: Sequence[Message]) -> Sequence[Message]:
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise MessageError(f"messages must be a list of messages, not {type(messages).__name__}")
    return messages


def check_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Return the messages in one form: what is None is left out, an absent content is "", empty ``tool_calls`` go.

    A content is a str or a list of ``{"type": "text", "text": ...}`` and of media as :func:`read_medium` has them.

    Raises :class:`MessageError` that names the place of what is wrong, :class:`UnsupportedError` for parts of other
    types, and the errors of :func:`read_medium`.
    """
    if not _check_list(messages):
        raise MessageError("messages is empty: there is nothing to reply to")
    return [_check_message(message, f"messages[{i}]") for i, message in enumerate(messages)]


def check_mappings(values: Sequence[Mapping[str, Any]] | None, name: str) -> Sequence[Mapping[str, Any]] | None:
    """Return tools or documents, None where there are none.

    Raises :class:`MessageError` that names the place of what is wrong.
    """
    if values is None:
        return None
    if isinstance(values, (str, Mapping)) or not isinstance(values, Sequence):
        raise MessageError(f"{name} must be a list of mappings, not {type(values).__name__}")
    for i, value in enumerate(values):
        if not isinstance(value, Mapping):
            raise MessageError(f"{name}[{i}] must be a mapping, not {type(value).__name__}")
        check_text(value, f"{name}[{i}]")
    return values or None


def _check_message(message: Message, place: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise MessageError(f"{place} must be a mapping with a role and a content, not {type(message).__name__}")
    role = message.get("role")
    if not isinstance(role, str) or not NAME.fullmatch(role):
        raise MessageError(f"{place} needs a role such as 'user', 'assistant' or 'system', not {shown(role)}")
    # What is None was not said: clients that dump objects write every key.
    checked: dict[str, Any] = {key: value for key, value in message.items() if value is not None}
    calls = checked.get("tool_calls")
    if not calls:
        checked.pop("tool_calls", None)
    else:
        if isinstance(calls, (str, Mapping)) or not isinstance(calls, Sequence):
            raise MessageError(f"{place}.tool_calls must be a list, not {type(calls).__name__}")
        checked["tool_calls"] = [_check_call(call, f"{place}.tool_calls[{i}]") for i, call in enumerate(calls)]
    if "content" in checked:
        checked["content"] = _check_content(checked["content"], f"{place}.content")
    elif calls:
        checked["content"] = ""
    else:
        raise MessageError(f"{place} has neither content nor tool_calls")
    check_text(checked, place)
    return checked


def _check_content(content: Any, place: str) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    if isinstance(content, (bytes, bytearray, Mapping)) or not isinstance(content, Sequence):
        raise MessageError(f"{place} must be a text or a list of parts, not {type(content).__name__}")
    if not content:
        raise MessageError(f"{place} is an empty list; a content without words is an empty text")
    parts: list[dict[str, Any]] = []
    for i, part in enumerate(content):
        if is_medium(part):
            parts.append(read_medium(part, f"{place}[{i}]"))
            continue
        if isinstance(part, str):
            part = {"type": "text", "text": part}
        if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
            raise MessageError(f"{place}[{i}] must be a mapping with a type")
        if part["type"] != "text":
            raise UnsupportedError(f"{place}[{i}] is of type {part['type']!r}, which is neither text, image nor sound")
        if not isinstance(part.get("text"), str):
            raise MessageError(f"{place}[{i}].text must be a str")
        check_text(part["text"], place)
        parts.append({"type": "text", "text": part["text"]})
    return parts


def join_parts(content: str | Sequence[Mapping[str, Any]]) -> str:
    """Return a checked content without media as one text."""
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def join_contents(*contents: str | Sequence[Mapping[str, Any]]) -> str | list[Mapping[str, Any]]:
    """Return checked contents one after another: a text, or parts where there are media."""
    parts: list[Mapping[str, Any]] = []
    for content in contents:
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if parts and medium_of(part) is None and medium_of(parts[-1]) is None:
                parts[-1] = {"type": "text", "text": parts[-1]["text"] + part["text"]}
            else:
                parts.append(part)
    return parts if any(medium_of(part) is not None for part in parts) else join_parts(parts)


def _check_call(call: Any, place: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise MessageError(f"{place} needs a function with a name")
    if not NAME.fullmatch(function["name"]):
        raise MessageError(f"{place}.function.name must consist of letters, digits and _.-, got {function['name']!r}")
    arguments = function.get("arguments")
    arguments = {} if arguments is None else arguments
    try:
        parsed = arguments_object(arguments)
    except (ValueError, RecursionError) as error:
        raise MessageError(f"{place}.function.arguments is not JSON: {error}") from None
    if not isinstance(parsed, Mapping):
        raise MessageError(f"{place}.function.arguments must be an object, not {type(parsed).__name__}")
    given = {key: value for key, value in call.items() if value is not None}
    return {"type": "function", **given, "function": {**function, "arguments": arguments}}


def arguments_object(arguments: Any) -> Any:
    """Return the arguments of a tool call as an object: parsed if they are JSON text, else as they are."""
    return json.loads(arguments or "{}") if isinstance(arguments, str) else arguments


def arguments_text(arguments: Any) -> str:
    """Return the arguments of a tool call as JSON text; as they are if they are text."""
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def check_text(value: Any, place: str) -> None:
    """Check every text in ``value``.

    Raises :class:`MessageError`, which names the place, for a text that is not valid Unicode, for a key that is not a
    str, and for a value that holds itself or is nested too deep to be written as JSON.
    """
    try:
        _check_texts(value, place)
    except RecursionError:
        raise MessageError(f"{place} is nested too deep, or holds itself") from None


def _check_texts(value: Any, place: str) -> None:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise MessageError(
                f"{place} holds a lone surrogate at index {error.start}: it is not valid Unicode"
            ) from None
    elif isinstance(value, Mapping):
        for key, one in value.items():
            if not isinstance(key, str):
                raise MessageError(f"a key of {place} must be a str, not {type(key).__name__}")
            _check_texts(key, f"a key of {place}")
            _check_texts(one, f"{place}.{key}")
    elif isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        for i, one in enumerate(value):
            _check_texts(one, f"{place}[{i}]")


__all__ = [
    "Content",
    "Message",
    "arguments_object",
    "arguments_text",
    "as_messages",
    "check_history",
    "check_mappings",
    "check_messages",
    "check_text",
    "join_contents",
    "join_parts",
]
