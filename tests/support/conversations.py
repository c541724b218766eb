"""Six conversations that every chat template should know what to do with, or refuse."""

from __future__ import annotations

from typing import Any


def user(content: Any) -> dict[str, Any]:
    """A message of the user."""
    return {"role": "user", "content": content}


CALL = {"id": "call00001", "type": "function", "function": {"name": "weather", "arguments": {"city": "Zürich"}}}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather <now>",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CONVERSATIONS: dict[str, dict[str, Any]] = {
    "system": {"messages": [{"role": "system", "content": "Be brief."}, user("Hi")]},
    "tools": {"messages": [user("Weather?")], "tools": [TOOL]},
    "tool results": {
        "messages": [
            user("Weather?"),
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "call00001", "name": "weather", "content": "sunny"},
        ],
        "tools": [TOOL],
    },
    "turns": {
        "messages": [user("a"), {"role": "assistant", "content": "b"}, user("c"), {"role": "assistant", "content": "d"}]
    },
    "empty": {"messages": [user("")]},
    "unicode": {"messages": [user("Grüße 👩‍👩‍👧 \u200b\u0645\u0631\u062d\u0628\u0627 <b>&amp;</b>")]},
}

__all__ = ["CALL", "CONVERSATIONS", "TOOL", "user"]
