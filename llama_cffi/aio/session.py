"""Conversations with a history, for coroutines."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sized
from typing import TYPE_CHECKING, Any, Protocol

from llama_cffi.aio.tool_loop import AsyncToolLoop
from llama_cffi.chat_session import Conversation
from llama_cffi.reply.completion import P

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from llama_cffi.options import ChatOptions, ToolOptions
    from llama_cffi.prompt.messages import Content
    from llama_cffi.reply.reply import Reply, ReplyChunk
    from llama_cffi.tool_loop import ToolResult, ToolRun


class AsyncChatter(Protocol):
    """What a session talks to: an :class:`~llama_cffi.AsyncLlama`."""

    @property
    def stream_chat(self) -> Callable[..., AsyncIterator[ReplyChunk]]:
        """As :meth:`AsyncLlama.stream_chat`."""

    @property
    def tokenize_chat(self) -> Callable[..., Sized]:
        """As :meth:`Llama.tokenize_chat`."""


class AsyncChatSession(Conversation[AsyncChatter]):
    """A conversation with a model, like :class:`~llama_cffi.ChatSession`. One task at a time may use it."""

    async def chat(
        self, text: Content | None = None, *, role: str = "user", **options: Unpack[ChatOptions[P]]
    ) -> Reply[P]:
        """Add a message and the reply to it, and return the reply; see :meth:`ChatSession.chat`."""
        reply = None
        async for chunk in self.stream_chat(text, role=role, **options):
            reply = chunk.reply or reply
        if reply is None:
            raise RuntimeError("the reply ended without its last chunk")
        return reply

    async def stream_chat(
        self, text: Content | None = None, *, role: str = "user", **options: Unpack[ChatOptions[P]]
    ) -> AsyncIterator[ReplyChunk[P]]:
        """Generate the reply as :meth:`chat` does, as an iterator of chunks; the messages are added with the last
        one."""
        asked = self._asked(text, role)
        async for chunk in self._chatter.stream_chat(asked, **{**self._options, **options}):
            yield self._answered(asked, chunk)

    async def run_tools(self, text: Content, **options: Unpack[ToolOptions[P]]) -> ToolRun[P]:
        """Generate replies and call the tools that they ask for; see :meth:`AsyncLlama.run_tools`."""
        asked = self._asked(text, "user")
        run = await self._loop(asked, options).run()
        self._said(asked, run.messages)
        return run

    async def stream_tools(
        self, text: Content, **options: Unpack[ToolOptions[P]]
    ) -> AsyncIterator[ReplyChunk[P] | ToolResult]:
        """Run tools as :meth:`run_tools` does, as an iterator of chunks and results."""
        asked = self._asked(text, "user")
        loop = self._loop(asked, options)
        async for event in loop:
            yield event
        self._said(asked, loop.dialogue.messages)

    def _loop(self, asked: list[dict[str, Any]], options: ToolOptions) -> AsyncToolLoop:
        spec = self._tools_spec(asked, options)
        return AsyncToolLoop(lambda one: self._chatter.stream_chat(one.messages, **one.options), spec)


__all__ = ["AsyncChatSession", "AsyncChatter"]
