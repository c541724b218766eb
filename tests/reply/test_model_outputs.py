"""What llama.cpp's chat tests expect of model outputs, and what the parsers here read: see ``data/README.md``."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from llama_cffi.errors import TemplateError
from llama_cffi.prompt.template import ChatTemplate
from llama_cffi.reply.format import ReplyFormat, ReplyRules, ToolSpec
from llama_cffi.reply.formats import detect
from tests.support.replies import Reply, read

# At length: `pytest -m conformance`.
pytestmark = pytest.mark.conformance

DATA = Path(__file__).with_name("data")
TEMPLATES = Path(__file__).resolve().parents[2] / "vendor" / "llama.cpp" / "models" / "templates"
CASES: list[dict[str, Any]] = [
    json.loads(line) for line in (DATA / "model_outputs.jsonl").read_text(encoding="utf-8").splitlines()
]
TOOLS = {
    name: ToolSpec(tool["name"], tool["parameters"])
    for name, tool in json.loads((DATA / "model_outputs_tools.json").read_text(encoding="utf-8")).items()
}
NOT_RENDERED = {"llama-cpp-deepseek-r1"}
"""Templates that fail with tools."""


def described(schema: Any, *, names: bool = False) -> Any:
    """A schema with the descriptions that some templates ask for."""
    if not isinstance(schema, dict):
        return schema
    inner = {key: described(value, names=key == "properties") for key, value in schema.items()}
    return inner if names else {**inner, "description": ""}


@cache
def prompt(template: str, tools: tuple[str, ...], thinking: bool) -> tuple[ReplyFormat, str]:
    """The format of a template, and the prompt that asks for a reply."""
    text = (TEMPLATES / f"{template}.jinja").read_text(encoding="utf-8")
    variables: dict[str, Any] = {"enable_thinking": thinking, "thinking": thinking}
    specs = [TOOLS[name] for name in tools]
    listed = [
        {"type": "function", "function": {"name": s.name, "description": "", "parameters": described(s.parameters)}}
        for s in specs
    ]
    if listed:
        variables["tools"] = listed
    if "firefunction" in template:
        variables |= {"functions": json.dumps(listed), "datetime": "today"}
    rendered = ChatTemplate(text, tokens={"bos_token": "<s>", "eos_token": "</s>"}).render(
        [{"role": "user", "content": "Hey"}], **variables
    )
    return detect(text), rendered.text


def asked(case: dict[str, Any]) -> tuple[ReplyFormat, ReplyRules]:
    """The format and the rules of a case."""
    format, text = prompt(case["template"], tuple(case.get("tools", ())), case.get("thinking", True))
    tools = tuple(TOOLS[name] for name in case.get("tools", ()))
    return format, ReplyRules(
        tools,
        choice=case.get("choice", "auto") if tools else "none",
        parallel=case.get("parallel", False),
        content="@content" if "schema" in case else None,
        reasoning=format.state(text),
    )


def arguments(text: str) -> Any:
    """The value of a call's arguments; of those that were cut the text without blanks."""
    try:
        return json.loads(text) if text else {}
    except ValueError:
        return "".join(text.split())


def found(reply: Reply) -> dict[str, Any]:
    return {
        "reasoning": reply.reasoning.strip(),
        "content": reply.text.strip(),
        "calls": [[call.name, arguments(call.arguments)] for call in reply.calls],
    }


def expected(case: dict[str, Any]) -> dict[str, Any]:
    return {
        "reasoning": case.get("reasoning", "").strip(),
        "content": case.get("content", "").strip(),
        "calls": [[name, arguments(text)] for name, text, *_ in case.get("calls", ())],
    }


@pytest.mark.skipif(not TEMPLATES.is_dir(), reason="no llama.cpp source in vendor/llama.cpp")
def test_model_outputs_mean_what_llama_cpp_says(capsys: pytest.CaptureFixture[str]) -> None:
    counts: Counter[str] = Counter()
    wrong = []
    for case in CASES:
        try:
            format, rules = asked(case)
        except TemplateError:
            assert case["template"] in NOT_RENDERED
            counts["not rendered"] += 1
            continue
        theirs = expected(case)
        ours = {**theirs, **case.get("ours", {})}
        assert (ours != theirs) == ("why" in case), case
        for pieces in ([case["output"]], list(case["output"])):
            if found(read(format, rules, pieces)) != ours:
                wrong.append((case, found(read(format, rules, pieces))))
                break
        counts["differ, each with a reason" if "why" in case else "as llama.cpp"] += 1
    with capsys.disabled():
        print(f"\nmodel outputs: {len(CASES)}: {dict(counts)}")
    assert not wrong, "\n".join(map(str, wrong))
    assert counts["as llama.cpp"] >= 300
    assert counts["not rendered"] <= 1
