"""MiniMax M3: calls and their arguments as nested elements, each tag behind a mark."""

from __future__ import annotations

from llama_cffi.reply.element_calls import ElementCalls
from llama_cffi.reply.parser import TaggedFormat
from llama_cffi.reply.reasoning import Thinking

_MARK = "]<]minimax[>["

MINIMAX_M3 = TaggedFormat(
    name="minimax-m3",
    syntax=ElementCalls(mark=_MARK),
    signs=((_MARK, "<mm:think>"),),
    thinking=Thinking("<mm:think>", "</mm:think>"),
    controls=(_MARK, "<tool_call>", "</tool_call>", "<mm:think>", "</mm:think>"),
    before=("</mm:think>",),
)

FORMATS = (MINIMAX_M3,)
