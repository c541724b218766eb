"""What ``schema=`` may be besides JSON Schema and types of Python: frozen values, checked when they are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from llama_cffi.errors import SchemaError
from llama_cffi.grammar.equality import json_key
from llama_cffi.grammar.keywords import as_json
from llama_cffi.grammar.pattern import Pattern, PatternError


@dataclass(frozen=True)
class Regex:
    """A text that matches a regular expression as a whole.

    The syntax is that of ECMA-262, which is Python's where both have it; ``\\d``, ``\\w`` and ``\\s`` are those of
    ECMA-262. Raises :class:`SchemaError` for lookaround, back references, word boundaries and patterns that write out
    to more than 20,000 nodes.
    """

    pattern: str

    def __post_init__(self) -> None:
        _check_text("regex", self.pattern)
        self.parsed()

    def parsed(self) -> Pattern:
        """Return the texts that match."""
        try:
            return Pattern.full(self.pattern)
        except (PatternError, RecursionError) as error:
            raise SchemaError(f"regex {self.pattern[:60]!r}: {error or 'nested too deeply'}") from None


class SchemaWarning(UserWarning):
    """A keyword of a schema cannot be kept to while a text is generated; the finished text is validated by it."""


@dataclass(frozen=True)
class JsonSchema:
    """A JSON text that satisfies a JSON Schema, with options.

    ``strict`` refuses keywords that no draft knows, which are annotations otherwise. ``on_unsupported="annotate"``
    takes keywords that cannot be kept to for annotations, too, warns with :class:`SchemaWarning`, and validates the
    finished text by the whole schema; ``"error"`` raises :class:`SchemaError` for them.
    """

    schema: Any
    strict: bool = False
    on_unsupported: Literal["error", "annotate"] = "error"

    def __post_init__(self) -> None:
        if not isinstance(self.schema, (bool, Mapping)):
            raise SchemaError(f"JsonSchema needs a dict or a bool, not {type(self.schema).__name__}")
        if self.on_unsupported not in ("error", "annotate"):
            raise SchemaError(f"on_unsupported must be 'error' or 'annotate', not {self.on_unsupported!r}")
        schema = dict(self.schema) if isinstance(self.schema, Mapping) else self.schema
        object.__setattr__(self, "schema", as_json(schema))

    def _key(self) -> object:
        return json_key(self.schema), self.strict, self.on_unsupported

    def __eq__(self, other: object) -> bool:
        # As JSON compares: in Python True is 1, and const: true is another schema than const: 1.
        return self._key() == other._key() if isinstance(other, JsonSchema) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())


@dataclass(frozen=True)
class GBNF:
    """A text that a grammar in llama.cpp's format derives.

    ``engine="llama.cpp"`` keeps to the grammar exactly; where it must mask a whole row, that takes milliseconds.
    ``engine="llguidance"`` is faster, takes smaller grammars (200,000 bytes, 1,000 rules), and is narrower: every text
    is one of the grammar, but runs of characters are taken as long as they get, so that ``[a-z]* "a"`` never comes to
    its last letter, and ``.`` is no line break.
    """

    text: str
    root: str = "root"
    engine: Literal["llguidance", "llama.cpp"] = "llama.cpp"

    def __post_init__(self) -> None:
        _check_text("grammar", self.text)
        _check_text("root", self.root)
        if self.engine not in ("llguidance", "llama.cpp"):
            raise SchemaError(f"engine must be 'llguidance' or 'llama.cpp', not {self.engine!r}")


@dataclass(frozen=True)
class Lark:
    """A text that a grammar in llguidance's variant of Lark derives, from its rule ``start``."""

    text: str

    def __post_init__(self) -> None:
        _check_text("grammar", self.text)


@dataclass(frozen=True)
class Lazy:
    """Free text until a trigger; what follows the trigger keeps to ``schema``.

    The text may end without any trigger. With ``end``, a text that comes right after the constrained part, all is free
    again behind it, and another trigger begins another part. ``schema`` is anything that ``schema=`` takes but another
    Lazy and the grammars of llama.cpp's engine.
    """

    schema: Any
    trigger: str | tuple[str, ...]
    end: str = ""

    def __post_init__(self) -> None:
        triggers = (self.trigger,) if isinstance(self.trigger, str) else tuple(self.trigger)
        if not triggers:
            raise SchemaError("Lazy needs a trigger")
        for trigger in triggers:
            _check_text("trigger", trigger)
        if self.end:
            _check_text("end", self.end)
        if isinstance(self.schema, Lazy) or (isinstance(self.schema, GBNF) and self.schema.engine == "llama.cpp"):
            raise SchemaError(f"{type(self.schema).__name__} cannot stand inside Lazy")
        object.__setattr__(self, "trigger", triggers)

    @property
    def triggers(self) -> tuple[str, ...]:
        """All triggers."""
        return (self.trigger,) if isinstance(self.trigger, str) else self.trigger


def _check_text(what: str, text: object) -> None:
    if not isinstance(text, str):
        raise SchemaError(f"the {what} must be a str, not {type(text).__name__}")
    if not text.strip("\0" if what in ("trigger", "end") else None):
        raise SchemaError(f"the {what} is empty")
    if "\0" in text:
        raise SchemaError(f"the {what} holds a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SchemaError(f"the {what} holds a lone surrogate at index {error.start}") from None


__all__ = ["GBNF", "JsonSchema", "Lark", "Lazy", "Regex", "SchemaWarning"]
