"""Messages as OpenAI's clients write them: every template renders them as it renders the simplest form."""

from __future__ import annotations

import copy
import gzip
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from llama_cffi.errors import MessageError, TemplateError
from llama_cffi.prompt.messages import check_messages
from llama_cffi.prompt.template import ChatTemplate
from llama_cffi.prompt.template_traits import REASONING_KEYS
from tests.support.conversations import user
from tests.support.plain_jinja import NEEDED, TEMPLATES, TODAY, plain_jinja

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
needs_source = pytest.mark.skipif(not TEMPLATES, reason="no llama.cpp source in vendor/llama.cpp")

CALL = {"id": "call00001", "type": "function", "function": {"name": "find_needle", "arguments": {"city": "Bern"}}}
RESULT = {"role": "tool", "tool_call_id": "call00001", "name": "find_needle", "content": "sunny"}
ABSENT = object()


@pytest.fixture(autouse=True)
def same_day(monkeypatch: pytest.MonkeyPatch) -> None:
    from llama_cffi.prompt import template

    monkeypatch.setitem(template._sandbox().globals, "strftime_now", lambda pattern: TODAY)


# Of each kind one; `pytest -m conformance` takes all of llama.cpp's and those of another project.
SOME = (
    "openai-gpt-oss-120b Qwen-Qwen3-0.6B GLM-4.6 MiniMax-M2 mistralai-Mistral-Nemo-Instruct-2407 google-gemma-2-2b-it "
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B Reka-Edge LFM2.5-8B-A1B Apriel-1.6-15b-Thinker-fixed muse-glimmer"
)
ALL: dict[str, str] = {path.stem: path.read_text(encoding="utf-8") for path in TEMPLATES}


@pytest.fixture(params=["some", pytest.param("all", marks=pytest.mark.conformance)])
def names(request: pytest.FixtureRequest, assets: Path) -> list[str]:
    """Names of templates, in :data:`ALL`."""
    if request.param == "some":
        return SOME.split()
    for path in sorted((assets / "chat-templates-minja" / "templates").glob("*.jinja")):
        ALL[f"minja/{path.stem}"] = path.read_text(encoding="utf-8")
    return list(ALL)


@cache
def compiled(name: str) -> ChatTemplate:
    return ChatTemplate(ALL[name], tokens=TOKENS, controls=("<|im_end|>", "</s>"))


def ours(name: str, messages: Sequence[Mapping[str, Any]]) -> str | None:
    try:
        return compiled(name).render(messages, **NEEDED.get(name, {})).text
    except TemplateError:
        return None


def theirs(name: str, messages: Sequence[Mapping[str, Any]]) -> str | None:
    """What plain jinja2 makes of the messages, without tools and documents; None where it raises."""
    absent: dict[str, Any] = {"tools": None, "documents": None}
    for nothing in (absent, {}):
        try:
            return plain_jinja(ALL[name]).render(
                {**TOKENS, **NEEDED.get(name, {}), **nothing, "messages": messages, "add_generation_prompt": True}
            )
        except Exception:
            continue
    return None


def with_arguments(messages: Sequence[Mapping[str, Any]], as_text: bool) -> list[dict[str, Any]]:
    changed = copy.deepcopy(list(messages))
    for message in changed:
        for call in message.get("tool_calls", ()):
            if as_text:
                call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
    return changed  # type: ignore[return-value]


def calling(content: Any) -> list[dict[str, Any]]:
    said: dict[str, Any] = {"role": "assistant", "tool_calls": [CALL]}
    return [user("Weather?"), said if content is ABSENT else {**said, "content": content}, RESULT]


def expected_of_calls(name: str) -> set[str]:
    """What may be written for calls without words: what a client that knows the template would get."""
    written: dict[Any, list[str]] = {}
    for content, as_text in itertools.product(("", ABSENT, None), (False, True)):
        text = theirs(name, with_arguments(calling(content), as_text))
        if text is not None and "find_needle" in text.split("Weather?")[-1].split("sunny")[0]:
            written.setdefault(content, []).append(text)
    for content in ("", ABSENT, None):
        if content in written:
            return set(written[content])
    return {text for as_text in (False, True) if (text := theirs(name, with_arguments(calling(""), as_text)))}


@needs_source
def test_a_call_without_words_is_the_same_in_every_form(names: list[str]) -> None:
    n_same = n_refused = n_none_refused = 0
    for name in names:
        texts = [ours(name, calling(content)) for content in (None, ABSENT, "")]
        assert texts[0] == texts[1] == texts[2], name
        expected = expected_of_calls(name)
        if texts[0] is None:
            n_refused += 1
            assert not expected, name
        else:
            n_same += 1
            assert texts[0] in expected, name
        n_none_refused += theirs(name, calling(None)) is None
    assert n_same >= 10 * n_refused
    # Without us, None is an error in many.
    assert n_none_refused > len(names) // 10


@needs_source
def test_keys_that_are_none_or_empty_are_as_if_they_were_absent(names: list[str], assets: Path) -> None:
    with gzip.open(assets / "openai" / "openapi.json.gz") as file:
        schemas = json.load(file)["components"]["schemas"]
    keys = {*schemas["ChatCompletionResponseMessage"]["properties"], "name", "reasoning_content", "reasoning"}
    assert {"refusal", "tool_calls", "annotations", "audio", "function_call"} <= keys
    dumped = {**dict.fromkeys(keys), "role": "assistant", "content": "Hm"}
    n_same = n_refused = 0
    for name in names:
        plain = [user("a"), {"role": "assistant", "content": "Hm"}, user("b")]
        expected = theirs(name, plain)
        said: dict[str, Any]
        for said in (dumped, {**dumped, "tool_calls": []}, {**plain[1], "tool_calls": None}):
            text = ours(name, [plain[0], said, plain[2]])
            # A template that takes only parts is given parts.
            assert text == expected or (compiled(name).wants_typed_content and text), name
            n_same += text is not None
            n_refused += text is None
    assert n_same > 10 * n_refused


def test_a_message_without_words_and_calls_is_refused() -> None:
    said: dict[str, Any]
    for said in ({"content": None}, {"content": None, "tool_calls": []}, {"tool_calls": None}):
        with pytest.raises(MessageError, match=r"messages\[0\] has neither content nor tool_calls"):
            check_messages([{"role": "assistant", **said}])


PARTS = [{"type": "text", "text": "first7"}, {"type": "text", "text": "second7"}]


def roles() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    yield "user", [user(PARTS)]
    yield "system", [{"role": "system", "content": PARTS}, user("Hi")]
    yield "assistant", [user("Hi"), {"role": "assistant", "content": PARTS}, user("Ho")]
    yield (
        "tool",
        [user("Weather?"), {"role": "assistant", "content": "", "tool_calls": [CALL]}, {**RESULT, "content": PARTS}],
    )


def is_readable(text: str) -> bool:
    """Whether both parts are written as texts."""
    return text.count("first7") == text.count("second7") == 1 and not any(
        quoted in text for quoted in ("'text'", '"text"', "'first7", '"first7')
    )


@needs_source
def test_parts_reach_templates_that_know_them_and_are_joined_for_others(names: list[str]) -> None:
    n_apart: dict[str, int] = {}
    for (role, messages), name in itertools.product(roles(), names):
        joined = [{**one, "content": "first7second7"} if one["content"] is PARTS else one for one in messages]
        text = ours(name, messages)
        as_parts = [theirs(name, with_arguments(messages, as_text)) for as_text in (False, True)]
        as_joined = [theirs(name, with_arguments(joined, as_text)) for as_text in (False, True)]
        if text is None or (role == "tool" and as_joined == [None, None]):
            assert as_joined == [None, None], (role, name)
        elif text in as_joined:
            # Then the template puts nothing between the parts, or cannot read them.
            if role != "tool":
                assert not any(other != text and other and is_readable(other) for other in as_parts), (role, name)
        elif role == "tool" and text not in as_parts:
            # Written as for the other content of the call.
            assert text.count("first7") == text.count("second7") == 1, (role, name)
        else:
            assert text in as_parts, (role, name)
            assert is_readable(text), (role, name)
            n_apart[role] = n_apart.get(role, 0) + 1
    assert n_apart.get("user", 0) >= 1, n_apart


@needs_source
def test_reasoning_is_found_under_the_key_that_a_template_reads(names: list[str]) -> None:
    n_written = 0
    for name in names:
        texts = set()
        for key in REASONING_KEYS:
            said: dict[str, Any] = {"role": "assistant", "content": "", "tool_calls": [CALL], key: "thought7"}
            texts.add(ours(name, [user("Weather?"), said, RESULT]))
        assert len(texts) == 1, name
        text = texts.pop()
        every = {"role": "assistant", "content": "", "tool_calls": [CALL], **dict.fromkeys(REASONING_KEYS, "thought7")}
        expected = [
            theirs(name, with_arguments([user("Weather?"), every, RESULT], as_text)) for as_text in (False, True)
        ]
        # Written where a client that gives every key would have it written, and nowhere else.
        assert ("thought7" in (text or "")) == any("thought7" in (one or "") for one in expected), name
        n_written += "thought7" in (text or "")
    assert n_written > len(names) // 4


@needs_source
def test_gpt_oss_is_given_reasoning_and_words_beside_a_call() -> None:
    said: dict[str, Any] = {
        "role": "assistant",
        "content": "Looking.",
        "reasoning_content": "I need it.",
        "tool_calls": [CALL],
    }
    text = ours("openai-gpt-oss-120b", [user("Weather?"), said, RESULT])
    assert text is not None
    assert "<|channel|>analysis<|message|>I need it.\n\nLooking.<|end|>" in text
