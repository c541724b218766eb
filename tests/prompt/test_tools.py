"""Tools from functions and from dicts: their schemas, their calls, and what is refused."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from enum import Enum
from typing import Annotated, Any, Literal

import jsonschema
import pydantic
import pytest

from llama_cffi.errors import ToolArgumentsError, ToolError
from llama_cffi.prompt.docstring import parameters_of, summary_of
from llama_cffi.prompt.tools import Tool, check_tools


class Unit(Enum):
    CELSIUS = "C"
    FAHRENHEIT = "F"


class Place(pydantic.BaseModel):
    city: str
    country: str = "NO"


@dataclass
class Point:
    x: float
    y: float = 0.0


def weather(
    place: Place,
    days: int = 3,
    unit: Unit = Unit.CELSIUS,
    when: date | None = None,
    *,
    detail: Literal["low", "high"] = "low",
    near: Annotated[list[Point], "Points close by."] = [],  # noqa: B006
) -> dict[str, Any]:
    """The weather of a place.

    Looks into the future, which
    is hard.

    Args:
        place: Where.
        days (int): How many days,
            today included.
        unit: Of the temperature.

    Returns:
        What is expected: a dict.
    """
    return {"city": place.city, "days": days, "unit": unit, "when": when, "detail": detail, "n": len(near)}


def test_a_function_is_a_tool() -> None:
    tool = Tool.from_function(weather)
    assert (tool.name, tool.function) == ("weather", weather)
    assert tool.description == "The weather of a place.\n\nLooks into the future, which is hard."
    schema = tool.parameters
    jsonschema.Draft202012Validator.check_schema(schema)
    assert list(schema["properties"]) == ["place", "days", "unit", "when", "detail", "near"]
    assert schema["required"] == ["place"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["days"] == {
        "type": "integer",
        "default": 3,
        "description": "How many days, today included.",
    }
    assert schema["properties"]["detail"] == {"enum": ["low", "high"], "type": "string", "default": "low"}
    assert schema["properties"]["near"]["description"] == "Points close by."
    assert "title" not in schema
    jsonschema.validate({"place": {"city": "Oslo"}, "near": [{"x": 1}]}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"place": {"city": 3}}, schema)
    assert tool.as_dict() == {
        "type": "function",
        "function": {"name": "weather", "description": tool.description, "parameters": schema},
    }
    assert check_tools([tool.as_dict()])[0].parameters == schema


def test_a_call_is_validated_and_its_result_is_text() -> None:
    tool = Tool.from_function(weather)
    arguments = {"place": {"city": "Åre"}, "unit": "F", "when": "2026-11-24", "near": [{"x": 1}]}
    result = {"city": "Åre", "days": 3, "unit": "F", "when": "2026-11-24", "detail": "low", "n": 1}
    assert json.loads(tool.call(arguments)) == result
    assert json.loads(tool.call(json.dumps(arguments))) == result
    assert "Åre" in tool.call(arguments)
    for wrong, words in (
        ({}, "place: Field required"),
        ({"place": {"city": "Oslo"}, "days": "many"}, "days: Input should be a valid integer"),
        ({"place": {"city": "Oslo"}, "who": 1}, "who: Extra inputs are not permitted"),
        ("{", "not JSON"),
        ("[1]", "must be an object, not list"),
        ("[" * 100_000, "not JSON"),
    ):
        with pytest.raises(ToolArgumentsError, match=words):
            tool.call(wrong)


def test_names_of_parameters_are_free() -> None:
    def f(json: int, schema: str, model_config: bool, copy: float = 2.5, /, self: int = 0) -> list[Any]:
        return [json, schema, model_config, copy, self]

    tool = Tool.from_function(f)
    assert list(tool.parameters["properties"]) == ["json", "schema", "model_config", "copy", "self"]
    assert json.loads(tool.call({"json": 1, "schema": "s", "model_config": True})) == [1, "s", True, 2.5, 0]
    assert json.loads(tool.call({"json": 1, "schema": "s", "model_config": 0, "self": 7})) == [1, "s", False, 2.5, 7]


def test_methods_and_wrapped_functions_are_tools() -> None:
    class Shop:
        def buy(self, n: int) -> str:
            """Buy."""
            return f"{n} bought"

    def twice(function: Callable[..., str]) -> Callable[..., str]:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> str:
            return function(*args, **kwargs) * 2

        return run

    assert Tool.from_function(Shop().buy).call({"n": 3}) == "3 bought"
    wrapped = Tool.from_function(twice(Shop().buy))
    assert (wrapped.description, wrapped.call({"n": 3})) == ("Buy.", "3 bought3 bought")


@pytest.mark.parametrize(
    ("result", "text"),
    [("as it is", "as it is"), (None, "null"), (3, "3"), ([1, "å"], '[1,"å"]'), (Point(1.5), '{"x":1.5,"y":0.0}')],
)
def test_results(result: Any, text: str) -> None:
    def f() -> Any:
        return result

    tool = Tool.from_function(f)
    assert tool.parameters == {"type": "object", "properties": {}, "additionalProperties": False}
    assert tool.call("{}") == text


def test_what_a_function_raises_comes_through() -> None:
    def f() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        Tool.from_function(f).call({})

    def g() -> object:
        return object()

    with pytest.raises(ToolError, match="the result of tool 'g' cannot be written as JSON"):
        Tool.from_function(g).call({})
    with pytest.raises(ToolError, match="no function to call"):
        Tool("f").call({})


def test_functions_without_a_schema_are_refused() -> None:
    def several(*names: str) -> None: ...
    def options(**names: str) -> None: ...
    def bare(a, b: int = 3) -> None: ...  # type: ignore[no-untyped-def]
    def unknown(a: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821
    def odd(a: Callable[[int], int]) -> None: ...
    def strange(a: StopIterator) -> None: ...

    for function, words in (
        (several, "parameter 'names' of tool 'several' takes any number of values"),
        (options, "parameter 'names' of tool 'options' takes any number of values"),
        (bare, "parameter 'a' of tool 'bare' has no annotation"),
        (unknown, "annotations of tool 'unknown' cannot be read"),
        (odd, "types of tool 'odd' have no JSON Schema"),
        (strange, "types of tool 'strange'"),
        (lambda: None, "not '<lambda>'"),
        (functools.partial(weather), "a function with a name"),
        (3, "a function with a name"),
    ):
        with pytest.raises(ToolError, match=words):
            Tool.from_function(function)  # type: ignore[arg-type]


class StopIterator:
    """A type that pydantic does not know."""


def test_tools_of_every_form_together() -> None:
    tools = check_tools(
        [
            weather,
            {"type": "function", "function": {"name": "math.add", "parameters": {"properties": {"a": {}}}}},
            {"name": "now", "description": None},
            Tool("stop"),
        ]
    )
    assert [tool.name for tool in tools] == ["weather", "math.add", "now", "stop"]
    assert tools[1].parameters == {"type": "object", "properties": {"a": {}}}
    assert tools[2].parameters == {"type": "object", "properties": {}, "additionalProperties": False}
    assert check_tools([]) == ()


@pytest.mark.parametrize(
    ("tools", "words"),
    [
        ("weather", "must be a list of tools, not str"),
        ({"name": "f"}, "must be a list of tools, not dict"),
        (None, "must be a list of tools, not NoneType"),
        ([3], r"tools\[0\]: a tool must be a function, a dict or a Tool, not int"),
        ([{"name": "f"}, {"name": "g"}, {"name": "f"}], r"tools\[2\]: the name 'f' is that of tools\[0\] too"),
        ([{"type": "web_search"}], r"tools\[0\]: a tool must be of type 'function', not 'web_search'"),
        ([{"type": "function", "function": {}}], r"tools\[0\]: a tool needs a name"),
        ([{"type": "function", "function": 3}], r"tools\[0\]: a tool needs a name"),
        ([{"name": "a b"}], "1 to 64 letters, digits and _.-, not 'a b'"),
        ([{"name": ""}], "1 to 64 letters"),
        ([{"name": "<|im_end|>"}], "1 to 64 letters"),
        ([{"name": "x" * 65}], "1 to 64 letters"),
        ([{"name": 3}], "1 to 64 letters"),
        ([{"name": "f", "description": 3}], "description of tool 'f' must be a str"),
        ([{"name": "f", "description": "\0"}], "holds a NUL character"),
        ([{"name": "f", "description": "a\ud800"}], "lone surrogate at index 1"),
        ([{"name": "f", "params": {"type": "object"}}], "has the key 'params', which looks like its parameters"),
        ([{"name": "f", "input-schema": {}}], "has the key 'input-schema', which looks like"),
        ([{"name": "f", "arguments": {"properties": {}}}], "has the key 'arguments', which looks like"),
        ([{"name": "f", "takes": {"type": "object", "properties": {}}}], "has the key 'takes', which looks like"),
        ([{"name": "f", "properties": {"a": {}}}], "has the key 'properties', which looks like"),
        ([{"type": "function", "function": {"name": "f"}, "parameters": {}}], "has the key 'parameters', which looks"),
        ([{"name": "f", "parameters": {}, "inputSchema": {}}], "has both parameters and inputSchema"),
        ([{"name": "f", "strict": "\0"}], "holds a NUL character"),
        ([{"name": "f", "parameters": []}], "must be a JSON Schema, not list"),
        ([{"name": "f", "parameters": {"type": "string"}}], "schema of an object, with type 'object', not 'string'"),
        ([{"name": "f", "parameters": {"anyOf": []}}], "schema of an object, with type 'object', not None"),
        ([{"name": "f", "parameters": {"type": "object", "properties": []}}], "properties must be a mapping"),
        ([{"name": "f", "parameters": {"type": "object", "required": "a"}}], "required must be a list of names"),
        ([{"name": "f", "parameters": {"type": "object", "title": "\0"}}], "holds a NUL character"),
        ([{"name": "f", "parameters": {"type": "object", "\ud800": 1}}], "lone surrogate"),
        ([{"name": "f", "parameters": {"type": "object", "default": object()}}], "cannot be written as JSON"),
        ([{"name": "f", "parameters": {"type": "object", "default": float("nan")}}], "cannot be written as JSON"),
    ],
)
def test_what_is_no_tool_is_refused(tools: Any, words: str) -> None:
    with pytest.raises(ToolError, match=words):
        check_tools(tools)


SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


@pytest.mark.parametrize(
    "definition",
    [
        {"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA}},
        {"type": "function", "name": "f", "description": "d", "parameters": SCHEMA},
        # MCP
        {
            "name": "f",
            "title": "F",
            "description": "d",
            "inputSchema": SCHEMA,
            "outputSchema": {"type": "object"},
            "annotations": {"readOnlyHint": True},
            "_meta": {},
        },
        # Anthropic
        {"name": "f", "description": "d", "input_schema": SCHEMA},
        {
            "type": "custom",
            "name": "f",
            "description": "d",
            "input_schema": SCHEMA,
            "cache_control": {"type": "ephemeral"},
        },
    ],
)
def test_definitions_of_other_interfaces(definition: dict[str, Any]) -> None:
    tool = Tool.from_dict(definition)
    assert tool == Tool("f", "d", SCHEMA)
    assert Tool.from_dict(tool.as_dict()) == tool


def test_further_keys_are_kept_where_templates_find_them() -> None:
    further = {"strict": True, "return": {"type": "object", "properties": {}}, "x-priority": 3}
    tool = Tool.from_dict({"type": "function", "function": {"name": "f", "parameters": SCHEMA, **further}})
    function = tool.as_dict()["function"]
    assert {key: function[key] for key in further} == further
    assert function["parameters"] == SCHEMA
    assert Tool.from_dict(tool.as_dict()) == tool


def test_parameter_definitions_are_a_schema_too() -> None:
    definitions = {
        "query": {"description": "Words", "type": "str", "required": True},
        "n": {"type": "int"},
        "tags": {"type": "List[str]"},
        "other": {"type": "Any"},
    }
    tool = Tool.from_dict({"name": "f", "parameter_definitions": definitions})
    assert tool.parameters == {
        "type": "object",
        "properties": {
            "query": {"type": "string", "description": "Words"},
            "n": {"type": "integer"},
            "tags": {"type": "array"},
            "other": {},
        },
        "required": ["query"],
    }
    assert tool.as_dict()["function"]["parameter_definitions"] == definitions


def test_a_schema_that_holds_itself_is_refused() -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {}}
    schema["properties"]["a"] = schema
    with pytest.raises(ToolError, match="nested too deep, or holds itself"):
        Tool("f", "", schema)


GOOGLE = """Find things.

    More
    of it.

    Args:
        name (str, optional): The name: what
            it is called.

            Second paragraph.
        *rest: The rest.
        empty:

    Raises:
        ValueError: never.
    """

NUMPY = """Find things.

    More of it.

    Parameters
    ----------
    name : str, optional
        The name: what
        it is called.
    a, b : int
        Two of them.
    bare
        Just so.

    Returns
    -------
    list
        All.
    """

SPHINX = """Find things.

    More of it.

    :param str name: The name: what
        it is called.
    :param rest: The rest.
    :returns: All.
    """


def test_docstrings_of_three_styles() -> None:
    assert parameters_of(GOOGLE) == {"name": "The name: what it is called. Second paragraph.", "rest": "The rest."}
    assert parameters_of(NUMPY) == {
        "name": "The name: what it is called.",
        "a": "Two of them.",
        "b": "Two of them.",
        "bare": "Just so.",
    }
    assert parameters_of(SPHINX) == {"name": "The name: what it is called.", "rest": "The rest."}
    for doc in (GOOGLE, NUMPY, SPHINX):
        assert summary_of(doc) == "Find things.\n\nMore of it."
    assert (summary_of(None), parameters_of(None), summary_of("One.")) == ("", {}, "One.")
