"""Jinja for chat templates: what Hugging Face's renderer offers, in a sandbox with limits.

A template comes with a model file from an unknown source. jinja2's immutable sandbox keeps it from Python's objects;
this bounds what it may compute, because a loop or a repeated string needs no forbidden name to run all day.
"""

from __future__ import annotations

from datetime import datetime
from functools import partial
from types import BuiltinMethodType, MethodType
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.environment import Template
from jinja2.exceptions import SecurityError, TemplateRuntimeError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter

from llama_cffi.prompt.budget import ELEMENT, Budget, current, spending
from llama_cffi.prompt.filters import FILTERS, TESTS
from llama_cffi.prompt.formatting import check_braces, check_percent
from llama_cffi.prompt.guards import GUARDS, add_guards
from llama_cffi.prompt.methods import check_method

MAX_SOURCE = 256 * 1024
"""Characters of a template; the longest ones known have 20,000."""
_MAX_MESSAGE = 2000
_METHOD_NAMES = frozenset(name for kind in (dict, str) for name in dir(kind))


class _Generation(Extension):
    """``{% generation %}``: marks the assistant's words for training; here its body is simply rendered."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own protocol

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of all chat templates."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, "jinja2.ext.loopcontrols", "jinja2.ext.do"],
            finalize=_finalize,
        )
        self.filters = {**FILTERS, **GUARDS}
        self.tests = dict(TESTS)
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now
        del self.globals["lipsum"]

    def parse_template(self, source: str) -> nodes.Template:
        """Return the syntax tree of ``source``. Raises :class:`jinja2.TemplateError` for one that does not parse."""
        if len(source) > MAX_SOURCE:
            raise SecurityError(f"it has {len(source)} characters; {MAX_SOURCE} are allowed")
        return self._parse(source, None, None)

    def compile_template(self, tree: nodes.Template) -> Template:
        """Return the template of a syntax tree, which is changed. Raises what Python's compiler raises, too."""
        add_guards(tree)
        tree.set_environment(self)
        return Template.from_code(self, self.compile(tree), self.make_globals(None))

    def render(self, template: Template, variables: dict[str, Any], budget: Budget) -> str:
        """Return the text. Raises :class:`jinja2.TemplateError` when the template raises or passes a limit."""
        with spending(budget):
            return "".join(template.generate(variables))

    # -- what the compiled template calls

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        # Repeating, adding and formatting make long values out of short ones; arithmetic of sane size passes.
        if isinstance(left, (int, float)) and isinstance(right, (int, float)):
            _check_arithmetic(operator, left, right)
        elif operator == "*":
            for one, other in ((left, right), (right, left)):
                if isinstance(one, (str, list, tuple)) and isinstance(other, int):
                    current().make((1 if isinstance(one, str) else ELEMENT) * len(one) * max(0, other))
        elif operator == "+":
            if isinstance(left, str) and isinstance(right, str):
                current().make(len(left) + len(right))
            elif isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
                current().make(ELEMENT * (len(left) + len(right)))
        elif operator == "%" and isinstance(left, str):
            check_percent(current(), left, right)
        return super().call_binop(context, operator, left, right)

    def getattr(self, obj: Any, attribute: str) -> Any:
        if type(obj) is dict and attribute not in _METHOD_NAMES:
            # By far the most frequent case, in which the original raises and catches an AttributeError first.
            try:
                return obj[attribute]
            except KeyError:
                return self.undefined(obj=obj, name=attribute)
        if attribute in ("format", "format_map") and isinstance(obj, str):
            return partial(self._format, obj, attribute)
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if type(argument) is not str:
            if isinstance(argument, tuple):
                current().hash(argument)
        elif argument in ("format", "format_map") and isinstance(obj, str):
            return partial(self._format, obj, argument)
        return super().getitem(obj, argument)

    # jinja2's own parameter names, so that no keyword argument of a template is taken for one of them.
    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        if type(__obj) is BuiltinMethodType:
            owner = __obj.__self__
            # What Jinja's compiler adds for functions that take a context.
            kwargs.pop("_loop_vars", None)
            kwargs.pop("_block_vars", None)
            budget = current()
            if check_method(budget, owner, __obj.__name__, args, kwargs):
                if budget.marks and __obj.__name__ in ("startswith", "endswith"):
                    # What is only looked at may be looked at without marks.
                    return getattr(_unmarked(owner, budget.marks), __obj.__name__)(*_unmarked(args, budget.marks))
                return __obj(*args, **kwargs)
        elif __obj is dict:
            current().make(ELEMENT * sum(len(one) for one in (*args, kwargs) if hasattr(one, "__len__")))
            if not all(isinstance(one, dict) for one in args):
                raise SecurityError("dict() takes mappings and named values in a template")
        elif type(__obj) is MethodType:
            # loop.changed() compares its arguments.
            current().work(1 + (current().measure(args) >> 7))
        elif len(args) > 8:
            current().make(ELEMENT * len(args))
        return super().call(__context, __obj, *args, **kwargs)

    def call_filter(self, name: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        # Filters may be named by a text, too: {{ x | map("upper") }}.
        if name not in FILTERS:
            raise TemplateRuntimeError(f"no filter named {name!r}")
        return super().call_filter(name, value, *args, **kwargs)

    def _format(self, pattern: str, method: str, *args: Any, **kwargs: Any) -> str:
        if method == "format_map":
            (mapping,) = args
            args, kwargs = (), mapping
        check_braces(current(), pattern, (args, kwargs))
        return SandboxedFormatter(self).vformat(pattern, args, kwargs)


def _check_arithmetic(operator: str, left: float, right: float) -> None:
    if isinstance(left, int) and isinstance(right, int):
        budget = current()
        budget.integer(left)
        budget.integer(right)
        bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
        if operator in ("*", "**") and bits > 256:
            raise SecurityError("the template computes a product or a power that is too large")


def _unmarked(value: Any, marks: str) -> Any:
    if isinstance(value, tuple):
        return tuple(_unmarked(one, marks) for one in value)
    if isinstance(value, str):
        for mark in marks:
            value = value.replace(mark, "")
    return value


def _finalize(value: Any) -> Any:
    """What is written for a value, its size counted."""
    budget = current()
    text = budget.text(value)
    budget.make(len(text))
    return text


def _raise_exception(message: Any = "") -> NoReturn:
    raise TemplateError(current().text(message)[:_MAX_MESSAGE])


def _strftime_now(pattern: Any) -> str:
    if not isinstance(pattern, str) or len(pattern) > 200 or any(one.isdigit() for one in pattern):
        raise SecurityError("strftime_now takes a short pattern without widths")
    return datetime.now().strftime(pattern)


__all__ = ["MAX_SOURCE", "Sandbox"]
