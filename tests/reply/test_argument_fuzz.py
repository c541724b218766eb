"""Formats that write arguments one by one keep to the same schemas as JSON does, with ``jsonschema`` as the judge."""

from __future__ import annotations

import pytest

from tests.support.argument_fuzz import WAYS, compare


@pytest.mark.conformance
@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("seed", [201, 202])
def test_what_a_format_writes_is_what_jsonschema_accepts(name: str, seed: int) -> None:
    found = compare(name, seed, 250, 12)
    print(f"{name}, seed {seed}: {dict(found.counts)} {found.refusals.most_common(4)}")
    assert found.wrong[:3] == []
    assert found.counts["valid"] > 300
    assert found.counts["walks"] > 60


@pytest.mark.parametrize("name", ["qwen-coder", "gemma4"])
def test_a_few_schemas_agree_with_jsonschema(name: str) -> None:
    found = compare(name, 1, 25, 8, walks=1)
    assert found.wrong[:3] == []
    assert found.counts["valid"] > 30
