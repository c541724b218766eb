"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from llama_cffi.reply.reply import ReplyChunk
from llama_cffi.server.blocks import Blocks, Step
from llama_cffi.server.choices import interleaved, with_seed
from llama_cffi.server.conversation import count_prompt
from llama_cffi.server.exchange import Call, make_id
from llama_cffi.server.media import read_with_media
from llama_cffi.server.numbers import finish_reason, stop_detail, times_so_far, timings, usage
from llama_cffi.server.openai.chat_request import ChatRequest, read_chat
from llama_cffi.server.progress import PromptProgress
from llama_cffi.server.response import DONE, Answer, event, json_answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from llama_cffi.aio.stream import AsyncStream
    from llama_cffi.core.vocab import Vocab
    from llama_cffi.reply.reply import Reply


class Choice:
    """One reply as it grows: what each chunk of it adds, in OpenAI's form. Streams and whole answers are made of it."""

    def __init__(self, index: int, vocab: Vocab, *, logprobs: bool, echo: str) -> None:
        self.index = index
        self._blocks = Blocks(vocab, logprobs=logprobs)
        self._echo = echo

    def deltas(self, chunk: ReplyChunk) -> list[tuple[dict[str, Any], list[dict[str, Any]] | None]]:
        """Return what a chunk adds: deltas of one kind each, and the log-probabilities of what is content."""
        steps = self._blocks.add(chunk)
        return [(delta, step.logprobs) for step in steps if (delta := self._delta(step)) is not None]

    def _delta(self, step: Step) -> dict[str, Any] | None:
        call = step.block.call
        if step.what == "more" and step.block.kind == "reasoning":
            return {"reasoning_content": step.text}
        if step.what == "more" and step.block.kind == "text":
            echo, self._echo = self._echo, ""
            return {"content": echo + step.text}
        if call is None or step.what == "end":
            return None
        if step.what == "begin":
            function = {"name": call.name, "arguments": ""}
            return {"tool_calls": [{"index": call.index, "id": call.id, "type": "function", "function": function}]}
        return {"tool_calls": [{"index": call.index, "function": {"arguments": step.text}}]}

    @property
    def done(self) -> Reply:
        """The reply, when all chunks were read."""
        return self._blocks.done


def _added(message: dict[str, Any], delta: dict[str, Any]) -> None:
    """Add a delta to a message."""
    for key in ("content", "reasoning_content"):
        if key in delta:
            message[key] = (message.get(key) or "") + delta[key]
    for call in delta.get("tool_calls", ()):
        calls = message.setdefault("tool_calls", [])
        if "id" in call:
            calls.append({key: call[key] for key in ("id", "type", "function")})
        else:
            calls[call["index"]]["function"]["arguments"] += call["function"]["arguments"]


async def chat_completions(call: Call) -> Answer:
    """Answer a conversation."""
    llm = call.service.llm
    request = await read_with_media(call, read_chat)
    asked = request.conversation
    streams = [llm.stream_chat(asked.messages, **with_seed(asked.options, i)) for i in range(asked.n)]
    logprobs = asked.options.get("logprobs") is not None
    vocab = llm.llama.model.vocab
    choices = [Choice(i, vocab, logprobs=logprobs, echo=request.echo) for i in range(asked.n)]
    head = {
        "id": make_id("chatcmpl"),
        "object": "chat.completion.chunk" if asked.stream else "chat.completion",
        "created": call.created,
        "model": call.model,
        "system_fingerprint": call.service.card.fingerprint,
    }
    if asked.stream:
        return call.events(_Stream(request, head, choices, streams).events())
    return json_answer(await _whole(head, choices, interleaved(streams, asked.own_limit)))


async def count_chat(call: Call) -> Answer:
    """Return the number of tokens that the model would be given."""
    n_tokens = await count_prompt(call, (await read_with_media(call, read_chat)).conversation)
    return json_answer({"object": "response.input_tokens", "input_tokens": n_tokens})


async def _whole(
    head: dict[str, Any], choices: list[Choice], chunks: AsyncIterator[tuple[int, ReplyChunk]]
) -> dict[str, Any]:
    messages: list[dict[str, Any]] = [{"role": "assistant", "content": None, "refusal": None} for _ in choices]
    logprobs: list[list[dict[str, Any]]] = [[] for _ in choices]
    async with aclosing(chunks) as each:  # type: ignore[type-var]
        async for i, chunk in each:
            for delta, entries in choices[i].deltas(chunk):
                _added(messages[i], delta)
                logprobs[i] += entries or []
    replies = [choice.done for choice in choices]
    for message in messages:
        if message["content"] is None and "tool_calls" not in message:
            message["content"] = ""
    return {
        **head,
        "choices": [
            {
                "index": i,
                "message": messages[i],
                "finish_reason": finish_reason(reply),
                "logprobs": None if reply.logprobs is None else {"content": logprobs[i], "refusal": None},
                **stop_detail(reply),
            }
            for i, reply in enumerate(replies)
        ],
        "usage": usage([replies]),
        "timings": timings(replies[0]),
    }


class _Stream:
    """The events of a conversation's replies."""

    def __init__(
        self,
        request: ChatRequest,
        head: dict[str, Any],
        choices: list[Choice],
        streams: list[AsyncStream[ReplyChunk]],
    ) -> None:
        self._request, self._head, self._choices, self._streams = request, head, choices, streams
        self._progress = PromptProgress(streams, wanted=request.return_progress)
        self._begun: set[int] = set()

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Yield them as they come."""
        chunks = interleaved(self._streams, self._request.conversation.own_limit)
        async with aclosing(chunks), aclosing(self._progress.with_pauses(chunks)) as each:  # type: ignore[type-var]
            async for item in each:
                if item is None:
                    found = [frame for i, told in self._progress.news() for frame in self._told(i, told)]
                else:
                    found = self._added(*item)
                if found:
                    yield b"".join(found)
        if self._request.include_usage:
            yield event({**self._head, "choices": [], "usage": usage([[choice.done for choice in self._choices]])})
        yield DONE

    def _added(self, i: int, chunk: ReplyChunk) -> list[bytes]:
        """Return what a chunk adds to its reply."""
        told = self._progress.end(i)
        frames = self._begin(i) if told is None else self._told(i, told)
        deltas = self._choices[i].deltas(chunk)
        for delta, entries in deltas:
            more = {} if entries is None else {"logprobs": {"content": entries, "refusal": None}}
            head = self._timed(i) if delta is deltas[-1][0] else self._head
            frames.append(_frame(head, i, delta, **more))
        if chunk.completion is not None:
            reply = self._choices[i].done
            last = {"finish_reason": finish_reason(reply), **stop_detail(reply)}
            frames.append(_frame({**self._head, "timings": timings(reply)}, i, {}, **last))
        return frames

    def _begin(self, i: int) -> list[bytes]:
        """Return what comes before everything else of a reply."""
        if i in self._begun:
            return []
        self._begun.add(i)
        return [_frame(self._head, i, {"role": "assistant", "content": None})]

    def _told(self, i: int, progress: dict[str, Any]) -> list[bytes]:
        """Return how far a prompt is."""
        return [*self._begin(i), _frame({**self._head, "prompt_progress": progress}, i, {})]

    def _timed(self, i: int) -> dict[str, Any]:
        """Return the head of the last event of a chunk."""
        progress = self._streams[i].progress if self._request.timings_per_token else None
        if progress is None:
            return self._head
        return {**self._head, "timings": times_so_far(progress.timings, progress.cached_tokens)}


def _frame(head: dict[str, Any], index: int, delta: dict[str, Any], **more: Any) -> bytes:
    return event({**head, "choices": [{"index": index, "delta": delta, "finish_reason": None, **more}]})


__all__ = ["Choice", "chat_completions", "count_chat"]
