"""Random schemas, random instances near their borders, and ``jsonschema`` as the judge in both directions."""

from __future__ import annotations

import pytest

from tests.support.schema_fuzz import compare

N_SCHEMAS, PER_SCHEMA = 1_200, 25


@pytest.mark.conformance
@pytest.mark.parametrize("seed", range(101, 109))
def test_what_is_let_through_is_what_jsonschema_accepts(seed: int) -> None:
    found = compare(seed, N_SCHEMAS, PER_SCHEMA)
    print(f"seed {seed}: {dict(found.counts)}")
    assert found.wrong[:3] == []
    assert found.counts["valid"] + found.counts["invalid"] >= 25_000
    assert min(found.counts["valid"], found.counts["walks"] * 5) > 5_000
    assert found.counts["undecided"] < 10
    assert found.counts["refused"] < N_SCHEMAS // 5, found.refusals


def test_a_few_schemas_agree_with_jsonschema() -> None:
    found = compare(1, 60, 15)
    assert found.wrong[:3] == []
    assert found.counts["valid"] > 200
