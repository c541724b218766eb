"""The models that are measured: random weights, written once into a cache folder."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.peers import ROOT, BenchmarkError
from llama_cffi.core.quantize import quantize
from tests.support import random_encoder, random_model
from tests.support.random_encoder import SHAPE_MINI, write_random_bert
from tests.support.random_model import SHAPE_15M, SHAPE_160M, SHAPE_DEEP, Shape, WeightType, write_random_model

SHAPES: dict[str, Shape] = {"15M": SHAPE_15M, "160M": SHAPE_160M}
# Layers take most of the time, as in large models: a draft of the first ones costs little beside the target.
PAIR_SHAPES = {"deep": SHAPE_DEEP, "small": Shape(n_layer=12, n_embd=256, n_head=4, n_ff=512, n_vocab=4000)}
PAIR_LAYERS = {"deep": 2, "small": 1}
# With less attention a text wanders longer before it turns in a loop.
PAIR_ATTENTION = 0.2
# What a token takes in memory is that of a model of a billion parameters, 32 KiB; all else is small.
MEMORY_SHAPES = {"memory-1B": Shape(n_layer=16, n_embd=512, n_head=8, n_ff=64)}


# What products of a few rows are measured with. Widths are multiples of 256, which K-quants need.
ROW_SHAPES = {
    "160M": SHAPE_160M,
    # 1.04 G weights: 2.1 GB as F16, from which the others are made.
    "1B": Shape(n_layer=16, n_embd=2048, n_head=32, n_head_kv=8, n_ff=8192, n_vocab=32_000),
}
WEIGHTS = ("Q8_0", "Q4_K_M", "Q4_0", "Q5_K_M", "Q6_K", "F16", "BF16")


def model_file(name: str, cache: Path, *, successors: bool = False) -> Path:
    """The Q8_0 model of a shape, whose tokens each have one that always follows if ``successors``; written when it is
    missing or was written by other code."""
    shape = _shape(name)
    variant = "-successors" if successors else ""
    return _cached(
        f"random-{name}{variant}-q8_0",
        repr(sorted(asdict(shape).items())).encode(),
        (random_model,),
        cache,
        lambda path: write_random_model(path, shape, successors=successors),
    )


def measure_models(
    measure: Callable[[str, Path, argparse.Namespace, int], dict[str, Any]], options: argparse.Namespace
) -> dict[str, Any]:
    """Measure each model of ``options.model``, by default all of :data:`SHAPES`, in ``options.rounds`` rounds.

    ``options.quick`` is the smallest one in two rounds. ``measure`` gets a name, its file, the options and the rounds.
    """
    names = options.model or (["15M"] if options.quick else list(SHAPES))
    rounds = 2 if options.quick else options.rounds
    return {name: measure(name, model_file(name, options.cache), options, rounds) for name in names}


def pair_files(name: str, faint: float, cache: Path) -> tuple[Path, Path]:
    """A target and its draft model, which is the target's first layers; the others add ``faint`` times what they would.

    See :func:`tests.support.random_model.write_random_model`; cached as :func:`model_file` does.
    """
    shape, n_first, attention = PAIR_SHAPES[name], PAIR_LAYERS[name], PAIR_ATTENTION
    recipe = repr((sorted(asdict(shape).items()), n_first, attention)).encode()

    def target(path: Path) -> None:
        write_random_model(path, shape, attention=attention, faint=(n_first, faint))

    def draft(path: Path) -> None:
        write_random_model(path, replace(shape, n_layer=n_first), attention=attention)

    return (
        _cached(f"random-{name}-target{faint:g}-q8_0", recipe, (random_model,), cache, target),
        _cached(f"random-{name}-draft-q8_0", recipe, (random_model,), cache, draft),
    )


def weights_file(name: str, weights: str, cache: Path) -> Path:
    """The model of a shape with weights of a type, which llama.cpp quantizes; cached as :func:`model_file` does."""
    shape = ROW_SHAPES[name]
    recipe = repr(sorted(asdict(shape).items())).encode()

    def write(path: Path) -> None:
        write_random_model(path, shape, weights="f16")

    def convert(path: Path) -> None:
        quantize(source, path, weights)

    source = _cached(f"random-{name}-f16", recipe, (random_model,), cache, write)
    if weights == "F16":
        return source
    return _cached(f"random-{name}-from-f16-{weights.lower()}", recipe, (random_model,), cache, convert)


def encoder_file(cache: Path, weights: WeightType) -> Path:
    """The encoder of 12 layers, 384 wide, over a real vocabulary; cached as :func:`model_file` does."""
    vocab = (
        Path(os.environ.get("LLAMA_CPP_SOURCE", ROOT / "vendor" / "llama.cpp")) / "models" / "ggml-vocab-bert-bge.gguf"
    )
    if not vocab.is_file():
        raise BenchmarkError(f"there is no {vocab}; scripts/build_libllama.py fetches llama.cpp's source")
    return _cached(
        f"random-encoder-{weights}",
        repr(SHAPE_MINI).encode(),
        (random_model, random_encoder),
        cache,
        lambda path: write_random_bert(path, vocab, SHAPE_MINI, weights=weights),
    )


def _cached(
    title: str, recipe: bytes, code: Sequence[ModuleType], cache: Path, write: Callable[[Path], object]
) -> Path:
    """The file of a title, its recipe and the code that writes it; that of another recipe goes."""
    source = b"".join(Path(str(module.__file__)).read_bytes() for module in code)
    path = cache / f"{title}-{sha256(recipe + source).hexdigest()[:12]}.gguf"
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        for old in cache.glob(f"{title}-{'[0-9a-f]' * 12}.gguf"):
            old.unlink()
        write(path)
    return path


def describe(name: str, path: Path) -> str:
    """One line about a model."""
    shape = _shape(name)
    return (
        f"{name}: {shape.n_layer} layers, {shape.n_embd} wide, {shape.n_vocab:,} tokens, "
        f"Q8_0, {path.stat().st_size / 2**20:.1f} MiB"
    )


def _shape(name: str) -> Shape:
    return {**SHAPES, **MEMORY_SHAPES, **PAIR_SHAPES}[name]
