"""Gemma 4's calls, in a notation of its own. Earlier Gemmas were not trained for tools."""

from __future__ import annotations

from llama_cffi.reply.notation import Notation
from llama_cffi.reply.notation_calls import NotationCalls
from llama_cffi.reply.parser import TaggedFormat
from llama_cffi.reply.reasoning import Thinking

_QUOTE = '<|"|>'

GEMMA4 = TaggedFormat(
    name="gemma4",
    syntax=NotationCalls(
        open="<|tool_call>",
        close="<tool_call|>",
        prefix="call:",
        brackets="{}",
        notation=Notation(plain=(_QUOTE,), escaped=('"',), bare_words=True),
    ),
    signs=(("<|tool_call>call:",), ("<|tool_call>", "<tool_call|>")),
    thinking=Thinking("<|channel>thought\n", "<channel|>", again=True, strays=("<|channel>", "<channel|>")),
    controls=("<|tool_call>", "<tool_call|>", "<|channel>", "<channel|>", _QUOTE),
)

FORMATS = (GEMMA4,)
