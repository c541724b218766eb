"""Conversations about tools for a chat template that knows nothing of tools: everything is said in words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from llama_cffi.prompt.messages import Message, arguments_object


def add_tool_instructions(
    messages: Sequence[Message], instructions: str, *, role: str = "system"
) -> list[dict[str, Any]]:
    """The messages with ``instructions`` in front, calls as the JSON that they were, and results as words of the user.

    The instructions go to the first message if it is of this ``role``, into one of their own if ``role`` is
    ``"system"``, and otherwise to the first message of that role.
    """
    told = [_plain(message) for message in messages]
    first = next((message for message in told if message["role"] == role), None)
    if role == "system" and (first is None or first is not told[0]):
        return [{"role": "system", "content": instructions}, *told]
    if first is not None:
        first["content"] = f"{instructions}\n\n{first['content']}"
    return told


def _plain(message: Message) -> dict[str, Any]:
    if message["role"] == "tool":
        name = message.get("name")
        return {
            "role": "user",
            "content": f"The function {name} returned: {message['content']}"
            if name
            else f"The function returned: {message['content']}",
        }
    plain = dict(message)
    calls = plain.pop("tool_calls", None)
    if calls:
        lines = [
            json.dumps(
                {
                    "name": call["function"]["name"],
                    "arguments": arguments_object(call["function"].get("arguments", {})),
                },
                ensure_ascii=False,
            )
            for call in calls
        ]
        said = [plain["content"]] if plain.get("content") else []
        plain["content"] = "\n".join([*said, *lines])
    return plain


__all__ = ["add_tool_instructions"]
