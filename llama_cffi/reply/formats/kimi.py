"""Kimi: K2's calls are named ``functions.NAME:NUMBER``, K3's arguments say their types."""

from __future__ import annotations

from llama_cffi.reply.header_calls import HeaderCalls
from llama_cffi.reply.parser import TaggedFormat
from llama_cffi.reply.reasoning import Thinking
from llama_cffi.reply.value_calls import ValueCalls

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

_RESPONSE = ("<|open|>response<|sep|>", "<|close|>response<|sep|>")
_MESSAGE_END = "<|close|>message<|sep|>"

KIMI_K3 = TaggedFormat(
    name="kimi-k3",
    syntax=ValueCalls(
        section=("<|open|>tools<|sep|>", "<|close|>tools<|sep|>"),
        open='<|open|>call tool="',
        named='" index="{n}"<|sep|>',
        key='<|open|>argument key="',
        keyed="",
        typed=('" type="string"<|sep|>', '" type="{type}"<|sep|>'),
        end="<|close|>argument<|sep|>",
        close="<|close|>call<|sep|>",
        gap="",
        between="",
    ),
    signs=(("<|open|>", "<|close|>", "<|sep|>"),),
    thinking=Thinking("<|open|>think<|sep|>", "<|close|>think<|sep|>", also=_RESPONSE[:1]),
    controls=("<|open|>", "<|close|>", "<|sep|>"),
    before=_RESPONSE[:1],
    after=(_RESPONSE[1], _MESSAGE_END),
    tail=(_MESSAGE_END,),
)

FORMATS = (KIMI_K2, KIMI_K3)
