"""A reply as a row of blocks, each of one kind: reasoning, text or a call. Every dialect's answers are made of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from llama_cffi.reply.reply import Reply, ReplyChunk, ToolCallDelta
from llama_cffi.server.logprobs import Aligner, chat_form

if TYPE_CHECKING:
    from llama_cffi.core.vocab import Vocab

Kind = Literal["reasoning", "text", "call"]


@dataclass
class Block:
    """A part of a reply."""

    kind: Kind
    index: int
    """Blocks of a reply are numbered from 0."""
    call: ToolCallDelta | None = None
    """What began it, if it is a call: its id, its name and its number among the calls."""
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    """Entries of its tokens, if it is text and they were asked for."""
    _parts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """What it says so far; the JSON text of its arguments if it is a call."""
        return "".join(self._parts)

    def add(self, text: str, logprobs: list[dict[str, Any]] | None) -> None:
        """Take more text."""
        self._parts.append(text)
        if logprobs:
            self.logprobs += logprobs


class Step(NamedTuple):
    """What happens to a block: it begins, there is more of it, or it ends."""

    what: Literal["begin", "more", "end"]
    block: Block
    text: str = ""
    logprobs: list[dict[str, Any]] | None = None
    """Entries of the tokens of ``text``; None where they were not asked for."""


class Blocks:
    """The blocks of one reply as it grows. A block ends before the next one begins, and none is empty but a call."""

    def __init__(self, vocab: Vocab, *, logprobs: bool = False) -> None:
        self.blocks: list[Block] = []
        self.reply: Reply | None = None
        self._vocab = vocab
        self._aligner = Aligner() if logprobs else None
        self._open: Block | None = None

    def add(self, chunk: ReplyChunk) -> list[Step]:
        """Return what a chunk does; the last chunk ends the last block."""
        end = chunk.completion
        if end is not None:
            self.reply = chunk.reply
        entries = None
        if self._aligner is not None:
            other = bool(chunk.reasoning or chunk.tool_calls)
            entries = chat_form(self._aligner.add(chunk.logprobs or (), chunk.text, other=other), self._vocab)
        pieces: list[tuple[Kind, ToolCallDelta | None, str]] = []
        if chunk.reasoning:
            pieces.append(("reasoning", None, chunk.reasoning))
        if chunk.text:
            pieces.append(("text", None, chunk.text))
        if chunk.tool_calls:
            pieces += [("call", call, call.arguments) for call in chunk.tool_calls]
        if len(pieces) > 1:
            # The parts of a chunk have no order among each other, but what goes on with the open block comes first.
            pieces.sort(key=lambda piece: not self._goes_on(piece[0], piece[1]))
        steps: list[Step] = []
        for kind, call, text in pieces:
            if not self._goes_on(kind, call):
                steps += self._end()
                self._open = Block(kind, len(self.blocks), call)
                self.blocks.append(self._open)
                steps.append(Step("begin", self._open))
            if text:
                block, more = self.blocks[-1], entries if kind == "text" else None
                block.add(text, more)
                steps.append(Step("more", block, text, more))
        if end is not None:
            steps += self._end()
        return steps

    def _goes_on(self, kind: Kind, call: ToolCallDelta | None) -> bool:
        block = self._open
        if block is None or block.kind != kind:
            return False
        return call is None or block.call is None or block.call.index == call.index

    def _end(self) -> list[Step]:
        block, self._open = self._open, None
        return [] if block is None else [Step("end", block)]

    @property
    def done(self) -> Reply:
        """The reply, when all chunks were read."""
        if self.reply is None:
            raise RuntimeError("the reply ended without its last chunk")
        return self.reply


__all__ = ["Block", "Blocks", "Kind", "Step"]
