"""The table in docs/reply-formats.md: ``python -m tests.support.format_table`` writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llama_cffi.errors import SchemaError, ToolError
from llama_cffi.reply.format import ReplyFormat, ReplyRules, ToolSpec
from llama_cffi.reply.formats import FORMATS
from llama_cffi.reply.lark import quoted

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "reply-formats.md"
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->"

TEXT: dict[str, Any] = {"type": "string"}
POINT = {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}

PROBES: dict[str, list[dict[str, Any]]] = {
    "lengths": [{**TEXT, "maxLength": 9}, {**TEXT, "minLength": 2}, {**TEXT, "minLength": 2, "maxLength": 9}],
    "`pattern`": [{**TEXT, "pattern": "^[a-z]+$"}, {**TEXT, "pattern": "x"}],
    "`format`": [{**TEXT, "format": name} for name in ("date", "uuid", "email", "date-time", "ipv4")],
    "`enum`, `const`": [{"enum": ["a", "b"]}, {"const": "a"}, {"enum": [1, "a", None]}, {"const": {"a": 1}}],
    "bounds": [{"type": "integer", "minimum": 0, "maximum": 9}, {"type": "number", "exclusiveMinimum": 0}],
    "lists": [
        {"type": "array", "items": TEXT},
        {"type": "array", "items": POINT, "maxItems": 3},
        {"type": "array", "prefixItems": [TEXT, {"type": "integer"}], "items": False},
    ],
    "objects": [{**POINT, "additionalProperties": False}, {"$ref": "#/$defs/Point"}],
    "open objects": [{"type": "object"}, {"type": "object", "additionalProperties": TEXT}],
    "`patternProperties`": [{"type": "object", "patternProperties": {"^a": TEXT}, "additionalProperties": False}],
    "unions": [
        {"anyOf": [TEXT, {"type": "null"}]},
        {"type": ["string", "integer"]},
        {"oneOf": [{**POINT, "additionalProperties": False}, {"type": "array", "items": TEXT}]},
    ],
    "`allOf`": [{"allOf": [{**TEXT, "maxLength": 9}, {"minLength": 2}]}, {"allOf": [{"$ref": "#/$defs/Point"}]}],
    "`not`": [{**TEXT, "not": {"enum": ["a"]}}, {"type": "integer", "not": {"const": 3}}],
    "recursion": [{"$ref": "#/$defs/Tree"}],
}
"""What a column stands for: schemas of one parameter, all of which must be kept to."""

DEFINITIONS = {
    "Point": POINT,
    "Tree": {"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#/$defs/Tree"}}}},
}

WHOLE: dict[str, Any] = {"anyOf": [{"required": ["a"]}, {"required": ["b"]}]}
"""What is asked of all parameters together."""


def keeps_to(format: ReplyFormat, parameters: dict[str, Any]) -> bool:
    """Whether a format holds calls to these parameters; what it does not, it refuses."""
    tool = ToolSpec("tool", {"type": "object", "$defs": DEFINITIONS, **parameters})
    try:
        return format.grammar(ReplyRules((tool,)), quoted) is not None
    except (SchemaError, ToolError):
        return False


def table() -> str:
    """One line for each format."""
    lines = [f"| format | reasoning | several calls | {' | '.join(PROBES)} | the whole |\n"]
    lines.append("|---" * (len(PROBES) + 4) + "|\n")
    for name, format in FORMATS.items():
        if name == "plain":
            continue
        cells = [_reasoning(format), _mark(_several(format))]
        cells += [_mark(all(_one(format, one) for one in probes)) for probes in PROBES.values()]
        cells.append(_mark(keeps_to(format, {"properties": {"a": TEXT, "b": TEXT}, **WHOLE})))
        lines.append(f"| `{name}` | {' | '.join(cells)} |\n")
    return "".join(lines)


def _one(format: ReplyFormat, schema: dict[str, Any]) -> bool:
    return keeps_to(format, {"properties": {"a": schema}, "required": ["a"]})


def _several(format: ReplyFormat) -> bool:
    tool = ToolSpec("tool", {"type": "object", "properties": {"a": TEXT}})
    one, many = (format.grammar(ReplyRules((tool,), parallel=x), quoted) for x in (False, True))
    return one != many


def _reasoning(format: ReplyFormat) -> str:
    thinking = format.thinking
    if thinking is None:
        return ""
    return " ".join(f"`{tag.strip()}`".replace("|", "&#124;") for tag in (thinking.start, thinking.end))


def _mark(kept: bool) -> str:
    return "yes" if kept else "no"


def written(document: str) -> str:
    """The table as the document has it."""
    return document.partition(BEGIN)[2].partition(END)[0]


def main() -> None:
    """Write the table into the document."""
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(text.replace(BEGIN + written(text) + END, BEGIN + table() + END), encoding="utf-8")


if __name__ == "__main__":
    main()
