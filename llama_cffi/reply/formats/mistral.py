"""Mistral's ``[TOOL_CALLS]``: a JSON list, or since late 2024 a name and its arguments for each call."""

from __future__ import annotations

from llama_cffi.reply.header_calls import NAME, HeaderCalls
from llama_cffi.reply.json_calls import JsonCalls
from llama_cffi.reply.parser import TaggedFormat
from llama_cffi.reply.reasoning import Thinking

_CONTROLS = ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "[THINK]", "[/THINK]")
_PATTERN = rf"{NAME}(?:\[CALL_ID\](?P<id>[A-Za-z0-9_\-]*))?"

MISTRAL_NEMO = TaggedFormat(
    name="mistral-nemo",
    syntax=JsonCalls(open="[TOOL_CALLS]", close="", many=True, lead="[", tail="]", between=", ", last=', "id": "{id}"'),
    signs=(("[TOOL_CALLS]", "![ARGS]"),),
    thinking=Thinking("[THINK]", "[/THINK]"),
    controls=_CONTROLS,
)

MISTRAL = TaggedFormat(
    name="mistral",
    syntax=HeaderCalls(open="[TOOL_CALLS]", header="{name}", sep="[ARGS]", close="", pattern=_PATTERN),
    signs=(("[TOOL_CALLS]", "[ARGS]", "![CALL_ID]"),),
    thinking=Thinking("[THINK]", "[/THINK]"),
    controls=_CONTROLS,
)

MISTRAL_CALL_ID = TaggedFormat(
    name="mistral-call-id",
    syntax=HeaderCalls(open="[TOOL_CALLS]", header="{name}[CALL_ID]{id}", sep="[ARGS]", close="", pattern=_PATTERN),
    signs=(("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"),),
    thinking=Thinking("[THINK]", "[/THINK]"),
    controls=_CONTROLS,
)

FORMATS = (MISTRAL_NEMO, MISTRAL, MISTRAL_CALL_ID)
