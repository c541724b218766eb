"""Replies for tests: what parsers report, and texts that a grammar lets through, chosen at random."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jsonschema
import llguidance
import numpy as np

from llama_cffi.grammar.guidance import _limits
from llama_cffi.grammar.json_schema import json_expression
from llama_cffi.grammar.tool_form import tool_form
from llama_cffi.reply.events import CallArguments, CallBegin, CallEnd, Event, Reasoning, Text
from llama_cffi.reply.format import ReplyFormat, ReplyRules, ToolSpec
from llama_cffi.reply.lark import quoted


@dataclass
class Call:
    """A call as its events add up; ``complete`` when it ended."""

    name: str
    id: str = ""
    arguments: str = ""
    complete: bool = False


@dataclass
class Reply:
    """What a reply consists of."""

    reasoning: str = ""
    text: str = ""
    calls: list[Call] = field(default_factory=list)


def joined(events: Iterable[Event]) -> list[Event]:
    """The events with neighbors of one kind joined."""
    done: list[Event] = []
    for event in events:
        last = done[-1] if done else None
        if isinstance(event, (Text, Reasoning)) and type(last) is type(event):
            done[-1] = type(event)(last.text + event.text)
        elif isinstance(event, CallArguments) and isinstance(last, CallArguments) and last.index == event.index:
            done[-1] = CallArguments(event.index, last.text + event.text)
        else:
            done.append(event)
    return done


def read(format: ReplyFormat, rules: ReplyRules, pieces: Sequence[str]) -> Reply:
    """The reply that arrived in these pieces. Checks that calls are numbered and end in order."""
    parser = format.parser(rules)
    events = [event for piece in pieces for event in parser.feed(piece)]
    events.extend(parser.flush())
    reply = Reply()
    for event in joined(events):
        if isinstance(event, Reasoning):
            reply.reasoning += event.text
        elif isinstance(event, Text):
            reply.text += event.text
        elif isinstance(event, CallBegin):
            assert event.index == len(reply.calls)
            reply.calls.append(Call(event.name, event.id))
        else:
            call = reply.calls[event.index]
            assert event.index == len(reply.calls) - 1
            assert not call.complete
            if isinstance(event, CallArguments):
                call.arguments += event.text
            else:
                assert isinstance(event, CallEnd)
                assert isinstance(json.loads(call.arguments), dict)
                call.complete = True
                call.id = call.id or event.id
    return reply


# -- grammars

_WORDS = (
    *("the ", "hello", "</", "think", "\n", "<think>", "</think>", " <|", "|>", "tool", "_call", "all\n", ">>>", "NaN"),
    *(
        '{"',
        '": ',
        '", "',
        "}",
        "]",
        '"name": "',
        "\\u00",
        "get_weather",
        "add",
        "'",
        "\\",
        '<|"|>',
        "```json\n",
        "```",
    ),
    *("<tool_call>", "</tool_call>", "<function=", "</parameter>", "\n</parameter>", "</arg_value>", "functools["),
    *("[TOOL", "_CALLS]", "Action:", "<|end|>", "<|", "null", "true", "12"),
)


class SmallVocabulary:
    """Every byte, some words, and with ``special`` each control text as a token of its own; token 0 ends a text.

    The tags of ``format`` are among the words, so that chance closes what it opened.
    """

    def __init__(self, controls: Sequence[str], special: bool, format: ReplyFormat | None = None) -> None:
        self.special_token_ids = [0]
        found = tags_of(format) if format else ()
        words = [word for word in dict.fromkeys((*_WORDS, *found)) if not special or word not in controls]
        self.tokens = [b"<eos>", *(bytes([byte]) for byte in range(256)), *(word.encode() for word in words)]
        self.bos_token_id = None
        self.eos_token_id = 0
        self.ids: dict[str, int] = {}
        if special:
            for control in controls:
                self.ids[control] = len(self.tokens)
                self.special_token_ids.append(len(self.tokens))
                self.tokens.append(control.encode())
        self.engine = llguidance.LLTokenizer(llguidance.TokenizerWrapper(self), n_vocab=len(self.tokens), eos_token=0)

    def __call__(self, text: bytes | str) -> list[int]:
        data = text if isinstance(text, bytes) else text.encode()
        return [1 + byte for byte in data]

    def tokens_of(self, text: str) -> list[int]:
        """The tokens of a text, control texts as the tokens that they are."""
        if not self.ids:
            return self(text)
        texts = "|".join(map(re.escape, sorted(self.ids, key=len, reverse=True)))
        pieces = re.split(f"({texts})", text)
        return [token for piece in pieces for token in ([self.ids[piece]] if piece in self.ids else self(piece))]

    def token(self, text: str) -> str:
        """The Lark expression of a text that may be a control token."""
        return f"<[{self.ids[text]}]>" if text in self.ids else quoted(text)


def tags_of(format: ReplyFormat) -> list[str]:
    """The texts in the grammar of a format that begin like a tag."""
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    grammar = reply_grammar(format, ReplyRules((ToolSpec("f", schema),))) or ""
    texts = (json.loads(text) for text in re.findall(r'"(?:[^"\\\n]|\\.)*"', grammar))
    return [text for text in texts if text.lstrip()[:1] in ("<", "[", "`") and len(text) > 1]


def tool_rule(schema: Mapping[str, Any]) -> str:
    """The rule of a tool's schema as requests make it: objects that list properties closed, keywords checked."""
    return json_expression(tool_form(schema))


def reply_grammar(format: ReplyFormat, rules: ReplyRules, token: Callable[[str], str] = quoted) -> str | None:
    """The grammar of a reply as requests make it."""
    return format.grammar(rules, token)


def compiled(grammar: str, tokenizer: llguidance.LLTokenizer) -> llguidance.LLMatcher:
    """The engine's matcher at the beginning of a text, within the limits that requests have."""
    matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0, limits=_limits())
    assert not matcher.is_error(), f"{matcher.get_error()}\n{grammar}"
    return matcher


def random_text(
    matcher: llguidance.LLMatcher, pieces: Sequence[bytes], eos: int, *, seed: int, n_tokens: int = 300
) -> str | None:
    """A text of tokens chosen at random among those allowed, closing ones preferred; None when it did not end."""
    rng = np.random.default_rng(seed)
    ends = (b"</", b"<|end|>", b"\n</", b'<|"|>', b"<channel|>", b"[/THINK]")
    closing = np.array([piece in (b'"', b"}", b"]", b"'", b">") or piece.startswith(ends) for piece in pieces])
    chosen: list[bytes] = []
    for _ in range(n_tokens):
        if matcher.is_stopped():
            break
        bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8), bitorder="little")
        allowed = np.flatnonzero(bits[: len(pieces)])
        assert len(allowed), f"nothing may follow {b''.join(chosen)!r}"
        logits = rng.gumbel(size=len(allowed)) * 1.5
        logits += 4 * closing[allowed] + 2.5 * np.array([len(pieces[token]) > 1 for token in allowed.tolist()])
        token = int(allowed[np.argmax(logits)])
        if matcher.is_accepting() and rng.random() < 0.05:
            token = eos
        if token == eos:
            return b"".join(chosen).decode(errors="replace")
        chosen.append(pieces[token])
        assert matcher.consume_token(token), matcher.get_error()
    return b"".join(chosen).decode(errors="replace") if matcher.is_accepting() else None


def check_reply(format: ReplyFormat, rules: ReplyRules, text: str) -> Reply:
    """Read a text that the grammar let through, and check that it keeps what the rules promises."""
    reply = read(format, rules, [text])
    schemas = {tool.name: tool.parameters for tool in rules.tools}
    for call in reply.calls:
        assert call.complete, f"{call} is not complete in {text!r}"
        jsonschema.validate(json.loads(call.arguments), schemas[call.name])
    if rules.choice == "required":
        assert reply.calls, f"no call in {text!r}"
        assert not reply.text.strip(), f"text beside the call in {text!r}"
    if not rules.parallel:
        assert len(reply.calls) <= 1, f"several calls in {text!r}"
    return reply


# -- the Berkeley function-calling data

_TYPES: dict[str, Any] = {
    **{name: name for name in ("string", "integer", "boolean", "array", "object", "number")},
    "dict": "object",
    "HashMap": "object",
    "float": "number",
    "double": "number",
    "long": "integer",
    "tuple": "array",
    "Array": "array",
    "ArrayList": "array",
    "String": "string",
    "char": "string",
    "Boolean": "boolean",
}
"""What is no type of JSON Schema and not here (``any``, an empty name) is any value."""


def bfcl_schema(schema: Any) -> Any:
    """A schema of the Berkeley data as JSON Schema.

    Its types are renamed. ``optional``, which is no keyword, is left out. The ``enum`` of an array that lists what its
    items may be is the items' own.
    """
    if not isinstance(schema, dict):
        return schema
    done = {}
    for key, value in schema.items():
        if key == "type":
            if isinstance(value, str) and value in _TYPES:
                done[key] = _TYPES[value]
        elif key == "properties":
            done[key] = {name: bfcl_schema(one) for name, one in value.items()}
        elif key == "items":
            done[key] = {**done.get(key, {}), **bfcl_schema(value)}
        elif key == "enum" and _TYPES.get(schema.get("type", "")) == "array" and not isinstance(value[0], list):
            done["items"] = {**done.get("items", {}), "enum": value}
        elif key != "optional":
            done[key] = value
    return done
