"""Every template of llama.cpp's, rendered by its server and by us: the same text, or a difference with its reason."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from llama_cffi import Model
from llama_cffi.errors import TemplateError
from llama_cffi.prompt.chat import ChatFormat
from tests.support.conversations import CONVERSATIONS
from tests.support.llama_server import ServerError, find_server, running_server

pytest_plugins = ["tests.support.models"]

# What others wrote decides, at length: `pytest -m conformance`.
pytestmark = pytest.mark.conformance

# What the server always does, and is told here or undone: it gives `enable_thinking` to every template, continues a
# last message of the assistant, and takes away the BOS that its tokenizer will add again.
OPTIONS = ("--jinja", "--no-prefill-assistant", "-c", 256, "-np", 1, "-t", 1, "--no-warmup")
VARIABLES = {"enable_thinking": True}


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What the server does otherwise for some templates, and what makes our rendering equal to its own."""

    reason: str
    templates: Sequence[str]
    conversations: Sequence[str] = tuple(CONVERSATIONS)
    variables: Callable[[], Mapping[str, Any]] = dict
    source: Sequence[tuple[str, str]] = ()
    """Replacements in the template."""
    change: Callable[[dict[str, Any]], None] = field(default=lambda conversation: None)
    """Changes the conversation in place."""


Texts = dict[tuple[str, str], "str | None"]
Render = Callable[[str, str, "Difference | None"], "str | None"]


def today(pattern: str) -> str:
    return time.strftime(pattern)


def describe_parameters(conversation: dict[str, Any]) -> None:
    for tool in conversation["tools"]:
        for parameter in tool["function"]["parameters"]["properties"].values():
            parameter.setdefault("description", "")


def join_system(conversation: dict[str, Any]) -> None:
    system, first, *rest = conversation["messages"]
    conversation["messages"] = [{**first, "content": f"{system['content']}\n{first['content']}"}, *rest]


def join_results(conversation: dict[str, Any]) -> None:
    asked, calling, result = conversation["messages"]
    answer = {"name": result["name"], "response": result["content"]}
    conversation["messages"] = [asked, {**calling, "tool_responses": [answer]}]


def compact_arguments(conversation: dict[str, Any]) -> None:
    for message in conversation["messages"]:
        for call in message.get("tool_calls", ()):
            function = call["function"]
            function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False, separators=(",", ":"))


def leave_calls_out(conversation: dict[str, Any]) -> None:
    conversation["messages"] = [
        {key: value for key, value in message.items() if key != "tool_calls"} for message in conversation["messages"]
    ]


DIFFERENCES = (
    Difference(
        reason="llama-server passes `date_string` and `datetime` to every template; transformers passes neither, and "
        "these templates then write a fixed date",
        templates=["meta-llama-Llama-3.1-8B-Instruct", "meta-llama-Llama-3.3-70B-Instruct"],
        variables=lambda: {"date_string": today("%d %b %Y")},
    ),
    Difference(
        reason="the template needs `datetime` and `functions`; llama-server passes the first and treats the second, "
        "which is never passed, as an empty text, so that the prompt has no tools",
        templates=["fireworks-ai-llama-3-firefunction-v2"],
        variables=lambda: {"datetime": today("%b %d %Y"), "functions": ""},
    ),
    Difference(
        reason="llama-server turns `enable_thinking` off for a template without thinking tags",
        templates=["Apertus-8B-Instruct"],
        variables=lambda: {"enable_thinking": False},
    ),
    Difference(
        reason="llama-server keeps earlier thinking by default (`preserve_reasoning`), the template does not",
        templates=["deepseek-ai-DeepSeek-V4", "deepseek-ai-DeepSeek-V4-Flash-0731"],
        conversations=["turns"],
        variables=lambda: {"drop_thinking": False},
    ),
    Difference(
        reason="the template reads the description of every parameter; without one, jinja2 raises an error, and "
        "llama.cpp's Jinja writes nothing",
        templates=["CohereForAI-c4ai-command-r-plus-tool_use"],
        conversations=["tools", "tool results"],
        change=describe_parameters,
    ),
    Difference(
        reason="the template changes a list with its methods, which the sandboxes of transformers and of this "
        "package forbid",
        templates=["Kimi-K2-Instruct", "Kimi-K2-Thinking"],
        conversations=["tool results"],
        source=[
            ("set _ = tool_response_queue.ids.append(formatted_id)", "set tool_response_queue.ids = [formatted_id]"),
            ("set tool_call_id = tool_response_queue.ids.pop(0)", "set tool_call_id = tool_response_queue.ids[0]"),
        ],
    ),
    Difference(
        reason="the template converts the result of `map` to JSON: a list in llama.cpp's Jinja, a generator in jinja2",
        templates=["llama-cpp-deepseek-r1"],
        conversations=["tools", "tool results"],
        source=[("map(attribute='function') | tojson", "map(attribute='function') | list | tojson")],
    ),
    Difference(
        reason="the template refuses system messages; llama-server puts the text of a system message before the "
        "first other message",
        templates=["google-gemma-2-2b-it"],
        conversations=["system"],
        change=join_system,
    ),
    Difference(
        reason="the template supports results of tools only as `tool_responses` of the assistant's message; "
        "llama-server detects this outdated template and moves the results there",
        templates=["google-gemma-4-31B-it-interleaved"],
        conversations=["tool results"],
        change=join_results,
    ),
    Difference(
        reason="the template needs the arguments of a call as text; llama-server converts an object to text without "
        "blanks, and this package as `tojson` does",
        templates=["meetkai-functionary-medium-v3.2"],
        conversations=["tool results"],
        change=compact_arguments,
    ),
    Difference(
        reason="the template writes calls only if the content is null; this package passes null for an empty "
        "content, and llama-server omits the calls",
        templates=["deepseek-ai-DeepSeek-R1-Distill-Llama-8B"],
        conversations=["tool results"],
        change=leave_calls_out,
    ),
)
BY_CASE = {
    (template, conversation): difference
    for difference in DIFFERENCES
    for template in difference.templates
    for conversation in difference.conversations
}


@pytest.fixture(scope="module")
def program() -> Path:
    if (found := find_server()) is None:
        pytest.skip("no llama-server (python scripts/build_libllama.py --tool llama-server)")
    return found


@pytest.fixture(scope="module")
def theirs(program: Path, assets: Path, llama_cpp_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Texts:
    """What the server makes of each template and conversation; None where it refuses."""
    model, folder = assets / "models" / "stories260K.gguf", tmp_path_factory.mktemp("servers")
    found: Texts = {}
    for path in sorted((llama_cpp_models / "templates").glob("*.jinja")):
        log = folder / f"{path.stem}.log"
        with running_server(program, model, *OPTIONS, "--chat-template-file", path, log=log) as server:
            for name, conversation in CONVERSATIONS.items():
                try:
                    found[path.stem, name] = server.post("/apply-template", conversation)["prompt"]
                except ServerError:
                    found[path.stem, name] = None
    return found


@pytest.fixture(scope="module")
def ours(stories: Model, llama_cpp_models: Path) -> Render:
    """Renders a conversation as the difference has it, without the BOS; None where the template refuses."""
    chat = ChatFormat(stories)
    bos = stories.vocab.bos
    start = stories.vocab.text(bos) if bos is not None else ""

    def render(template: str, name: str, difference: Difference | None) -> str | None:
        source = (llama_cpp_models / "templates" / f"{template}.jinja").read_text(encoding="utf-8")
        conversation = copy.deepcopy(CONVERSATIONS[name])
        variables = dict(VARIABLES)
        if difference is not None:
            for old, new in difference.source:
                assert old in source
                source = source.replace(old, new)
            difference.change(conversation)
            variables |= difference.variables()
        try:
            rendered = chat.render(**conversation, template=source, variables=variables)
        except TemplateError:
            return None
        return rendered.text.removeprefix(start)

    return render


def test_every_difference_has_a_true_reason(theirs: Texts, ours: Render) -> None:
    """With the difference taken into account the texts are equal; without it, where one is listed, they are not."""
    assert set(BY_CASE) <= set(theirs)
    for (template, name), expected in theirs.items():
        difference = BY_CASE.get((template, name))
        assert ours(template, name, difference) == expected, (template, name, difference and difference.reason)
        if difference is not None:
            assert ours(template, name, None) != expected, f"{template}, {name}: the difference is no more"


def test_nearly_all_are_rendered(theirs: Texts) -> None:
    assert len(theirs) >= 6 * 60
    assert [case for case, text in theirs.items() if text is None] == [("google-gemma-2-2b-it", "tool results")]


def test_the_differences_are_documented(checkout: Path, theirs: Texts) -> None:
    text = " ".join((checkout / "docs" / "templates.md").read_text(encoding="utf-8").split())
    for difference in DIFFERENCES:
        for template in difference.templates:
            assert f"`{template}`" in text, template
        assert difference.reason in text
    assert f"{len(theirs) - len(BY_CASE)} of {len(theirs)} results are equal" in text
