"""POST /v1/responses."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, NamedTuple

from llama_cffi.reply.reply import Reply
from llama_cffi.server.blocks import Block, Blocks, Step
from llama_cffi.server.conversation import count_prompt
from llama_cffi.server.exchange import Call, make_id
from llama_cffi.server.media import read_with_media
from llama_cffi.server.numbers import finish_reason
from llama_cffi.server.openai.items import CALL_ID
from llama_cffi.server.openai.responses_request import ResponseRequest, earlier_items, read_response_request
from llama_cffi.server.problem import Problem
from llama_cffi.server.reply_stream import ReplyStream
from llama_cffi.server.response import Answer, json_answer, named_event


class _Form(NamedTuple):
    """How items of one kind are called."""

    id: str
    text: str
    """What the names of events about its text begin with."""
    part: str = "response.content_part"
    """The same for events about its part; a call has none."""
    place: str = "content_index"
    """The field with the number of its part."""


_FORMS = {
    "reasoning": _Form("rs", "response.reasoning_text"),
    "summary": _Form("rs", "response.reasoning_summary_text", "response.reasoning_summary_part", "summary_index"),
    "text": _Form("msg", "response.output_text"),
    "call": _Form("fc", "response.function_call_arguments", ""),
}
"""By the kind of a block; the reasoning is its own summary where one is asked for."""


async def responses(call: Call) -> Answer:
    """Answer a conversation of items."""
    request = await read_with_media(call, read_response_request, earlier_items(call))
    response = _Response(call, request)
    if request.conversation.stream:
        return call.events(response.events(), response.failed)
    return json_answer(await response.whole())


async def count_input(call: Call) -> Answer:
    """Return the number of tokens that the model would be given."""
    request = await read_with_media(call, read_response_request, earlier_items(call))
    n_tokens = await count_prompt(call, request.conversation)
    return json_answer({"object": "response.input_tokens", "input_tokens": n_tokens})


class _Response:
    """A response as it grows."""

    def __init__(self, call: Call, request: ResponseRequest) -> None:
        self._reply = ReplyStream(call, request.conversation)
        self._store, self._items = call.service.responses, request.items
        self._head = {
            "id": make_id("resp", "_"),
            "object": "response",
            "created_at": call.created,
            "model": call.model,
            "background": False,
            **request.echoed,
        }
        self._summarized = request.echoed["reasoning"]["summary"] is not None
        self._ids: list[str] = []
        self._number = 0

    async def whole(self) -> dict[str, Any]:
        """Return the response when it is complete."""
        async with self._reply:
            blocks = await self._reply.whole()
            self._without_text(blocks)
        return self._finished(blocks.done)

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Yield the events of a stream."""
        async with self._reply as reply:
            await reply.start()
            begun = self._object("in_progress")
            yield self._event("response.created", response=begun) + self._event("response.in_progress", response=begun)
            async with aclosing(reply.steps()) as each:
                async for steps in each:
                    if steps:
                        yield b"".join(map(self._of_step, steps))
        rest = self._without_text(reply.blocks)
        finished = self._finished(reply.blocks.done)
        yield b"".join(map(self._of_step, rest)) + self._event(f"response.{finished['status']}", response=finished)

    def failed(self, problem: Problem) -> bytes:
        """Return the event of what went wrong."""
        code = {400: "invalid_prompt", 429: "rate_limit_exceeded"}.get(problem.status, "server_error")
        error = {"code": code, "message": problem.message}
        return self._event("response.failed", response={**self._object("failed"), "error": error})

    def _without_text(self, blocks: Blocks) -> list[Step]:
        """Return the steps of the text that a response without anything has: clients take the first item."""
        if blocks.blocks:
            return []
        block = Block("text", 0)
        blocks.blocks.append(block)
        return [Step("begin", block), Step("end", block)]

    def _object(self, status: str) -> dict[str, Any]:
        """Return the response as far as it came."""
        output = [self._item(block, self._status(block)) for block in self._reply.blocks.blocks]
        return {**self._head, "status": status, "error": None, "incomplete_details": None, "output": output}

    def _status(self, block: Block) -> str:
        """Return the status of a block that has ended, with the reply if it is the last one."""
        blocks, reply = self._reply.blocks.blocks, self._reply.blocks.reply
        if block is not blocks[-1]:
            return "completed"
        if reply is None:
            return "incomplete"
        if block.call is not None:
            return "completed" if block.call.index < len(reply.tool_calls) else "incomplete"
        return "incomplete" if finish_reason(reply) == "length" else "completed"

    def _finished(self, reply: Reply) -> dict[str, Any]:
        """Return the complete response, which is kept if that was asked for."""
        if finish_reason(reply) == "length":
            found = {**self._object("incomplete"), "incomplete_details": {"reason": "max_output_tokens"}}
        else:
            found = self._object("completed")
        counts = reply.usage
        found["usage"] = {
            "input_tokens": counts.prompt_tokens,
            "input_tokens_details": {"cached_tokens": counts.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": counts.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": counts.reasoning_tokens},
            "total_tokens": counts.prompt_tokens + counts.completion_tokens,
        }
        if self._items is not None:
            self._store.put(found, self._items)
        return found

    def _item(self, block: Block, status: str) -> dict[str, Any]:
        """Return a block as an item of the output."""
        head = {"id": self._id(block), "status": status}
        if block.call is not None:
            call = {"call_id": f"{CALL_ID}{block.call.id}", "name": block.call.name, "arguments": block.text}
            return {"type": "function_call", **head, **call}
        parts = [] if status == "in_progress" else [self._part(block)]
        if block.kind == "text":
            return {"type": "message", **head, "role": "assistant", "content": parts}
        if self._summarized:
            return {"type": "reasoning", **head, "summary": parts}
        return {"type": "reasoning", **head, "summary": [], "content": parts}

    def _part(self, block: Block) -> dict[str, Any]:
        """Return the part of an item."""
        if block.kind == "reasoning":
            return {"type": "summary_text" if self._summarized else "reasoning_text", "text": block.text}
        return {"type": "output_text", "text": block.text, "annotations": [], "logprobs": block.logprobs}

    def _form(self, block: Block) -> _Form:
        return _FORMS["summary" if block.kind == "reasoning" and self._summarized else block.kind]

    def _id(self, block: Block) -> str:
        while len(self._ids) <= block.index:
            self._ids.append(make_id(self._form(block).id, "_"))
        return self._ids[block.index]

    def _of_step(self, step: Step) -> bytes:
        """Return the events of a step."""
        block, event, form = step.block, self._event, self._form(step.block)
        place: dict[str, Any] = {"item_id": self._id(block), "output_index": block.index}
        if block.call is None:
            place[form.place] = 0
        if step.what == "more":
            more = {"logprobs": step.logprobs or []} if block.kind == "text" else {}
            return event(f"{form.text}.delta", **place, delta=step.text, **more)
        if step.what == "begin":
            empty = Block(block.kind, block.index, block.call)
            item = self._item(empty, "in_progress")
            found = event("response.output_item.added", output_index=block.index, item=item)
            if block.call is None:
                found += event(f"{form.part}.added", **place, part=self._part(empty))
            return found
        if block.call is not None:
            found = event(f"{form.text}.done", **place, name=block.call.name, arguments=block.text)
        else:
            more = {"logprobs": block.logprobs} if block.kind == "text" else {}
            found = event(f"{form.text}.done", **place, text=block.text, **more)
            found += event(f"{form.part}.done", **place, part=self._part(block))
        item = self._item(block, self._status(block))
        return found + event("response.output_item.done", output_index=block.index, item=item)

    def _event(self, kind: str, **data: Any) -> bytes:
        number, self._number = self._number, self._number + 1
        return named_event({"type": kind, "sequence_number": number, **data})


__all__ = ["count_input", "responses"]
