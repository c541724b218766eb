"""``<tool_call>`` around a JSON object: Hermes, Qwen 2.5 and 3, Granite 4, SmolLM3 and many more."""

from __future__ import annotations

from llama_cffi.reply.json_calls import JsonCalls
from llama_cffi.reply.parser import TaggedFormat

HERMES = TaggedFormat(
    name="hermes",
    syntax=JsonCalls(open="<tool_call>", close="</tool_call>", lead="\n", tail="\n"),
    signs=(("<tool_call>", "</tool_call>", "!<arg_key>", "!<function=", "!<invoke "),),
    controls=("<tool_call>", "</tool_call>", "<think>", "</think>"),
)

FORMATS = (HERMES,)
