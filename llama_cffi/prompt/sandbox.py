"""Jinja for chat templates: what Hugging Face's renderer offers, in a sandbox with an end.

A template comes with a model file that somebody uploaded. jinja2's immutable sandbox keeps it from Python's objects;
this adds limits to what it may compute, because a loop or a repeated string needs no forbidden name to take all day.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from functools import wraps
from time import monotonic
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.environment import Template
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MAX_SECONDS = 5.0
MAX_TEXT = 64 * 2**20
_MAX_NUMBER = 10**6


class _Generation(Extension):
    """``{% generation %}``: marks the assistant's words for training; here its body is simply rendered."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own protocol

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Clock:
    """A deadline for rendering. Every turn of a loop and every call of a macro passes here."""

    __slots__ = ("_end", "_seconds", "_turns")

    def __init__(self, seconds: float) -> None:
        self._turns = 0
        self._seconds = seconds
        self._end = monotonic() + seconds

    def __call__(self) -> str:
        self._turns += 1
        if not self._turns % 16 and monotonic() > self._end:
            raise SecurityError(f"the template takes too long: more than {self._seconds:g} s")
        return ""


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of all chat templates."""

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols", "jinja2.ext.do"]
        )
        self.filters["tojson"] = _to_json
        # A prompt is no HTML: nothing is ever escaped, so there is nothing to mark as escaped already.
        self.filters["safe"] = str
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now
        del self.globals["lipsum"]
        self.globals["__concat"] = _concat
        for name in ("center", "indent", "format", "round", "replace"):
            self.filters[name] = _bounded(self.filters[name])

    def compile_template(self, source: str) -> Template:
        """The template of ``source``; :class:`jinja2.TemplateError` when it is none."""
        tree = self._parse(source, None, None)
        repeated: list[nodes.For | nodes.Macro] = [*tree.find_all(nodes.For), *tree.find_all(nodes.Macro)]
        for node in repeated:
            node.body.insert(0, nodes.Output([_call("__clock", [])]))
        _Concatenations().visit(tree)
        tree.set_environment(self)
        return Template.from_code(self, self.compile(tree), self.make_globals(None))

    def render(self, template: Template, variables: dict[str, Any], clock: Clock) -> str:
        """The text; :class:`jinja2.TemplateError` when the template raises, or is not done in time."""
        parts: list[str] = []
        size = 0
        for part in template.generate({**variables, "__clock": clock}):
            parts.append(part)
            size += len(part)
            if size > MAX_TEXT:
                raise SecurityError(f"the template writes more than {MAX_TEXT} characters")
        return "".join(parts)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        # Repeating, adding and formatting make long values out of short ones; arithmetic of sane size passes.
        if operator == "*":
            for one, other in ((left, right), (right, left)):
                if isinstance(one, (str, list, tuple)) and isinstance(other, int):
                    _check_size(len(one) * max(0, other))
        elif operator == "**":
            _check_number(left, right)
            if isinstance(left, int) and isinstance(right, int) and right > 64:
                raise SecurityError("the template computes a power that is too large")
        elif operator == "+" and isinstance(left, (str, list, tuple)):
            _check_size(len(left) + len(right) if isinstance(right, type(left)) else 0)
        elif operator == "%" and isinstance(left, str):
            _check_format(left)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:
        owner = getattr(obj, "__self__", None)
        if isinstance(owner, str):
            _check_number(*args, *kwargs.values())
            if args and getattr(obj, "__name__", "") in ("replace", "format"):
                _check_format(owner)
                _check_size(
                    len(owner) * max((len(one) for one in (*args, *kwargs.values()) if isinstance(one, str)), default=0)
                )
        return super().call(context, obj, *args, **kwargs)


class _Concatenations(NodeTransformer):
    """Makes ``a ~ b`` a call that looks at the size."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _call("__concat", node.nodes)


def _call(name: str, arguments: list[nodes.Expr]) -> nodes.Call:
    return nodes.Call(nodes.Name(name, "load"), arguments, [], None, None)


def _concat(*values: Any) -> str:
    texts = [str(value) for value in values]
    _check_size(sum(map(len, texts)))
    return "".join(texts)


def _bounded(function: Any) -> Any:
    """A filter that refuses numbers, widths and growth out of proportion."""

    @wraps(function)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        _check_number(*args, *kwargs.values())
        texts = [one for one in (*args, *kwargs.values()) if isinstance(one, str)]
        for text in texts:
            _check_format(text)
        if len(texts) == 3:
            _check_size(len(texts[0]) * len(texts[2]))
        return function(*args, **kwargs)

    return bounded


def _check_number(*values: Any) -> None:
    for value in values:
        if isinstance(value, int) and abs(value) > _MAX_NUMBER:
            raise SecurityError(f"the template uses the number {value} where it makes a text of that size")


def _check_size(size: int) -> None:
    if size > MAX_TEXT:
        raise SecurityError(f"the template makes a value of {size} elements")


def _check_format(pattern: str) -> None:
    # "%999999999d" and "{:999999999}": a width needs seven digits in a row to do harm.
    run = 0
    for character in pattern if "%" in pattern or "{" in pattern else "":
        run = run + 1 if character.isdigit() else 0
        if run > 6:
            raise SecurityError("the template formats with a width that is too large")


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Iterable[str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as transformers writes it into prompts: no HTML escapes, and letters stay letters."""
    pair = tuple(separators) if separators is not None else None
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=pair, sort_keys=sort_keys)  # type: ignore[arg-type]


__all__ = ["MAX_SECONDS", "MAX_TEXT", "Clock", "Sandbox"]
