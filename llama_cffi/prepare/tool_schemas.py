"""Tools whose parameters cannot be enforced completely, with ``on_unsupported="annotate"``."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from llama_cffi.errors import SchemaError, ToolError
from llama_cffi.grammar.blame import with_place
from llama_cffi.grammar.document import Document
from llama_cffi.grammar.form import UnsatisfiableError
from llama_cffi.grammar.keywords import as_json
from llama_cffi.grammar.loosening import loosen
from llama_cffi.grammar.tool_form import closed
from llama_cffi.grammar.validation import Validator
from llama_cffi.grammar.values import SchemaWarning
from llama_cffi.reply.format import ReplyRules, ToolSpec
from llama_cffi.reply.formats import find
from llama_cffi.reply.lark import quoted

if TYPE_CHECKING:
    from llama_cffi.reply.format import ReplyFormat


def loosened_tools(
    format: ReplyFormat, tools: tuple[ToolSpec, ...]
) -> tuple[tuple[ToolSpec, ...], dict[str, Validator]]:
    """Return the tools with parameters that can be enforced, and the validators of the tools that changed.

    A :class:`SchemaWarning` names each keyword that was left out. Raises :class:`SchemaError` for parameters that
    no value satisfies, and :class:`SchemaError` or :class:`ToolError` where no keyword is the reason.
    """
    held, validators = [], {}
    for tool in tools:
        parameters = as_json(dict(tool.parameters))
        text, errors = _loosened(format.name, tool.name, json.dumps(parameters))
        if errors:
            validators[tool.name] = Validator(Document(closed(parameters)), lenient=True)
            for error in errors:
                warnings.warn(
                    f"treated as an annotation during generation: tool {tool.name!r}: {error}",
                    SchemaWarning,
                    stacklevel=2,
                )
        held.append(replace(tool, parameters=json.loads(text)) if errors else tool)
    return tuple(held), validators


@lru_cache(maxsize=256)
def _loosened(format_name: str, name: str, parameters: str) -> tuple[str, tuple[SchemaError, ...]]:
    format = find(format_name)

    def plain(schema: Any) -> str:
        try:
            format.grammar(ReplyRules((ToolSpec(name, schema),)), quoted)
        except (SchemaError, ToolError) as error:
            if isinstance(error.__cause__, UnsatisfiableError):
                raise error.__cause__ from None
            keyword = getattr(error, "keyword", "")
            if keyword and _stands(schema, error.pointer, keyword):  # type: ignore[union-attr]
                message = error.message.partition(f": {keyword!r} ")[2]
                raise SchemaError(message, pointer=error.pointer, keyword=keyword) from error  # type: ignore[union-attr]
            raise SchemaError(error.message) from error
        return json.dumps(schema)

    def placed(schema: Any) -> str:
        try:
            return plain(schema)
        except UnsatisfiableError:
            raise
        except SchemaError as error:
            raise with_place(error, schema, plain) from error.__cause__

    return loosen(json.loads(parameters), placed)


def _stands(schema: Any, pointer: str, keyword: str) -> bool:
    """Whether there is a keyword at a place of a schema."""
    for part in pointer.split("/")[1:]:
        token = part.replace("~1", "/").replace("~0", "~")
        try:
            schema = schema[int(token)] if isinstance(schema, list) else schema[token]
        except (LookupError, ValueError, TypeError):
            return False
    return isinstance(schema, dict) and keyword in schema


__all__ = ["loosened_tools"]
