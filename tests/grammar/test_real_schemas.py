"""Schemas as people write them: nearly all are kept to, and what is let through is what ``jsonschema`` accepts."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.validators import extend, validator_for

from llama_cffi.errors import SchemaError
from llama_cffi.grammar.json_schema import compile_json_schema
from tests.support.byte_grammar import ByteGrammar
from tests.support.real_schemas import Case, cases
from tests.support.schema_fuzz import _multiple_of

FORMATS = FormatChecker(["date", "ipv4", "uuid"])
SPELLED = {
    "email": r"[a-z.]+@[a-z]+(\.[a-z]+)+",
    "uri": r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]+",
    "date-time": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)",
    "hostname": r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*",
}
"""How the values of the set look that have these formats, of which ``jsonschema`` alone knows little or nothing."""


def _spelled(pattern: str) -> Callable[[object], bool]:
    return lambda value: not isinstance(value, str) or re.fullmatch(pattern, value) is not None


for name, pattern in SPELLED.items():
    FORMATS.checks(name)(_spelled(pattern))


def judge(schema: dict[str, Any]) -> Any:
    kind = extend(validator_for(schema, default=Draft202012Validator), {"multipleOf": _multiple_of})  # type: ignore[no-untyped-call]
    kind.check_schema(schema)
    return kind(schema, format_checker=FORMATS)


def wrong(case: Case, counts: Counter[str]) -> list[str]:
    """What the grammar of a case takes or refuses against the judge."""
    found = []
    grammar, validator = ByteGrammar(compile_json_schema(case.schema)), judge(case.schema)
    for value in case.instances:
        valid = validator.is_valid(value)
        accepted = grammar.accepts_some(value)
        counts["undecided" if accepted is None else "valid" if valid else "invalid"] += 1
        if accepted is not None and accepted != valid:
            found.append(f"{case.name}: {json.dumps(value)} is {'valid' if valid else 'invalid'}")
    return found


@pytest.mark.conformance
def test_real_schemas_are_kept_to(capsys: pytest.CaptureFixture[str]) -> None:
    counts: Counter[str] = Counter()
    refused, failed = [], []
    for case in cases():
        counts["schemas"] += 1
        try:
            failed += wrong(case, counts)
        except SchemaError as error:
            refused.append(f"{case.name}: {error.keyword!r}: {error}")
    with capsys.disabled():
        print(f"\nreal schemas: {dict(counts)}, refused {refused}")
    assert failed == []
    assert counts["schemas"] >= 300
    assert len(refused) <= 3, refused
    assert min(counts["valid"], counts["invalid"]) >= 2_500


def test_a_few_real_schemas_are_kept_to() -> None:
    assert [line for case in list(cases())[::45] for line in wrong(case, Counter())] == []
