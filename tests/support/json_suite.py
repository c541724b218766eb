"""The official test suite of JSON Schema, put to the constraint.

An instance is fed as the tokens of its JSON text. It counts as accepted when some spelling of it is: a constraint may
fix the order of properties, and how a number is written.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from llama_cffi import Vocab
from llama_cffi.errors import SchemaError
from llama_cffi.grammar.guidance import GuidanceConstraint
from llama_cffi.grammar.json_schema import compile_json_schema
from llama_cffi.grammar.matcher import Constraint

DRAFTS = {"draft2020-12": 2020, "draft7": 7}
MAX_SPELLINGS = 800

ANNOTATIONS_ONLY = "is only an annotation by default"
"""In the description of tests for validators that do not assert ``format``; ours does."""

DEVIATIONS = {
    "a valid date-time with a leap second, with minus offset": "leap seconds only at 23:59:60 UTC",
    "valid leap second, positive time-offset": "leap seconds only at 23:59:60 UTC",
    "valid leap second, large positive time-offset": "leap seconds only at 23:59:60 UTC",
    "valid leap second, negative time-offset": "leap seconds only at 23:59:60 UTC",
    "valid leap second, large negative time-offset": "leap seconds only at 23:59:60 UTC",
    **dict.fromkeys(
        [
            "a valid host name (example.test in Hangul)",
            "Exceptions that are PVALID, left-to-right chars",
            "Exceptions that are PVALID, right-to-left chars",
            "MIDDLE DOT with surrounding 'l's",
            "Greek KERAIA followed by Greek",
            "Hebrew GERESH preceded by Hebrew",
            "Hebrew GERSHAYIM preceded by Hebrew",
            "KATAKANA MIDDLE DOT with Hiragana",
            "KATAKANA MIDDLE DOT with Katakana",
            "KATAKANA MIDDLE DOT with Han",
            "Arabic-Indic digits not mixed with Extended Arabic-Indic digits",
            "Extended Arabic-Indic digits not mixed with Arabic-Indic digits",
            "ZERO WIDTH JOINER preceded by Virama",
            "ZERO WIDTH NON-JOINER preceded by Virama",
            "ZERO WIDTH NON-JOINER not preceded by Virama but matches regexp",
        ],
        "no labels of host names in Punycode",
    ),
    "Non-whitespace control matches": "U+0001 stands in no string that a pattern restricts",
}
"""Tests whose instance is valid and not accepted, with the reason that the documentation gives."""


@dataclass(frozen=True)
class Case:
    """One schema of the suite with its tests."""

    draft: str
    file: str
    description: str
    schema: Any
    tests: list[dict[str, Any]]

    @property
    def keyword(self) -> str:
        """The name of the file, which most often is a keyword."""
        return self.file.removesuffix(".json")


@dataclass(frozen=True)
class Outcome:
    """What became of a case: refused with an error, or tests that passed and those that did not."""

    case: Case
    refused: str
    passed: int
    failed: tuple[str, ...]


def cases(assets: Path) -> Iterator[Case]:
    """All of both drafts, but for tests of what the drafts leave to a validator's options.

    ``content`` of draft 7 asks for decoding, which draft 2020-12 forbids.
    """
    folder = assets / "json-schema" / "JSON-Schema-Test-Suite" / "tests"
    for draft in DRAFTS:
        for path in sorted((folder / draft).rglob("*.json")):
            file = path.relative_to(folder / draft).as_posix()
            if (draft, file) == ("draft7", "optional/content.json"):
                continue
            for group in json.loads(path.read_text(encoding="utf-8")):
                tests = [test for test in group["tests"] if ANNOTATIONS_ONLY not in test["description"]]
                yield Case(draft, file, group["description"], group["schema"], tests)


def outcome(case: Case, vocab: Vocab) -> Outcome:
    """Put a case to the constraint."""
    try:
        constraint = GuidanceConstraint(vocab, compile_json_schema(case.schema, draft=DRAFTS[case.draft]))
    except SchemaError as error:
        return Outcome(case, str(error), 0, ())
    passed, failed = 0, []
    for test in case.tests:
        if test["description"] in DEVIATIONS:
            assert test["valid"]
            assert not accepts_some(constraint, vocab, test["data"]), test["description"]
        elif accepts_some(constraint, vocab, test["data"]) == test["valid"]:
            passed += 1
        else:
            failed.append(f"{case.draft}/{case.file}: {case.description}: {test['description']}")
    return Outcome(case, "", passed, tuple(failed))


def accepts_some(constraint: Constraint, vocab: Vocab, value: Any) -> bool:
    """Whether some spelling of a value is let through."""
    return any(accepts(constraint, vocab, text) for text in itertools.islice(spellings(value), MAX_SPELLINGS))


def accepts(constraint: Constraint, vocab: Vocab, text: str) -> bool:
    """Whether a text is let through, as the tokens that the vocabulary cuts it into."""
    matcher = constraint.start()
    # Some vocabularies put a blank before a text; behind a line break they do not.
    skip = len(vocab.tokenize("\n", add_special=False))
    tokens = vocab.tokenize("\n" + text, add_special=False).tolist()[skip:]
    return all(matcher.accept(token) for token in tokens) and matcher.complete


def spellings(value: Any) -> Iterator[str]:
    """Compact JSON texts of a value: every order of keys, numbers as a bound may need them written (8.20 for 8.2)."""
    if isinstance(value, dict):
        inner = {key: list(itertools.islice(spellings(item), 24)) for key, item in value.items()}
        for order in itertools.permutations(value):
            for texts in itertools.product(*(inner[key] for key in order)):
                pairs = (
                    f"{json.dumps(key, ensure_ascii=False)}:{text}" for key, text in zip(order, texts, strict=True)
                )
                yield "{" + ",".join(pairs) + "}"
    elif isinstance(value, list):
        for items in itertools.product(*(list(itertools.islice(spellings(item), 24)) for item in value)):
            yield "[" + ",".join(items) + "]"
    elif isinstance(value, float):
        if value == int(value):
            yield str(int(value))
        plain = format(Decimal(repr(value)), "f")
        yield from (plain + "0" * n for n in range(4))
        yield repr(value)
    else:
        yield json.dumps(value, ensure_ascii=False)
