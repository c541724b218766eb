"""The search for damage that the package does not survive: child processes that try one seed after another."""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter

from tests.support.children import run_module

SECONDS = float(os.environ.get("LLAMA_CFFI_FUZZ_SECONDS", "30"))
"""How long one search lasts."""


def search(name: str, module: str, *arguments: object) -> Counter[str]:
    """Run a module with seeds until the time is over; return what it counted.

    Anything that it prints but its counts is a case that ended in neither a result nor an exception of the package, and
    fails the test.
    """
    seed = random.SystemRandom().randrange(2**31)
    print(f"{name} from seed {seed}")
    stop, counts, bad = time.monotonic() + SECONDS, Counter[str](), list[str]()
    while time.monotonic() < stop:
        *found, last = run_module(module, *arguments, seed, 100, 20, timeout=3_000)
        bad += found
        counts.update(json.loads(last)["counts"])
        seed += 100
    print(dict(counts))
    assert not bad, "\n".join(bad[:5])
    return counts
