"""One turn of a conversation: what is asked of the model, and how its reply is read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from llama_cffi.errors import IncompleteOutput, SchemaError, ToolError
from llama_cffi.facade.reply import Reply, ReplyBuilder, ReplyChunk
from llama_cffi.facade.structured import parse_completion
from llama_cffi.grammar.all_of import AllOf
from llama_cffi.grammar.guidance import GuidanceConstraint
from llama_cffi.grammar.prefixed import Prefixed
from llama_cffi.grammar.reasoning_budget import ReasoningBudget
from llama_cffi.grammar.schema import closed, json_rule
from llama_cffi.prompt.tools import Tool, check_tools
from llama_cffi.reply.completion import Completion, FinishReason
from llama_cffi.reply.format import ReplyRules, ToolSpec
from llama_cffi.reply.lark import quoted

if TYPE_CHECKING:
    from llama_cffi.core.vocab import Vocab
    from llama_cffi.facade.stream import Stream
    from llama_cffi.grammar.matcher import Constraint
    from llama_cffi.grammar.structure import Structure
    from llama_cffi.prompt.chat import ChatFormat, Template
    from llama_cffi.prompt.messages import Message
    from llama_cffi.reply.format import ReplyFormat


@dataclass(frozen=True)
class Turn:
    """A conversation that waits for its reply."""

    tokens: Sequence[int]
    """The prompt, ``prefix`` included."""
    format: ReplyFormat
    rules: ReplyRules
    constraint: Constraint | None
    """What holds the reply to the rules."""
    visible: frozenset[int]
    """Control tokens that carry meaning in a reply."""
    structure: Structure | None
    """What the answer must be an instance of."""
    prefix: str
    """How the reply begins."""


def prepare_turn(
    chat: ChatFormat,
    vocab: Vocab,
    messages: str | Sequence[Message],
    *,
    prefix: str,
    tools: Sequence[Tool | Callable[..., Any] | Mapping[str, Any]],
    tool_choice: str | Mapping[str, Any],
    parallel_tool_calls: bool,
    reasoning_budget: int | None,
    reply_format: str | None,
    template: Template,
    documents: Sequence[Mapping[str, Any]] | None,
    variables: Mapping[str, Any] | None,
    structure: Structure | None,
) -> Turn:
    """Render the conversation and find out how its reply is written. Raises as :meth:`Llama.chat`."""
    known = check_tools(tools)
    specs, choice = _choose_tools(known, tool_choice)
    rendered, reply, source = chat.ask(
        messages, known, reply_format, template=template, documents=documents, variables=variables
    )
    rules = ReplyRules(
        tools=specs,
        choice=choice,
        parallel=parallel_tool_calls,
        content=None if structure is None else f"@{_CONTENT}",
        reasoning=reply.state(rendered.text),
    )
    controls = chat.controls
    held, thinking = rules, reply.thinking
    if rules.reasoning == "auto" and thinking and thinking.optional and thinking.end.strip() not in source:
        # A model whose template knows no reasoning answers at once, where it is held to a call or to a schema.
        held = replace(rules, reasoning="off")
    constraint = _constraint(reply, held, structure, vocab, controls)
    if reasoning_budget is not None and thinking is not None and rules.reasoning != "off":
        start = "" if rules.reasoning == "open" else thinking.start
        budget = ReasoningBudget(reasoning_budget, start, thinking.end, vocab)
        constraint = budget if constraint is None else AllOf((constraint, budget))
    if prefix and constraint is not None:
        given = vocab.tokenize(prefix, add_special=False, parse_special=True)
        constraint = Prefixed(constraint, given.tolist())
    return Turn(
        tokens=chat.tokenize(rendered, prefix=prefix).tolist(),
        format=reply,
        rules=rules,
        constraint=constraint,
        visible=frozenset(controls[text] for text in reply.controls if text in controls),
        structure=structure,
        prefix=prefix,
    )


_CONTENT = "content"
"""Name of the grammar that an answer follows, among those of a reply."""


def _choose_tools(
    tools: tuple[Tool, ...], choice: str | Mapping[str, Any]
) -> tuple[tuple[ToolSpec, ...], Literal["auto", "required", "none"]]:
    """The tools that may be called, and whether one must be."""
    specs = tuple(ToolSpec(tool.name, tool.parameters) for tool in tools)
    if choice == "none" or (choice == "auto" and not specs):
        return specs, "none"
    if choice == "auto":
        return specs, "auto"
    if choice == "required":
        if not specs:
            raise ToolError("tool_choice='required', but there are no tools")
        return specs, "required"
    name: Any = choice
    if isinstance(choice, Mapping):
        function = choice.get("function")
        name = function.get("name") if isinstance(function, Mapping) else choice
    chosen = tuple(spec for spec in specs if spec.name == name)
    if not chosen:
        names = ", ".join(spec.name for spec in specs) or "none"
        raise ToolError(f"tool_choice={choice!r} is neither auto, none or required nor one of the tools: {names}")
    return chosen, "required"


def _constraint(
    reply: ReplyFormat, rules: ReplyRules, structure: Structure | None, vocab: Vocab, controls: Mapping[str, int]
) -> Constraint | None:
    if structure is not None and not isinstance(structure.constraint, GuidanceConstraint):
        if rules.tools and rules.choice != "none":
            raise SchemaError(
                "a grammar that llama.cpp enforces cannot hold beside tools: GBNF(..., engine='llguidance')"
            )
        return structure.constraint

    def token(text: str) -> str:
        return f"<[{controls[text]}]>" if text in controls else quoted(text)

    lark = reply.grammar(rules, token, lambda schema: json_rule(closed(schema)))
    if lark is None:
        return None
    grammars: list[dict[str, Any]] = [{"lark_grammar": lark}]
    if structure is not None and isinstance(structure.constraint, GuidanceConstraint):
        first, *rest = json.loads(structure.constraint.grammar)["grammars"]
        grammars += [{**first, "name": _CONTENT}, *rest]
    return GuidanceConstraint(vocab, json.dumps({"grammars": grammars}))


class ReplyStream(Iterator[ReplyChunk]):
    """The chunks of a reply; the last one carries the :class:`Reply`, or raises what the reply deserves."""

    def __init__(self, stream: Stream, turn: Turn) -> None:
        self._stream = stream
        self._turn = turn
        self._parser = turn.format.parser(turn.rules)
        self._builder = ReplyBuilder()
        self._given = self._answered = ""
        if turn.prefix:
            self._given, _, _ = self._builder.add(self._parser.feed(turn.prefix))
            self._answered = self._given

    def __next__(self) -> ReplyChunk:
        chunk = next(self._stream)
        events = list(self._parser.feed(chunk.text)) if chunk.text else []
        if chunk.completion is not None:
            events.extend(self._parser.flush())
        text, reasoning, calls = self._builder.add(events) if events else ("", "", ())
        self._answered += text
        structure = self._turn.structure
        read = None if structure is None else partial(structure.partial, self._answered)
        reply = None if chunk.completion is None else self._finish(chunk.completion)
        return ReplyChunk(text, chunk.tokens, chunk.logprobs, reply, reasoning, calls, read)

    def _finish(self, completion: Completion) -> Reply:
        builder, structure = self._builder, self._turn.structure
        calls = builder.tool_calls
        plain = {field.name: getattr(completion, field.name) for field in fields(Completion)}
        text = builder.text[len(self._given) :]
        reply = Reply(**{**plain, "text": text}, reasoning=builder.reasoning, tool_calls=calls, raw=completion.text)
        if reply.finish_reason is FinishReason.CANCELLED:
            return reply
        name = builder.unfinished_call
        demanded = self._turn.rules.choice == "required" and not calls
        if reply.finish_reason is FinishReason.LENGTH and (name is not None or demanded):
            place = "before its call was complete" if name is None else f"inside of a call of {name}"
            raise IncompleteOutput(
                f"the reply was cut after {reply.usage.completion_tokens} tokens, {place}", completion=reply
            )
        if calls and reply.finish_reason is FinishReason.STOP:
            return replace(reply, finish_reason=FinishReason.TOOL_CALLS)
        return reply if structure is None or calls else parse_completion(reply, structure, prefix=self._given)

    def close(self) -> None:
        """Cancel the request. Idempotent."""
        self._stream.close()


__all__ = ["ReplyStream", "Turn", "prepare_turn"]
