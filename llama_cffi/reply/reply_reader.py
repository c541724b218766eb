"""Reads the reply to a conversation: reasoning, answer and tool calls, in the format of its model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import TYPE_CHECKING

from llama_cffi.errors import OutputError
from llama_cffi.reply.completion import Chunk, Completion, FinishReason
from llama_cffi.reply.events import Reasoning
from llama_cffi.reply.reader import incomplete, is_cut
from llama_cffi.reply.reply import Reply, ReplyBuilder, ReplyChunk, ToolCall
from llama_cffi.reply.structured_reader import parsed

if TYPE_CHECKING:
    from llama_cffi.core.vocab import Vocab
    from llama_cffi.grammar.structure import Structure
    from llama_cffi.grammar.validation import Validator
    from llama_cffi.reply.format import ReplyFormat, ReplyRules


@dataclass(frozen=True)
class ReplyPlan:
    """The format of one reply, and its requirements."""

    format: ReplyFormat
    rules: ReplyRules
    structure: Structure | None
    """What the answer must be an instance of."""
    prefix: str
    """How the reply begins, in the prompt already."""
    keep_incomplete: bool = False
    """Whether a reply that was cut is returned, marked as such, and not raised as an error."""
    validators: Mapping[str, Validator] = field(default_factory=dict)
    """What validates the arguments of calls, by the tools whose parameters the grammar does not keep to in full."""


class ReplyReader:
    """A :class:`~llama_cffi.reply.reader.Reader` of one reply."""

    def __init__(self, plan: ReplyPlan, vocab: Vocab) -> None:
        self._plan = plan
        self._vocab = vocab
        self._parser = plan.format.parser(plan.rules)
        self._builder = ReplyBuilder()
        self._given = self._answered = ""
        self._thinking = plan.rules.reasoning == "open"
        self._n_thought = 0
        if plan.prefix:
            self._given, _, _ = self._builder.add(self._parser.feed(plan.prefix))
            self._answered = self._given

    def feed(self, chunk: Chunk) -> ReplyChunk:
        """Return what a chunk adds to reasoning, answer and calls."""
        events = list(self._parser.feed(chunk.text)) if chunk.text else []
        end = chunk.completion
        if end is not None:
            cut = is_cut(end) or end.finish_reason is FinishReason.CANCELLED
            events.extend(self._parser.flush(cut=cut))
        text, reasoning, calls = self._builder.add(events) if events else ("", "", ())
        if events:
            self._thinking = isinstance(events[-1], Reasoning)
        if self._thinking or reasoning:
            self._n_thought += len(chunk.tokens)
        self._answered += text
        structure = self._plan.structure
        read = None if structure is None else partial(structure.partial, self._answered)
        return ReplyChunk(text, chunk.tokens, chunk.logprobs, None, reasoning, calls, read)

    def finish(self, completion: Completion) -> Reply:
        """Return the reply; raises as :meth:`Reader.finish`, also for a call that was cut, or demanded and not made."""
        builder, structure = self._builder, self._plan.structure
        calls = builder.tool_calls
        plain = {field.name: getattr(completion, field.name) for field in fields(Completion)}
        text = builder.text[len(self._given) :]
        plain["usage"] = replace(completion.usage, reasoning_tokens=self._n_thought if builder.reasoning else 0)
        reply = Reply(**{**plain, "text": text}, reasoning=builder.reasoning, tool_calls=calls, raw=completion.text)
        if reply.finish_reason is FinishReason.CANCELLED:
            return reply
        name = builder.unfinished_call
        missing = None if name is None else f"inside of a call of {name}"
        if missing is None and self._plan.rules.choice == "required" and not calls and is_cut(reply):
            missing = "before its call was complete"
        if missing is not None:
            if self._plan.keep_incomplete:
                return replace(reply, incomplete=True)
            raise incomplete(reply, "the reply", missing)
        if calls:
            self._check(calls, completion.text)
            stopped = reply.finish_reason is FinishReason.STOP
            return replace(reply, finish_reason=FinishReason.TOOL_CALLS) if stopped else reply
        if structure is None:
            return reply
        keep = self._plan.keep_incomplete
        return parsed(reply, structure, self._vocab, prefix=self._given, keep_incomplete=keep)

    def _check(self, calls: tuple[ToolCall, ...], text: str) -> None:
        for call in calls:
            validator = self._plan.validators.get(call.name)
            if validator is not None and not validator.valid(call.arguments):
                raise OutputError(
                    f"the arguments of the call of {call.name!r} do not satisfy the parameters of the tool in keywords "
                    "that the grammar could not enforce",
                    text=text,
                )


__all__ = ["ReplyPlan", "ReplyReader"]
