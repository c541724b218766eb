"""Calling tools for a model until it answers in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from llama_cffi._util.shown import shown
from llama_cffi.errors import ToolError, ToolLimitError
from llama_cffi.prompt.messages import Message, as_messages
from llama_cffi.prompt.tools import check_tools
from llama_cffi.reply.reply import Reply, ReplyChunk, ToolCall
from llama_cffi.spec import ChatSpec, ToolsSpec


@dataclass(frozen=True)
class ToolResult:
    """What a tool returned to the model."""

    call: ToolCall
    content: str
    """The answer as the model reads it: the text itself, or JSON."""
    error: Exception | None = None
    """What the tool raised, where the model was told of it."""

    @property
    def message(self) -> dict[str, Any]:
        """The answer as a message."""
        return {"role": "tool", "tool_call_id": self.call.id, "name": self.call.name, "content": self.content}


@dataclass(frozen=True)
class ToolRun:
    """A conversation in which tools were called."""

    reply: Reply
    """The last one, which calls nothing."""
    results: tuple[ToolResult, ...]
    messages: list[dict[str, Any]]
    """Everything that was said since the messages given: replies with calls, results, the last reply."""

    @property
    def text(self) -> str:
        """The answer."""
        return self.reply.text

    def __str__(self) -> str:
        return self.text


class ToolLoop:
    """Asks, calls what the reply asks for, and asks again.

    ``ask`` gives the chunks of the reply to one :class:`~llama_cffi.spec.ChatSpec`. Iterating gives every chunk of
    every reply, and every result; ``messages`` grows with each complete reply and result. Raises :class:`ToolError` for
    tools that cannot be called, and :class:`ToolLimitError` when the model still calls tools after ``max_rounds``
    rounds of calls.
    """

    def __init__(self, ask: Callable[[ChatSpec], Iterator[ReplyChunk]], spec: ToolsSpec) -> None:
        options = spec.options
        tools = options.get("tools")
        self._tools = {tool.name: tool for tool in check_tools(() if tools is None else tools)}
        if not self._tools:
            raise ToolError("there are no tools to run")
        for name, tool in self._tools.items():
            if tool.function is None:
                raise ToolError(f"tool {name!r} is only a definition: give a function, or Tool(..., function=...)")
        self._max_rounds = options.get("max_rounds", 10) or 0
        if self._max_rounds < 1:
            raise ValueError(f"max_rounds must be at least 1, got {self._max_rounds}")
        self._on_error = options.get("on_error") or "raise"
        if self._on_error not in ("raise", "report"):
            raise ValueError(f"on_error must be 'raise' or 'report', got {shown(self._on_error)}")
        self._ask = ask
        self._spec = spec
        self._choice = options.get("tool_choice")
        self._asked: list[Message] = list(as_messages(spec.messages))
        # The first question is put now, so that what is wrong with it is raised by the call and not by the iteration.
        self._chunks = self._next_reply()
        self.messages: list[dict[str, Any]] = []
        self.results: list[ToolResult] = []
        self.reply: Reply | None = None

    def _next_reply(self) -> Iterator[ReplyChunk]:
        return self._ask(self._spec.chat(list(self._asked), tools=list(self._tools.values()), tool_choice=self._choice))

    def __iter__(self) -> Iterator[ReplyChunk | ToolResult]:
        n_rounds = 0
        while True:
            reply = None
            for chunk in self._chunks:
                reply = chunk.reply or reply
                yield chunk
            if reply is None:
                raise RuntimeError("the reply ended without its last chunk")
            self._say(reply.message)
            if not reply.tool_calls:
                self.reply = reply
                return
            if n_rounds == self._max_rounds:
                names = ", ".join(call.name for call in reply.tool_calls)
                raise ToolLimitError(
                    f"after {n_rounds} rounds of calls the model still calls tools: {names}", messages=self.messages
                )
            n_rounds += 1
            for call in reply.tool_calls:
                result = self._run(call)
                self.results.append(result)
                self._say(result.message)
                yield result
            # A call that was demanded has been made; demanding it again would never end.
            self._choice = "none" if self._choice == "none" else "auto"
            self._chunks = self._next_reply()

    def _say(self, message: dict[str, Any]) -> None:
        self.messages.append(message)
        self._asked.append(message)

    def _run(self, call: ToolCall) -> ToolResult:
        try:
            tool = self._tools.get(call.name)
            if tool is None:
                raise ToolError(f"there is no tool {call.name!r}; there are {', '.join(self._tools)}")
            return ToolResult(call, tool.call(call.arguments))
        except Exception as error:
            if self._on_error == "raise" and not isinstance(error, ToolError):
                raise
            return ToolResult(call, f"Error: {type(error).__name__}: {error}", error)

    def run(self) -> ToolRun:
        """Go on to the end."""
        for _ in self:
            pass
        if self.reply is None:
            raise RuntimeError("the loop ended without a reply")
        return ToolRun(self.reply, tuple(self.results), self.messages)


__all__ = ["ToolLoop", "ToolResult", "ToolRun"]
