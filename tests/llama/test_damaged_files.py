"""Random damage to files that the package writes and reads: exceptions of the package, and never the end."""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.core.test_damaged_models import run
from tests.support.lora import random_pairs, write_lora

pytest_plugins = ["tests.support.models"]

SECONDS = float(os.environ.get("LLAMA_CFFI_FUZZ_SECONDS", "30"))
"""For each kind."""


@pytest.mark.fuzz
@pytest.mark.parametrize(
    "kind", ["session", "state", "bytes", "prompt", "native", "sequence", "data", "vector", "adapter"]
)
def test_random_damage(model_path: Path, tmp_path: Path, kind: str) -> None:
    adapter = write_lora(tmp_path / "lora.gguf", random_pairs(model_path))
    seed = random.SystemRandom().randrange(2**31)
    print(f"{kind} from seed {seed}")
    stop, counts, bad = time.monotonic() + SECONDS, Counter[str](), list[str]()
    while time.monotonic() < stop:
        *found, last = run("tests.support.file_damage", model_path, adapter, tmp_path, kind, seed, 100, 20)
        bad += found
        counts.update(json.loads(last)["counts"])
        seed += 100
    print(dict(counts))
    assert not bad, "\n".join(bad[:5])
