"""A clock by which every decode takes as long as any other."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest

from llama_cffi.engine import context_runner


@pytest.fixture(scope="module")
def steady_clock() -> Iterator[None]:
    """Drafts pay then, how ever long they are, and the same ones are made every time."""
    ticks = count()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(context_runner, "perf_counter", lambda: float(next(ticks)))
        yield
