"""Tools that a model may call: their names, descriptions, and the JSON Schemas of their arguments."""

from __future__ import annotations

import inspect
import json
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llama_cffi.errors import MessageError, ToolArgumentsError, ToolError
from llama_cffi.prompt.docstring import parameters_of, summary_of
from llama_cffi.prompt.messages import check_text
from llama_cffi.prompt.tool_forms import read_tool

if TYPE_CHECKING:
    from pydantic import BaseModel

_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,64}")
"""OpenAI's rule and the dot, which many tools have in their names, and which no format gives a meaning. A name goes
into a template beside control tokens, so that it must not be able to spell one."""

_NO_ARGUMENTS: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
_OBJECT_KEYWORDS = ("properties", "required", "additionalProperties", "patternProperties")
_PARAMETER = "p{}"


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that a model may call: its description for the model, and the function itself.

    ``parameters`` is the JSON Schema of an object, the arguments. ``function`` is called with them by name; None for
    a tool that the caller runs itself. ``extra`` holds further keys of the definition, such as ``strict`` or
    ``return``, which some chat templates write. Raises :class:`ToolError` for a name or a schema that cannot be used.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=lambda: _NO_ARGUMENTS)
    function: Callable[..., Any] | None = None
    _arguments: type[BaseModel] | None = field(default=None, repr=False, compare=False)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ToolError(f"the name of a tool must be 1 to 64 letters, digits and _.-, not {self.name!r}")
        if not isinstance(self.description, str):
            raise ToolError(f"the description of tool {self.name!r} must be a str, not {self.description!r}")
        _check_text(self.description, f"the description of tool {self.name!r}")
        object.__setattr__(self, "parameters", _checked_parameters(self.name, self.parameters))
        _check_text(self.extra, f"tool {self.name!r}")

    @classmethod
    def from_function(cls, function: Callable[..., Any]) -> Tool:
        """Return a tool from a function with annotations: its name, its docstring, and a schema from its signature.

        All types that pydantic supports may be used, including ``Annotated`` with ``Field`` or a text as description.
        Descriptions of parameters come from the docstring, in Google, NumPy or Sphinx style. Raises :class:`ToolError`
        for parameters without annotation, and for ``*args`` and ``**kwargs``. A function may be ``async def``:
        AsyncLlama calls it.
        """
        name = getattr(function, "__name__", None)
        if not callable(function) or not isinstance(name, str):
            raise ToolError(f"a tool must be a function with a name, not {function!r}")
        doc = inspect.getdoc(function)
        model = _arguments_model(function, name, parameters_of(doc))
        schema = _schema_of(model, name)
        return cls(name, summary_of(doc), schema, function, model)

    @classmethod
    def from_dict(cls, tool: Mapping[str, Any]) -> Tool:
        """Return a tool in one of the forms of :func:`~llama_cffi.prompt.tool_forms.read_tool`.

        These are OpenAI's ``{"type": "function", "function": {...}}`` or the inner part alone, MCP's with
        ``inputSchema`` and Anthropic's with ``input_schema``. Further keys of OpenAI's form are kept in ``extra``.
        Raises :class:`ToolError` for another form, and for unknown keys that look like parameters.
        """
        name, description, parameters, extra = read_tool(tool)
        return cls(name, description, _NO_ARGUMENTS if parameters is None else parameters, extra=extra)

    def __reduce__(self) -> tuple[Any, ...]:
        # The pydantic class has no name by which another process would find it; the function may have one.
        fields = (self.name, self.description, self.parameters, self.function)
        return _restored, (type(self), fields, self._arguments is not None)

    def as_dict(self) -> dict[str, Any]:
        """Return the tool in the form of OpenAI's API, which chat templates take."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": {**function, **self.extra}}

    @property
    def is_async(self) -> bool:
        """Whether the function is ``async def``."""
        return inspect.iscoroutinefunction(self.function)

    def call(self, arguments: Mapping[str, Any] | str) -> str:
        """Call the function and return its result as text: a str as it is, anything else as JSON.

        ``arguments`` is an object or its JSON text. Raises :class:`ToolArgumentsError` for arguments that do not fit,
        :class:`ToolError` when there is no function, when it is ``async def`` and when its result cannot be written as
        JSON, and whatever the function raises.
        """
        if self.is_async:
            raise ToolError(f"tool {self.name!r} is async: AsyncLlama and call_async() can call it")
        return _as_text(self.name, self._invoke(arguments))

    async def call_async(self, arguments: Mapping[str, Any] | str) -> str:
        """Call the function as :meth:`call` does; await an ``async def`` function, and run others on another thread."""
        if self.is_async:
            result = self._invoke(arguments)
        else:
            from asyncio import to_thread

            result = await to_thread(self._invoke, arguments)
        if inspect.isawaitable(result):
            result = await result
        return _as_text(self.name, result)

    def _invoke(self, arguments: Mapping[str, Any] | str) -> Any:
        if self.function is None:
            raise ToolError(f"tool {self.name!r} has no function to call")
        given = _parsed(self.name, arguments)
        args, kwargs = self._bound(self._arguments, given) if self._arguments else ([], dict(given))
        return self.function(*args, **kwargs)

    def _bound(self, model: type[BaseModel], given: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Positional and keyword arguments, each of the annotated type."""
        import pydantic

        try:
            checked = model.model_validate(dict(given))
        except pydantic.ValidationError as error:
            reasons = (f"{'.'.join(map(str, one['loc'])) or 'arguments'}: {one['msg']}" for one in error.errors())
            raise ToolArgumentsError(f"the arguments of tool {self.name!r} do not fit: {'; '.join(reasons)}") from None
        args: list[Any] = []
        kwargs = {}
        function = typing.cast(Callable[..., Any], self.function)
        for i, parameter in enumerate(inspect.signature(function).parameters.values()):
            key = _PARAMETER.format(i)
            if parameter.kind is parameter.POSITIONAL_ONLY:
                args.append(getattr(checked, key))
            elif key in checked.model_fields_set:
                kwargs[parameter.name] = getattr(checked, key)
        return args, kwargs


def _restored(kind: type[Tool], fields: tuple[Any, Any, Any, Any], checks_arguments: bool) -> Tool:
    function, model = fields[3], None
    if checks_arguments:
        model = _arguments_model(function, function.__name__, parameters_of(inspect.getdoc(function)))
    return kind(*fields, model)


def check_tools(tools: Iterable[Tool | Mapping[str, Any] | Callable[..., Any]]) -> tuple[Tool, ...]:
    """Return tools given as :class:`Tool`, as functions, or as dicts that :meth:`Tool.from_dict` reads.

    Raises :class:`ToolError`, naming the place, for anything else, and for two tools of one name.
    """
    if isinstance(tools, (str, bytes, Mapping, Tool)) or not isinstance(tools, Iterable):
        raise ToolError(f"tools must be a list of tools, not {type(tools).__name__}")
    checked: list[Tool] = []
    for i, tool in enumerate(tools):
        try:
            checked.append(_tool_of(tool))
        except ToolError as error:
            raise ToolError(f"tools[{i}]: {error.message}") from error
    seen: dict[str, int] = {}
    for i, one in enumerate(checked):
        if one.name in seen:
            raise ToolError(f"tools[{i}]: the name {one.name!r} is that of tools[{seen[one.name]}] too")
        seen[one.name] = i
    return tuple(checked)


def _tool_of(tool: Tool | Mapping[str, Any] | Callable[..., Any]) -> Tool:
    if isinstance(tool, Tool):
        return tool
    if isinstance(tool, Mapping):
        return Tool.from_dict(tool)
    if callable(tool):
        return Tool.from_function(tool)
    raise ToolError(f"a tool must be a function, a dict or a Tool, not {type(tool).__name__}")


def _check_text(value: Any, place: str) -> None:
    try:
        check_text(value, place)
        # A NUL would end the text where C reads it.
        found = "\\u0000" in json.dumps(value, allow_nan=False)
    except (MessageError, TypeError, ValueError, RecursionError) as error:
        reason = error.message if isinstance(error, MessageError) else f"{place} cannot be written as JSON: {error}"
        raise ToolError(reason) from None
    if found and "\0" in "".join(_texts(value)):
        raise ToolError(f"{place} holds a NUL character")


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield str(key)
            yield from _texts(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _texts(one)


def _checked_parameters(name: str, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    place = f"the parameters of tool {name!r}"
    if not isinstance(parameters, Mapping):
        raise ToolError(f"{place} must be a JSON Schema, not {type(parameters).__name__}")
    _check_text(parameters, place)
    if not parameters:
        return _NO_ARGUMENTS
    type_ = parameters.get("type")
    if type_ is None and any(keyword in parameters for keyword in _OBJECT_KEYWORDS):
        parameters = {"type": "object", **parameters}
    elif type_ != "object":
        raise ToolError(f"{place} must be the schema of an object, with type 'object', not {type_!r}")
    properties = parameters.get("properties", {})
    required = parameters.get("required", [])
    if not isinstance(properties, Mapping):
        raise ToolError(f"{place}: properties must be a mapping, not {type(properties).__name__}")
    if not isinstance(required, (list, tuple)) or not all(isinstance(one, str) for one in required):
        raise ToolError(f"{place}: required must be a list of names, not {required!r}")
    return parameters


def _arguments_model(function: Callable[..., Any], name: str, descriptions: Mapping[str, str]) -> type[BaseModel]:
    """The parameters as a pydantic model, its fields numbered so that no name clashes with one of pydantic's own."""
    import pydantic

    try:
        signature = inspect.signature(function)
        hints = typing.get_type_hints(inspect.unwrap(function), include_extras=True)
    except (NameError, TypeError, ValueError) as error:
        raise ToolError(f"the annotations of tool {name!r} cannot be read: {error}") from error
    fields: dict[str, Any] = {}
    for i, parameter in enumerate(signature.parameters.values()):
        place = f"parameter {parameter.name!r} of tool {name!r}"
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise ToolError(f"{place} takes any number of values, for which there is no schema")
        if parameter.name not in hints:
            raise ToolError(f"{place} has no annotation, so its schema is unknown")
        options: dict[str, Any] = {"alias": parameter.name}
        hint = hints[parameter.name]
        remarks = [one for one in getattr(hint, "__metadata__", ()) if isinstance(one, str)]
        description = descriptions.get(parameter.name) or (remarks[0] if remarks else None)
        if description:
            options["description"] = description
        if parameter.default is not parameter.empty:
            options["default"] = parameter.default
        fields[_PARAMETER.format(i)] = (hint, pydantic.Field(**options))
    try:
        return pydantic.create_model(name, __config__=pydantic.ConfigDict(extra="forbid"), **fields)
    except (pydantic.errors.PydanticUserError, TypeError, NameError) as error:
        raise ToolError(f"the types of tool {name!r} are not all known to pydantic: {_first_line(error)}") from error


def _schema_of(model: type[BaseModel], name: str) -> dict[str, Any]:
    import pydantic

    try:
        schema = model.model_json_schema()
    except (pydantic.errors.PydanticUserError, RecursionError) as error:
        raise ToolError(f"the types of tool {name!r} have no JSON Schema: {_first_line(error)}") from error
    # Titles repeat the names, and a model reads every word.
    schema.pop("title", None)
    for one in schema.get("properties", {}).values():
        one.pop("title", None)
    return schema


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


def _parsed(name: str, arguments: Mapping[str, Any] | str) -> Mapping[str, Any]:
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            raise ToolArgumentsError(f"the arguments of tool {name!r} are not JSON: {error}") from None
    if not isinstance(arguments, Mapping):
        raise ToolArgumentsError(f"the arguments of tool {name!r} must be an object, not {type(arguments).__name__}")
    return arguments


def _as_text(name: str, result: Any) -> str:
    import pydantic_core

    if isinstance(result, str):
        return result
    try:
        return pydantic_core.to_json(result).decode()
    except (pydantic_core.PydanticSerializationError, ValueError, RecursionError) as error:
        raise ToolError(f"the result of tool {name!r} cannot be written as JSON: {_first_line(error)}") from error


__all__ = ["Tool", "check_tools"]
