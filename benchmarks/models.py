"""The models that are measured: random weights, written once into a cache folder."""

from __future__ import annotations

import os
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

from benchmarks.peers import ROOT, BenchmarkError
from tests.support import random_encoder, random_model
from tests.support.random_encoder import SHAPE_MINI, write_random_bert
from tests.support.random_model import SHAPE_15M, SHAPE_160M, Shape, write_random_model

SHAPES: dict[str, Shape] = {"15M": SHAPE_15M, "160M": SHAPE_160M}
# What a token takes in memory is that of a model of a billion parameters, 32 KiB; all else is small.
MEMORY_SHAPES = {"memory-1B": Shape(n_layer=16, n_embd=512, n_head=8, n_ff=64)}


def model_file(name: str, cache: Path) -> Path:
    """The Q8_0 model of a shape; written when it is missing or was written by other code."""
    shape = _shape(name)
    recipe = repr(sorted(asdict(shape).items())).encode() + Path(random_model.__file__).read_bytes()
    path = cache / f"random-{name}-q8_0-{sha256(recipe).hexdigest()[:12]}.gguf"
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        for old in cache.glob(f"random-{name}-q8_0-*.gguf"):
            old.unlink()
        write_random_model(path, shape)
    return path


def encoder_file(cache: Path) -> Path:
    """The Q8_0 encoder of 12 layers, 384 wide, over a real vocabulary; written as :func:`model_file` does."""
    vocab = (
        Path(os.environ.get("LLAMA_CPP_SOURCE", ROOT / "vendor" / "llama.cpp")) / "models" / "ggml-vocab-bert-bge.gguf"
    )
    if not vocab.is_file():
        raise BenchmarkError(f"there is no {vocab}; scripts/build_libllama.py fetches llama.cpp's source")
    recipe = repr(SHAPE_MINI).encode() + b"".join(
        Path(str(one.__file__)).read_bytes() for one in (random_model, random_encoder)
    )
    path = cache / f"random-encoder-q8_0-{sha256(recipe).hexdigest()[:12]}.gguf"
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        for old in cache.glob("random-encoder-q8_0-*.gguf"):
            old.unlink()
        write_random_bert(path, vocab, SHAPE_MINI, weights="q8_0")
    return path


def describe(name: str, path: Path) -> str:
    """One line about a model."""
    shape = _shape(name)
    return (
        f"{name}: {shape.n_layer} layers, {shape.n_embd} wide, {shape.n_vocab:,} tokens, "
        f"Q8_0, {path.stat().st_size / 2**20:.1f} MiB"
    )


def _shape(name: str) -> Shape:
    return {**SHAPES, **MEMORY_SHAPES}[name]
