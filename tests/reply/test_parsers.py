"""Replies as models write them, as they break them, and as nobody would."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_cffi.reply.events import CallArguments, CallBegin, CallEnd, Reasoning, Text
from llama_cffi.reply.format import ReplyRules, ToolSpec
from llama_cffi.reply.formats import FORMATS, find
from tests.support.replies import Call, Reply, joined, read, tags_of

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "x": {}}}
PLAN = ReplyRules((ToolSpec("get_weather", SCHEMA), ToolSpec("add", {"type": "object"})))
OPEN = ReplyRules(PLAN.tools, reasoning="open")
OSLO = '{"city": "Oslo"}'


def done(name: str, arguments: str, id: str = "") -> Call:
    return Call(name, id, arguments, complete=True)


WEATHER = done("get_weather", OSLO)

# (format, rules, reply, what it is)
GOLDENS: list[tuple[str, ReplyRules, str, Reply]] = [
    ("plain", PLAN, "<think>\nWell.\n</think>\n\nHi <b>!", Reply("Well.", "Hi <b>!")),
    ("plain", PLAN, "Hi\n", Reply("", "Hi\n")),
    ("plain", PLAN, "\n", Reply("", "\n")),
    ("plain", OPEN, "Well.\n</think>\nHi", Reply("Well.", "Hi")),
    ("plain", OPEN, "<think>Well.</think>Hi", Reply("Well.", "Hi")),
    ("plain", OPEN, "Well, I never", Reply("Well, I never")),
    ("plain", ReplyRules(reasoning="off"), "<think>x", Reply("", "<think>x")),
    ("plain", PLAN, "It is <think>no tag</think>", Reply("", "It is <think>no tag</think>")),
    (
        "hermes",
        PLAN,
        f'Let me see.\n\n<tool_call>\n{{"name": "get_weather", "arguments": {OSLO}}}\n</tool_call>\n'
        '<tool_call>\n{"arguments": {"a": 1}, "name": "add"}\n</tool_call>',
        Reply("", "Let me see.", [WEATHER, done("add", '{"a": 1}')]),
    ),
    (
        "hermes",
        PLAN,
        '<think>\nA <tool_call> maybe\n</think>\n<tool_call>{"name": "add"}</tool_call> Done.',
        Reply("A <tool_call> maybe", "Done.", [done("add", "{}")]),
    ),
    (
        "hermes",
        PLAN,
        '<tool_call>{"name": "add", "arguments": "{\\"a\\": [1, \\"}\\"]}"}</tool_call>',
        Reply("", "", [done("add", '{"a": [1, "}"]}')]),
    ),
    (
        "llama3",
        PLAN,
        '{"name": "get_weather", "parameters": {"city": "Oslo"}}; {"name": "add", "parameters": {}}',
        Reply("", "", [WEATHER, done("add", "{}")]),
    ),
    (
        "llama3",
        PLAN,
        '<|python_tag|>{"type": "function", "name": "get_weather", "parameters": {"city": "Oslo"}}',
        Reply("", "", [WEATHER]),
    ),
    ("llama3", PLAN, '{"name": "Ada", "parameters": {}}', Reply("", '{"name": "Ada", "parameters": {}}')),
    ("llama3", PLAN, '{"city": "Oslo"}', Reply("", '{"city": "Oslo"}')),
    (
        "generic",
        PLAN,
        '```json\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n```',
        Reply("", "", [WEATHER]),
    ),
    ("generic", PLAN, '{"name": "Ada", "age": 36}', Reply("", '{"name": "Ada", "age": 36}')),
    ("generic", PLAN, "```json\n[1]\n```\n", Reply("", "```json\n[1]\n```\n")),
    (
        "mistral-nemo",
        PLAN,
        '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Oslo"}, "id": "abc123def"}]',
        Reply("", "", [done("get_weather", OSLO, "abc123def")]),
    ),
    (
        "mistral",
        PLAN,
        '[THINK]Hm.[/THINK]I look.[TOOL_CALLS]get_weather[ARGS]{"city": "Oslo"}[TOOL_CALLS]add[ARGS]{}',
        Reply("Hm.", "I look.", [WEATHER, done("add", "{}")]),
    ),
    (
        "mistral-call-id",
        PLAN,
        '[TOOL_CALLS]get_weather[CALL_ID]abc123def[ARGS]{"city": "Oslo"}',
        Reply("", "", [done("get_weather", OSLO, "abc123def")]),
    ),
    (
        "functionary-v3.1",
        PLAN,
        '<function=get_weather>{"city": "Oslo"}</function><function=add>{}</function>',
        Reply("", "", [WEATHER, done("add", "{}")]),
    ),
    (
        "functionary-v3.2",
        PLAN,
        'all\nLook: >>> print(1)\n>>>get_weather\n{"city": "Oslo"}>>>add\n{}',
        Reply("", "Look: >>> print(1)", [WEATHER, done("add", "{}")]),
    ),
    (
        "deepseek-r1",
        OPEN,
        "Hm.\n</think>\n\n<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n"  # noqa: RUF001
        '{"city": "Oslo"}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n{}\n'  # noqa: RUF001
        "```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",  # noqa: RUF001
        Reply("Hm.", "", [WEATHER, done("add", "{}")]),
    ),
    (
        "deepseek-v3.1",
        PLAN,
        "I look.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>"  # noqa: RUF001
        '{"city": "Oslo"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>',  # noqa: RUF001
        Reply("", "I look.", [WEATHER]),
    ),
    (
        "deepseek-v3.2",
        PLAN,
        '<｜DSML｜function_calls>\n<｜DSML｜invoke name="get_weather">\n<｜DSML｜parameter name="city" string="true">'  # noqa: RUF001
        'Oslo</｜DSML｜parameter>\n<｜DSML｜parameter name="days" string="false">3</｜DSML｜parameter>\n'  # noqa: RUF001
        "</｜DSML｜invoke>\n</｜DSML｜function_calls>",  # noqa: RUF001
        Reply("", "", [done("get_weather", '{"city": "Oslo", "days": 3}')]),
    ),
    (
        "harmony",
        PLAN,
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary<|message|>I look.<|end|>"
        "<|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
        '{"city": "Oslo"}<|call|>',
        Reply("Hm.", "I look.", [WEATHER]),
    ),
    (
        "harmony",
        PLAN,
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.<|return|>",
        Reply("Hm.", "Yes."),
    ),
    (
        "harmony",
        PLAN,
        ' to=functions.get_weather<|channel|>commentary json<|message|>{"city": "Oslo"}<|call|>',
        Reply("", "", [WEATHER]),
    ),
    ("harmony", PLAN, "Just text.", Reply("", "Just text.")),
    (
        "gemma4",
        PLAN,
        '<|channel>thought\nHm.\n<channel|><|tool_call>call:get_weather{city:<|"|>Oslo "N"<|"|>,x:{a:[1,true],b:-2.5}}'
        "<tool_call|>",
        Reply("Hm.", "", [done("get_weather", '{"city": "Oslo \\"N\\"", "x": {"a": [1, true], "b": -2.5}}')]),
    ),
    (
        "lfm2",
        PLAN,
        "<|tool_call_start|>[get_weather(city='It\\'s \"x\"', x={'a': (1, None)}), add()]<|tool_call_end|>Wait.",
        Reply(
            "", "Wait.", [done("get_weather", '{"city": "It\'s \\"x\\"", "x": {"a": [1, null]}}'), done("add", "{}")]
        ),
    ),
    (
        "command-r7b",
        PLAN,
        '<|START_THINKING|>Hm.<|END_THINKING|><|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "get_weather", '
        '"parameters": {"city": "Oslo"}}\n]<|END_ACTION|>',
        Reply("Hm.", "", [done("get_weather", OSLO, "0")]),
    ),
    ("command-r7b", PLAN, "<|START_RESPONSE|>Yes.<|END_RESPONSE|>", Reply("", "Yes.")),
    (
        "command-r",
        PLAN,
        'Action: ```json\n[\n    {"tool_name": "get_weather", "parameters": {"city": "Oslo"}}\n]\n```',
        Reply("", "", [WEATHER]),
    ),
    ("command-r", PLAN, "Action: none.", Reply("", "Action: none.")),
    (
        "qwen-coder",
        PLAN,
        "I look.\n<tool_call>\n<function=get_weather>\n<parameter=city>\n\nOslo\n</b>\n</parameter>\n"
        "<parameter=days>\n3\n</parameter>\n<parameter=x>\nnot JSON\n</parameter>\n</function>\n</tool_call>",
        Reply("", "I look.", [done("get_weather", '{"city": "\\nOslo\\n</b>", "days": 3, "x": "not JSON"}')]),
    ),
    (
        "qwen-coder",
        PLAN,
        '<function=get_weather><parameter=x>["</parameter>"]</parameter><parameter=days>True</parameter></function>',
        Reply("", "", [done("get_weather", '{"x": ["</parameter>"], "days": true}')]),
    ),
    (
        "glm",
        PLAN,
        "<think>Hm.</think>\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>\n</tool_call>",
        Reply("Hm.", "", [WEATHER]),
    ),
    ("glm", PLAN, "<tool_call>add</tool_call>", Reply("", "", [done("add", "{}")])),
    (
        "kimi-k2",
        PLAN,
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>"
        '{"city": "Oslo"}<|tool_call_end|><|tool_calls_section_end|>',
        Reply("", "", [done("get_weather", OSLO, "functions.get_weather:0")]),
    ),
    (
        "minimax-m2",
        PLAN,
        '<minimax:tool_call>\n<invoke name="get_weather">\n<parameter name="city">Oslo</parameter>\n</invoke>\n'
        '<invoke name="add">\n</invoke>\n</minimax:tool_call>',
        Reply("", "", [WEATHER, done("add", "{}")]),
    ),
    (
        "phi",
        PLAN,
        '<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Oslo"}}]<|/tool_call|>',
        Reply("", "", [WEATHER]),
    ),
    (
        "granite",
        PLAN,
        '<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Oslo"}}]',
        Reply("", "", [WEATHER]),
    ),
    (
        "firefunction",
        PLAN,
        ' functools[{"name": "get_weather", "arguments": {"city": "Oslo"}}]',
        Reply("", "", [WEATHER]),
    ),
]

QWEN_CALL = "<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n</function>\n</tool_call>"
KIMI_ARGUMENT = '<|open|>argument key="{}" type="{}"<|sep|>{}<|close|>argument<|sep|>'
KIMI_CALL = (
    '<|open|>call tool="get_weather" index="1"<|sep|>'
    + KIMI_ARGUMENT.format("city", "string", "Oslo")
    + KIMI_ARGUMENT.format("days", "number", "3")
    + "<|close|>call<|sep|>"
)

GOLDENS += [
    # A call inside of reasoning is one if the reply ends without the end of the reasoning.
    ("qwen-coder", OPEN, f"Let me look.\n{QWEN_CALL}", Reply("Let me look.", "", [WEATHER])),
    ("qwen-coder", OPEN, f"{QWEN_CALL}\nDone.", Reply("", "Done.", [WEATHER])),
    ("qwen-coder", OPEN, f"Maybe {QWEN_CALL} or so.\n</think>\nNo.", Reply(f"Maybe {QWEN_CALL} or so.", "No.")),
    ("qwen-coder", OPEN, f"A <tool_call> is\n{QWEN_CALL}", Reply("A <tool_call> is", "", [WEATHER])),
    ("qwen-coder", OPEN, "A <tool_call>\nis", Reply("A <tool_call>\nis")),
    ("qwen-coder", PLAN, f"<think>\nHm.\n{QWEN_CALL}", Reply("Hm.", "", [WEATHER])),
    ("hermes", OPEN, 'Hm <tool_call>{"x": "</think>\\n"} Yes', Reply('Hm <tool_call>{"x": "', '\\n"} Yes')),
    ("hermes", OPEN, '<tool_call>{"name": "add", "arguments": {"a": 1', Reply("", "", [Call("add", "", '{"a": 1')])),
    # A reply that was cut behind the name of a call.
    ("hermes", PLAN, '<tool_call>{"name": "add", ', Reply("", "", [Call("add")])),
    # What only looks like JSON ends with its tag.
    (
        "qwen-coder",
        PLAN,
        "<function=get_weather><parameter=x>{no JSON</parameter><parameter=days>3</parameter></function>",
        Reply("", "", [done("get_weather", '{"x": "{no JSON", "days": 3}')]),
    ),
    (
        "glm",
        PLAN,
        '<tool_call>add\n<arg_key>a</arg_key>\n<arg_value>"open</arg_value>\n</tool_call>',
        Reply("", "", [done("add", '{"a": "\\"open"}')]),
    ),
    # Channel marks of Gemma 4 that stand alone.
    ("gemma4", PLAN, "<|channel>thought<channel|>Hi", Reply("", "Hi")),
    ("gemma4", PLAN, "<|channel><|channel>thought\nHm.<channel|>Hi<channel|>", Reply("Hm.", "Hi")),
    ("gemma4", PLAN, "Hi<|channel>thought\nHm.<channel|> there<channel|>", Reply("Hm.", "Hithere")),
    # gpt-oss
    ("harmony", PLAN, "<|message|>Hi<|return|>", Reply("", "Hi")),
    (
        "harmony",
        PLAN,
        "<|channel|>commentary to=assistant<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|message|>Hi",
        Reply("Hm.", "Hi"),
    ),
    ("harmony", PLAN, "<|channel|>commentary to=python <|constrain|>code<|message|>print(1)<|call|>", Reply()),
    ("gigachat", PLAN, "Hi<|message_sep|>\n\n", Reply("", "Hi")),
    (
        "kimi-k3",
        OPEN,
        "Hm.<|close|>think<|sep|><|open|>response<|sep|>I look.<|close|>response<|sep|><|open|>tools<|sep|>"
        f"{KIMI_CALL}<|close|>tools<|sep|><|close|>message<|sep|>",
        Reply("Hm.", "I look.", [done("get_weather", '{"city": "Oslo", "days": 3}')]),
    ),
    (
        "kimi-k3",
        OPEN,
        "<|open|>response<|sep|>Hi<|close|>response<|sep|><|close|>message<|sep|>",
        Reply("", "Hi"),
    ),
    (
        "muse-glimmer",
        PLAN,
        " to=self<|message|>Hm.<|eom|><|start|>assistant to=user<|message|>I look.<|eom|><|start|>assistant "
        'to=get_weather<|message|><atem:function_calls>\n<atem:invoke name="get_weather">\n<atem:parameter '
        'name="city">Oslo</atem:parameter>\n</atem:invoke>\n</atem:function_calls><|eot|>',
        Reply("Hm.", "I look.", [WEATHER]),
    ),
]


@pytest.mark.parametrize(("name", "rules", "text", "reply"), GOLDENS)
def test_what_models_write(name: str, rules: ReplyRules, text: str, reply: Reply) -> None:
    assert read(find(name), rules, [text]) == reply
    assert read(find(name), rules, list(text)) == reply


# What is no call is text; what broke off in a call stays without an end.
BROKEN: list[tuple[str, str, Reply]] = [
    ("hermes", "<tool_call>\nnot JSON\n</tool_call>", Reply("", "<tool_call>\nnot JSON\n</tool_call>")),
    ("hermes", '<tool_call>{"name": 3}</tool_call>', Reply("", '<tool_call>{"name": 3}</tool_call>')),
    ("hermes", '<tool_call>{"arguments": {}}', Reply("", '<tool_call>{"arguments": {}}')),
    (
        "hermes",
        '<tool_call>{"name": "add", "arguments": [1]}',
        Reply("", '<tool_call>{"name": "add", "arguments": [1]}'),
    ),
    (
        "hermes",
        '<tool_call>{"name": "add", "arguments": {"a": 1]} </tool_call>',
        Reply("", "]} </tool_call>", [Call("add", "", '{"a": 1')]),
    ),
    ("hermes", '<tool_call>{"name": "add", "arguments": {"a": NaN}}', Reply("", "", [Call("add", "", '{"a": NaN}')])),
    ("hermes", '<tool_call>{"name": "add", "arguments": {"a": "x', Reply("", "", [Call("add", "", '{"a": "x')])),
    (
        "hermes",
        '<tool_call><tool_call>{"name": "add"}</tool_call>',
        Reply("", "<tool_call>", [done("add", "{}")]),
    ),
    ("mistral", "[TOOL_CALLS] and so on", Reply("", "[TOOL_CALLS] and so on")),
    ("mistral", "[TOOL_CALLS]add[ARGS]3", Reply("", "[TOOL_CALLS]add[ARGS]3")),
    ("functionary-v3.1", "<function=\n>", Reply("", "<function=\n>")),
    ("functionary-v3.2", "Hi\nthere", Reply("", "Hi\nthere")),
    (
        "qwen-coder",
        "<tool_call>\n<function=add>\n<parameter=a>\n1",
        Reply("", "", [Call("add", "", '{"a": 1')]),
    ),
    ("qwen-coder", "<function=add>oops", Reply("", "oops", [Call("add", "", "{")])),
    ("glm", "<tool_call>some prose", Reply("", "<tool_call>some prose")),
    ("gemma4", "<|tool_call>call:add{a:}<tool_call|>", Reply("", "}<tool_call|>", [Call("add", "", '{"a": ')])),
    ("lfm2", "<|tool_call_start|>add", Reply("", "<|tool_call_start|>add")),
    ("harmony", "<|channel|>oops", Reply("", "<|channel|>oops")),
    ("llama3", '{"name": "add", "parameters": 3}', Reply("", '{"name": "add", "parameters": 3}')),
]


@pytest.mark.parametrize(("name", "text", "reply"), BROKEN)
def test_what_breaks_is_not_lost(name: str, text: str, reply: Reply) -> None:
    assert read(find(name), PLAN, [text]) == reply
    assert read(find(name), PLAN, list(text)) == reply


def test_calls_stream_as_they_grow() -> None:
    parser = find("hermes").parser(PLAN)
    assert parser.feed('Hm. <tool_call>\n{"name": "get_weather", "arguments": {"ci') == [
        Text("Hm."),
        CallBegin(0, "get_weather"),
        CallArguments(0, '{"ci'),
    ]
    assert parser.feed('ty": "Os') == [CallArguments(0, 'ty": "Os')]
    assert parser.feed('lo"}}') == [CallArguments(0, 'lo"}'), CallEnd(0)]
    assert parser.feed("\n</tool_call>") == []
    assert parser.flush() == []
    assert parser.feed("more") == ()
    assert parser.flush() == ()


def test_texts_of_arguments_stream_as_they_grow() -> None:
    parser = find("qwen-coder").parser(PLAN)
    parser.feed("<tool_call>\n<function=get_weather>\n")
    assert parser.feed('<parameter=city>\nOslo "N"') == [CallArguments(0, '"city": "Oslo \\"N\\"')]
    assert parser.feed("\n</para") == []
    assert parser.feed("meter>\n</function>") == [CallArguments(0, '"}'), CallEnd(0)]


def test_reasoning_and_text_stream_as_they_come() -> None:
    parser = find("hermes").parser(PLAN)
    assert parser.feed("<think>\nOne ") == [Reasoning("One")]
    assert parser.feed("two </thi") == [Reasoning(" two")]
    assert parser.feed("nk>\n\nThree <too") == [Text("Three")]
    assert parser.feed("lbox") == [Text(" <toolbox")]


def test_a_tool_may_be_unknown_where_tags_are_clear() -> None:
    text = '<tool_call>{"name": "other", "arguments": {}}</tool_call>'
    assert read(find("hermes"), PLAN, [text]).calls == [done("other", "{}")]
    assert read(find("hermes"), ReplyRules(), [text]).calls == [done("other", "{}")]


@pytest.mark.parametrize("name", list(FORMATS))
def test_no_calls_are_read_where_none_are_allowed(name: str) -> None:
    for text in (text for golden, _, text, reply in GOLDENS if golden == name and reply.calls):
        assert not read(find(name), ReplyRules(PLAN.tools, choice="none"), [text]).calls


def test_a_prescribed_answer_may_hold_tags() -> None:
    rules = ReplyRules(PLAN.tools, content="/.*/")
    answer = '{"a": "<tool_call>{\\"name\\": \\"add\\"}</tool_call> <think>"}'
    assert read(find("hermes"), rules, [f"<think>x</think>\n{answer}"]) == Reply("x", answer)
    assert read(find("hermes"), rules, ['\n<tool_call>{"name": "add"}</tool_call>']).calls == [done("add", "{}")]


# -- any text


def pieces_of(name: str) -> list[str]:
    """Tags, their parts, and what stands between them."""
    format = find(name)
    tags = [*format.controls, *tags_of(format), *(text for golden, _, text, _ in GOLDENS if golden == name)]
    shorter = [tag[: len(tag) // 2] for tag in tags]
    return [
        *tags,
        *shorter,
        "{",
        "}",
        "[",
        "]",
        '"',
        "\\",
        ":",
        ",",
        "\n",
        " ",
        "x",
        "get_weather",
        '"name"',
        "1",
        "😀",
    ]


@st.composite
def texts_and_cuts(draw: st.DrawFn, name: str) -> tuple[str, list[str]]:
    text = "".join(draw(st.lists(st.one_of(st.sampled_from(pieces_of(name)), st.text(max_size=3)), max_size=25)))
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=12)))
    edges = [0, *cuts, len(text)]
    return text, [text[start:end] for start, end in itertools.pairwise(edges)]


@pytest.mark.parametrize("name", list(FORMATS))
@settings(max_examples=40)
@given(data=st.data())
def test_events_do_not_depend_on_cuts(name: str, data: st.DataObject) -> None:
    text, cut = data.draw(texts_and_cuts(name))
    rules = ReplyRules(
        PLAN.tools,
        choice=data.draw(st.sampled_from(["auto", "none", "required"])),
        reasoning=data.draw(st.sampled_from(["auto", "open", "off"])),
        content=data.draw(st.sampled_from([None, "/.*/"])),
    )
    found = []
    for pieces in ([text], cut, list(text)):
        parser = find(name).parser(rules)
        events = [event for piece in pieces for event in parser.feed(piece)]
        found.append(joined([*events, *parser.flush()]))
        read(find(name), rules, pieces)  # numbers and ends are in order
    assert found[0] == found[1] == found[2]


LONG: dict[str, Callable[[int], str]] = {
    "text": lambda n: "a <b " * n,
    "blanks": lambda n: " \n" * n + "x",
    "beginnings": lambda n: "<tool_cal<too" * n,
    "calls": lambda n: '<tool_call>{"name": "add", "arguments": {"a": [1, "b"]}}</tool_call>\n' * n,
    "opened": lambda n: "<tool_call>" * n,
    "braces": lambda n: '<tool_call>{"name": "add", "arguments": ' + '{"a": [' * n,
    "a text": lambda n: '<tool_call>{"name": "add", "arguments": {"a": "' + "\\u00e5 " * n,
    "a name": lambda n: '<tool_call>{"name": "' + "ab" * n,
    "no call": lambda n: '<tool_call>{"x": [' + '"a", ' * n,
    "values": lambda n: "<tool_call>\n<function=add>\n" + "<parameter=a>\n[1]\n</parameter>\n" * n,
    "a value": lambda n: "<function=add>\n<parameter=a>\n[1" + "</para" * n,
    "headers": lambda n: "[TOOL_CALLS]ab" * n,
    "messages": lambda n: "<|channel|>analysis<|message|>a<|end|><|start|>" * n,
    "nested": lambda n: "<|tool_call>call:add{a:" + "{b:[" * n,
    "python": lambda n: "<|tool_call_start|>[add(a=" + "'\\x61'," * n,
}


def steps(work: Callable[[], object]) -> int:
    """Lines of the package that run."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        if "llama_cffi" not in frame.f_code.co_filename:
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("kind", list(LONG))
@pytest.mark.parametrize("name", ["hermes", "qwen-coder", "mistral", "harmony", "gemma4", "lfm2", "llama3"])
def test_time_is_linear(name: str, kind: str) -> None:
    def work(n: int) -> tuple[int, int]:
        parser = find(name).parser(PLAN)
        held = 0

        def run() -> None:
            nonlocal held
            for char in LONG[kind](n):
                parser.feed(char)
                source = parser._source  # type: ignore[attr-defined]
                held = max(held, len(source.text) - source.pos)
            parser.flush()

        return steps(run), held

    (few, _), (many, held) = work(15), work(60)
    assert many < 4.6 * few + 2000
    # What waits is copied with each piece, so that it must stay short.
    assert held < 100


def test_a_long_reply_in_one_piece() -> None:
    """Minutes, where each of its 200,000 parts would copy what came before."""
    values = '["a", 1], ' * 100_000
    text = f'<tool_call>{{"name": "add", "arguments": {{"a": [{values}1]}}}}</tool_call>' + "a < b " * 200_000
    reply = read(find("hermes"), PLAN, [text])
    assert [call.complete for call in reply.calls] == [True]
    assert len(reply.text) == 1_200_000


def test_a_deep_value_does_not_end_the_interpreter() -> None:
    text = '<tool_call>{"name": "add", "arguments": {"a": ' + "[" * 30_000 + "]" * 30_000 + "}}</tool_call>"
    reply = read(find("hermes"), PLAN, [text])
    assert [call.complete for call in reply.calls] == [False]
    for name, start in (("gemma4", "<|tool_call>call:add{a:"), ("lfm2", "<|tool_call_start|>[add(a=")):
        assert not read(find(name), PLAN, [start + "[" * 30_000]).calls[0].complete
    huge = '<tool_call>{"name": "add", "arguments": {"a": ' + "1" * 5000 + "}}</tool_call>"
    assert [call.complete for call in read(find("hermes"), PLAN, [huge]).calls] == [False]
