"""Calls as JSON objects between a pair of tags of the family's own."""

from __future__ import annotations

from llama_cffi.reply.json_calls import JsonCalls, Keys
from llama_cffi.reply.parser import TaggedFormat
from llama_cffi.reply.reasoning import Thinking

APERTUS = TaggedFormat(
    name="apertus",
    syntax=JsonCalls(
        open="<|tools_prefix|>",
        close="<|tools_suffix|>",
        many=True,
        lead="[",
        tail="]",
        between=", ",
        keys=Keys(name=""),
    ),
    signs=(("<|tools_prefix|>",),),
    thinking=Thinking("<|inner_prefix|>", "<|inner_suffix|>"),
    controls=("<|tools_prefix|>", "<|tools_suffix|>", "<|inner_prefix|>", "<|inner_suffix|>"),
)

APRIEL = TaggedFormat(
    name="apriel",
    syntax=JsonCalls(open="<tool_calls>", close="</tool_calls>", many=True, lead="[", tail="]", between=", "),
    signs=(("<tool_calls>[",),),
    thinking=Thinking("Here are my reasoning steps:\n", "[BEGIN FINAL RESPONSE]"),
    controls=("<tool_calls>", "</tool_calls>", "[BEGIN FINAL RESPONSE]"),
)

FIREFUNCTION = TaggedFormat(
    name="firefunction",
    syntax=JsonCalls(open="functools[", close="", many=True, tail="]", between=", "),
    signs=(("functools[",),),
    thinking=None,
)

GIGACHAT = TaggedFormat(
    name="gigachat",
    syntax=JsonCalls(open="<|function_call|>", close="", also=("function call<|role_sep|>\n",)),
    signs=(("<|function_call|>",), ("function call", "<|role_sep|>")),
    thinking=None,
    controls=("<|function_call|>", "<|role_sep|>", "<|message_sep|>"),
    after=("<|message_sep|>\n\n",),
)

GRANITE = TaggedFormat(
    name="granite",
    syntax=JsonCalls(open="<|tool_call|>", close="", many=True, lead="[", tail="]", between=", "),
    signs=(("<|start_of_role|>", "<|tool_call|>"),),
    before=("<response>",),
    after=("</response>",),
    controls=("<|tool_call|>",),
)

MINIMAX_M1 = TaggedFormat(
    name="minimax-m1",
    syntax=JsonCalls(open="<tool_calls>", close="</tool_calls>", many=True, lead="\n", tail="\n"),
    signs=(("<tool_calls>", "<beginning_of_sentence>"),),
    controls=("<tool_calls>", "</tool_calls>"),
)

NEMOTRON = TaggedFormat(
    name="nemotron",
    syntax=JsonCalls(open="<TOOLCALL>", close="</TOOLCALL>", many=True, lead="[", tail="]", between=", "),
    signs=(("<TOOLCALL>",),),
    controls=("<TOOLCALL>", "</TOOLCALL>", "<think>", "</think>"),
)

PHI = TaggedFormat(
    name="phi",
    syntax=JsonCalls(open="<|tool_call|>", close="<|/tool_call|>", many=True, lead="[", tail="]", between=", "),
    signs=(("<|/tool_call|>",), ("<|tool_call|>", "<|end|>")),
    controls=("<|tool_call|>", "<|/tool_call|>"),
)

FORMATS = (APERTUS, APRIEL, FIREFUNCTION, GIGACHAT, MINIMAX_M1, NEMOTRON, PHI, GRANITE)
