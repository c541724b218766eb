"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from llama_cffi.reply.reply import Reply, ReplyChunk
from llama_cffi.server.choices import interleaved, with_seed
from llama_cffi.server.exchange import Call, make_id
from llama_cffi.server.logprobs import Aligner, chat_form
from llama_cffi.server.numbers import finish_reason, stop_detail, timings, usage
from llama_cffi.server.openai.chat_request import ChatRequest, read_chat
from llama_cffi.server.response import DONE, Answer, event, json_answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from llama_cffi.core.vocab import Vocab


class Choice:
    """One reply as it grows: what each chunk of it adds, in OpenAI's form. Streams and whole answers are made of it."""

    def __init__(self, index: int, vocab: Vocab, *, logprobs: bool, echo: str) -> None:
        self.index = index
        self.reply: Reply | None = None
        self._vocab = vocab
        self._aligner = Aligner() if logprobs else None
        self._begun: set[int] = set()
        self._echo = echo

    def deltas(self, chunk: ReplyChunk) -> list[tuple[dict[str, Any], list[dict[str, Any]] | None]]:
        """Return what a chunk adds: deltas of one kind each, and the log-probabilities of what is content."""
        self.reply = chunk.reply or self.reply
        found: list[tuple[dict[str, Any], list[dict[str, Any]] | None]] = []
        if chunk.reasoning:
            found.append(({"reasoning_content": chunk.reasoning}, None))
        entries = None
        if self._aligner is not None:
            other = bool(chunk.reasoning or chunk.tool_calls)
            entries = chat_form(self._aligner.add(chunk.logprobs or (), chunk.text, other=other), self._vocab)
        if chunk.text:
            found.append(({"content": self._echo + chunk.text}, entries))
            self._echo = ""
        for call in chunk.tool_calls:
            if call.index not in self._begun:
                self._begun.add(call.index)
                function = {"name": call.name, "arguments": ""}
                delta = {"index": call.index, "id": call.id, "type": "function", "function": function}
                found.append(({"tool_calls": [delta]}, None))
            if call.arguments:
                delta = {"index": call.index, "function": {"arguments": call.arguments}}
                found.append(({"tool_calls": [delta]}, None))
        return found

    @property
    def done(self) -> Reply:
        """The reply, when all chunks were read."""
        if self.reply is None:
            raise RuntimeError("the reply ended without its last chunk")
        return self.reply


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
    request = read_chat(call)
    streams = [llm.stream_chat(request.messages, **with_seed(request.options, i)) for i in range(request.n)]
    logprobs = request.options.get("logprobs") is not None
    vocab = llm.llama.model.vocab
    choices = [Choice(i, vocab, logprobs=logprobs, echo=request.echo) for i in range(request.n)]
    chunks = interleaved(streams, request.own_limit)
    head = {
        "id": make_id("chatcmpl"),
        "object": "chat.completion.chunk" if request.stream else "chat.completion",
        "created": call.created,
        "model": call.service.id,
        "system_fingerprint": call.service.card.fingerprint,
    }
    if request.stream:
        return call.events(_events(request, head, choices, chunks))
    return json_answer(await _whole(head, choices, chunks))


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


async def _events(
    request: ChatRequest,
    head: dict[str, Any],
    choices: list[Choice],
    chunks: AsyncIterator[tuple[int, ReplyChunk]],
) -> AsyncGenerator[bytes, None]:
    begun: set[int] = set()
    async with aclosing(chunks) as each:  # type: ignore[type-var]
        async for i, chunk in each:
            choice = choices[i]
            frames = []
            if i not in begun:
                begun.add(i)
                frames.append(_chunk(head, i, {"role": "assistant", "content": None}))
            for delta, entries in choice.deltas(chunk):
                more = {} if entries is None else {"logprobs": {"content": entries, "refusal": None}}
                frames.append(_chunk(head, i, delta, **more))
            if chunk.completion is not None:
                reply = choice.done
                last = {"finish_reason": finish_reason(reply), **stop_detail(reply)}
                frames.append(_chunk({**head, "timings": timings(reply)}, i, {}, **last))
            if frames:
                yield b"".join(frames)
    replies = [choice.done for choice in choices]
    if request.include_usage:
        yield event({**head, "choices": [], "usage": usage([replies])})
    yield DONE


def _chunk(head: dict[str, Any], index: int, delta: dict[str, Any], **more: Any) -> bytes:
    return event({**head, "choices": [{"index": index, "delta": delta, "finish_reason": None, **more}]})


__all__ = ["Choice", "chat_completions"]
