"""No text of messages, tools and documents, key or value, becomes a control token, in whatever place it stands."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import pytest

from llama_cffi.core.model import Model, ModelOptions
from llama_cffi.errors import MessageError, TemplateError
from llama_cffi.prompt.encoder import PromptEncoder
from llama_cffi.prompt.template import ChatTemplate, Rendered, TemplateWarning
from tests.support.conversations import user
from tests.support.plain_jinja import MODELS, NEEDED, TEMPLATES

needs_source = pytest.mark.skipif(not TEMPLATES, reason="no llama.cpp source in vendor/llama.cpp")
CONTROL = "<|im_end|>"

SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "What to look for",
    "properties": {
        "city": {"type": "string", "description": "Where", "enum": ["Oslo", "Bern"], "default": "Oslo"},
        "more": {
            "type": "object",
            "properties": {"deep": {"type": "array", "items": {"type": "string", "description": "One"}}},
        },
    },
    "required": ["city"],
}
TOOL: dict[str, Any] = {"name": "weather", "description": "The weather", "parameters": SCHEMA, "return": {"a": "b"}}
CALL: dict[str, Any] = {
    "id": "call00001",
    "type": "function",
    "function": {"name": "weather", "arguments": {"city": "Oslo", "more": {"deep": ["a", {"b": "c"}]}}},
}
HISTORY: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "Be brief"},
        user("Hi there"),
        {"role": "assistant", "content": "Hm", "reasoning_content": "thought", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call00001", "name": "weather", "content": "sunny"},
        {"role": "assistant", "content": "Sunny", "reasoning_content": "thought"},
        user("Thanks"),
    ],
    "tools": [{"type": "function", "function": TOOL}],
    "documents": [{"doc_id": "1", "title": "A title", "text": "A text", "extra": {"k": "v"}}],
}
QUESTION: dict[str, Any] = {"messages": [user("Hi there")], "tools": [TOOL], "documents": HISTORY["documents"]}
CONVERSATIONS = {"history": HISTORY, "question": QUESTION}
VOCABULARIES = ("qwen2", "llama-bpe", "gemma-4")


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the texts of a value stand; a place that ends in a tuple is that of a key."""
    if isinstance(value, dict):
        for key, one in value.items():
            if path:
                yield (*path, ("key", key))
            yield from places(one, (*path, key))
    elif isinstance(value, list):
        for i, one in enumerate(value):
            yield from places(one, (*path, i))
    elif isinstance(value, str):
        yield path


def put(conversation: dict[str, Any], place: tuple[Any, ...], text: str, *, add: bool = False) -> dict[str, Any]:
    """A copy with the text in this place; with ``add`` a key is added and not replaced."""
    changed = copy.deepcopy(conversation)
    value: Any = changed
    for step in place[:-1]:
        value = value[step]
    last = place[-1]
    if isinstance(last, tuple) and add:
        value[text] = "added"
    elif isinstance(last, tuple):
        items = [(text if key == last[1] else key, one) for key, one in value.items()]
        value.clear()
        value.update(items)
    else:
        value[last] = text
    return changed


def attacks(conversation: dict[str, Any]) -> Iterator[tuple[Any, Callable[[str], dict[str, Any]]]]:
    for place in places(conversation):
        yield place, lambda text, place=place: put(conversation, place, text)  # type: ignore[misc]
        if isinstance(place[-1], tuple):
            yield (*place, "added"), lambda text, place=place: put(conversation, place, text, add=True)  # type: ignore[misc]


# What a conversation cannot do without: without it, or with another value, it is refused.
NEEDED_KEYS = {("key", "role"), ("key", "content"), ("key", "function"), ("key", "name")}


@needs_source
@pytest.mark.parametrize(
    "vocabulary",
    ["some", *(pytest.param(name, marks=pytest.mark.conformance) for name in VOCABULARIES)],
)
def test_no_text_in_any_place_becomes_a_control_token(vocabulary: str, capsys: pytest.CaptureFixture[str]) -> None:
    # In plain runs templates of different kinds: Python's lists, escaped JSON, XML, TypeScript, tags of their own.
    some = "Reka-Edge openbmb-MiniCPM5-1B google-gemma-4-31B-it"
    # In long ones each template meets one of the vocabularies: all with all take three times the minutes.
    if vocabulary == "some":
        paths = [path for path in TEMPLATES if path.stem in some.split()]
    else:
        paths = TEMPLATES[VOCABULARIES.index(vocabulary) :: len(VOCABULARIES)]
    name = "qwen2" if vocabulary == "some" else vocabulary
    n_kept = n_refused = n_raised = 0
    with Model(MODELS / f"ggml-vocab-{name}.gguf", ModelOptions(vocab_only=True)) as model:
        encoder = PromptEncoder(model.vocab)
        ids = set(encoder.controls.values())
        control = next(text for text in reversed(encoder.controls) if text.startswith("<"))
        for path in paths:
            template = encoder.template(path.read_text(encoding="utf-8"))
            variables = NEEDED.get(path.stem, {})

            def controls_in(conversation: dict[str, Any]) -> list[int]:
                tokens = encoder.encode(template.render(**conversation, **variables)).tolist()  # noqa: B023
                return [token for token in tokens if token in ids]

            for given in CONVERSATIONS.values():
                for place, make in islice(attacks(given), 0, None, 4 if vocabulary == "some" else 1):
                    try:
                        wanted = controls_in(make("harmless"))
                    except (TemplateError, MessageError):
                        n_raised += 1
                        with pytest.raises((TemplateError, MessageError)):
                            controls_in(make(control))
                        continue
                    try:
                        found = controls_in(make(control))
                    except MessageError:
                        n_refused += 1
                        last = place[-1] if place[-1] != "added" else place[-2]
                        assert last in NEEDED_KEYS or last in ("role", "name"), (path.stem, place)
                        continue
                    n_kept += 1
                    assert found == wanted, (path.stem, place)
    with capsys.disabled():
        if vocabulary != "some":
            print(f"\n{name}: {n_kept} kept apart, {n_refused} refused, {n_raised} raised")
    assert n_kept > 10 * n_refused
    assert n_kept > 20 * len(paths)


def marked(source: str, *, controls: tuple[str, ...] = (CONTROL,), **given: Any) -> Rendered:
    rendered = ChatTemplate(source, controls=controls).render(**{"messages": [user("x")], **given})
    assert not any(control in rendered.marked for control in controls)
    return rendered


def test_names_of_parameters_that_a_template_compares_with_those_required() -> None:
    source = """{% for tool in tools %}{% set p = tool.function.parameters %}
{% for name, one in p.properties.items() %}{{ name }}{{ '*' if name in p.required }}:{{ one.type }};{% endfor %}
{% endfor %}"""
    schema = {"properties": {CONTROL: {"type": "string"}, "b": {"type": "integer"}}, "required": [CONTROL]}
    tool = {"type": "function", "function": {"name": "f", "description": "", "parameters": schema}}
    assert marked(source, tools=[tool]).text == f"{CONTROL}*:string;b:integer;"


def test_a_key_that_a_template_changes_is_refused() -> None:
    source = "{% for key in messages[0].extra %}{{ key[:12] }}{{ key | length }}{% endfor %}"
    with pytest.raises(MessageError, match="the key '<|im_end|>' .* rename the key".replace("|", r"\|")):
        marked(source, messages=[{**user("x"), "extra": {CONTROL: 1}}])


def test_a_name_that_is_a_control_token_is_refused_with_its_place() -> None:
    call = {"id": "a", "function": {"name": "EOT", "arguments": {}}}
    said = {"role": "assistant", "content": "", "tool_calls": [call]}
    for messages, place in (
        ([user("x"), said], r"messages\[1\].tool_calls\[0\].function.name"),
        ([{"role": "EOT", "content": "x"}], r"messages\[0\].role"),
        ([{**user("x"), "name": "xEOTx"}], r"messages\[0\].name"),
    ):
        with pytest.raises(MessageError, match=f"{place} is '.*' which holds|{place} is '.*', which holds"):
            marked("{{ messages[0].content }}", controls=("EOT",), messages=messages)
    tool = {"type": "function", "function": {"name": "EOT", "description": "", "parameters": {}}}
    with pytest.raises(MessageError, match=r"tools\[0\].function.name"):
        marked("{{ messages[0].content }}", controls=("EOT",), tools=[tool])


def test_a_text_that_cannot_be_marked_leaves_the_others_marked() -> None:
    source = "{{ messages[0].content.split('</think>')[-1] }}{{ messages[1].content }}"
    template = ChatTemplate(source, controls=["</think>", CONTROL])
    with pytest.warns(TemplateWarning, match=r"'a</think>b'"):
        rendered = template.render([user("a</think>b"), user(f"c{CONTROL}</think>")])
    assert rendered.text == f"bc{CONTROL}</think>"
    assert CONTROL not in rendered.marked
    assert "</think>" not in rendered.marked


def test_a_template_that_only_looks_how_a_text_begins_gets_it_marked() -> None:
    source = "{% set c = messages[0].content %}{{ 'tool ' if c.startswith('<tool>') and c.endswith('>') }}{{ c }}"
    assert marked(source, controls=("<tool>",), messages=[user("<tool>x<y>")]).text == "tool <tool>x<y>"


def test_marks_that_the_conversation_uses_are_not_taken() -> None:
    every = "".join(chr(code) for code in (*range(0x4DC0, 0x4E00), *range(0x2800, 0x2900)))
    rendered = marked("{{ messages[0].content }}", messages=[user(every + CONTROL)])
    assert rendered.text == every + CONTROL
