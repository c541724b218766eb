"""A model's chat template: messages in, the text that the model was trained on out."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Literal

import jinja2

from llama_cffi.errors import TemplateError
from llama_cffi.prompt.messages import (
    Message,
    arguments_object,
    arguments_text,
    check_mappings,
    check_messages,
    map_texts,
)
from llama_cffi.prompt.sandbox import MAX_SECONDS, Clock, Sandbox


class TemplateWarning(UserWarning):
    """A template inspects or changes what a message says, so that control tokens in it cannot be kept apart."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as text. ``mark`` stands wherever a message's words could pass for a control token."""

    marked: str
    mark: str

    @property
    def text(self) -> str:
        """The text itself."""
        return self.marked.replace(self.mark, "") if self.mark else self.marked

    def __str__(self) -> str:
        return self.text


class ChatTemplate:
    """A Jinja chat template, rendered in a sandbox as Hugging Face renders it.

    ``tokens`` are variables such as ``bos_token``; ``controls`` the texts of the vocabulary's control tokens, which a
    message must not be able to write; ``seconds`` how long one rendering may take. Raises :class:`TemplateError` for a
    template that does not parse.
    """

    def __init__(
        self,
        source: str,
        *,
        tokens: Mapping[str, str] | None = None,
        controls: Sequence[str] = (),
        seconds: float = MAX_SECONDS,
    ) -> None:
        self.source = source
        self.tokens = dict(tokens or {})
        self._seconds = seconds
        self._controls = tuple(control for control in controls if control)
        self._firsts = frozenset(control[0] for control in self._controls)
        try:
            self._template = _sandbox().compile_template(source)
        except (jinja2.TemplateError, RecursionError) as error:
            raise TemplateError(f"the chat template does not parse: {_reason(error)}") from error

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> Rendered:
        """The conversation as text; with ``add_generation_prompt`` it ends where the reply begins.

        ``variables`` are the template's own, such as ``enable_thinking``. Raises :class:`MessageError` for messages
        that are none, and :class:`TemplateError` for what the template raises.

        What messages, tools and documents say is marked wherever it could be read as a control token, in the strictest
        way that leaves the template's text as it is. A template that looks for such text in a message leaves no way:
        then the text comes unmarked, with a :class:`TemplateWarning`.
        """
        checked = [self._fit(message) for message in check_messages(messages)]
        given = {
            "messages": checked,
            "tools": check_mappings(tools, "tools"),
            "documents": check_mappings(documents, "documents"),
        }
        clock = Clock(self._seconds)
        fixed = {**self.tokens, **variables, "add_generation_prompt": add_generation_prompt}

        def run(words: dict[str, Any]) -> str:
            return self._run({**fixed, **words}, clock)

        plain = run(given)
        if not self._controls:
            return Rendered(plain, "")
        mark = _unused_character(plain + self.source + json.dumps(given, ensure_ascii=False, default=str))
        for change in (_break_all, self._break_firsts, self._break_controls):
            try:
                rendered = Rendered(run(map_texts(given, lambda text: change(text, mark))), mark)  # noqa: B023
            except TemplateError:
                continue
            if rendered.text == plain:
                return rendered
        if self._control_in(given):
            warnings.warn(
                "the chat template inspects or changes a message that holds the text of a control token; "
                "it may be read as that token",
                TemplateWarning,
                stacklevel=2,
            )
        return Rendered(plain, "")

    def _run(self, variables: dict[str, Any], clock: Clock) -> str:
        absent = [name for name in ("tools", "documents") if variables[name] is None]
        try:
            return self._run_once(variables, clock)
        except TemplateError:
            # Some templates test whether these are None, as transformers has it; others loop over them regardless.
            if not absent:
                raise
            return self._run_once({name: value for name, value in variables.items() if name not in absent}, clock)

    def _run_once(self, variables: dict[str, Any], clock: Clock) -> str:
        try:
            return _sandbox().render(self._template, variables, clock)
        except RecursionError:
            raise TemplateError("the chat template calls itself without end") from None
        except jinja2.TemplateError as error:
            raise TemplateError(f"the chat template refuses: {_reason(error)}") from error
        except (TypeError, ValueError, KeyError, AttributeError, IndexError, ArithmeticError) as error:
            # Python's own errors: the template did something with a message that cannot be done.
            raise TemplateError(f"the chat template failed: {type(error).__name__}: {error}") from error

    # -- marks

    def _break_firsts(self, text: str, mark: str) -> str:
        """Mark both ends, and what follows every character that begins a control token."""
        return _break(text, mark, lambda core: "".join(one + mark if one in self._firsts else one for one in core))

    def _break_controls(self, text: str, mark: str) -> str:
        """Mark the inside of whole control tokens only."""
        return self._pattern.sub(lambda found: found[0][0] + mark + found[0][1:], text)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, sorted(self._controls, key=len, reverse=True))))

    def _control_in(self, value: Any) -> bool:
        found: list[bool] = []
        map_texts(value, lambda text: found.append(self._pattern.search(text) is not None) or text)  # type: ignore[func-returns-value]
        return any(found)

    # -- what a template wants

    def _fit(self, message: dict[str, Any]) -> dict[str, Any]:
        if self.wants_typed_content and isinstance(message["content"], str):
            message = {**message, "content": [{"type": "text", "text": message["content"]}]}
        if message.get("tool_calls"):
            form = _FORMS[self.argument_form]
            calls = [
                {**call, "function": {**call["function"], "arguments": form(call["function"]["arguments"])}}
                for call in message["tool_calls"]
            ]
            message = {**message, "tool_calls": calls}
        return message

    @cached_property
    def wants_typed_content(self) -> bool:
        """Whether the template reads contents only as lists of parts."""
        if not re.search(r"\[\s*['\"]type['\"]\s*\]|\.type\b", self.source):
            return False
        typed = [{"role": "user", "content": [{"type": "text", "text": _NEEDLE}]}]
        return _NEEDLE not in self._try([{"role": "user", "content": _NEEDLE}]) and _NEEDLE in self._try(typed)

    @cached_property
    def argument_form(self) -> Literal["object", "text", "any"]:
        """What the arguments of a tool call must be for the template to write them as JSON."""
        as_object, as_text = (
            self._try(_call_with(arguments)) for arguments in ({_NEEDLE: 1}, arguments_text({_NEEDLE: 1}))
        )
        # A template that makes JSON of a text escapes its quotes; one that prints an object prints Python's repr of it.
        if f'"{_NEEDLE}"' not in as_text:
            return "object"
        if _NEEDLE not in as_object or f"'{_NEEDLE}'" in as_object:
            return "text"
        # One that has a syntax of its own for arguments writes it from objects only.
        return "any" if f'"{_NEEDLE}"' in as_object else "object"

    def _try(self, messages: list[dict[str, Any]]) -> str:
        try:
            return self._run(
                {**self.tokens, "messages": messages, "tools": None, "documents": None, "add_generation_prompt": True},
                Clock(min(self._seconds, _TRIAL_SECONDS)),
            )
        except TemplateError:
            return ""


_NEEDLE = "needle7"
_TRIAL_SECONDS = 0.5
_FORMS: dict[str, Callable[[Any], Any]] = {
    "object": arguments_object,
    "text": arguments_text,
    "any": lambda arguments: arguments,
}


def _break_all(text: str, mark: str) -> str:
    """Mark both ends, and between all characters: then they may also be turned round, or others put for them."""
    return _break(text, mark, mark.join)


def _break(text: str, mark: str, inside: Callable[[str], str]) -> str:
    core = text.strip()
    if not core:
        return text
    start = text.index(core)
    # Whitespace stays outside: a template that trims a message trims the same.
    return f"{text[:start]}{mark}{inside(core)}{mark}{text[start + len(core) :]}"


def _call_with(arguments: Any) -> list[dict[str, Any]]:
    call = {"type": "function", "id": "123456789", "function": {"name": "find", "arguments": arguments}}
    return [
        {"role": "user", "content": "Hey"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
    ]


def _reason(error: BaseException) -> str:
    line = getattr(error, "lineno", None)
    return f"{error}" + (f" (line {line})" if line is not None and "line" not in str(error) else "")


def _unused_character(text: str) -> str:
    """A private-use character that does not occur in ``text``."""
    taken = set(text)
    return next(chr(code) for code in range(0xF8FF, 0xE000, -1) if chr(code) not in taken)


@cache
def _sandbox() -> Sandbox:
    return Sandbox()


__all__ = ["ChatTemplate", "Rendered", "TemplateWarning"]
