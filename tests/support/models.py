"""The models that tests compute with. A test module asks for these fixtures through ``pytest_plugins``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llama_cffi import Context, ContextOptions, Llama, Model

ROOT = Path(__file__).resolve().parents[2]

MakeContext = Callable[..., Context]
MakeLlama = Callable[..., Llama]


@pytest.fixture(scope="session")
def stories_path(assets: Path) -> Path:
    """stories260K: a trained Llama of 260,000 parameters with a vocabulary of 512."""
    return assets / "models" / "stories260K.gguf"


@pytest.fixture(scope="session")
def stories(stories_path: Path) -> Iterator[Model]:
    """stories260K, loaded once; tests must not close it."""
    with Model(stories_path) as model:
        yield model


@pytest.fixture
def make_context(stories: Model) -> Iterator[MakeContext]:
    """Contexts over stories260K with one thread, closed after the test."""
    made = []

    def make(**options: object) -> Context:
        defaults: dict[str, object] = {"n_ctx": 256, "n_batch": 64, "n_ubatch": 64, "n_seq_max": 4, "n_threads": 1}
        made.append(Context(stories, ContextOptions(**(defaults | options))))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for context in made:
        context.close()


@pytest.fixture
def context(make_context: MakeContext) -> Context:
    """256 cells for 4 sequences, at most 64 tokens in a batch."""
    return make_context()


@pytest.fixture
def make_llama(stories: Model) -> Iterator[MakeLlama]:
    """``Llama`` objects over stories260K with one thread, closed after the test."""
    made = []

    def make(**options: object) -> Llama:
        defaults: dict[str, object] = {"n_ctx": 512, "n_seq_max": 4, "n_threads": 1}
        made.append(Llama(stories, **(defaults | options)))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for llm in made:
        llm.close()


@pytest.fixture
def llm(make_llama: MakeLlama) -> Llama:
    """512 cells for 4 sequences."""
    return make_llama()


@pytest.fixture(scope="session")
def llama_cpp_models() -> Path:
    """The ``models`` folder of llama.cpp's source: vocabularies without weights."""
    source = Path(os.environ.get("LLAMA_CPP_SOURCE", ROOT / "vendor" / "llama.cpp"))
    folder = source / "models"
    if not any(folder.glob("ggml-vocab-*.gguf")):
        pytest.skip(f"no llama.cpp source in {source} (set LLAMA_CPP_SOURCE)")
    return folder
