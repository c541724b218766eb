"""Random damage to files that the package writes and reads: exceptions of the package, and never the end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.damage_search import search
from tests.support.lora import random_pairs, write_lora

pytest_plugins = ["tests.support.models"]


@pytest.mark.fuzz
@pytest.mark.parametrize(
    "kind", ["session", "state", "bytes", "prompt", "native", "sequence", "data", "vector", "adapter"]
)
def test_random_damage(model_path: Path, tmp_path: Path, kind: str) -> None:
    adapter = write_lora(tmp_path / "lora.gguf", random_pairs(model_path))
    search(kind, "tests.support.file_damage", model_path, adapter, tmp_path, kind)
