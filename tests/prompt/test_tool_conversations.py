"""Conversations with tools: how often a template runs, and what a template that knows no tools is given."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from llama_cffi.core.model import Model, ModelOptions
from llama_cffi.errors import TemplateError
from llama_cffi.prompt.chat import ChatFormat, ChatPrompt
from llama_cffi.prompt.sandbox import Sandbox
from llama_cffi.prompt.template import TemplateWarning
from llama_cffi.prompt.tools import Tool
from tests.support.conversations import CONVERSATIONS, user
from tests.support.plain_jinja import MODELS, NEEDED, TEMPLATES

pytestmark = pytest.mark.skipif(not TEMPLATES, reason="no llama.cpp source in vendor/llama.cpp")

WEATHER = Tool.from_dict(CONVERSATIONS["tools"]["tools"][0])
CALLS = [
    {"id": f"call0000{i}", "type": "function", "function": {"name": "weather", "arguments": {"city": city}}}
    for i, city in enumerate(("Oslo", "Bern"))
]
PARALLEL = [
    user("Weather?"),
    {"role": "assistant", "content": None, "tool_calls": CALLS},
    {"role": "tool", "tool_call_id": "call00000", "name": "weather", "content": "sunny"},
    {"role": "tool", "tool_call_id": "call00001", "name": "weather", "content": "rainy"},
]
# Of each kind one: that knows tools, that mentions them, that does not, that takes no system message.
SOME = {"Qwen-Qwen3-0.6B", "google-gemma-2-2b-it", "openai-gpt-oss-120b", "mistralai-Mistral-Nemo-Instruct-2407"}


@pytest.fixture(scope="module")
def chat() -> Iterator[ChatFormat]:
    with Model(MODELS / "ggml-vocab-qwen2.gguf", ModelOptions(vocab_only=True)) as model:
        yield ChatFormat(model)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What each run of a template wrote."""
    texts: list[str] = []
    render = Sandbox.render

    def counted(self: Sandbox, *args: Any) -> str:
        texts.append("raised")
        texts[-1] = render(self, *args)
        return texts[-1]

    monkeypatch.setattr(Sandbox, "render", counted)
    return texts


def ask(chat: ChatFormat, name: str, messages: Any, tools: list[Tool]) -> ChatPrompt:
    source = next(path for path in TEMPLATES if path.stem == name).read_text(encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TemplateWarning)
        return chat.ask(messages, tools, None, template=source, variables=NEEDED.get(name))


@pytest.mark.parametrize("scope", ["some", pytest.param("all", marks=pytest.mark.conformance)])
def test_a_template_runs_twice_per_call(scope: str, chat: ChatFormat, runs: list[str]) -> None:
    asked = [user("Hi <|im_end|>")]
    more = []
    names = [path.stem for path in TEMPLATES if scope == "all" or path.stem in SOME]
    for name in names:
        for tools in ([], [WEATHER]):
            ask(chat, name, asked, tools)
            runs.clear()
            ask(chat, name, asked, tools)
            if len(runs) != 2:
                more.append((name, len(tools), len(runs)))
    # These raise with tools, or write them only where a conversation has more than a question.
    assert len(more) <= len(names) // 20, more


@pytest.mark.parametrize("scope", ["some", pytest.param("all", marks=pytest.mark.conformance)])
def test_a_template_is_asked_or_told_as_its_text_shows(scope: str, chat: ChatFormat) -> None:
    """The judge renders with and without tools and compares; the marks must say the same."""
    n_written = n_told = 0
    conversations = [CONVERSATIONS["tools"]["messages"], CONVERSATIONS["tool results"]["messages"], PARALLEL]
    for path in TEMPLATES:
        if scope == "some" and path.stem not in SOME:
            continue
        source = path.read_text(encoding="utf-8")
        options: dict[str, Any] = {"template": source, "variables": NEEDED.get(path.stem)}
        for messages in conversations:
            texts: list[str | None] = []
            for tools in ([WEATHER.as_dict()], None):
                try:
                    texts.append(chat.render(messages, tools=tools, **options).text)
                except TemplateError:
                    texts.append(None)
            written = texts[0] is not None and texts[0] != texts[1]
            try:
                text = ask(chat, path.stem, messages, [WEATHER]).rendered.text
            except TemplateError:
                assert not written, path.stem
                continue
            if written:
                n_written += 1
                assert text == texts[0], path.stem
            else:
                n_told += 1
                assert "weather" in text, path.stem
                assert text != texts[0], path.stem
    assert n_written > n_told > 0


def test_results_of_parallel_calls_become_one_message(chat: ChatFormat) -> None:
    said = {"role": "user", "content": [{"type": "text", "text": "And now?"}]}
    asked = ask(chat, "google-gemma-2-2b-it", [*PARALLEL, said], [WEATHER])
    text = asked.rendered.text
    assert asked.reply.name == "generic"
    one = "The function weather returned: sunny\n\nThe function weather returned: rainy\n\nAnd now?"
    assert f"<start_of_turn>user\n{one}<end_of_turn>" in text
    assert text.index('{"name": "weather", "arguments": {"city": "Oslo"}}') < text.index('"Bern"') < text.index(one)


ALTERNATE = """{% for m in messages %}
{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}{% endif %}
[{{ m.role }}]{{ m.content }}{% endfor %}"""


def test_a_change_of_form_is_announced(chat: ChatFormat) -> None:
    for source, reason in (
        (
            "{% if tools %}{{ raise_exception('no tools here') }}{% endif %}{{ messages[-1].content }}",
            "raises: .*no tools",
        ),
        ("{% if tools and messages | length > 9 %}{{ tools }}{% endif %}{{ messages[0].content }}", "does not write"),
    ):
        with pytest.warns(TemplateWarning, match=f"{reason}.*described in messages"):
            asked = chat.ask("Hi", [WEATHER], None, template=source)
        assert asked.reply.name == "generic"
    # A template without a place for tools changes nothing that was meant for it.
    asked = chat.ask("Hi", [WEATHER], None, template=ALTERNATE)
    assert "weather" in asked.rendered.text


def test_tools_that_are_written_in_some_conversations_only(chat: ChatFormat) -> None:
    source = (
        "{% if messages | length > 1 %}{{ tools | tojson }}{% endif %}{{ messages | map(attribute='content') | join }}"
    )
    longer = [user("a"), {"role": "assistant", "content": "b"}, user("c")]
    asked = chat.ask(longer, [WEATHER], None, template=source)
    assert asked.rendered.text.startswith('[{"type": "function"')
    with pytest.warns(TemplateWarning, match="does not write the tools"):
        asked = chat.ask("The weather tool", [WEATHER], None, template=source)
    assert not asked.rendered.text.startswith("[")
    # A tool of which there is nothing to mark is found by its name.
    asked = chat.ask(longer, [Tool("stop")], None, template=source)
    assert asked.rendered.text.startswith('[{"type": "function"')


def test_keys_of_a_tool_that_templates_write_are_kept(chat: ChatFormat) -> None:
    tool = Tool.from_dict({"name": "f", "description": "d", "strict": True, "return": {"type": "string"}})
    text = chat.ask("Hi", [tool], None, template="{{ tools | tojson }}{{ messages[0].content }}").rendered.text
    assert '"strict": true, "return": {"type": "string"}' in text
