"""Running tools for a model until a reply calls none, with coroutines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from llama_cffi.tool_loop import ToolDialogue, ToolResult, ToolRun

if TYPE_CHECKING:
    from llama_cffi.reply.reply import ReplyChunk, ToolCall
    from llama_cffi.spec import ChatSpec, ToolsSpec


class AsyncToolLoop:
    """Generates a reply, calls its tools at the same time, and repeats that until a reply calls none.

    ``ask`` gives the chunks of the reply to one spec. Iterating gives every chunk of every reply, and every result.
    Raises the errors of :class:`~llama_cffi.tool_loop.ToolDialogue`.
    """

    def __init__(self, ask: Callable[[ChatSpec], AsyncIterator[ReplyChunk]], spec: ToolsSpec) -> None:
        self.dialogue = ToolDialogue(spec)
        self._ask = ask

    async def __aiter__(self) -> AsyncIterator[ReplyChunk | ToolResult]:
        dialogue = self.dialogue
        while dialogue.reply is None:
            reply = None
            async for chunk in self._ask(dialogue.question()):
                reply = chunk.reply or reply
                yield chunk
            if reply is None:
                raise RuntimeError("the reply ended without its last chunk")
            for result in await self._call_all(dialogue.heard(reply)):
                dialogue.told(result)
                yield result

    async def _call_all(self, calls: tuple[ToolCall, ...]) -> list[ToolResult]:
        tasks = [asyncio.ensure_future(self._call(call)) for call in calls]
        try:
            return list(await asyncio.gather(*tasks))
        except BaseException:
            # The first exception ends the others, and so does the end of this task.
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    async def _call(self, call: ToolCall) -> ToolResult:
        try:
            return ToolResult(call, await self.dialogue.tool(call).call_async(call.arguments))
        except Exception as error:
            return self.dialogue.failed(call, error)

    async def run(self) -> ToolRun:
        """Run the loop to its end."""
        async for _ in self:
            pass
        return self.dialogue.finished()


__all__ = ["AsyncToolLoop"]
