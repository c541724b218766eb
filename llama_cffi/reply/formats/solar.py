"""Solar Open's calls: an id, a name and arguments, each behind a tag."""

from __future__ import annotations

from llama_cffi.reply.header_calls import NAME, HeaderCalls
from llama_cffi.reply.parser import TaggedFormat
from llama_cffi.reply.reasoning import Thinking

SOLAR = TaggedFormat(
    name="solar",
    syntax=HeaderCalls(
        section=("<|tool_calls|>", "<|calls|>"),
        open="<|tool_call:begin|>",
        header="{id}<|tool_call:name|>{name}",
        pattern=rf"(?P<id>[A-Za-z0-9_\-]*)<\|tool_call:name\|>{NAME}",
        sep="<|tool_call:args|>",
        close="<|tool_call:end|>",
    ),
    signs=(("<|tool_call:begin|>",),),
    thinking=Thinking("<|think|>", "<|end|>"),
    controls=(
        *("<|tool_calls|>", "<|calls|>", "<|tool_call:begin|>", "<|tool_call:end|>", "<|tool_call:name|>"),
        *("<|tool_call:args|>", "<|think|>", "<|end|>", "<|begin|>", "<|content|>"),
    ),
    before=("<|begin|>assistant", "<|content|>"),
    after=("<|end|>",),
)

FORMATS = (SOLAR,)
