"""Damaged image and sound files: an exception or an answer, bounded memory, and never the end of the process."""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.support.children import run_module
from tests.support.media_fuzz import write_models

_PER_CHILD = 250
_FEW = 60
_MANY = 2_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models that the children load."""
    made = tmp_path_factory.mktemp("damaged")
    write_models(made)
    return made


def search(folder: Path, first: int, count: int) -> Counter[str]:
    """Counts of answers and exceptions; a child that ends otherwise fails the test with the last seed."""
    *_, last = run_module("tests.support.media_fuzz", folder, first, count)
    found = json.loads(last)
    print(first, found)
    return Counter(found["counts"])


def check(counts: Counter[str]) -> None:
    """Both ends are reached: files that are used although damaged, and files that are refused."""
    assert all(counts[f"{kind} {end}"] for kind in ("Image", "Audio") for end in ("answers", "MediaError"))
    assert {name.split()[1] for name in counts} <= {"answers", "MediaError"}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit of memory is Linux's")
def test_some_damaged_files(folder: Path) -> None:
    check(search(folder, 1, _FEW))


@pytest.mark.fuzz
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit of memory is Linux's")
def test_many_damaged_files(folder: Path) -> None:
    start = random.SystemRandom().randrange(1 << 31)
    print(f"from seed {start}")
    counts: Counter[str] = Counter()
    for first in range(start, start + _MANY, _PER_CHILD):
        counts.update(search(folder, first, _PER_CHILD))
    print(dict(counts))
    check(counts)
