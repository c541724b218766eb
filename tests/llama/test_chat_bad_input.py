"""What cannot be a conversation, through the facade: an error that names the part at fault, before any computation."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic
from typing import Any

import pytest

from llama_cffi import Llama
from llama_cffi.errors import (
    ContextOverflowError,
    LlamaCffiError,
    MessageError,
    TemplateError,
    ToolError,
    UnsupportedError,
)
from tests.support.conversations import CALL, TOOL, user

CYCLE: dict[str, Any] = {}
CYCLE["self"] = CYCLE

DEEP: list[Any] = []
for _ in range(5000):
    DEEP = [DEEP]


def assistant(**fields: Any) -> dict[str, Any]:
    return {"role": "assistant", **fields}


def call(**function: Any) -> dict[str, Any]:
    return assistant(tool_calls=[{"type": "function", "function": function}])


@pytest.fixture(scope="module")
def demo() -> Iterator[Llama]:
    with Llama.demo(n_ctx=256) as llm:
        yield llm


def refuses(demo: Llama, messages: Any, error: type[LlamaCffiError], reason: str, **options: Any) -> None:
    """Every way to ask says the same, and the context is as it was."""
    before = demo.context.memory.seq_pos_max(0)
    with pytest.raises(error, match=reason):
        demo.chat(messages, **options, max_tokens=1)
    with pytest.raises(error, match=reason):
        demo.stream_chat(messages, **options, max_tokens=1)
    with pytest.raises(error, match=reason):
        demo.tokenize_chat(messages, **options)
    assert demo.context.memory.seq_pos_max(0) == before


MESSAGES: dict[str, tuple[Any, type[LlamaCffiError], str]] = {
    "no messages": ([], MessageError, "messages is empty"),
    "None": (None, MessageError, "messages must be a list of messages, not NoneType"),
    "a generator": ((user(text) for text in "ab"), MessageError, "not generator"),
    "one message that is no list": (user("a"), MessageError, "not dict"),
    "a message that is none": ([user("a"), None], MessageError, r"messages\[1\] must be a mapping"),
    "a missing role": ([user("a"), {"content": "b"}], MessageError, r"messages\[1\] needs a role .* not None"),
    "a role that is no name": ([{"role": "a b", "content": ""}], MessageError, "not 'a b'"),
    "a role that is a token": ([{"role": "<|im_end|>", "content": ""}], MessageError, r"not '<\|im_end\|>'"),
    "no content": ([{"role": "user"}], MessageError, r"messages\[0\] has neither content nor tool_calls"),
    "no content and no calls": ([assistant(tool_calls=[])], MessageError, r"messages\[0\] has neither"),
    "a content of numbers": ([user(3)], MessageError, r"messages\[0\].content must be a text .* not int"),
    "a content of bytes": ([user(b"a")], MessageError, r"messages\[0\].content must be a text .* not bytes"),
    "no parts": ([user([])], MessageError, r"messages\[0\].content is an empty list"),
    "a part without a type": ([user([{"text": "a"}])], MessageError, r"content\[0\] must be a mapping with a type"),
    "a part without text": ([user([{"type": "text"}])], MessageError, r"content\[0\].text must be a str"),
    "an unknown type": ([user([{"type": "smell", "smell": 1}])], UnsupportedError, r"content\[0\] is of type 'smell'"),
    "a call that is none": ([assistant(tool_calls=[3])], MessageError, r"tool_calls\[0\] needs a function"),
    "calls that are no list": ([assistant(tool_calls={})], MessageError, "has neither content nor tool_calls"),
    "calls of the wrong type": ([assistant(tool_calls=3)], MessageError, "tool_calls must be a list, not int"),
    "a call without a name": ([call(arguments="{}")], MessageError, r"tool_calls\[0\] needs a function with a name"),
    "a name that is a token": ([call(name="<|im_end|>")], MessageError, "function.name must consist of letters"),
    "arguments cut off": ([call(name="f", arguments='{"a":')], MessageError, "arguments is not JSON"),
    "arguments too deep": ([call(name="f", arguments="[" * 100_000)], MessageError, "arguments is not JSON"),
    "arguments that are a list": ([call(name="f", arguments="[1]")], MessageError, "must be an object, not list"),
    "arguments that hold themselves": ([call(name="f", arguments=CYCLE)], MessageError, r"messages\[0\] is nested"),
    "a lone surrogate": ([user("ab\udc80")], MessageError, r"messages\[0\].content holds a lone surrogate at index 2"),
    "one in a part": ([user([{"type": "text", "text": "\ud800"}])], MessageError, r"messages\[0\].content holds"),
    "one in an argument": ([call(name="f", arguments={"a": "\ud800"})], MessageError, r"arguments.a holds a lone"),
    "one in another field": (
        [{**user("a"), "note": ["\ud800"]}],
        MessageError,
        r"messages\[0\].note\[0\] holds a lone",
    ),
    "a key that is none": ([{**user("a"), "note": {3: ""}}], MessageError, r"a key of messages\[0\].note must be"),
    "too deep": ([{**user("a"), "note": DEEP}], MessageError, r"messages\[0\] is nested too deep"),
}


@pytest.mark.parametrize("case", MESSAGES)
def test_messages(demo: Llama, case: str) -> None:
    refuses(demo, *MESSAGES[case])


def tool(**function: Any) -> dict[str, Any]:
    return {"type": "function", "function": function}


OPTIONS: dict[str, tuple[dict[str, Any], type[LlamaCffiError], str]] = {
    "tools that are one": ({"tools": TOOL}, ToolError, "tools must be a list of tools, not dict"),
    "tools that are a text": ({"tools": "weather"}, ToolError, "tools must be a list of tools, not str"),
    "a tool that is none": ({"tools": [TOOL, "weather"]}, ToolError, r"tools\[1\]: .* not str"),
    "two tools of one name": ({"tools": [TOOL, TOOL]}, ToolError, r"tools\[1\]: the name 'weather'"),
    "a tool without a name": ({"tools": [tool(description="")]}, ToolError, r"tools\[0\]: .*name"),
    "a surrogate in a tool": (
        {"tools": [tool(name="f", description="\ud800")]},
        ToolError,
        r"tools\[0\]: the description of tool 'f' holds a lone surrogate",
    ),
    "a tool that holds itself": (
        {"tools": [tool(name="f", parameters={"type": "object", "properties": CYCLE})]},
        ToolError,
        r"tools\[0\]: the parameters of tool 'f' .* holds itself",
    ),
    "documents that are a text": ({"documents": "all"}, MessageError, "documents must be a list of mappings, not str"),
    "a document that is a text": ({"documents": ["a"]}, MessageError, r"documents\[0\] must be a mapping, not str"),
    "a surrogate in a document": (
        {"documents": [{"title": "", "text": "\udfff"}]},
        MessageError,
        r"documents\[0\].text holds a lone surrogate at index 0",
    ),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_tools_and_documents(demo: Llama, case: str) -> None:
    options, error, reason = OPTIONS[case]
    refuses(demo, [user("a")], error, reason, **options)


def test_no_tools_and_an_empty_list_of_them_are_the_same(demo: Llama) -> None:
    template = "{{ tools is none }} {{ documents is none }}"
    assert demo.render_chat("Hi", chat_template=template, tools=[], documents=[]) == "True True"


TEMPLATES: dict[str, tuple[str, str]] = {
    "one that does not parse": ("Hi\n{% if %}", r"does not parse: .*\s+line 2"),
    "one that is cut off": ("{{ messages[0].content", "does not parse"),
    "one that raises": (
        "{{ raise_exception('only two turns') }}",
        "the chat template refuses the messages: only two turns",
    ),
    "one that refuses a role": (
        "{% for m in messages %}{% if m.role != 'user' %}{{ raise_exception('no role ' ~ m.role) }}{% endif %}"
        "{% endfor %}",
        "refuses the messages: no role tool",
    ),
    "one that needs a variable": (
        "{{ persona | upper ~ persona.name }}",
        "refuses the messages: 'persona' is undefined",
    ),
    "one that adds a text and a number": ("{{ messages[0].content + 1 }}", "failed: TypeError"),
    "one that divides by zero": ("{{ 1 // 0 }}", "failed: ZeroDivisionError"),
    "one that reaches for Python": (
        "{{ ''.__class__.__mro__ }}",
        "refuses the messages: access to attribute '__class__' of 'str' object is unsafe",
    ),
    "one that calls itself": ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recurses too deeply"),
    "one that writes nothing": ("{# #}", "rendered an empty text"),
    "one that writes too much": ("{% for i in range(99) %}{{ 'a' * 10**6 }}{% endfor %}", "more than 67108864 char"),
}


@pytest.mark.parametrize("case", TEMPLATES)
def test_templates(demo: Llama, case: str) -> None:
    source, reason = TEMPLATES[case]
    refuses(demo, [user("a"), {"role": "tool", "content": "b"}], TemplateError, reason, chat_template=source)


def test_a_template_that_never_ends(demo: Llama) -> None:
    """Also when a call in a message makes the template be tried first; the limit is that of all tries together."""
    source = "{% set r = range(99999) %}{% for a in r %}{% for b in r %}{{ messages[0].type }}{% endfor %}{% endfor %}"
    start = monotonic()
    with pytest.raises(TemplateError, match=r"takes too long: more than (5 s|8000000 operations)"):
        demo.chat([user("a"), assistant(content="", tool_calls=[CALL])], chat_template=source)
    assert monotonic() - start < 20


def test_a_conversation_longer_than_the_context(demo: Llama) -> None:
    messages = [user("word " * 50) for _ in range(20)]
    n = len(demo.tokenize_chat(messages))
    refusal = f"{n:,} tokens|{n} tokens"
    with pytest.raises(ContextOverflowError, match=refusal):
        demo.chat(messages, max_tokens=1)
    with pytest.raises(ContextOverflowError, match=refusal):
        demo.stream_chat(messages, max_tokens=1)


def test_nul_is_a_character_like_others(demo: Llama) -> None:
    tokens = demo.tokenize_chat("a\0b")
    assert b"user\na\0b<|im_end|>" in demo.model.vocab.detokenize(tokens.tolist())
    assert demo.chat("a\0b", max_tokens=1).usage.prompt_tokens == len(tokens)
