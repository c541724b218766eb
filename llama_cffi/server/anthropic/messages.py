"""POST /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pydantic_core

from llama_cffi.reply.completion import FinishReason
from llama_cffi.reply.reply import Reply
from llama_cffi.server.anthropic.request import read_message_request
from llama_cffi.server.anthropic.turns import CALL_ID
from llama_cffi.server.blocks import Block, Step
from llama_cffi.server.conversation import count_prompt
from llama_cffi.server.exchange import Call, make_id
from llama_cffi.server.media import read_with_media
from llama_cffi.server.numbers import finish_reason
from llama_cffi.server.reply_stream import ReplyStream
from llama_cffi.server.response import Answer, json_answer, named_event


async def messages(call: Call) -> Answer:
    """Answer a conversation."""
    asked = await read_with_media(call, read_message_request)
    reply = ReplyStream(call, asked.conversation)
    head = {"id": make_id("msg", "_"), "type": "message", "role": "assistant", "model": call.model}
    if asked.conversation.stream:
        return call.events(_events(reply, head, asked.shows_thinking))
    async with reply:
        blocks = await reply.whole()
    done = blocks.done
    content = [_content(block, asked.shows_thinking) for block in blocks.blocks]
    return json_answer({**head, "content": content, **_end(done), "usage": _usage(done)})


async def count_tokens(call: Call) -> Answer:
    """Return the number of tokens that the model would be given."""
    asked = await read_with_media(call, read_message_request)
    return json_answer({"input_tokens": await count_prompt(call, asked.conversation)})


async def _events(reply: ReplyStream, head: dict[str, Any], shows_thinking: bool) -> AsyncGenerator[bytes, None]:
    async with reply:
        # What is in memory of the prompt is known later; the last event but one has it.
        usage = {"input_tokens": await reply.start(), **_NOTHING_CACHED, "output_tokens": 0}
        empty: dict[str, Any] = {"content": [], "stop_reason": None, "stop_sequence": None}
        yield named_event({"type": "message_start", "message": {**head, **empty, "usage": usage}})
        async with aclosing(reply.steps()) as each:
            async for steps in each:
                frames = b"".join(named_event(event) for step in steps for event in _of_step(step, shows_thinking))
                if frames:
                    yield frames
    done = reply.blocks.done
    yield named_event({"type": "message_delta", "delta": _end(done), "usage": _usage(done)})
    yield named_event({"type": "message_stop"})


_NOTHING_CACHED = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
_REASONS = {"stop": "end_turn", "tool_calls": "tool_use", "length": "max_tokens"}
"""Anthropic's words for OpenAI's."""
_DELTAS = {
    "reasoning": ("thinking_delta", "thinking"),
    "text": ("text_delta", "text"),
    "call": ("input_json_delta", "partial_json"),
}


def _of_step(step: Step, shows_thinking: bool) -> list[dict[str, Any]]:
    """Return the events of a step."""
    block = step.block
    if step.what == "begin":
        empty = Block(block.kind, block.index, block.call)
        return [{"type": "content_block_start", "index": block.index, "content_block": _content(empty, shows_thinking)}]
    if step.what == "more":
        if block.kind == "reasoning" and not shows_thinking:
            return []
        kind, key = _DELTAS[block.kind]
        return [{"type": "content_block_delta", "index": block.index, "delta": {"type": kind, key: step.text}}]
    found: list[dict[str, Any]] = [{"type": "content_block_stop", "index": block.index}]
    if block.kind == "reasoning":
        # Nothing is signed here, but clients wait for it.
        delta = {"type": "signature_delta", "signature": ""}
        found.insert(0, {"type": "content_block_delta", "index": block.index, "delta": delta})
    return found


def _content(block: Block, shows_thinking: bool) -> dict[str, Any]:
    """Return a block of an answer."""
    if block.kind == "reasoning":
        return {"type": "thinking", "thinking": block.text if shows_thinking else "", "signature": ""}
    if block.call is None:
        return {"type": "text", "text": block.text}
    name = {"id": f"{CALL_ID}{block.call.id}", "name": block.call.name}
    return {"type": "tool_use", **name, "input": _arguments(block.text)}


def _arguments(text: str) -> dict[str, Any]:
    """Return the arguments of a call, as far as they came if it was cut."""
    try:
        found = pydantic_core.from_json(text, allow_partial="trailing-strings")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _end(reply: Reply) -> dict[str, Any]:
    """Return why a reply ended."""
    if reply.finish_reason is FinishReason.STOP and isinstance(reply.stop_sequence, str):
        return {"stop_reason": "stop_sequence", "stop_sequence": reply.stop_sequence}
    reason = _REASONS[finish_reason(reply)]
    if reason == "max_tokens" and reply.context_full:
        reason = "model_context_window_exceeded"
    return {"stop_reason": reason, "stop_sequence": None}


def _usage(reply: Reply) -> dict[str, Any]:
    counts = reply.usage
    return {
        **_NOTHING_CACHED,
        "input_tokens": counts.prompt_tokens - counts.cached_tokens,
        "cache_read_input_tokens": counts.cached_tokens,
        "output_tokens": counts.completion_tokens,
        "output_tokens_details": {"thinking_tokens": counts.reasoning_tokens},
    }


__all__ = ["count_tokens", "messages"]
