"""Model files with random damage: an exception or a result, and never the end of the process."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.children import ROOT
from tests.support.other_memories import write_recurrent_model, write_windowed_model
from tests.support.random_encoder import write_random_bert, write_random_t5
from tests.support.random_model import Shape, write_random_model
from tests.support.random_reranker import write_random_reranker

SECONDS = float(os.environ.get("LLAMA_CFFI_FUZZ_SECONDS", "30"))
"""For each model and kind of damage."""
SMALL = Shape(n_layer=1, n_embd=64, n_head=4, n_head_kv=2, n_ff=96, n_vocab=300)

MODELS: dict[str, Callable[[Path, Path], Path]] = {
    "llama": lambda path, _: write_random_model(path, SMALL, weights="f32"),
    "llama q8_0": lambda path, _: write_random_model(path, SMALL, weights="q8_0"),
    "mamba": lambda path, _: write_recurrent_model(path),
    "cohere2": lambda path, _: write_windowed_model(path),
    "t5": lambda path, _: write_random_t5(path),
    "bert": lambda path, vocab: write_random_bert(path, vocab, n_classes=1),
    "qwen3": lambda path, vocab: write_random_reranker(path, vocab),
}
MADE = ("falcon", "gpt2", "gemma3", "gpt-oss", "qwen2", "qwen2moe", "qwen3next", "rwkv6", "rwkv7", "mamba2", "lfm2",
        "jamba", "deepseek2", "mpt", "phi3", "olmo2", "granitehybrid", "gemma3n", "nomic-bert", "plamo2", "starcoder",
        "command-r", "glm4", "minicpm3", "llama4", "bitnet", "chatglm", "dbrx", "nemotron", "openelm")  # fmt: skip
"""Architectures whose models llama.cpp makes itself."""


def run(module: str, *arguments: object) -> list[str]:
    """The lines that a program prints."""
    result = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=3_000,
        check=False,
    )
    assert result.returncode == 0, f"{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    return result.stdout.splitlines()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models of many architectures, by name."""
    folder = tmp_path_factory.mktemp("architectures")
    return {name: folder / f"{name}.gguf" for name in run("tests.support.architectures", folder, *MADE)}


def search(path: Path, what: str, target: Path) -> Counter[str]:
    """Damage a model until the time is over; nothing may come of it but results and exceptions of the package."""
    seed = random.SystemRandom().randrange(2**31)
    print(f"{path.name}: {what} from seed {seed}")
    end = time.monotonic() + SECONDS
    bad: list[str] = []
    counts: Counter[str] = Counter()
    while time.monotonic() < end:
        *found, last = run("tests.support.damage", path, target, what, seed, 100, 20)
        bad += found
        counts.update(json.loads(last)["counts"])
        seed += 100
    print(dict(counts))
    assert not bad, "\n".join(bad[:5])
    return counts


@pytest.mark.fuzz
@pytest.mark.parametrize("what", ["metadata", "tensors"])
@pytest.mark.parametrize("model", MODELS)
def test_random_damage(tmp_path: Path, model: str, what: str) -> None:
    vocab = write_random_model(tmp_path / "vocab.gguf", SMALL)
    path = MODELS[model](tmp_path / "sound.gguf", vocab)
    search(path, what, tmp_path / "damaged.gguf")


@pytest.mark.fuzz
@pytest.mark.parametrize("what", ["metadata", "tensors"])
def test_random_damage_to_many_architectures(made: dict[str, Path], tmp_path: Path, what: str) -> None:
    assert len(made) > 15
    for path in made.values():
        search(path, what, tmp_path / "damaged.gguf")


pytest_plugins = ["tests.support.models"]
