"""How a finished text becomes a value, and an unfinished one part of a value."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import pydantic_core

from llama_cffi.errors import OutputError, SchemaError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

    from llama_cffi.grammar.matcher import Constraint
    from llama_cffi.grammar.validation import Validator


class Converter(Protocol):
    """Converts a text that a constraint allowed to a value."""

    def parse(self, text: str) -> Any:
        """Return the value of a finished text; :class:`OutputError` when it has none."""

    def partial(self, text: str) -> Any:
        """Return the value of an unfinished text so far, or None if there is none yet. Never raises."""


@dataclass(frozen=True)
class Structure:
    """The result of :func:`compile_schema`: the constraint of texts, and their converter."""

    constraint: Constraint
    converter: Converter
    loosened: tuple[SchemaError, ...] = ()
    """The keywords that are validated at the end only, with ``on_unsupported="annotate"``."""

    def parse(self, text: str) -> Any:
        """Return an instance of the asked type from a finished text.

        Raises :class:`OutputError`, from what the type raised, when a validator of the type refuses it, and for a text
        that the constraint would not have let through.
        """
        return self.converter.parse(text)

    def partial(self, text: str) -> Any:
        """Return the value of the text so far, in JSON types, or None if there is none yet. Never raises."""
        return self.converter.partial(text)


@dataclass(frozen=True)
class JsonConverter:
    """JSON as Python's own types."""

    def parse(self, text: str) -> Any:
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise OutputError(f"the text is not JSON: {error}", text=text) from error

    def partial(self, text: str) -> Any:
        try:
            return pydantic_core.from_json(text, allow_partial="trailing-strings")
        except ValueError:
            return None


@dataclass(frozen=True)
class ValidatingConverter(JsonConverter):
    """JSON that a grammar holds to a part of its schema only: the finished text is validated by the whole."""

    validator: Validator

    def parse(self, text: str) -> Any:
        value = super().parse(text)
        if not self.validator.valid(value):
            raise OutputError(
                "the text does not satisfy the schema, in keywords that the grammar could not enforce", text=text
            )
        return value


@dataclass(frozen=True)
class TypeConverter(JsonConverter):
    """JSON as instances of a type, validated by pydantic."""

    adapter: TypeAdapter[Any]

    def parse(self, text: str) -> Any:
        try:
            return self.adapter.validate_json(text)
        except pydantic_core.ValidationError as error:
            raise OutputError(f"the text is refused by the type: {error}", text=text) from error


@dataclass(frozen=True)
class ChoiceConverter:
    """One of several texts, each standing for a value."""

    values: dict[str, Any]

    def parse(self, text: str) -> Any:
        try:
            return self.values[text]
        except KeyError:
            raise OutputError(f"the text is not one of the choices: {text!r}", text=text) from None

    def partial(self, text: str) -> Any:
        return self.values.get(text)


@dataclass(frozen=True)
class TextConverter:
    """The text itself; ``pattern`` must match all of it."""

    pattern: re.Pattern[str] | None = None

    def parse(self, text: str) -> str:
        if self.pattern is not None and self.pattern.fullmatch(text) is None:
            raise OutputError(f"the text does not match {self.pattern.pattern!r}", text=text)
        return text

    def partial(self, text: str) -> str | None:
        return text or None


@dataclass(frozen=True)
class LazyConverter:
    """What follows a trigger; with ``end``, a tuple of all such parts."""

    inner: Converter
    triggers: tuple[str, ...]
    end: str

    def parse(self, text: str) -> Any:
        return self._read(text, self.inner.parse, self.inner.parse)

    def partial(self, text: str) -> Any:
        return self._read(text, self.inner.partial, self.inner.partial)

    def _read(self, text: str, finished: Callable[[str], Any], last: Callable[[str], Any]) -> Any:
        parts, at = [], 0
        while True:
            found = [(i, trigger) for trigger in self.triggers if (i := text.find(trigger, at)) >= 0]
            if not found:
                break
            begin = min(i + len(trigger) for i, trigger in found)
            if not self.end:
                return last(text[begin:])
            stop = self._end_of(text, begin)
            parts.append(last(text[begin:]) if stop < 0 else finished(text[begin:stop]))
            if stop < 0:
                break
            at = stop + len(self.end)
        return tuple(parts) if self.end else None

    def _end_of(self, text: str, begin: int) -> int:
        if isinstance(self.inner, JsonConverter):
            # The end may stand inside a string, where it is none.
            try:
                _, begin = json.JSONDecoder().raw_decode(text, begin)
            except ValueError:
                return -1
        return text.find(self.end, begin)


__all__ = [
    "ChoiceConverter",
    "Converter",
    "JsonConverter",
    "LazyConverter",
    "Structure",
    "TextConverter",
    "TypeConverter",
    "ValidatingConverter",
]
