"""Random calls from sixteen threads at once: results and exceptions of the package, and never a hang or an end."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.support.children import ROOT
from tests.support.lora import random_pairs, write_lora

pytest_plugins = ["tests.support.models"]

SECONDS = float(os.environ.get("LLAMA_CFFI_FUZZ_SECONDS", "120"))
N_CALLS, N_THREADS = 1_600, 16


@pytest.mark.fuzz
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_random_calls_from_many_threads(model_path: Path, tmp_path: Path) -> None:
    adapter = write_lora(tmp_path / "lora.gguf", random_pairs(model_path))
    seed = random.SystemRandom().randrange(2**31)
    print(f"seed {seed}")
    stop, counts = time.monotonic() + SECONDS, Counter[str]()
    while time.monotonic() < stop:
        arguments = map(str, (model_path, adapter, tmp_path, seed, N_CALLS, N_THREADS))
        result = subprocess.run(
            [sys.executable, "-X", "faulthandler", "-m", "tests.support.misuse", *arguments],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert result.returncode == 0, f"seed {seed}: {result.returncode}\n{result.stdout}\n{result.stderr}"
        counts.update(json.loads(result.stdout.splitlines()[-1]))
        seed += 1
    print(counts.total(), "calls", dict(counts))
    assert counts["generate: done"] > 20
