"""Types of Python: what is generated for one is an instance, or the type is refused by its name."""

from __future__ import annotations

import collections
import datetime
import decimal
import enum
import fractions
import ipaddress
import json
import pathlib
import random
import re
import uuid
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Optional, Union

import pydantic
import pytest
from pydantic import Field

from llama_cffi.errors import SchemaError
from llama_cffi.grammar.json_schema import compile_json_schema
from llama_cffi.grammar.python_types import adapter_of
from tests.support.byte_grammar import ByteGrammar


class Cat(pydantic.BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(pydantic.BaseModel):
    kind: Literal["dog"] = "dog"
    name: str


class Infinite(pydantic.BaseModel):
    x: float = float("inf")


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Size(enum.IntEnum):
    S = 1
    M = 2


Pet = Annotated[Union[Cat, Dog], Field(discriminator="kind")]  # noqa: UP007

KEPT: list[Any] = [
    pydantic.NaiveDatetime, pydantic.AwareDatetime, datetime.datetime, datetime.date, datetime.time,
    datetime.timedelta, pydantic.PastDate, pydantic.FutureDate, pydantic.PastDatetime, pydantic.FutureDatetime,
    decimal.Decimal, Annotated[decimal.Decimal, Field(max_digits=5, decimal_places=2)],
    Annotated[decimal.Decimal, Field(max_digits=5)], Annotated[decimal.Decimal, Field(decimal_places=2)],
    Annotated[decimal.Decimal, Field(max_digits=2, decimal_places=2)],
    Annotated[decimal.Decimal, Field(ge=0, le=10)], pydantic.condecimal(gt=0, multiple_of=decimal.Decimal("0.5")),
    dict[Annotated[str, Field(pattern="^a")], int], dict[int, str], dict[float, int], dict[bool, int],
    dict[str, int], dict[Color, int], dict[uuid.UUID, int], dict[datetime.date, int], dict[Literal["a", "b"], int],
    Pet, list[Pet], Infinite, Color, Size, fractions.Fraction, pathlib.Path,
    pydantic.UUID1, pydantic.UUID3, pydantic.UUID4, pydantic.UUID5, uuid.UUID,
    pydantic.IPvAnyAddress, pydantic.IPvAnyInterface, pydantic.IPvAnyNetwork, ipaddress.IPv4Address,
    ipaddress.IPv6Address, ipaddress.IPv4Network, ipaddress.IPv6Network, ipaddress.IPv4Interface,
    ipaddress.IPv6Interface,
    pydantic.Base64Bytes, pydantic.Base64Str, pydantic.Base64UrlBytes, pydantic.Base64UrlStr, pydantic.SecretStr,
    pydantic.SecretBytes, bytes, str, int, float, bool, None, pydantic.ByteSize, pydantic.StrictInt,
    pydantic.StrictStr, pydantic.StrictBool, pydantic.StrictFloat, pydantic.PositiveInt, pydantic.NegativeInt,
    pydantic.NonNegativeInt, pydantic.NonPositiveInt, pydantic.PositiveFloat, pydantic.NegativeFloat,
    pydantic.FiniteFloat, pydantic.conint(ge=1, le=5, multiple_of=2), pydantic.confloat(gt=0, lt=1.5),
    pydantic.constr(min_length=1, max_length=3, pattern="^[a-z]+$"), pydantic.conlist(int, min_length=1, max_length=3),
    pydantic.conset(bool, min_length=2), pydantic.conbytes(min_length=2), set[str], frozenset[int], set[bool],
    pydantic.AnyUrl, pydantic.HttpUrl, pydantic.AnyHttpUrl, pydantic.FileUrl, pydantic.FtpUrl, pydantic.WebsocketUrl,
    pydantic.PostgresDsn, pydantic.RedisDsn, pydantic.MongoDsn, pydantic.AmqpDsn, pydantic.KafkaDsn,
    pydantic.MySQLDsn, pydantic.MariaDBDsn, pydantic.CockroachDsn, pydantic.NatsDsn, pydantic.ClickHouseDsn,
    collections.deque[int], collections.Counter[str], collections.OrderedDict[str, int], tuple[int, str],
    tuple[int, ...], Optional[int], Union[int, str], Literal[1, "a"], Any, Hashable, Sequence[int],  # noqa: UP007, UP045
    Iterable[int], Mapping[str, int],
]  # fmt: skip

REFUSED: list[tuple[Any, str]] = [
    (pydantic.Json, "Json"),
    (pydantic.Json[int], "Json"),
    (complex, "complex"),
    (pydantic.FilePath, "file-path"),
    (pydantic.DirectoryPath, "directory-path"),
    (pydantic.NewPath, "NewPath"),
    (pydantic.ImportString, "ImportString"),
    (re.Pattern, "regular expression"),
    (type[int], "type"),
    (Callable[[], int], "Callable"),
    (pydantic.conset(int, min_length=2), "uniqueItems"),
    (dict[Annotated[int, Field(ge=0)], int], "keys"),
    (Annotated[datetime.date, Field(gt=datetime.date(2020, 1, 1))], "date with gt"),
    (Annotated[decimal.Decimal, Field(ge=0, max_digits=3)], "Decimal with bounds"),
]


def grammar_of(schema: Any) -> tuple[pydantic.TypeAdapter[Any], ByteGrammar]:
    adapter, text = adapter_of(schema)
    return adapter, ByteGrammar(compile_json_schema(json.loads(text)))


def _walk(schema: Any, rng: random.Random, n: int) -> int:
    adapter, grammar = grammar_of(schema)
    texts = [text for _ in range(n) if (text := grammar.walk(rng, 400)) is not None]
    for text in texts:
        adapter.validate_json(text)
    return len(texts)


@pytest.mark.conformance
@pytest.mark.parametrize("schema", KEPT, ids=str)
def test_random_texts_are_instances(schema: Any) -> None:
    rng = random.Random(7)
    assert sum(_walk(schema, rng, 60) for _ in range(2)) >= 10


@pytest.mark.parametrize("schema", KEPT, ids=str)
def test_a_few_texts_are_instances(schema: Any) -> None:
    _walk(schema, random.Random(1), 2)


@pytest.mark.parametrize(("schema", "name"), REFUSED, ids=str)
def test_refused_by_name(schema: Any, name: str) -> None:
    with pytest.raises(SchemaError, match=re.escape(name)):
        grammar_of(schema)


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (pydantic.NaiveDatetime, ['"2024-02-29T10:00:00"'], ['"2024-02-29T10:00:00Z"', '"0000-01-01T00:00:00"']),
        (dict[Annotated[str, Field(pattern="^a")], int], ['{"a":1}'], ['{"b":1}']),
        (dict[int, str], ['{"-1":"x"}'], ['{"a":"x"}']),
        (Pet, ['{"kind":"dog","name":"x"}', '{"kind":"cat"}'], ['{"name":"x"}', '{"kind":"cat","name":"x"}']),
        (Infinite, ["{}", '{"x":1.5}'], ['{"y":1}']),
        (pydantic.UUID4, ['"12345678-1234-4234-8234-123456789abc"'], ['"12345678-1234-1234-8234-123456789abc"']),
        (pydantic.Base64Str, ['"YWJj"', '""'], ['"YWJ"', '"////"']),
        (ipaddress.IPv4Network, ['"10.0.0.0/8"', '"1.2.3.4"'], ['"1.2.3.4/8"']),
        (decimal.Decimal, ["1.25"], ['"1.25"', '"x"']),
    ],
    ids=str,
)
def test_what_is_let_through(schema: Any, good: list[str], bad: list[str]) -> None:
    _, grammar = grammar_of(schema)
    assert [text for text in good if not grammar.accepts(text)] == []
    assert [text for text in bad if grammar.accepts(text)] == []
