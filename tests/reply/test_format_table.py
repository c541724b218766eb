"""The documentation says of each format what it keeps to."""

from __future__ import annotations

from llama_cffi.reply.formats import FORMATS
from tests.support.format_table import DOCUMENT, keeps_to, table, written


def test_the_table_is_what_the_formats_do() -> None:
    found = written(DOCUMENT.read_text(encoding="utf-8"))
    assert found == table(), "run python -m tests.support.format_table"
    assert found.count("\n") == len(FORMATS) + 1


def test_a_probe_can_fail() -> None:
    lookahead = {"type": "string", "pattern": "^(?=a)"}
    for name, format in FORMATS.items():
        assert not keeps_to(format, {"properties": {"a": lookahead}, "required": ["a"]}), name
