"""The form of messages that a chat template needs: detected from its source and from trials, once per template."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from jinja2 import nodes

from llama_cffi.prompt.messages import arguments_object, arguments_text, join_parts

Trial = Callable[[list[dict[str, Any]]], "str | None"]
"""Renders messages; None where the template raises."""

REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
"""Keys under which templates look for the reasoning of a message."""

_NAME = "find_needle"
_NEEDLE = "needle7"
_OTHER_NEEDLE = "needle8"
_FORMS: dict[str, Callable[[Any], Any]] = {
    "object": arguments_object,
    "text": arguments_text,
    "any": lambda arguments: arguments,
}


@dataclass(frozen=True, slots=True)
class Mentions:
    """The ``names`` of variables that a template reads, and the ``keys`` that it may look up or compare."""

    names: frozenset[str]
    keys: frozenset[str]

    @classmethod
    def of(cls, tree: nodes.Template) -> Mentions:
        """Collect them from a syntax tree."""
        names = {node.name for node in tree.find_all(nodes.Name) if node.ctx == "load"}
        keys = {node.attr for node in tree.find_all(nodes.Getattr)}
        keys |= {node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)}
        return cls(frozenset(names), frozenset(keys))


class TemplateTraits:
    """The traits of one template; ``trial`` renders a conversation with it."""

    def __init__(self, mentions: Mentions, trial: Trial) -> None:
        self._mentions = mentions
        self._trial = trial
        self._parts: dict[str, bool] = {}

    def fit(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Return a checked message in the form that the template reads."""
        fitted = dict(message)
        content = fitted["content"]
        if isinstance(content, str):
            if self.wants_typed_content:
                fitted["content"] = [{"type": "text", "text": content}]
        elif not self.wants_typed_content and (len(content) == 1 or not self.takes_parts(fitted["role"])):
            fitted["content"] = join_parts(content)
        if fitted.get("tool_calls"):
            form = _FORMS[self.argument_form]
            fitted["tool_calls"] = [
                {**call, "function": {**call["function"], "arguments": form(call["function"]["arguments"])}}
                for call in fitted["tool_calls"]
            ]
            if fitted["content"] == "" and self.wants_none_beside_calls:
                fitted["content"] = None
        self._give_reasoning(fitted)
        return fitted

    def _give_reasoning(self, message: dict[str, Any]) -> None:
        """Put the reasoning under every key that the template reads."""
        reasoning = next((message[key] for key in REASONING_KEYS if isinstance(message.get(key), str)), "")
        if not reasoning:
            return
        missing = [key for key in REASONING_KEYS if key in self._mentions.keys and key not in message]
        message.update(dict.fromkeys(missing, reasoning))
        content = message["content"]
        if "thinking" in missing and message.get("tool_calls") and content and self._refuses_thinking_with_content:
            # Before a call such a template writes the content as thinking, too.
            message["thinking"] = f"{reasoning}\n\n{content}"
            message["content"] = ""

    @cached_property
    def _refuses_thinking_with_content(self) -> bool:
        asked, calling = _call_with({_NEEDLE: 1})
        form = _FORMS[self.argument_form]
        calling["tool_calls"][0]["function"]["arguments"] = form({_NEEDLE: 1})
        return (
            self._trial([asked, {**calling, "thinking": _NEEDLE}]) is not None
            and self._trial([asked, {**calling, "thinking": _NEEDLE, "content": _NEEDLE}]) is None
        )

    @cached_property
    def wants_none_beside_calls(self) -> bool:
        """Whether the template writes the calls of a message only where its content is None."""
        for arguments in ({"a": 1}, arguments_text({"a": 1})):
            asked, calling = _call_with(arguments)
            if _NAME in (self._trial([asked, calling]) or ""):
                return False
            if _NAME in (self._trial([asked, {**calling, "content": None}]) or ""):
                return True
        return False

    @cached_property
    def wants_typed_content(self) -> bool:
        """Whether the template reads contents only as lists of parts."""
        if "type" not in self._mentions.keys:
            return False
        typed = [{"role": "user", "content": [{"type": "text", "text": _NEEDLE}]}]
        plain = self._trial([{"role": "user", "content": _NEEDLE}]) or ""
        return _NEEDLE not in plain and _NEEDLE in (self._trial(typed) or "")

    def takes_parts(self, role: str) -> bool:
        """Return whether the template writes the texts of a list of parts, in a message of this role."""
        if role not in self._parts:
            self._parts[role] = self._try_parts(role)
        return self._parts[role]

    def _try_parts(self, role: str) -> bool:
        if "type" not in self._mentions.keys and "text" not in self._mentions.keys:
            return False
        parts = [{"type": "text", "text": _NEEDLE}, {"type": "text", "text": _OTHER_NEEDLE}]
        asked, calling = _call_with(_FORMS[self.argument_form]({"a": 1}))
        said = {"role": role, "content": parts}
        before = {
            "system": [],
            "developer": [],
            "user": [],
            "assistant": [asked],
            "tool": [asked, calling],
        }.get(role)
        if before is None:
            return False
        if role == "tool":
            said |= {"tool_call_id": "123456789", "name": _NAME}
        after = [{"role": "user", "content": "Hey"}] if role in ("system", "developer") else []
        written = self._trial([*before, said, *after]) or ""
        # Written as JSON or as Python writes a list is not written as texts.
        return written.count(_NEEDLE) == written.count(_OTHER_NEEDLE) == 1 and not re.search(
            rf"['\"]{_NEEDLE}|['\"]text['\"]\s*:", written
        )

    @cached_property
    def takes_system(self) -> bool:
        """Whether the template takes a system message."""
        asked = {"role": "user", "content": "Hey"}
        return self._trial([asked]) is None or self._trial([{"role": "system", "content": "Hey"}, asked]) is not None

    @cached_property
    def argument_form(self) -> Literal["object", "text", "any"]:
        """What the arguments of a tool call must be for the template to write them as JSON."""
        content = None if self.wants_none_beside_calls else ""
        as_object, as_text = (
            self._trial(_call_with(arguments, content)) or ""
            for arguments in ({_NEEDLE: 1}, arguments_text({_NEEDLE: 1}))
        )
        # A template that makes JSON of a text escapes its quotes; one that prints an object prints Python's repr of it.
        if f'"{_NEEDLE}"' not in as_text:
            return "object"
        if _NEEDLE not in as_object or f"'{_NEEDLE}'" in as_object:
            return "text"
        # One that has a syntax of its own for arguments writes it from objects only.
        return "any" if f'"{_NEEDLE}"' in as_object else "object"


def _call_with(arguments: Any, content: str | None = "") -> list[dict[str, Any]]:
    call = {"type": "function", "id": "123456789", "function": {"name": _NAME, "arguments": arguments}}
    return [
        {"role": "user", "content": "Hey"},
        {"role": "assistant", "content": content, "tool_calls": [call]},
    ]


__all__ = ["REASONING_KEYS", "Mentions", "TemplateTraits", "Trial"]
