"""Conversations with tools for chat templates without tool support.

The definitions become instructions in a message, calls become JSON in messages of the assistant, and results become
messages of the user.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from llama_cffi.prompt.messages import Message, arguments_object, join_contents


def add_tool_instructions(
    messages: Sequence[Message], instructions: str, *, role: str = "system"
) -> list[dict[str, Any]]:
    """Return the messages without tool calls and results, with ``instructions`` in front.

    The instructions go to the first message if it is of this ``role``, into one of their own if ``role`` is
    ``"system"``, and otherwise to the first message of that role. Results that follow each other, and what the user
    says after them, become one message: many templates want user and assistant to take turns. ``messages`` are as
    :func:`~llama_cffi.prompt.messages.check_messages` returns them.
    """
    told = _in_words(messages)
    first = next((message for message in told if message["role"] == role), None)
    if role == "system" and (first is None or first is not told[0]):
        return [{"role": "system", "content": instructions}, *told]
    if first is not None:
        first["content"] = join_contents(f"{instructions}\n\n", first["content"])
    return told


def _in_words(messages: Sequence[Message]) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = []
    after_result = False
    for message in messages:
        is_result = message["role"] == "tool"
        said = _result_in_words(message) if is_result else _calls_in_words(message)
        if after_result and said["role"] == "user":
            told[-1]["content"] = join_contents(told[-1]["content"], "\n\n", said["content"])
        else:
            told.append(said)
        after_result = is_result
    return told


def _result_in_words(message: Message) -> dict[str, Any]:
    name = message.get("name")
    function = f"The function {name}" if name else "The function"
    return {"role": "user", "content": join_contents(f"{function} returned: ", message["content"])}


def _calls_in_words(message: Message) -> dict[str, Any]:
    said = dict(message)
    calls = said.pop("tool_calls", None)
    if calls:
        written = "\n".join(_call_text(call["function"]) for call in calls)
        before = join_contents(said["content"])
        said["content"] = join_contents(before, "\n", written) if before else written
    return said


def _call_text(function: Mapping[str, Any]) -> str:
    arguments = arguments_object(function.get("arguments", {}))
    return json.dumps({"name": function["name"], "arguments": arguments}, ensure_ascii=False)


__all__ = ["add_tool_instructions"]
