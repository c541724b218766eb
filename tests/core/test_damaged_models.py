"""Model files with random damage: an exception or a result, and never the end of the process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.children import run_module
from tests.support.damage_search import search
from tests.support.other_memories import write_recurrent_model, write_windowed_model
from tests.support.random_encoder import write_random_bert, write_random_t5
from tests.support.random_model import Shape, write_random_model
from tests.support.random_reranker import write_random_reranker

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


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models of many architectures, by name."""
    folder = tmp_path_factory.mktemp("architectures")
    names = run_module("tests.support.architectures", folder, *MADE, timeout=3_000)
    return {name: folder / f"{name}.gguf" for name in names}


@pytest.mark.fuzz
@pytest.mark.parametrize("what", ["metadata", "tensors"])
@pytest.mark.parametrize("model", MODELS)
def test_random_damage(tmp_path: Path, model: str, what: str) -> None:
    vocab = write_random_model(tmp_path / "vocab.gguf", SMALL)
    path = MODELS[model](tmp_path / "sound.gguf", vocab)
    search(f"{path.name}: {what}", "tests.support.damage", path, tmp_path / "damaged.gguf", what)


@pytest.mark.fuzz
@pytest.mark.parametrize("what", ["metadata", "tensors"])
def test_random_damage_to_many_architectures(made: dict[str, Path], tmp_path: Path, what: str) -> None:
    assert len(made) > 15
    for path in made.values():
        search(f"{path.name}: {what}", "tests.support.damage", path, tmp_path / "damaged.gguf", what)


pytest_plugins = ["tests.support.models"]
