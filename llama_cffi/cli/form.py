"""What a text must look like: the options of a JSON Schema and of a grammar."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from llama_cffi.cli import arguments, options

SchemaFile = Annotated[
    Path | None,
    options.option(
        "-jf", "--schema", "--json-schema-file", metavar="FILE",
        help="Generate JSON that satisfies the JSON Schema in this file.",
    ),
]  # fmt: skip
JsonSchema = Annotated[
    str | None,
    options.option("-j", "--json-schema", metavar="SCHEMA", help="Generate JSON that satisfies this JSON Schema."),
]


@dataclass(frozen=True, kw_only=True)
class Form:
    """The options of which one says what a text must look like."""

    schema: SchemaFile = None
    json_schema: JsonSchema = None
    grammar: options.Grammar = None
    grammar_file: options.GrammarFile = None

    def read(self) -> tuple[Any, str | None]:
        """Return the JSON Schema and the grammar; at most one is not None.

        ``typer.BadParameter`` for several of them, OSError and ValueError for a file or text that is none.
        """
        given = {
            "--schema": self.schema,
            "--json-schema": self.json_schema,
            "--grammar": self.grammar,
            "--grammar-file": self.grammar_file,
        }
        if sum(one is not None for one in given.values()) > 1:
            raise typer.BadParameter(f"give one of {', '.join(given)}")
        if self.grammar_file is not None:
            return None, arguments.read_text(self.grammar_file)
        if self.json_schema is not None:
            return _parsed(self.json_schema, "--json-schema"), None
        if self.schema is not None:
            return _parsed(arguments.read_text(self.schema), str(self.schema)), None
        return None, self.grammar


FORM = Form()
"""Any text."""


def _parsed(text: str, source: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{source} is not JSON: {error}") from None


__all__ = ["FORM", "Form"]
