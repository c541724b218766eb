"""Calls in tags, one for each argument: Qwen3-Coder, GLM, Seed-OSS, MiniMax M2 and others."""

from __future__ import annotations

from llama_cffi.reply.parser import TaggedFormat
from llama_cffi.reply.reasoning import Thinking
from llama_cffi.reply.value_calls import ValueCalls

QWEN_CODER = TaggedFormat(
    name="qwen-coder",
    syntax=ValueCalls(
        section=("<tool_call>\n", "\n</tool_call>"),
        together=False,
        open="<function=",
        named=">\n",
        key="<parameter=",
        keyed=">",
        lead="\n",
        end="</parameter>",
        close="</function>",
    ),
    signs=(("<function=", "<parameter=", "<tool_call>"),),
    controls=("<tool_call>", "</tool_call>", "<think>", "</think>"),
)

SEED_OSS = TaggedFormat(
    name="seed-oss",
    syntax=ValueCalls(
        section=("<seed:tool_call>\n", "\n</seed:tool_call>"),
        together=False,
        open="<function=",
        named=">\n",
        key="<parameter=",
        keyed=">",
        end="</parameter>",
        close="</function>",
    ),
    signs=(("<seed:tool_call>",),),
    thinking=Thinking("<seed:think>", "</seed:think>"),
    controls=("<seed:tool_call>", "</seed:tool_call>", "<seed:think>", "</seed:think>"),
)

_GLM_CONTROLS = (
    *("<tool_call>", "</tool_call>", "<think>", "</think>"),
    *("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
)

GLM = TaggedFormat(
    name="glm",
    syntax=ValueCalls(
        open="<tool_call>",
        named="\n",
        key="<arg_key>",
        keyed="</arg_key>\n",
        value="<arg_value>",
        end="</arg_value>",
        close="</tool_call>",
    ),
    signs=(("<tool_call>", "<arg_key>", "</arg_key>\\n"), ("<tool_call>", "<arg_key>", "</arg_key>\n")),
    controls=_GLM_CONTROLS,
)

GLM_4_7 = TaggedFormat(
    name="glm-4.7",
    syntax=ValueCalls(
        open="<tool_call>",
        named="",
        key="<arg_key>",
        keyed="</arg_key>",
        value="<arg_value>",
        end="</arg_value>",
        close="</tool_call>",
        gap="",
        between="",
    ),
    signs=(("<tool_call>", "<arg_key>"),),
    controls=_GLM_CONTROLS,
)

_HY = ":opensource"
_HY_TAGS = ("tool_calls", "tool_call", "arg_key", "arg_value", "think")

HUNYUAN = TaggedFormat(
    name="hunyuan",
    syntax=ValueCalls(
        section=(f"<tool_calls{_HY}>\n", f"\n</tool_calls{_HY}>"),
        open=f"<tool_call{_HY}>",
        named=f"<tool_sep{_HY}>\n",
        key=f"<arg_key{_HY}>",
        keyed=f"</arg_key{_HY}>\n",
        value=f"<arg_value{_HY}>",
        end=f"</arg_value{_HY}>",
        close=f"</tool_call{_HY}>",
    ),
    signs=(("opensource", "tool_sep"),),
    thinking=Thinking(f"<think{_HY}>", f"</think{_HY}>"),
    controls=(
        *(f"<{tag}{_HY}>" for tag in _HY_TAGS),
        *(f"</{tag}{_HY}>" for tag in _HY_TAGS),
        f"<tool_sep{_HY}>",
    ),
)

MINIMAX_M2 = TaggedFormat(
    name="minimax-m2",
    syntax=ValueCalls(
        section=("<minimax:tool_call>\n", "\n</minimax:tool_call>"),
        open='<invoke name="',
        named='">\n',
        key='<parameter name="',
        keyed='">',
        end="</parameter>",
        close="</invoke>",
    ),
    signs=(("<minimax:tool_call>",),),
    controls=("<minimax:tool_call>", "</minimax:tool_call>", "<think>", "</think>"),
)

MINICPM = TaggedFormat(
    name="minicpm",
    syntax=ValueCalls(
        open='<function name="',
        named='">',
        key='<param name="',
        keyed='">',
        end="</param>",
        quote=("<![CDATA[", "]]>"),
        close="</function>",
        gap="",
    ),
    signs=(('<function name="', "</param>"),),
    controls=("<think>", "</think>"),
)

FORMATS = (SEED_OSS, MINIMAX_M2, HUNYUAN, GLM, GLM_4_7, QWEN_CODER, MINICPM)
