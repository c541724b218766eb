"""Which format each chat template gets, and whether it reads back what the template writes."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

from llama_cffi.errors import TemplateError
from llama_cffi.prompt.template import ChatTemplate
from llama_cffi.reply.format import ReplyRules, ToolSpec
from llama_cffi.reply.formats import FORMATS, detect, find
from tests.support.replies import Reply, SmallVocabulary, compiled, read, reply_grammar

TEMPLATES = Path(__file__).resolve().parents[2] / "vendor" / "llama.cpp" / "models" / "templates"
needs_source = pytest.mark.skipif(not TEMPLATES.is_dir(), reason="no llama.cpp source in vendor/llama.cpp")

OF_TEMPLATE = {
    "Apertus-8B-Instruct": "apertus",
    "Apriel-1.6-15b-Thinker-fixed": "apriel",
    "Bielik-11B-v3.0-Instruct": "hermes",
    "ByteDance-Seed-OSS": "seed-oss",
    "Cohere2MoE": "command-r7b",
    "CohereForAI-c4ai-command-r-plus-tool_use": "command-r",
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": "command-r7b",
    "GLM-4.6": "glm",
    "GLM-4.7-Flash": "glm-4.7",
    "GigaChat3-10B-A1.8B": "gigachat",
    "GigaChat3.1-10B-A1.8B": "gigachat",
    "HuggingFaceTB-SmolLM3-3B": "generic",
    "Kimi-K2-Instruct": "kimi-k2",
    "Kimi-K2-Thinking": "kimi-k2",
    "Kimi-K3": "kimi-k3",
    "LFM2-8B-A1B": "lfm2",
    "LFM2.5-8B-A1B": "lfm2",
    "LFM2.5-Instruct": "lfm2",
    "MiMo-VL": "hermes",
    "MiniMax-M1": "minimax-m1",
    "MiniMax-M2": "minimax-m2",
    "MiniMax-M3": "minimax-m3",
    "Mistral-Small-3.2-24B-Instruct-2506": "mistral-call-id",
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": "qwen-coder",
    "NVIDIA-Nemotron-Nano-v2": "nemotron",
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": "hermes",
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": "hermes",
    "Qwen-QwQ-32B": "hermes",
    "Qwen-Qwen2.5-7B-Instruct": "hermes",
    "Qwen-Qwen3-0.6B": "hermes",
    "Qwen3-Coder": "qwen-coder",
    "Qwen3.5-4B": "qwen-coder",
    "Reka-Edge": "hermes",
    "Spark2.5": "glm-4.7",
    "StepFun3.5-Flash": "qwen-coder",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": "deepseek-r1",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": "deepseek-r1",
    "deepseek-ai-DeepSeek-V3.1": "deepseek-v3.1",
    "deepseek-ai-DeepSeek-V3.2": "deepseek-v3.2",
    "deepseek-ai-DeepSeek-V4": "deepseek-v4",
    "deepseek-ai-DeepSeek-V4-Flash-0731": "deepseek-v4",
    "fireworks-ai-llama-3-firefunction-v2": "firefunction",
    "google-gemma-2-2b-it": "generic",
    "google-gemma-4-31B-it": "gemma4",
    "google-gemma-4-31B-it-interleaved": "gemma4",
    "ibm-granite-granite-3.3-2B-Instruct": "granite",
    "ibm-granite-granite-4.0": "hermes",
    "ibm-granite-granite-4.1": "hermes",
    "inclusionai-ling-3.0-flash": "glm",
    "llama-cpp-deepseek-r1": "deepseek-r1",
    "llama-cpp-rwkv-world": "generic",
    "meetkai-functionary-medium-v3.1": "functionary-v3.1",
    "meetkai-functionary-medium-v3.2": "functionary-v3.2",
    "meta-llama-Llama-3.1-8B-Instruct": "llama3",
    "meta-llama-Llama-3.2-3B-Instruct": "llama3",
    "meta-llama-Llama-3.3-70B-Instruct": "llama3",
    "microsoft-Phi-3.5-mini-instruct": "generic",
    "mistralai-Ministral-3-14B-Reasoning-2512": "mistral",
    "mistralai-Mistral-Nemo-Instruct-2407": "mistral-nemo",
    "moonshotai-Kimi-K2": "kimi-k2",
    "muse-glimmer": "muse-glimmer",
    "openai-gpt-oss-120b": "harmony",
    "openbmb-MiniCPM5-1B": "minicpm",
    "poolside-Laguna-S-2.1": "glm-4.7",
    "poolside-Laguna-XS-2.1": "glm",
    "poolside-Laguna-XS.2": "glm",
    "tencent-Hy3": "hunyuan",
    "unsloth-Apriel-1.5": "apriel",
    "unsloth-mistral-Devstral-Small-2507": "mistral",
    "upstage-Solar-Open-100B": "solar",
}

NO_CALLS = {
    "HuggingFaceTB-SmolLM3-3B": "it has no tools",
    "LFM2-8B-A1B": "its assistant messages leave tool_calls out",
    "LFM2.5-Instruct": "its assistant messages leave tool_calls out",
    "google-gemma-2-2b-it": "it has no tools",
    "ibm-granite-granite-3.3-2B-Instruct": "its assistant messages leave tool_calls out",
    "llama-cpp-rwkv-world": "it has no tools",
    "microsoft-Phi-3.5-mini-instruct": "it has no tools",
}
NULL_CONTENT = {"deepseek-ai-DeepSeek-R1-Distill-Llama-8B"}
ONE_CALL = {"meta-llama-Llama-3.1-8B-Instruct", "meta-llama-Llama-3.2-3B-Instruct", "meta-llama-Llama-3.3-70B-Instruct"}
FIRST_CALL_ONLY = {"GigaChat3-10B-A1.8B", "GigaChat3.1-10B-A1.8B", "openai-gpt-oss-120b"}

PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": "Where."},
        "days": {"type": "integer", "description": "How many."},
        "exact": {"type": "boolean", "description": "Whether."},
        "tags": {"type": "array", "items": {"type": "string"}, "description": "Which."},
    },
    "required": ["city"],
}
SPECS = (ToolSpec("get_weather", PARAMETERS), ToolSpec("now", {"type": "object", "properties": {}}))
TOOLS = [
    {"type": "function", "function": {"name": spec.name, "description": "Does it.", "parameters": spec.parameters}}
    for spec in SPECS
]
ARGUMENTS = {"city": 'Are "N"\n</b>', "days": 3, "exact": True, "tags": ["a b", "c"]}


TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def conversation(
    calls: list[tuple[str, dict[str, Any]]], *, as_text: bool, thought: str, content: str | None
) -> list[dict[str, Any]]:
    made = [
        {
            "type": "function",
            "id": f"callno{i:03}",
            "function": {"name": name, "arguments": json.dumps(arguments) if as_text else arguments},
        }
        for i, (name, arguments) in enumerate(calls)
    ]
    answer: dict[str, Any] = {"role": "assistant", "content": content}
    if made:
        answer["tool_calls"] = made
    if thought:
        answer["reasoning_content"] = thought
    return [{"role": "user", "content": "What next?"}, answer]


@needs_source
def test_every_template_has_its_format() -> None:
    found = {path.stem: detect(path.read_text(encoding="utf-8")).name for path in TEMPLATES.glob("*.jinja")}
    assert found == OF_TEMPLATE


def replies_of(
    name: str, calls: list[tuple[str, dict[str, Any]]], *, thought: str = "", content: str = ""
) -> tuple[str, str]:
    """The end of the prompt and the reply, as the template writes them."""
    template = ChatTemplate((TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8"), tokens=TOKENS)
    problem: TemplateError | None = None
    for as_text in (False, True):
        said = None if name in NULL_CONTENT and calls and not content else content
        messages = conversation(calls, as_text=as_text, thought=thought, content=said)
        variables: dict[str, Any] = {"tools": TOOLS}
        if "firefunction" in name:
            variables |= {"functions": json.dumps(TOOLS), "datetime": "today"}
        try:
            whole = template.render(messages, add_generation_prompt=False, **variables).text
            prompt = template.render(messages[:1], **variables).text
        except TemplateError as error:
            problem = error
            continue
        pairs = zip(whole, prompt, strict=False)
        start = next((i for i, (one, other) in enumerate(pairs) if one != other), min(len(whole), len(prompt)))
        # Where the two part inside of a tag, the prompt closed reasoning that the message does not have.
        tag = whole.rfind("<", 0, start)
        if tag >= 0 and ">" not in whole[tag:start]:
            start = tag
        return whole[:start], whole[start:]
    assert problem is not None
    pytest.skip(f"the template does not render: {problem.message[:60]}")


def check_calls(reply: Reply, calls: list[tuple[str, dict[str, Any]]]) -> None:
    assert [(call.name, json.loads(call.arguments), call.complete) for call in reply.calls] == [
        (name, arguments, True) for name, arguments in calls
    ]


@needs_source
@pytest.mark.parametrize("name", sorted(set(OF_TEMPLATE) - set(NO_CALLS)))
def test_what_a_template_writes_is_read_back(name: str) -> None:
    calls = [("get_weather", ARGUMENTS), ("now", {})]
    if name in ONE_CALL:
        calls = calls[:1]
    format = find(OF_TEMPLATE[name])
    prompt, text = replies_of(name, calls)
    state = format.state(prompt)
    if state == "open":
        # Without reasoning of its own the message was written as a template that does not think would.
        state = "auto" if format.name != "harmony" else state
    expected = calls[:1] if name in FIRST_CALL_ONLY else calls
    check_calls(read(format, ReplyRules(SPECS, reasoning=state), [text]), expected)
    check_calls(read(format, ReplyRules(SPECS, reasoning=state), list(text)), expected)


TURN_ENDS = (
    *("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|eot|>", "<|end|>", "<|end_of_msg|>", "<|end_of_text|>", "</s>"),
    *("<turn|>", "<|turn>", "<|tool_response>", "<|return|>", "<|call|>", "<seed:eos>", "[e~[", "<|assistant_end|>"),
    *("<｜end▁of▁sentence｜>", "<|END_OF_TURN_TOKEN|>", "<|endoftext|>", "</assistant>", "<|role_end|>", "<|calls|>"),  # noqa: RUF001
    *(
        "<end_of_sentence>",
        "<|observation|>",
        "<|user|>",
        "<sep>",
        "<end_of_turn>",
        "<|eos:opensource|>",
        "<SPECIAL_12>",
    ),
    *(
        "<eos:opensource>",
        "<|message_sep|>",
        "<｜hy_eos:opensource｜>",  # noqa: RUF001
        "<|im_user|>",
        "<|START_OF_TURN_TOKEN|>",
        "<|flush|>",
    ),
)
"""Texts that end a turn in some template, and the generation in its models; none is part of a reply."""

WRITES_PYTHON = {"ByteDance-Seed-OSS", "openbmb-MiniCPM5-1B"}
"""Templates that write lists as Python does, where their models write JSON."""

CALLS_FIRST = {
    "google-gemma-4-31B-it": [2],
    "google-gemma-4-31B-it-interleaved": [2],
    "Apriel-1.6-15b-Thinker-fixed": [1],
}
"""Messages left out of those below: text that a template puts behind a call; reasoning that the prompt began."""

END_LEFT_OUT = {"deepseek-ai-DeepSeek-R1-Distill-Llama-8B": "<｜tool▁calls▁end｜>"}  # noqa: RUF001
"""Ends of sections that a template leaves out behind a single call, with the end of the turn; its model writes both."""


@needs_source
@pytest.mark.conformance
@pytest.mark.parametrize("special", [False, True], ids=["spelled", "tokens"])
@pytest.mark.parametrize("name", sorted(set(OF_TEMPLATE) - set(NO_CALLS)))
def test_what_a_template_writes_is_allowed(name: str, special: bool) -> None:
    """The grammar takes the reply as the template renders it, and lets it end where the template ends it."""
    arguments = dict(ARGUMENTS) if name not in WRITES_PYTHON else {**ARGUMENTS, "tags": []}
    call = ("get_weather", arguments)
    asked: list[tuple[list[tuple[str, dict[str, Any]]], str, str]] = [
        ([call], "", ""), ([call], "Hm <x>.", ""), ([call], "", "I look."), ([], "", "Hello.")
    ]  # fmt: skip
    for number in CALLS_FIRST.get(name, ()):
        del asked[number]
    if name not in ONE_CALL:
        asked.append(([call, ("now", {})], "", ""))
    format = find(OF_TEMPLATE[name])
    vocabulary = SmallVocabulary(format.controls, special, format)
    for calls, thought, content in asked:
        prompt, text = replies_of(name, calls, thought=thought, content=content)
        if calls and END_LEFT_OUT.get(name, "") not in text:
            text += END_LEFT_OUT[name]
        state = format.state(prompt)
        states = [state]
        if state != "auto" and not thought and format.name != "harmony":
            # Without reasoning of its own the message was written as a template that does not think would.
            states.append("auto")
        texts = [text]
        if format.thinking and text.lstrip().startswith(format.thinking.end):
            texts.append(text.lstrip()[len(format.thinking.end) :])
        reached = []
        for state, text in itertools.product(states, texts):
            grammar = reply_grammar(format, ReplyRules(SPECS, reasoning=state), vocabulary.token)
            ends = [found.start() for end in TURN_ENDS for found in re.finditer(re.escape(end), text)]
            for end in (*ends, len(text)):
                matcher = compiled(str(grammar), vocabulary.engine)
                tokens = vocabulary.tokens_of(text[:end])
                n = matcher.try_consume_tokens(tokens)
                whole = n == len(tokens) and matcher.is_accepting() and end > 0
                reached.append((whole, n, text[:end]))
        whole, n, longest = max(reached)
        rest = b"".join(vocabulary.tokens[token] for token in vocabulary.tokens_of(longest)[n:]).decode(
            errors="replace"
        )
        assert whole, f"stopped at {rest!r} of {longest!r}"


@needs_source
@pytest.mark.parametrize("name", ["Qwen-Qwen3-0.6B", "GLM-4.6", "ByteDance-Seed-OSS", "MiniMax-M2", "Qwen3.5-4B"])
def test_reasoning_of_a_template_is_read_back(name: str) -> None:
    format = find(OF_TEMPLATE[name])
    calls = [("get_weather", ARGUMENTS)]
    prompt, text = replies_of(name, calls, thought="It is <cold>.\n\nIs it?")
    reply = read(format, ReplyRules(SPECS, reasoning=format.state(prompt)), list(text))
    assert reply.reasoning == "It is <cold>.\n\nIs it?"
    check_calls(reply, calls)


@needs_source
@pytest.mark.parametrize(
    ("name", "variables", "state"),
    [
        ("Qwen-Qwen3-0.6B", {}, "auto"),
        ("Qwen-Qwen3-0.6B", {"enable_thinking": False}, "off"),
        ("Qwen3.5-4B", {}, "open"),
        ("deepseek-ai-DeepSeek-V3.1", {}, "off"),
        ("deepseek-ai-DeepSeek-V3.1", {"thinking": True}, "open"),
        ("openai-gpt-oss-120b", {}, "auto"),
        ("GLM-4.7-Flash", {}, "open"),
        ("meetkai-functionary-medium-v3.2", {}, "off"),
    ],
)
def test_a_prompt_tells_whether_reasoning_is_open(name: str, variables: dict[str, Any], state: str) -> None:
    template = ChatTemplate((TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8"), tokens=TOKENS)
    prompt = template.render([{"role": "user", "content": "Hi"}], **variables).text
    assert find(OF_TEMPLATE[name]).state(prompt) == state


def test_a_format_is_found_by_its_name() -> None:
    assert all(find(name).name == name for name in FORMATS)
    with pytest.raises(ValueError, match=r"no reply format 'qwen'; the formats are harmony, .*hermes"):
        find("qwen")
    assert detect("").name == "generic"


def test_budgets_know_the_tags_of_reasoning() -> None:
    for name, format in FORMATS.items():
        if format.thinking is not None:
            text = f"{format.thinking.start}Hm.{format.thinking.end}"
            assert read(format, ReplyRules(), [text]) == Reply("Hm."), name
            assert format.state(format.thinking.start) == "open"


def test_instructions_name_every_tool() -> None:
    told = {name: find(name).instructions(TOOLS) for name in FORMATS}
    assert [name for name, text in told.items() if text] == ["generic"]
    assert '"get_weather"' in told["generic"]
    assert '"days": {"type": "integer"' in told["generic"]
    assert find("generic").instructions([]) == ""
