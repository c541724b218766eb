"""A reply to a conversation: reasoning, text and tool calls, complete and as they grow."""

from __future__ import annotations

import json
import secrets
import string
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llama_cffi.reply.completion import Chunk, Completion, P
from llama_cffi.reply.events import CallArguments, CallBegin, CallEnd, Event, Reasoning, Text


@dataclass(frozen=True)
class ToolCall:
    """A call that a reply asks for."""

    id: str
    """The id that the result of the tool refers to: that of the model, or a generated one."""
    name: str
    arguments: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return the call in the form of messages."""
        return {
            "type": "function",
            "id": self.id,
            "function": {"name": self.name, "arguments": json.dumps(self.arguments, ensure_ascii=False)},
        }


@dataclass(frozen=True)
class ToolCallDelta:
    """More of a call: its name when it begins, then the JSON text of its arguments piece by piece."""

    index: int
    """Calls of a reply are numbered from 0."""
    id: str
    name: str
    arguments: str = ""


@dataclass(frozen=True)
class Reply(Completion[P]):
    """A finished reply; ``text`` is the answer alone."""

    reasoning: str = ""
    """The reasoning of the model before the answer."""
    tool_calls: tuple[ToolCall, ...] = ()
    raw: str = ""
    """The whole generated text, with its tags."""

    @property
    def message(self) -> dict[str, Any]:
        """The reply as a message, to continue the conversation with."""
        message: dict[str, Any] = {"role": "assistant", "content": self.text}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.tool_calls:
            message["tool_calls"] = [call.as_dict() for call in self.tool_calls]
        return message


@dataclass(frozen=True, slots=True)
class _Known:
    """What stands for the parser in a chunk that was copied or pickled: what its text said."""

    value: Any

    def __call__(self) -> Any:
        return self.value


@dataclass(slots=True)
class ReplyChunk(Chunk[P]):
    """A piece of a reply; ``text`` is of the answer alone."""

    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    _partial: Callable[[], Any] | None = field(default=None, repr=False, compare=False)

    @property
    def partial(self) -> Any:
        """See :attr:`Chunk.partial`; it is parsed when it is accessed."""
        return None if self._partial is None else self._partial()

    def __reduce__(self) -> tuple[Any, ...]:
        # A parser cannot leave the process, and what the text says can.
        said = (self.text, self.tokens, self.logprobs, self.completion, self.reasoning, self.tool_calls)
        return ReplyChunk, (*said, _Known(self.partial))

    @property
    def reply(self) -> Reply[P] | None:
        """The whole reply, on the last chunk only."""
        return self.completion if isinstance(self.completion, Reply) else None


class _Call:
    def __init__(self, id_: str, name: str) -> None:
        self.id, self.name = id_, name
        self.arguments: list[str] = []
        self.complete = False


class ReplyBuilder:
    """Puts the events of one reply together."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, _Call] = {}

    def add(self, events: Iterable[Event]) -> tuple[str, str, tuple[ToolCallDelta, ...]]:
        """Take events and return what they add: text, reasoning, calls."""
        text, reasoning = "", ""
        deltas: list[ToolCallDelta] = []
        for event in events:
            if isinstance(event, Text):
                text += event.text
            elif isinstance(event, Reasoning):
                reasoning += event.text
            elif isinstance(event, CallBegin):
                call = self._calls[event.index] = _Call(event.id or make_call_id(), event.name)
                deltas.append(ToolCallDelta(event.index, call.id, call.name))
            elif isinstance(event, CallArguments):
                call = self._calls[event.index]
                call.arguments.append(event.text)
                deltas.append(ToolCallDelta(event.index, call.id, call.name, event.text))
            elif isinstance(event, CallEnd):
                self._calls[event.index].complete = True
        if text:
            self._text.append(text)
        if reasoning:
            self._reasoning.append(reasoning)
        return text, reasoning, tuple(deltas)

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(self._text)

    @property
    def reasoning(self) -> str:
        """The reasoning so far."""
        return "".join(self._reasoning)

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls that are complete."""
        return tuple(
            ToolCall(call.id, call.name, json.loads("".join(call.arguments)))
            for call in self._calls.values()
            if call.complete
        )

    @property
    def unfinished_call(self) -> str | None:
        """The name of a call that began and did not end."""
        return next((call.name for call in self._calls.values() if not call.complete), None)


_ALPHABET = string.ascii_letters + string.digits


def make_call_id() -> str:
    """Return a new id for a call: nine letters and digits, which is the only form that Mistral's templates let
    through."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(9))


__all__ = ["Reply", "ReplyBuilder", "ReplyChunk", "ToolCall", "ToolCallDelta", "make_call_id"]
