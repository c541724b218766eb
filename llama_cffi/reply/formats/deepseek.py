"""DeepSeek's calls: V3 and R1 with a JSON block, V3.1 with the bare object, V3.2 and V4 with tags of its own."""

from __future__ import annotations

from llama_cffi.reply.header_calls import NAME, HeaderCalls
from llama_cffi.reply.parser import TaggedFormat
from llama_cffi.reply.value_calls import ValueCalls

_SECTION = ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>")  # noqa: RUF001
_OPEN = "<｜tool▁call▁begin｜>"  # noqa: RUF001
_SEP = "<｜tool▁sep｜>"  # noqa: RUF001
_CLOSE = "<｜tool▁call▁end｜>"  # noqa: RUF001
_CONTROLS = (*_SECTION, _OPEN, _SEP, _CLOSE, "<think>", "</think>")

DEEPSEEK_R1 = TaggedFormat(
    name="deepseek-r1",
    syntax=HeaderCalls(
        section=_SECTION,
        open=_OPEN,
        header=f"function{_SEP}{{name}}",
        pattern=rf"(?:function{_SEP})?{NAME}",
        sep="\n```json\n",
        close=f"\n```{_CLOSE}",
        between="\n",
        closes=("```", _CLOSE),
    ),
    signs=((_OPEN, "```json"),),
    controls=_CONTROLS,
)

DEEPSEEK_V3_1 = TaggedFormat(
    name="deepseek-v3.1",
    syntax=HeaderCalls(section=_SECTION, open=_OPEN, sep=_SEP, close=_CLOSE),
    signs=((_OPEN, "!```json"),),
    controls=_CONTROLS,
)


def _dsml(name: str, section: str) -> TaggedFormat:
    dsml = "｜DSML｜"  # noqa: RUF001
    return TaggedFormat(
        name=name,
        syntax=ValueCalls(
            section=(f"<{dsml}{section}>\n", f"</{dsml}{section}>"),
            open=f'<{dsml}invoke name="',
            named='">\n',
            key=f'<{dsml}parameter name="',
            keyed="",
            typed=('" string="true">', '" string="false">'),
            end=f"</{dsml}parameter>",
            close=f"</{dsml}invoke>\n",
            between="",
        ),
        signs=((dsml, section),),
        controls=("<think>", "</think>", dsml),
    )


DEEPSEEK_V3_2 = _dsml("deepseek-v3.2", "function_calls")
DEEPSEEK_V4 = _dsml("deepseek-v4", "tool_calls")

FORMATS = (DEEPSEEK_V3_2, DEEPSEEK_V4, DEEPSEEK_R1, DEEPSEEK_V3_1)
