"""Cohere's Command R family: a JSON list of actions."""

from __future__ import annotations

from llama_cffi.reply.json_calls import JsonCalls, Keys
from llama_cffi.reply.parser import TaggedFormat
from llama_cffi.reply.reasoning import Thinking

_KEYS = Keys(name="tool_name", arguments="parameters", id="tool_call_id")

COMMAND_R7B = TaggedFormat(
    name="command-r7b",
    syntax=JsonCalls(
        open="<|START_ACTION|>",
        close="<|END_ACTION|>",
        many=True,
        lead="[\n    ",
        tail="\n]",
        between=",\n    ",
        keys=_KEYS,
        first='"tool_call_id": "{n}", ',
    ),
    signs=(("<|START_ACTION|>",),),
    thinking=Thinking("<|START_THINKING|>", "<|END_THINKING|>"),
    controls=(
        *("<|START_ACTION|>", "<|END_ACTION|>", "<|START_THINKING|>", "<|END_THINKING|>"),
        *("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"),
    ),
    before=("<|START_RESPONSE|>", "<|START_TEXT|>"),
    after=("<|END_RESPONSE|>", "<|END_TEXT|>"),
)

COMMAND_R = TaggedFormat(
    name="command-r",
    syntax=JsonCalls(
        open="Action: ```json",
        also=("Action:\n```json",),
        close="```",
        many=True,
        lead="\n[\n    ",
        tail="\n]\n",
        between=",\n    ",
        keys=_KEYS,
        spaced=True,
    ),
    signs=(("Action:", "<|START_OF_TURN_TOKEN|>", "!<|START_ACTION|>"),),
    thinking=None,
)

FORMATS = (COMMAND_R7B, COMMAND_R)
