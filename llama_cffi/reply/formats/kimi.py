"""Kimi K2's calls, named ``functions.NAME:NUMBER``."""

from __future__ import annotations

from llama_cffi.reply.header_calls import HeaderCalls
from llama_cffi.reply.parser import TaggedFormat

KIMI_K2 = TaggedFormat(
    name="kimi-k2",
    syntax=HeaderCalls(
        section=("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
        open="<|tool_call_begin|>",
        header="functions.{name}:{n}",
        pattern=r"\s*(?P<id>(?:functions\.)?(?P<name>[A-Za-z0-9_.\-]{1,200})(?::[0-9]+)?)\s*",
        sep="<|tool_call_argument_begin|>",
        close="<|tool_call_end|>",
    ),
    signs=(("<|tool_call_argument_begin|>",),),
    controls=(
        *("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", "<|tool_call_begin|>", "<|tool_call_end|>"),
        *("<|tool_call_argument_begin|>", "<think>", "</think>"),
    ),
)

FORMATS = (KIMI_K2,)
