"""Running tools for a model until a reply calls none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic

from llama_cffi._util.shown import shown
from llama_cffi.errors import ToolError, ToolLimitError
from llama_cffi.prompt.messages import Message, as_messages
from llama_cffi.prompt.tools import Tool, check_tools
from llama_cffi.reply.completion import P
from llama_cffi.reply.reply import Reply, ReplyChunk, ToolCall
from llama_cffi.spec import ChatSpec, ToolsSpec


@dataclass(frozen=True)
class ToolResult:
    """What a tool returned to the model."""

    call: ToolCall
    content: str
    """The result as it is sent to the model: a text unchanged, other values as JSON."""
    error: Exception | None = None
    """The exception of the tool, if it was reported to the model."""

    @property
    def message(self) -> dict[str, Any]:
        """The result as a message."""
        return {"role": "tool", "tool_call_id": self.call.id, "name": self.call.name, "content": self.content}


@dataclass(frozen=True)
class ToolRun(Generic[P]):
    """A conversation in which tools were called."""

    reply: Reply[P]
    """The last reply, which calls no tool."""
    results: tuple[ToolResult, ...]
    messages: list[dict[str, Any]]
    """All messages after the given ones: replies with calls, results, the last reply."""

    @property
    def text(self) -> str:
        """The text of the last reply."""
        return self.reply.text

    def __str__(self) -> str:
        return self.text


class ToolDialogue:
    """The conversation while tools are called; the caller generates the replies and calls the tools.

    Ask :meth:`question`, give its reply to :meth:`heard`, and the result of each call in it to :meth:`told`, until a
    reply calls nothing. Raises :class:`ToolError` for tools that cannot be called.
    """

    def __init__(self, spec: ToolsSpec) -> None:
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
        self._spec = spec
        self._choice = options.get("tool_choice")
        self._asked: list[Message] = list(as_messages(spec.messages))
        self._n_rounds = 0
        self.messages: list[dict[str, Any]] = []
        """Everything that was said since the messages given."""
        self.results: list[ToolResult] = []
        self.reply: Reply | None = None
        """The one that calls nothing."""

    def check_not_async(self) -> None:
        """Raise :class:`ToolError` for tools that only a coroutine can call."""
        for name, tool in self._tools.items():
            if tool.is_async:
                raise ToolError(f"tool {name!r} is async def: AsyncLlama calls it, and Llama cannot")

    def question(self) -> ChatSpec:
        """Return what to ask next."""
        return self._spec.chat(list(self._asked), tools=list(self._tools.values()), tool_choice=self._choice)

    def heard(self, reply: Reply) -> tuple[ToolCall, ...]:
        """Take a reply, and return what it calls. Raises :class:`ToolLimitError` after ``max_rounds`` rounds."""
        self._say(reply.message)
        if not reply.tool_calls:
            self.reply = reply
            return ()
        if self._n_rounds == self._max_rounds:
            names = ", ".join(call.name for call in reply.tool_calls)
            raise ToolLimitError(
                f"after {self._n_rounds} rounds of calls the model still calls tools: {names}", messages=self.messages
            )
        self._n_rounds += 1
        # A call that was demanded has been made; demanding it again would never end.
        self._choice = "none" if self._choice == "none" else "auto"
        return reply.tool_calls

    def told(self, result: ToolResult) -> None:
        """Take the result of a call. Those of one reply come in the order of its calls."""
        self.results.append(result)
        self._say(result.message)

    def tool(self, call: ToolCall) -> Tool:
        """Return the tool that is called, or raise :class:`ToolError`."""
        tool = self._tools.get(call.name)
        if tool is None:
            raise ToolError(f"there is no tool {call.name!r}; the tools are {', '.join(self._tools)}")
        return tool

    def failed(self, call: ToolCall, error: Exception) -> ToolResult:
        """Return the text that reports an exception to the model, or raise the exception."""
        if self._on_error == "raise" and not isinstance(error, ToolError):
            raise error
        return ToolResult(call, f"Error: {type(error).__name__}: {error}", error)

    def finished(self) -> ToolRun:
        """Return the whole, once a reply has called nothing."""
        if self.reply is None:
            raise RuntimeError("the loop ended without a reply")
        return ToolRun(self.reply, tuple(self.results), self.messages)

    def _say(self, message: dict[str, Any]) -> None:
        self.messages.append(message)
        self._asked.append(message)


class ToolLoop:
    """Generates a reply, calls its tools, and repeats that until a reply calls none.

    ``ask`` gives the chunks of the reply to one :class:`~llama_cffi.spec.ChatSpec`. Iterating gives every chunk of
    every reply, and every result. Raises the errors of :class:`ToolDialogue`.
    """

    def __init__(self, ask: Callable[[ChatSpec], Iterator[ReplyChunk]], spec: ToolsSpec) -> None:
        self.dialogue = ToolDialogue(spec)
        self.dialogue.check_not_async()
        self._ask = ask
        # The first question is put now, so that what is wrong with it is raised by the call and not by the iteration.
        self._chunks = ask(self.dialogue.question())

    def __iter__(self) -> Iterator[ReplyChunk | ToolResult]:
        dialogue = self.dialogue
        while True:
            reply = None
            for chunk in self._chunks:
                reply = chunk.reply or reply
                yield chunk
            if reply is None:
                raise RuntimeError("the reply ended without its last chunk")
            for call in dialogue.heard(reply):
                result = self._call(call)
                dialogue.told(result)
                yield result
            if dialogue.reply is not None:
                return
            self._chunks = self._ask(dialogue.question())

    def _call(self, call: ToolCall) -> ToolResult:
        try:
            return ToolResult(call, self.dialogue.tool(call).call(call.arguments))
        except Exception as error:
            return self.dialogue.failed(call, error)

    def run(self) -> ToolRun:
        """Run the loop to its end."""
        for _ in self:
            pass
        return self.dialogue.finished()


__all__ = ["ToolDialogue", "ToolLoop", "ToolResult", "ToolRun"]
