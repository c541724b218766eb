"""One reply that is generated for a client, as the steps of its blocks."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

from llama_cffi.server.blocks import Blocks, Step
from llama_cffi.server.choices import interleaved

if TYPE_CHECKING:
    from llama_cffi.server.conversation import Conversation
    from llama_cffi.server.exchange import Call


class ReplyStream:
    """A reply as it grows. Leaving an ``async with`` ends the request."""

    def __init__(self, call: Call, asked: Conversation) -> None:
        llm = call.service.llm
        self.blocks = Blocks(llm.llama.model.vocab, logprobs=asked.options.get("logprobs") is not None)
        self._chunks = llm.stream_chat(asked.messages, **asked.options)
        self._own_limit = asked.own_limit

    async def start(self) -> int:
        """Submit the request, and return the number of tokens of its prompt; raises what is wrong with it."""
        return await self._chunks.start()

    async def steps(self) -> AsyncGenerator[list[Step], None]:
        """Yield what each chunk does."""
        async with aclosing(interleaved([self._chunks], self._own_limit)) as chunks:  # type: ignore[type-var]
            async for _, chunk in chunks:
                yield self.blocks.add(chunk)

    async def whole(self) -> Blocks:
        """Read to the end and return the blocks."""
        async with aclosing(self.steps()) as steps:
            async for _ in steps:
                pass
        return self.blocks

    async def __aenter__(self) -> ReplyStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._chunks.aclose()


__all__ = ["ReplyStream"]
