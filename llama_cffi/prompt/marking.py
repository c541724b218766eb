"""Marks in the inputs of a template, so that no control token is read there, without an effect on the template.

A mark is one character that occurs nowhere else in the conversation or the template. Values and keys are marked, except
those that a template compares: roles, types, ids, the keys of a message and the keywords of a JSON Schema.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

Change = Callable[[str], str]

NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
"""Roles, names and ids: too few characters for the text of most control tokens."""

# What a template compares or counts the characters of, and what names something.
_STRUCTURE = frozenset({"role", "type", "id", "name", "tool_call_id"})
_MESSAGE_KEYS = frozenset(
    {"role", "content", "name", "tool_calls", "tool_call_id", "reasoning", "reasoning_content", "thinking", "type"}
    | {"text", "id", "function", "arguments"}
)
_TOOL_KEYS = frozenset({"type", "function", "name", "description", "parameters"})
_NAMED_SCHEMAS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_VALUES = frozenset({"enum", "const", "default", "example", "examples", "required", "dependentRequired"})
_KEYWORD = re.compile(r"[$A-Za-z_-][A-Za-z0-9_-]{0,63}")


class Marker:
    """Changes every text of a conversation that comes from outside.

    ``known`` are the keys that the template mentions: these it may compare, all others it can only write. A key that
    ``has_control`` says to hold the text of a control token is never taken for a known one.
    """

    def __init__(self, known: frozenset[str], has_control: Callable[[str], bool]) -> None:
        self._known = known
        self._has_control = has_control

    def mark(self, given: Mapping[str, Any], change: Change, change_tool: Change) -> dict[str, Any]:
        """Return a copy of messages, tools and documents, changed with ``change``; tools with ``change_tool``."""
        marked: dict[str, Any] = dict(given)
        marked["messages"] = [self._message(message, change) for message in given["messages"]]
        if given.get("tools") is not None:
            marked["tools"] = [self._tool(tool, change_tool) for tool in given["tools"]]
        if given.get("documents") is not None:
            marked["documents"] = [self._loose(document, change, frozenset()) for document in given["documents"]]
        return marked

    def _message(self, message: Mapping[str, Any], change: Change) -> dict[str, Any]:
        marked = self._loose(message, change, _MESSAGE_KEYS)
        calls = message.get("tool_calls")
        if isinstance(calls, list):
            marked["tool_calls"] = [self._call(call, change) for call in calls]
        return marked  # type: ignore[no-any-return]

    def _call(self, call: Mapping[str, Any], change: Change) -> dict[str, Any]:
        marked = self._loose(call, change, _MESSAGE_KEYS)
        marked["function"]["arguments"] = _all(call["function"]["arguments"], change)
        return marked  # type: ignore[no-any-return]

    def _tool(self, tool: Mapping[str, Any], change: Change) -> dict[str, Any]:
        marked: dict[str, Any] = {}
        for key, value in tool.items():
            if key == "function" and isinstance(value, Mapping):
                marked[key] = self._tool(value, change)
            elif key == "parameters":
                marked[key] = self._schema(value, change)
            else:
                marked[self._key(key, change, _TOOL_KEYS)] = self._value(key, value, change, _TOOL_KEYS)
        return marked

    def _schema(self, schema: Any, change: Change) -> Any:
        if isinstance(schema, Mapping):
            marked: dict[str, Any] = {}
            for key, value in schema.items():
                if key in _NAMED_SCHEMAS and isinstance(value, Mapping):
                    marked[key] = {change(name): self._schema(one, change) for name, one in value.items()}
                elif key in _VALUES:
                    marked[key] = _all(value, change)
                elif key == "type" and _is_type(value):
                    marked[key] = value
                else:
                    name = key if _KEYWORD.fullmatch(key) and not self._has_control(key) else change(key)
                    marked[name] = self._schema(value, change)
            return marked
        if isinstance(schema, (list, tuple)):
            return [self._schema(one, change) for one in schema]
        return change(schema) if isinstance(schema, str) else schema

    def _loose(self, value: Any, change: Change, keys: frozenset[str]) -> Any:
        """A copy in which the keys stay that the template may look for."""
        if isinstance(value, str):
            return change(value)
        if isinstance(value, Mapping):
            return {self._key(key, change, keys): self._value(key, one, change, keys) for key, one in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._loose(one, change, keys) for one in value]
        return value

    def _key(self, key: str, change: Change, keys: frozenset[str]) -> str:
        return key if key in keys or (key in self._known and not self._has_control(key)) else change(key)

    def _value(self, key: str, value: Any, change: Change, keys: frozenset[str]) -> Any:
        if key in _STRUCTURE and isinstance(value, str) and NAME.fullmatch(value):
            return value
        return self._loose(value, change, keys)


def _all(value: Any, change: Change) -> Any:
    """A copy in which every text is changed, keys too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(key): _all(one, change) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [_all(one, change) for one in value]
    return value


def _is_type(value: Any) -> bool:
    names = value if isinstance(value, (list, tuple)) else [value]
    return all(isinstance(name, str) and NAME.fullmatch(name) for name in names)


# -- ways of marking a text, the strictest first


def break_all(text: str, mark: str) -> str:
    """Mark both ends, and between all characters: then they may also be turned round, or others put for them."""
    return _break(text, mark, mark.join)


class Breaker:
    """Marks texts for one vocabulary; ``controls`` are the texts of its control tokens."""

    def __init__(self, controls: Sequence[str]) -> None:
        self.controls = tuple(controls)
        self._firsts = frozenset(control[0] for control in controls)
        self._pattern = re.compile("|".join(map(re.escape, sorted(controls, key=len, reverse=True))))

    def find(self, text: str) -> bool:
        """Return whether the text holds that of a control token."""
        return bool(self.controls) and self._pattern.search(text) is not None

    def break_firsts(self, text: str, mark: str) -> str:
        """Mark both ends, and what follows every character that begins a control token."""
        return _break(text, mark, lambda core: "".join(one + mark if one in self._firsts else one for one in core))

    def break_controls(self, text: str, mark: str) -> str:
        """Mark the inside of whole control tokens only."""
        return self._pattern.sub(lambda found: found[0][0] + mark + found[0][1:], text)


def _break(text: str, mark: str, inside: Callable[[str], str]) -> str:
    core = text.strip()
    if not core:
        return text
    start = text.index(core)
    # Whitespace stays outside: a template that trims a message trims the same.
    return f"{text[:start]}{mark}{inside(core)}{mark}{text[start + len(core) :]}"


def collect_texts(value: Any, add: Callable[[str], Any], add_key: Callable[[str], Any]) -> None:
    """Call ``add`` with every text in the value, and ``add_key`` with every key."""
    stack = [value]
    while stack:
        one = stack.pop()
        if isinstance(one, str):
            add(one)
        elif isinstance(one, Mapping):
            for key, below in one.items():
                add_key(key)
                stack.append(below)
        elif isinstance(one, (list, tuple)):
            stack.extend(one)


def names_in(value: Mapping[str, Any], place: str) -> Iterator[tuple[str, str]]:
    """Yield the roles, names and ids of a message or a tool that are not marked, each with its place."""
    for key in ("role", "name", "tool_call_id", "id"):
        if isinstance(value.get(key), str) and NAME.fullmatch(value[key]):
            yield f"{place}.{key}", value[key]
    calls = value.get("tool_calls")
    for i, call in enumerate(calls if isinstance(calls, list) else ()):
        yield from names_in(call, f"{place}.tool_calls[{i}]")
    function = value.get("function")
    if isinstance(function, Mapping):
        yield from names_in(function, f"{place}.function")


def unused_characters(text: str, n: int) -> list[str]:
    """Return characters that do not occur in ``text``, are no letters and are written as they are by ``repr``."""
    taken = set(text)
    # Hexagrams and Braille, which nearly no text has; then private ones, which repr escapes.
    codes = chain(range(0x4DC0, 0x4E00), range(0x2800, 0x2900), range(0xF8FF, 0xE000, -1))
    return list(islice((chr(code) for code in codes if chr(code) not in taken), n))


__all__ = ["NAME", "Breaker", "Change", "Marker", "break_all", "collect_texts", "names_in", "unused_characters"]
