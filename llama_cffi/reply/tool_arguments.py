"""The arguments of a tool: as one form, and one by one for formats that write each by itself."""

from __future__ import annotations

import re
from typing import Literal

from llama_cffi.errors import SchemaError, ToolError, ToolSchemaError
from llama_cffi.grammar.form import Form, types_of
from llama_cffi.grammar.shapes import Object, Shape, State
from llama_cffi.grammar.tool_form import tool_form
from llama_cffi.reply.format import ToolSpec
from llama_cffi.reply.lark import Lark

Kind = Literal["text", "json", "either"]
"""How a value is written: a text as it is, anything else as JSON, or what the text looks like."""

_MAX_LISTS = 100


class ToolArguments:
    """The arguments of a tool, read from its schema once.

    Raises :class:`ToolError` for a schema that cannot be enforced.
    """

    def __init__(self, tool: ToolSpec) -> None:
        self.tool = tool
        self.form = _form_of(tool)

    def json(self, lark: Lark, shapes: tuple[Shape, ...] | None = None) -> str:
        """Return the rule of the JSON texts of all arguments, or of some shapes in their form.

        Raises :class:`ToolError` for names and values that cannot be enforced.
        """
        try:
            return lark.json(self.form, shapes)
        except SchemaError as error:
            raise _refused(self.tool, error) from error

    def shapes(self, state: State) -> tuple[Shape, ...]:
        """Return what a state of the form leaves."""
        return self.form.shapes(state)

    def one_by_one(self) -> list[Object]:
        """Return the lists of arguments, as properties in the order of the schema, of which a call takes one.

        Raises :class:`ToolError` for a schema that can be enforced only with arguments that it does not list.
        """
        found = []
        unlisted = False
        for shape in self.form.shapes(self.form.root):
            if not isinstance(shape, Object):
                raise self._at_the_top(repr("const" if "const" in self.tool.parameters else "enum"))
            if any(state is not None for _, state in shape.patterns):
                raise self._at_the_top("'patternProperties'")
            if shape.low:
                unlisted = True
            else:
                found.append(shape)
        if unlisted and not found:
            raise self._at_the_top("'minProperties'")
        if len(found) > _MAX_LISTS:
            raise self._at_the_top(f"more than {_MAX_LISTS} alternatives")
        return found

    def kind(self, name: str) -> Kind:
        """Return how the value of an argument is written: in the same way in each list that has it."""
        types: set[str] = set()
        for shape in self.form.shapes(self.form.root):
            if isinstance(shape, Object) and name in shape.properties:
                types |= types_of(self.form.shapes(shape.properties[name]))
        if not types:
            return "either"
        if "string" not in types:
            return "json"
        return "text" if types == {"string"} else "either"

    def check_name(self, name: str, pattern: str) -> None:
        """Raise :class:`ToolError` unless all of a name matches the names that a format can write."""
        if not re.fullmatch(pattern, name):
            raise ToolError(
                f"the parameter {name!r} of tool {self.tool.name!r} has a name that this format cannot write"
            )

    def _at_the_top(self, what: str) -> ToolError:
        return ToolError(
            f"the parameters of tool {self.tool.name!r} have {what} at their top, "
            "which cannot be enforced in a format that writes arguments one by one"
        )


def kind_of(tool: ToolSpec | None, name: str) -> Kind:
    """Return how the value of an argument is written, also of a tool that no grammar can be made for."""
    try:
        return ToolArguments(tool).kind(name) if tool else "either"
    except ToolError:
        return "either"


def _form_of(tool: ToolSpec) -> Form:
    try:
        return tool_form(tool.parameters)
    except SchemaError as error:
        listed = tool.parameters.get("properties", {})
        unlisted = [name for name in tool.parameters.get("required", ()) if name not in listed]
        if not unlisted or error.keyword:
            raise _refused(tool, error) from error
        raise ToolError(
            f"the parameters of tool {tool.name!r} require {unlisted[0]!r}, which is not one of the properties"
        ) from None


def _refused(tool: ToolSpec, error: SchemaError) -> ToolSchemaError:
    message = f"the parameters of tool {tool.name!r} cannot be enforced: {error.message}"
    return ToolSchemaError(message, pointer=error.pointer, keyword=error.keyword)


__all__ = ["Kind", "ToolArguments", "kind_of"]
