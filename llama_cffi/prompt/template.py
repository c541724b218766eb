"""A model's chat template: messages in, the text that the model was trained on out."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, wraps
from time import monotonic
from typing import Any, Literal, ParamSpec, TypeVar

import jinja2

from llama_cffi.errors import MessageError, TemplateError
from llama_cffi.prompt.budget import MAX_SECONDS, Budget
from llama_cffi.prompt.marking import Breaker, Marker, break_all, collect_texts, names_in, unused_characters
from llama_cffi.prompt.media_parts import MARKER, PlacedMedium, place_media
from llama_cffi.prompt.messages import Message, check_mappings, check_messages, check_text
from llama_cffi.prompt.sandbox import Sandbox
from llama_cffi.prompt.template_traits import Mentions, TemplateTraits

_MAX_ALONE = 16
"""Texts that are tried one by one when the whole conversation cannot be marked."""
_TRIAL_SECONDS = 0.5


P = ParamSpec("P")
T = TypeVar("T")


def _not_too_deep(function: Callable[P, T]) -> Callable[P, T]:
    """What is nested deeper than Python recurses is a :class:`MessageError`, wherever that is noticed."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except RecursionError:
            raise MessageError("the messages, tools or documents are nested too deeply") from None

    return call


class TemplateWarning(UserWarning):
    """A conversation could not be rendered in the usual way.

    Either the template inspects or changes a text that contains the text of a control token, so that the text may be
    read as that token, or a conversation with tools is rendered in another form than that of the template.
    """


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as text. ``mark`` occurs wherever the text of a message could be read as a control token, and the
    marks of ``media`` where these are.
    """

    marked: str
    mark: str
    tools_written: bool | None = None
    """Whether the text shows the tools that the template was given; None where the marks do not tell."""
    media: tuple[PlacedMedium, ...] = ()

    @property
    def text(self) -> str:
        """The text itself, with libmtmd's marker for each medium."""
        return _with_markers(self.marked.replace(self.mark, "") if self.mark else self.marked, self.media)

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
        self._breaker = Breaker([control for control in controls if control])
        try:
            tree = _sandbox().parse_template(source)
            self._mentions = Mentions.of(tree)
            self._template = _sandbox().compile_template(tree)
        except Exception as error:
            # Besides Jinja's own errors those of Python's compiler, which reads what Jinja writes.
            raise TemplateError(f"the chat template does not parse: {_reason(error)}") from error
        self.traits = TemplateTraits(self._mentions, self._try)
        """The form of messages that the template needs."""
        self._marker = Marker(self._mentions.keys, self._breaker.find)

    @_not_too_deep
    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> Rendered:
        """Return the conversation as text; with ``add_generation_prompt`` it ends where the reply begins.

        ``variables`` are the template's own, such as ``enable_thinking``. Raises :class:`MessageError` for messages
        that are not valid, and :class:`TemplateError` for what the template raises and for a limit that it passes.

        What messages, tools and documents say is marked wherever it could be read as a control token, in the strictest
        way that leaves the template's text as it is. A text that a template inspects for control tokens cannot be
        marked: then it comes unmarked, with a :class:`TemplateWarning`; a key or a name is refused.
        """
        given, media = self._given(messages, tools, documents, variables)
        self._check_names(given)
        fixed = {**self.tokens, **variables, "add_generation_prompt": add_generation_prompt}
        check_text(variables, "chat_template_kwargs")
        written = json.dumps([given, variables], ensure_ascii=False, default=str)
        budgets = _Budgets(self._seconds, len(written))
        plain = self._run({**fixed, **given}, budgets)
        if not self._breaker.controls:
            return Rendered(plain, "", media=media)
        mark, tool_mark = unused_characters(plain + self.source + written, 2)

        def attempt(change: Callable[[str, str], str]) -> Rendered | None:
            marked = self._marker.mark(given, lambda text: change(text, mark), lambda text: change(text, tool_mark))
            try:
                text = self._run({**fixed, **marked}, budgets, mark + tool_mark)
            except TemplateError:
                return None
            tools_written = tool_mark in text
            rendered = Rendered(text.replace(tool_mark, mark), mark, tools_written or None, media)
            return rendered if rendered.marked.replace(mark, "") == plain else None

        breaker = self._breaker
        for change in (break_all, breaker.break_firsts, breaker.break_controls):
            rendered = attempt(change)
            if rendered is not None:
                return rendered
        return self._mark_some(given, attempt) or Rendered(plain, "", media=media)

    def _given(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None,
        documents: Sequence[Mapping[str, Any]] | None,
        variables: Mapping[str, Any],
    ) -> tuple[dict[str, Any], tuple[PlacedMedium, ...]]:
        """The checked inputs in the form that the template reads, and the media that have a character there."""
        listed, documented = check_mappings(tools, "tools"), check_mappings(documents, "documents")
        checked, media = place_media(check_messages(messages), self.source, listed, documented, variables)
        fitted = [self.traits.fit(message) for message in checked]
        return {"messages": fitted, "tools": listed, "documents": documented}, media

    @_not_too_deep
    def render_plain(
        self,
        messages: Sequence[Message],
        *,
        documents: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """Return the text that :meth:`render` gives without tools, in one run of the template."""
        given, media = self._given(messages, None, documents, variables)
        size = len(json.dumps([given, variables], ensure_ascii=False, default=str))
        values = {**self.tokens, **variables, **given, "add_generation_prompt": True}
        return _with_markers(self._run(values, _Budgets(self._seconds, size)), media)

    def _mark_some(
        self, given: Mapping[str, Any], attempt: Callable[[Callable[[str, str], str]], Rendered | None]
    ) -> Rendered | None:
        """Mark the texts that can be marked, one by one; None where there are too many, or none can be marked."""
        breaker = self._breaker
        values: list[str] = []
        keys: list[str] = []
        collect_texts(given, values.append, keys.append)
        found = [text for text in dict.fromkeys([*values, *keys]) if breaker.find(text)]
        marked = [text for text in found[:_MAX_ALONE] if attempt(_only({text}, breaker.break_controls)) is not None]
        left = [text for text in found if text not in marked]
        for key in keys:
            if key in left:
                raise MessageError(
                    f"the key {_shortened(key)!r} of a message, a tool or a document holds the text of a control "
                    "token, and the chat template compares or changes it: rename the key"
                )
        if left:
            warnings.warn(
                f"the chat template inspects or changes a message that holds the text of a control token, "
                f"{_shortened(left[0])!r}; it may be read as that token",
                TemplateWarning,
                stacklevel=4,
            )
        return attempt(_only(set(marked), breaker.break_controls))

    def _check_names(self, given: Mapping[str, Any]) -> None:
        """Refuse names that hold the text of a control token: a template must see them as they are."""
        for kind, values in (("messages", given["messages"]), ("tools", given["tools"] or ())):
            for i, value in enumerate(values):
                for place, name in names_in(value, f"{kind}[{i}]"):
                    if self._breaker.find(name):
                        raise MessageError(
                            f"{place} is {_shortened(name)!r}, which holds the text of a control token of this model"
                        )

    def _run(self, variables: dict[str, Any], budgets: _Budgets, marks: str = "") -> str:
        absent = [name for name in ("tools", "documents") if variables[name] is None and name in self._mentions.names]
        without = {name: value for name, value in variables.items() if name not in absent}
        if absent and self._fails_on_none:
            return self._run_once(without, budgets.next(marks))
        try:
            return self._run_once(variables, budgets.next(marks))
        except TemplateError:
            # Some templates test whether these are None, as transformers has it; others loop over them regardless.
            if not absent:
                raise
            return self._run_once(without, budgets.next(marks))

    def _run_once(self, variables: dict[str, Any], budget: Budget) -> str:
        try:
            return _sandbox().render(self._template, variables, budget)
        except RecursionError:
            raise TemplateError("the chat template recurses too deeply") from None
        except jinja2.TemplateError as error:
            raise TemplateError(f"the chat template refuses the messages: {_reason(error)}") from error
        except Exception as error:
            # Python's own errors: the template did something with a message that cannot be done.
            raise TemplateError(f"the chat template failed: {type(error).__name__}: {_reason(error)}") from error

    # -- what a template wants

    @property
    def mentions_tools(self) -> bool:
        """Whether the template has a place for tools."""
        return "tools" in self._mentions.names

    @property
    def wants_typed_content(self) -> bool:
        """Whether the template reads contents only as lists of parts."""
        return self.traits.wants_typed_content

    @property
    def argument_form(self) -> Literal["object", "text", "any"]:
        """What the arguments of a tool call must be for the template to write them as JSON."""
        return self.traits.argument_form

    @cached_property
    def _fails_on_none(self) -> bool:
        """Whether the template needs ``tools`` and ``documents`` to be undefined where there are none."""
        variables = self._trial_variables([{"role": "user", "content": "Hey"}])
        try:
            self._run_once(variables, self._trial_budget())
        except TemplateError:
            del variables["tools"], variables["documents"]
            try:
                self._run_once(variables, self._trial_budget())
            except TemplateError:
                return False
            return True
        return False

    def _try(self, messages: list[dict[str, Any]]) -> str | None:
        variables = self._trial_variables(messages)
        for name in ("tools", "documents") if self._fails_on_none else ():
            del variables[name]
        try:
            return self._run_once(variables, self._trial_budget())
        except TemplateError:
            return None

    def _trial_variables(self, messages: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self.tokens, "messages": messages, "tools": None, "documents": None, "add_generation_prompt": True}

    def _trial_budget(self) -> Budget:
        return _Budgets(min(self._seconds, _TRIAL_SECONDS), 0).next()


class _Budgets:
    """Budgets for the runs of one call: each has its own limits, and all the same end."""

    def __init__(self, seconds: float, size: int) -> None:
        self._end = monotonic() + seconds
        self._seconds = seconds
        self._size = size

    def next(self, marks: str = "") -> Budget:
        return Budget(self._end, self._seconds, self._size, marks)


def _with_markers(text: str, media: Sequence[PlacedMedium]) -> str:
    """A text with libmtmd's marker for the character of each medium."""
    return text.translate({ord(one.mark): MARKER for one in media}) if media else text


def _only(texts: set[str], change: Callable[[str, str], str]) -> Callable[[str, str], str]:
    return lambda text, mark: change(text, mark) if text in texts else text


def _reason(error: BaseException) -> str:
    line = getattr(error, "lineno", None)
    text = _shortened(str(error), 2000)
    return text + (f" (line {line})" if line is not None and "line" not in text else "")


def _shortened(text: str, size: int = 60) -> str:
    return text if len(text) <= size else f"{text[:size]}..."


@cache
def _sandbox() -> Sandbox:
    return Sandbox()


__all__ = ["ChatTemplate", "Rendered", "TemplateWarning"]
