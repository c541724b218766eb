"""Liquid's LFM2: a list of calls as Python writes them."""

from __future__ import annotations

from llama_cffi.reply.notation import PYTHON
from llama_cffi.reply.notation_calls import NotationCalls
from llama_cffi.reply.parser import TaggedFormat

LFM2 = TaggedFormat(
    name="lfm2",
    syntax=NotationCalls(
        open="<|tool_call_start|>",
        close="<|tool_call_end|>",
        brackets="()",
        listed=True,
        notation=PYTHON,
    ),
    signs=(("<|tool_call_start|>",), ("<|tool_list_start|>",), ("List of tools: [",)),
    controls=("<|tool_call_start|>", "<|tool_call_end|>", "<think>", "</think>"),
)

FORMATS = (LFM2,)
