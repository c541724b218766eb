"""Values for ``schema=`` besides JSON Schemas and Python types: frozen, and checked when they are created."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from llama_cffi.errors import SchemaError
from llama_cffi.grammar.equality import json_key
from llama_cffi.grammar.keywords import as_json
from llama_cffi.grammar.pattern import Pattern, PatternError

if TYPE_CHECKING:
    import re
    from typing import Protocol, TypeAlias

    from typing_extensions import TypeForm, TypeVar


@dataclass(frozen=True)
class Regex:
    """A text that matches a regular expression as a whole.

    The syntax is that of ECMA-262, which mostly agrees with Python's; ``\\d``, ``\\w`` and ``\\s`` are those of
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
    """A keyword of a schema cannot be enforced during generation; the finished text is validated against it."""


@dataclass(frozen=True)
class JsonSchema:
    """A JSON text that satisfies a JSON Schema, with options.

    ``strict`` refuses keywords that are not in any draft, which are annotations otherwise.
    ``on_unsupported="annotate"`` treats keywords that cannot be enforced as annotations, too, warns with
    :class:`SchemaWarning`, and validates the finished text against the whole schema; ``"error"`` raises
    :class:`SchemaError` for them.
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
    """A text that is derived by a grammar in llama.cpp's format.

    ``engine="llama.cpp"`` enforces the grammar exactly; masking a whole row takes milliseconds. ``engine="llguidance"``
    is faster, supports only smaller grammars (200,000 bytes, 1,000 rules), and allows fewer texts: every text is
    derived by the grammar, but its lexer matches the longest run of characters, so ``[a-z]* "a"`` never reaches its
    last letter, and ``.`` does not match a line break.
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
    """A text that is derived by a grammar in llguidance's variant of Lark, from its rule ``start``."""

    text: str

    def __post_init__(self) -> None:
        _check_text("grammar", self.text)


@dataclass(frozen=True)
class Lazy:
    """Free text until a trigger; the text after the trigger satisfies ``schema``. The text may end without a trigger.
    With ``end``, a text directly after the constrained part, the text after it is free again, and another trigger
    begins another part. ``schema`` is any value of ``schema=`` except another Lazy and grammars that llama.cpp
    enforces.
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
            raise SchemaError(f"{type(self.schema).__name__} cannot be used inside Lazy")
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


if TYPE_CHECKING:
    T = TypeVar("T", default=Any)
    P = TypeVar("P", default=Any, covariant=True)

    class _Union(Protocol[P]):
        """What ``int | str`` is, where a type checker does not read it as a type: then T is any type."""

        @property
        def __args__(self) -> tuple[P, ...]: ...

    Schema: TypeAlias = (
        type[T]
        | TypeForm[T]
        | _Union[T]
        | Mapping[str, Any]
        | bool
        | list[Any]
        | tuple[Any, ...]
        | re.Pattern[str]
        | JsonSchema
        | Regex
        | GBNF
        | Lark
        | Lazy
    )
    """A value of ``schema=``. T is the type of what comes of it if that is known, and any type otherwise."""

__all__ = ["GBNF", "JsonSchema", "Lark", "Lazy", "Regex", "SchemaWarning"]
